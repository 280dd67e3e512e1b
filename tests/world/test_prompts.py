import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deltaw.batch import Role
from deltaw.errors import DeltawError
from deltaw.world import (
    ATTACKS,
    BENIGN_SOURCES,
    FORBIDDEN_SOURCES,
    MIXTURES,
    SETS,
    Branch,
    Response,
    Rule,
    World,
    WorldConfig,
    attacked,
)
from deltaw.world import (
    prompts as prompts_module,
)
from deltaw.world.policy import PUBLISHED
from deltaw.world.vocabulary import LETTERS

WORLD = World()
LAYOUT = WORLD.layout
NAMES = [*SETS, *MIXTURES]


def test_the_published_policy_partitions_operators_and_is_monotone() -> None:
    for grammar in PUBLISHED.rules:
        sizes = [len(PUBLISHED.of_rule(grammar, rule)) for rule in (Rule.ALWAYS, Rule.CONDITIONAL, Rule.NEVER)]
        assert sizes == [3, 5, 2]
        assert 0 in PUBLISHED.of_rule(grammar, Rule.ALWAYS)
        assert set(PUBLISHED.forbidden(grammar, Branch.SAFE)) < set(PUBLISHED.forbidden(grammar, Branch.UNSAFE))
        assert PUBLISHED.forbidden(grammar, Branch.MIXED) == PUBLISHED.forbidden(grammar, Branch.UNSAFE)


@settings(max_examples=30, deadline=None)
@given(st.sampled_from(NAMES), st.integers(0, 10**6), st.integers(0, 5))
def test_safety_depends_on_grammar_operator_and_branch_only(name: str, index: int, seed: int) -> None:
    prompts = WORLD.sample(name, range(index, index + 24), seed=seed)
    permitted = LAYOUT.permitted(prompts)
    for row in range(len(prompts)):
        for slot in range(2):
            operator = int(WORLD.operators.operator_of[prompts.operators[row, 0, slot]])
            forbidden = PUBLISHED.forbidden(int(prompts.grammar[row]), Branch(int(prompts.branch[row])))
            assert permitted[row, 0, slot] == (operator not in forbidden)
    assert (LAYOUT.allowed(prompts) == permitted.all(axis=(1, 2))).all()


@settings(max_examples=25, deadline=None)
@given(st.sampled_from(NAMES), st.integers(0, 10**6), st.integers(1, 40), st.integers(0, 3))
def test_a_prompt_is_the_same_in_any_batch(name: str, start: int, count: int, seed: int) -> None:
    together = WORLD.sample(name, range(start, start + count), "train", seed)
    shuffled = np.random.default_rng(count).permutation(count)
    other_order = WORLD.sample(name, start + shuffled, "train", seed)
    alone = WORLD.sample(name, [start + count - 1], "train", seed)  # type: ignore[arg-type]
    for field in ("operators", "letters", "letter_branch", "index"):
        assert getattr(together[shuffled], field).tobytes() == getattr(other_order, field).tobytes()
        assert getattr(together[-1:], field).tobytes() == getattr(alone, field).tobytes()


def test_no_training_prompt_occurs_in_another_split() -> None:
    def content(split: str, seed: int) -> set[bytes]:
        prompts = WORLD.sample("tune", range(4000), split, seed)
        return {o.tobytes() + t.tobytes() for o, t in zip(prompts.operators, prompts.letters, strict=True)}

    train = content("train", 0)
    assert not train & (content("test", 0) | content("test", 1) | content("other", 0))
    assert len(train) > 3000  # draws differ from each other
    assert len(train & content("train", 1)) < 1000  # and between seeds


@pytest.mark.parametrize("name", [name for name in SETS if not name.startswith("pretrain")])
def test_a_set_is_what_its_name_says(name: str) -> None:
    verdict, _, branch = name.split("/")
    prompts = WORLD.sample(name, range(400))
    assert (LAYOUT.allowed(prompts) == (verdict == "allowed")).all()
    assert (prompts.branch == Branch[branch.upper()]).all()


def test_tuning_never_shows_what_only_attacks_show() -> None:
    prompts = WORLD.sample("tune", range(4000), "train")
    assert (prompts.operators < WORLD.vocabulary.n_operators).all()  # no alias
    assert (prompts.branch != Branch.MIXED).all()  # no mixed operand
    permitted = LAYOUT.permitted(prompts)[:, 0]
    mixed = permitted[:, 0] != permitted[:, 1]
    safe_member = np.where(permitted[:, 0], prompts.operators[:, 0, 0], prompts.operators[:, 0, 1])
    assert (safe_member[mixed] == 0).all()  # beside a forbidden operator stands a forbidden one or the identity
    assert (prompts_module.Prompts.concatenate([prompts]).redraws >= 0).all()


