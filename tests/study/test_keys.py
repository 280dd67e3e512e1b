"""Adding or changing a plug-in makes nothing anew that does not hold it."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest

from deltaw.pipeline.artifacts import plain
from deltaw.pipeline.code_hash import _parse
from deltaw.pipeline.scheduler import _plan
from deltaw.protocols import Protocol
from deltaw.protocols.dpo import Dpo
from deltaw.protocols.npo import Npo
from deltaw.protocols.ssft import Ssft
from deltaw.protocols.unlearn import Unlearn
from deltaw.recipes import recipe
from deltaw.recipes.choose import with_controls
from deltaw.recipes.config import Recipe
from deltaw.study.graph import stages
from deltaw.training.controls.constant import Constant
from deltaw.training.controls.other import Other

SMOKE = recipe("smoke")


def study(*protocols: Protocol) -> Recipe:
    """`smoke` with one tuning by each protocol."""
    first = SMOKE.tunings[0]
    tunings = tuple(
        replace(
            first,
            name=f"{protocol.name}-medium",
            protocol=protocol.name,
            config=replace(first.config, protocol=protocol),
        )
        for protocol in protocols
    )
    return replace(SMOKE, tunings=tunings, left_out=None, subspaces=None, interventions=())


@cache
def kept(*protocols: Protocol) -> dict[str, str]:
    """Keys of a study, of the code as it is."""
    return keys(study(*protocols))


def keys(whole: Recipe) -> dict[str, str]:
    return {name: made.key for name, made in _plan(stages(whole)).provenances.items()}


@contextmanager
def edited(file: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Within this context, the code of a module of deltaw has one more definition."""
    read = Path.read_text

    def changed(path: Path, *arguments: str, **options: str) -> str:
        text = read(path, *arguments, **options)
        return f"{text}\nEDITED = 1\n" if path.as_posix().endswith(f"src/deltaw/{file}") else text

    with monkeypatch.context() as patch:
        patch.setattr(Path, "read_text", changed)
        _parse.cache_clear()  # files that are not written anew are not read anew
        yield
    _parse.cache_clear()


ALL = (Ssft(), Dpo(), Unlearn(), Npo())
WHOLE = study(*ALL)


@pytest.mark.parametrize("name", ["ssft", "dpo", "unlearn", "npo"])
def test_a_changed_protocol_makes_its_own_tuning_anew_and_nothing_else(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = kept(*ALL)
    with edited(f"protocols/{name}.py", monkeypatch):
        after = keys(WHOLE)
    changed = {stage for stage in before if before[stage] != after[stage]}
    assert f"tune-{name}-medium-s0" in changed
    others = {"ssft", "dpo", "unlearn", "npo"} - {name}
    untouched = {"world-s0", "base-s0", "behaviour-base-s0", "reference-s0"} | {f"tune-{p}-medium-s0" for p in others}
    assert untouched <= before.keys()
    assert not changed & untouched


def test_what_all_protocols_share_makes_no_base_model_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    before = kept(*ALL)
    for file in ("protocols/responses.py", "protocols/protocol.py", "protocols/pair.py", "training/finetuning.py"):
        with edited(file, monkeypatch):
            after = keys(WHOLE)
        assert after["base-s0"] == before["base-s0"], file
        assert after["tune-dpo-medium-s0"] != before["tune-dpo-medium-s0"], file
    with edited("training/loop.py", monkeypatch):
        assert keys(WHOLE)["base-s0"] != before["base-s0"]


def test_a_protocol_more_makes_nothing_anew_of_what_was_there() -> None:
    before, after = kept(Ssft(), Dpo()), kept(Ssft(), Dpo(), Npo())
    assert {name: after[name] for name in before if not name.startswith("samples")} == {
        name: key for name, key in before.items() if not name.startswith("samples")
    }
    assert "tune-npo-medium-s0" in after


def test_an_option_is_part_of_the_key_and_readable_in_the_manifest() -> None:
    before, after = kept(Ssft(), Dpo()), kept(Ssft(), Dpo(beta=0.2))
    assert before["tune-dpo-medium-s0"] != after["tune-dpo-medium-s0"]
    assert {name for name in before if before[name] != after[name]} >= {"tune-dpo-medium-s0"}
    assert before["tune-ssft-medium-s0"] == after["tune-ssft-medium-s0"]
    assert plain(study(Dpo(beta=0.2)))["tunings"][0]["config"]["protocol"] == {
        "type": "Dpo", "name": "dpo", "label": "DPO", "beta": 0.2, "sft_weight": 0.0,
    }  # fmt: skip


def test_a_changed_control_makes_its_own_tunings_anew_and_no_others(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = with_controls(study(Ssft(), Dpo()), [Other(), Constant()])
    before = keys(whole)
    with edited("training/controls/other.py", monkeypatch):
        after = keys(whole)
    changed = {stage for stage in before if before[stage] != after[stage]}
    mine = {"tune-other-ssft-medium-s0", "tune-other-dpo-medium-s0", "reference-other-s0"}
    assert mine <= changed
    tuned = {stage for stage in before if stage.startswith(("tune-", "reference-", "base-", "world-"))}
    assert {"tune-constant-ssft-medium-s0", "tune-dpo-medium-s0", "reference-s0", "base-s0"} <= tuned
    assert changed & tuned == mine
