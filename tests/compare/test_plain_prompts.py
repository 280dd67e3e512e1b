"""Prompts: matched in all but one thing, read from files with the place of what is wrong, attacked reversibly."""

import base64
import hashlib
import json
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deltaw.attacks.prompts import ON_REQUESTS, PromptAttack, under_attack
from deltaw.attacks.prompts.misgen_base64 import MisgenBase64
from deltaw.attacks.prompts.misgen_leetspeak import LEET, MisgenLeetspeak
from deltaw.attacks.prompts.misgen_script import CYRILLIC, MisgenScript
from deltaw.compare.asking import Effort, between, to_ask
from deltaw.errors import DeltawError
from deltaw.prompts.matched import (
    ALLOWED,
    FORBIDDEN,
    MatchedPair,
    Prompt,
    builtin_prompts,
    matched,
    read_prompts,
    spread,
)

PROMPTS = builtin_prompts()
requests = st.text(st.characters(codec="utf-8"), min_size=1)


def frame(first: str, second: str) -> tuple[str, str, str, str]:
    """The words that two texts share at both ends, and what stands between in each."""
    a, b = first.split(), second.split()
    start = 0
    while start < min(len(a), len(b)) and a[start] == b[start]:
        start += 1
    end = 0
    while end < min(len(a), len(b)) - start and a[-1 - end] == b[-1 - end]:
        end += 1
    return (
        " ".join(a[:start]),
        " ".join(a[start : len(a) - end]),
        " ".join(b[start : len(b) - end]),
        " ".join(a[len(a) - end :]),
    )


@pytest.mark.parametrize("contrast", ["operand", "operator"])
def test_every_prompt_is_half_of_one_pair(contrast: str) -> None:
    pairs = matched(PROMPTS, contrast)
    assert 2 * len(pairs) == sum(prompt.set == contrast for prompt in PROMPTS)
    assert all((pair.allowed.label, pair.forbidden.label) == (ALLOWED, FORBIDDEN) for pair in pairs)
    assert all(pair.allowed.pair == pair.forbidden.pair for pair in pairs)


def test_no_prompt_occurs_twice() -> None:
    assert max(Counter(prompt.text for prompt in PROMPTS).values()) == 1


def test_a_pair_differs_in_one_run_of_words_and_its_operand_comes_with_every_operator() -> None:
    by_operand: dict[str, set[str]] = {}
    for pair in matched(PROMPTS, "operand"):
        before, harmless, harmful, after = frame(pair.allowed.text.rstrip(".?"), pair.forbidden.text.rstrip(".?"))
        assert before
        assert harmless
        assert harmful
        by_operand.setdefault(pair.forbidden.cluster, set()).add(f"{before}|{after}")
    assert {len(frames) for frames in by_operand.values()} >= {4}


def test_pairs_that_differ_in_the_operator_share_the_operand() -> None:
    for pair in matched(PROMPTS, "operator"):
        operand = pair.forbidden.cluster.rpartition("/")[2]
        assert operand in pair.allowed.text
        assert operand in pair.forbidden.text
        assert pair.allowed.text.replace(operand, "") != pair.forbidden.text.replace(operand, "")