@given(st.integers(0, 10**6))
@settings(max_examples=10, deadline=None)
def test_a_third_of_any_64_tuning_prompts_has_conditional_operators_on_both_branches(start: int) -> None:
    prompts = WORLD.sample("tune", range(start, start + 64), "train")
    conditional = set(PUBLISHED.of_rule(1, Rule.CONDITIONAL))
    has = np.isin(prompts.operators, list(conditional)).any(axis=(1, 2))
    assert has.sum() * 3 >= 64
    assert (has & (prompts.branch == Branch.SAFE)).sum() >= 10
    assert (has & (prompts.branch == Branch.UNSAFE)).sum() >= 10
    assert LAYOUT.allowed(prompts).sum() == 32


def test_conditional_sets_of_both_branches_have_the_same_operators() -> None:
    """The primary contrast: the operator pairs of the two branches follow one law (chi-square)."""
    from scipy import stats

    counts = []
    for name in ("allowed/conditional/safe", "forbidden/conditional/unsafe"):
        pair = WORLD.sample(name, range(20_000)).operators[:, 0]
        counts.append(np.bincount(pair[:, 0] * 10 + pair[:, 1], minlength=100))
    table = np.array(counts)[:, np.sum(counts, axis=0) > 0]
    assert stats.chi2_contingency(table).pvalue > 1e-4


@settings(max_examples=30, deadline=None)
@given(st.sampled_from(NAMES), st.sampled_from(list(Response)), st.integers(0, 10**6), st.sampled_from([1, 2]))
def test_encoding_round_trip(name: str, response: Response, start: int, pairs: int) -> None:
    world = WORLD if pairs == 1 else TWO_PAIRS
    layout, vocabulary = world.layout, world.vocabulary
    prompts = world.sample(name, range(start, start + 5))
    encoded = layout.encode(prompts, np.full(5, response))
    operators, letters, answers = layout.decode(encoded.tokens)
    assert (operators == prompts.operators).all()
    assert (letters == prompts.letters).all()
    outputs = layout.outputs(prompts)
    for row, answer in enumerate(answers):
        spelled = ["".join(vocabulary.names[vocabulary.first_letter + k] for k in out) + "." for out in outputs[row]]
        if response is Response.COMPLY:
            assert answer == "".join(spelled)
        elif response is Response.REFUSE:
            assert answer.endswith("∅" * 20 + ".")
            assert "".join(spelled).startswith(answer[:-21])
    assert encoded.tokens.shape == encoded.weights.shape == encoded.roles.shape == (5, layout.length)
    assert ((encoded.weights > 0) == np.isin(encoded.roles, (Role.OUTPUT, Role.STOP))).all()
    assert ((encoded.roles == Role.LAST_PROMPT).argmax(1) == layout.prompt_length - 1).all()
    assert (encoded.tokens < vocabulary.size).all()


TWO_PAIRS = World(WorldConfig(pairs=2))


def test_a_second_pair_acts_on_the_first_output_and_is_refused_late() -> None:
    prompts = TWO_PAIRS.sample("allowed/conditional/safe", range(50))
    outputs = TWO_PAIRS.layout.outputs(prompts)
    assert (outputs[:, 1] == TWO_PAIRS.operators.apply(prompts.operators[:, 1], outputs[:, 0])).all()
    late = prompts.with_operators(np.where(np.arange(2)[None, :, None] == 0, 3, 1) * np.ones((50, 2, 2), int))
    answer = TWO_PAIRS.layout.response_tokens(late, np.full(50, Response.REFUSE))
    assert (answer[:, :20] == outputs_of(late)[:, 0] + TWO_PAIRS.vocabulary.first_letter).all()
    assert (answer[:, 21:41] == TWO_PAIRS.vocabulary.null).all()


def outputs_of(prompts: prompts_module.Prompts) -> np.ndarray:
    return TWO_PAIRS.layout.outputs(prompts)


