"""What `paper` is, from the reference notes, and the whole of what `paper-compat` changes."""

import json
from typing import Any

from deltaw.study.artifacts import plain
from deltaw.study.plan import parameter_count
from deltaw.study.recipes import recipe
from deltaw.training import OptimiserConfig
from deltaw.training.pretraining import model_config
from deltaw.world import World


def leaves(value: Any, path: str = "") -> dict[str, Any]:
    if isinstance(value, dict):
        return {k: v for key, item in value.items() for k, v in leaves(item, f"{path}.{key}".lstrip(".")).items()}
    return {path: value}


def test_paper_is_the_published_model_and_optimisation() -> None:
    paper = recipe("paper")
    pretraining, adam = paper.pretraining, paper.pretraining.optimiser
    assert (pretraining.layers, pretraining.heads, pretraining.width, pretraining.batch) == (6, 6, 192, 512)
    assert (pretraining.block, pretraining.positions, pretraining.attend_pads) == ("published", "sinusoidal", True)
    assert adam == OptimiserConfig(
        1e-3, 1e-5, 100_000, 20_000, 80_000, (0.9, 0.95), weight_decay=1e-4, clip_norm=None, eps=1e-8, from_zero=True
    )
    rates = {"medium": 1e-4, "small": 1e-5}
    for tuned in paper.tunings:
        assert tuned.config.batch == 512
        assert tuned.config.optimiser == OptimiserConfig(
            rates[tuned.strength], 1e-6, 10_000, 2_000, 8_000, (0.9, 0.95), clip_norm=1.0, from_zero=True
        )
    kinds = {(tuned.protocol, tuned.strength) for tuned in paper.tunings if tuned.control is None}
    assert kinds >= {(protocol, strength) for protocol in ("ssft", "dpo", "unlearn") for strength in rates}
    assert {tuned.control for tuned in paper.tunings} == {None, "benign", "operators", "noise", "other"}
    shape = model_config(World(paper.world), pretraining)
    assert parameter_count(shape) == 2 * shape.vocabulary_size * 192 + 6 * (444_864 - 384) + 384
    assert paper.base_checkpoints[-1] == 100_000
    assert paper.checkpoints[-1] == 10_000


def test_compat_changes_this_and_nothing_else() -> None:
    paper, compat = recipe("paper"), recipe("paper-compat")
    before, after = ({**leaves(plain(r)), "tunings": None} for r in (paper, compat))
    assert {name for name in before | after if before.get(name) != after.get(name)} == {"name", "pretraining.dead_norm"}
    assert [tuned.name for tuned in paper.tunings] == [tuned.name for tuned in compat.tunings]
    changed: set[tuple[str, str, str]] = set()
    for ours, theirs in zip(paper.tunings, compat.tunings, strict=True):
        one, two = leaves(plain(ours.config)), leaves(plain(theirs.config))
        for name in one | two:
            if one.get(name) != two.get(name):
                changed.add((name, json.dumps(one.get(name)), json.dumps(two.get(name))))
    assert changed == {
        ("objective", '"dpo"', '"dpo_published"'),
        ("objective", '"unlearn"', '"unlearn_published"'),
        ("options.beta", "0.1", "null"),
        ("options.sft_weight", "4.0", "null"),
        ("options.ascent_weight", "0.1", "null"),
        ("optimiser.weight_decay", "0.0", "0.0001"),
    }