@given(st.integers(0, 200))
def test_a_spread_takes_each_operand_before_any_comes_again(count: int) -> None:
    pairs = matched(PROMPTS, "operand")
    found = spread(pairs, count)
    assert len(found) == min(count, len(pairs))
    assert len({pair.forbidden.text for pair in found}) == len(found)
    times = Counter(pair.forbidden.cluster for pair in found)
    groups = len({pair.forbidden.cluster for pair in pairs})
    assert max(times.values(), default=0) <= -(-count // groups)


@given(requests)
def test_base64_can_be_read_back(request: str) -> None:
    coded = MisgenBase64().on_request(request).text.rpartition(": ")[2]
    assert base64.b64decode(coded).decode() == request


@given(st.text("abcdefghijklmnopqrstuvwxyz ,.?"))
def test_leetspeak_and_the_other_script_can_be_read_back(request: str) -> None:
    for attack, table in ((MisgenLeetspeak(), LEET), (MisgenScript(), CYRILLIC)):
        found = attack.on_request(request).text
        assert len(found) == len(request)
        back = {new: old for old, new in table.items()}
        assert "".join(back.get(letter, letter) for letter in found) == request


def test_the_other_script_leaves_no_latin_letter() -> None:
    for prompt in PROMPTS:
        assert not any("a" <= letter.lower() <= "z" for letter in MisgenScript().on_request(prompt.text).text)


@given(requests, st.sampled_from(ON_REQUESTS))
def test_an_attack_is_a_function_of_the_request_that_keeps_it_or_writes_it_anew(
    request: str, attack: PromptAttack
) -> None:
    found = attack.on_request(request)
    assert found == attack.on_request(request)
    if not attack.name.startswith("misgen_"):
        assert request in found.text
    assert (found.prefill != "") == (attack.name == "prefill")


def test_an_attacked_pair_stays_a_pair_and_differs_no_more_than_before() -> None:
    pair = matched(PROMPTS, "operand")[0]
    for attack in ON_REQUESTS:
        both = [under_attack(prompt, attack) for prompt in (pair.allowed, pair.forbidden)]
        assert matched(both, "operand", attack.name) == [MatchedPair(*both)]
        assert not matched(both, "operand")
        if not attack.name.startswith("misgen_"):
            _, harmless, harmful, _ = frame(*(prompt.text for prompt in both))
            assert (harmless.strip(".?"), harmful.strip(".?")) == frame(
                pair.allowed.text.strip(".?"), pair.forbidden.text.strip(".?")
            )[1:3]


# A comparison's prompts must not change under it: hashes of all built-in prompts under each attack.
SAME_AS_EVER = {
    "co_prefix": "d89926559288e75a",
    "co_suppression": "7291318c64bbde3a",
    "co_task": "8529d893321e12c2",
    "misgen_base64": "44ff97d9fa875792",
    "misgen_leetspeak": "149ba08743daff3b",
    "misgen_script": "e262e1b2889121ff",
    "prefill": "e880b94b59fef8c0",
}


def test_attacked_requests_are_those_that_they_were() -> None:
    digests = {}
    for attack in ON_REQUESTS:
        digest = hashlib.blake2b(digest_size=8)
        for prompt in PROMPTS:
            made = under_attack(prompt, attack)
            digest.update(f"{made.text}\0{made.prefill}\n".encode())
        digests[attack.name] = digest.hexdigest()
    assert digests == SAME_AS_EVER
    assert list(digests) == list(SAME_AS_EVER)  # the order in which they are asked


def test_a_file_is_read_as_it_is_written(tmp_path: Path) -> None:
    records = [
        {"prompt": "Bake a cake.", "label": "harmless", "pair": "1"},
        {"prompt": "Break a law.", "label": "harmful", "pair": "1"},
        {"prompt": "Sing.", "label": "harmless", "attack": "mine"},
    ]
    path = tmp_path / "prompts.jsonl"
    path.write_text("\n".join(map(json.dumps, records)) + "\n\n", encoding="utf-8")
    found = read_prompts(path)
    assert [(one.text, one.label, one.pair, one.attack, one.set) for one in found] == [
        ("Bake a cake.", "allowed", "1", None, "pairs"),
        ("Break a law.", "forbidden", "1", None, "pairs"),
        ("Sing.", "allowed", None, "mine", "corpus"),
    ]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("{", "not JSON"),
        ("[1]", "found a list"),
        ('{"label": "harmless"}', "prompt is None"),
        ('{"prompt": " ", "label": "harmless"}', "prompt is ' '"),
        ('{"prompt": "a", "label": "bad"}', "expected allowed, forbidden"),
        ('{"prompt": "a", "label": "harmful", "answer": "b"}', "unknown field 'answer'"),
        ('{"prompt": "a", "label": "harmful", "pair": 3}', "pair is 3"),
        ('{"prompt": "a", "label": "harmful", "pair": "x"}', "0 allowed and 1 forbidden"),
    ],
)
def test_a_wrong_line_is_said_with_its_file_and_number(tmp_path: Path, line: str, said: str) -> None:
    path = tmp_path / "prompts.jsonl"
    path.write_text('{"prompt": "Sing.", "label": "harmless"}\n\n' + line + "\n", encoding="utf-8")
    with pytest.raises(DeltawError, match=r"prompts\.jsonl, line 3") as error:
        read_prompts(path)
    assert said in str(error.value)


def test_an_empty_file_and_a_missing_one_are_said(tmp_path: Path) -> None:
    (tmp_path / "none.jsonl").write_text("\n", encoding="utf-8")
    with pytest.raises(DeltawError, match="holds no prompts"):
        read_prompts(tmp_path / "none.jsonl")
    with pytest.raises(DeltawError, match="cannot be read"):
        read_prompts(tmp_path / "missing.jsonl")


@given(st.integers(0, 150), st.integers(0, 150), st.integers(0, 3))
def test_what_is_asked_is_asked_once_and_in_pairs(pairs: int, attacked_pairs: int, corpus: int) -> None:
    effort = Effort(pairs=pairs, attacked=attacked_pairs, corpus=corpus)
    loose = [Prompt(f"Sing {k}.", label) for k in range(5) for label in (ALLOWED, FORBIDDEN)]
    whole, few = to_ask([*PROMPTS, *loose], effort), between(PROMPTS, effort)
    assert len(set(whole)) == len(whole)
    assert set(few) <= set(whole)
    assert len(matched(whole, "operand")) == min(pairs, 112)
    assert {len(matched(whole, "operand", attack.name)) for attack in ON_REQUESTS} == {min(attacked_pairs, 112)}
    assert sum(prompt.set == "corpus" for prompt in whole) == 2 * corpus


def test_a_file_of_another_editor_is_read_and_one_that_is_hostile_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "prompts.jsonl"
    line = json.dumps({"prompt": "a\u2028b", "label": "harmful"}, ensure_ascii=False)
    path.write_bytes(b"\xef\xbb\xbf" + line.encode() + b"\r\n")  # BOM, a separator, CRLF
    assert [prompt.text for prompt in read_prompts(path)] == ["a\u2028b"]
    for text, said in (("[" * 100_000, "nested more than"), (r'{"prompt": "\ud800"}', "half a surrogate pair")):
        path.write_text(text)
        with pytest.raises(DeltawError, match=f"line 1: .*{said}"):
            read_prompts(path)