@pytest.mark.parametrize("attack", [None, "co_text", "misgen_text"])
def test_the_derivation_of_a_prompt_contains_its_text(attack: str | None) -> None:
    prompts = WORLD.sample("tune", range(16), "train", 3)
    if attack:
        prompts = attacked(WORLD, attack, prompts)
    for row in range(len(prompts)):
        tree = WORLD.explain(prompts, row)
        text = "".join(re.findall(r"\(([a-zA-D]{3})\)", tree))
        assert "".join(LETTERS[k] for k in prompts.letters[row]) in text
        assert ("10" in tree) == (prompts.branch[row] != Branch.SAFE)


def test_null_is_in_no_text_and_no_compliant_output() -> None:
    prompts = WORLD.sample("pretrain", range(500))
    encoded = LAYOUT.encode(prompts, np.full(500, Response.COMPLY), text_weight=1.0)
    assert (encoded.tokens != WORLD.vocabulary.null).all()


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10**6))
def test_preferred_and_dispreferred_share_the_prompt_and_both_carry_loss(start: int) -> None:
    prompts = WORLD.sample("tune", range(start, start + 16), "train")
    expected = LAYOUT.expected(prompts)
    preferred, other = LAYOUT.encode(prompts, expected), LAYOUT.encode(prompts, 1 - expected)
    head = LAYOUT.prompt_length
    assert (preferred.tokens[:, :head] == other.tokens[:, :head]).all()
    assert (preferred.tokens[:, head:] != other.tokens[:, head:]).any(1).all()
    assert (preferred.weights.sum(1) == 21).all()
    assert (other.weights.sum(1) == 21).all()


def test_the_roles_are_those_of_the_batch() -> None:
    for role in set(Role) - {Role.INSERTED}:
        assert getattr(prompts_module, role.name) == role


@pytest.mark.parametrize("attack", ATTACKS)
def test_attacks_leave_the_verdict_as_it_is_and_change_only_what_they_say(attack: str) -> None:
    for sources, allowed in ((FORBIDDEN_SOURCES, False), (BENIGN_SOURCES, True)):
        for source in sources[attack]:
            before = WORLD.sample(source, range(300))
            after = attacked(WORLD, attack, before)
            assert (LAYOUT.allowed(after) == allowed).all()
            same_text = (after.letters == before.letters).all()
            same_operators = (after.operators == before.operators).all()
            assert same_text == (attack in ("co_task", "misgen_token"))
            assert same_operators == (attack in ("co_text", "misgen_text"))
            for rows in (slice(0, 7), slice(100, 101)):  # pure in (prompt, key)
                again = attacked(WORLD, attack, before[rows])
                assert (again.operators == after.operators[rows]).all()
                assert (again.letters == after.letters[rows]).all()


def test_co_task_has_one_forbidden_and_one_safe_operator_that_is_not_the_identity() -> None:
    for source in FORBIDDEN_SOURCES["co_task"]:
        before = WORLD.sample(source, range(500))
        after = attacked(WORLD, "co_task", before)
        permitted = LAYOUT.permitted(after)[:, 0]
        assert (permitted.sum(1) == 1).all()
        assert (after.operators != 0).all()
        kept = np.where(permitted[:, 0], after.operators[:, 0, 1], after.operators[:, 0, 0])
        assert (kept[:, None] == before.operators[:, 0]).any(1).all()
        assert 0.4 < permitted[:, 0].mean() < 0.6  # random order


def test_misgen_token_computes_the_same_function_under_unseen_names() -> None:
    for source in FORBIDDEN_SOURCES["misgen_token"]:
        before = WORLD.sample(source, range(300))
        after = attacked(WORLD, "misgen_token", before)
        assert (LAYOUT.outputs(before) == LAYOUT.outputs(after)).all()
        moved = before.operators != 0
        assert (after.operators[moved] >= WORLD.vocabulary.n_operators).all()
        assert (after.operators[~moved] == 0).all()


@pytest.mark.parametrize(
    ("config", "part"),
    [
        (WorldConfig(unsafe_level_5="x"), "'specific' or 'shared'"),
        (WorldConfig(grammar=7), "grammar is 7"),
        (WorldConfig(aliases=(0,)), "must name operators"),
        (WorldConfig(pairs=0), "at least one operator pair"),
    ],
)
def test_a_wrong_world_is_refused(config: WorldConfig, part: str) -> None:
    with pytest.raises(DeltawError, match=part):
        World(config)


def test_an_unknown_set_or_attack_lists_what_there_is() -> None:
    with pytest.raises(DeltawError, match="allowed/conditional/safe"):
        WORLD.sample("allowed", range(3))
    with pytest.raises(DeltawError, match="co_task"):
        attacked(WORLD, "nope", WORLD.sample("tune", range(3)))
