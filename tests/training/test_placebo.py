"""The placebo: balanced, mirrored, independent of the real policy; and the claims that read it."""

import numpy as np
import pytest

from deltaw.claims.placebo import placebo_claims
from deltaw.results import Measurement
from deltaw.training.controls.placebo import Placebo, placebo_policy
from deltaw.training.controls.placebo_other import PlaceboOther
from deltaw.world import Response, Rule, World, WorldConfig

WORLD = World(WorldConfig())


@pytest.mark.parametrize("seed", [0, 7])
def test_each_real_rule_has_as_many_operators_forbidden_on_either_branch(seed: int) -> None:
    table = placebo_policy(WORLD, seed)
    assert not table[:, 0].any()  # the identity
    assert not table.all(axis=2).any()  # none on both
    for number in WORLD.numbers:
        for rule in Rule:
            operators = [k for k in WORLD.policy.of_rule(number, rule) if k != 0]
            safe, unsafe = table[number, operators].sum(axis=0)
            assert abs(int(safe) - int(unsafe)) <= 1


def test_seeds_come_in_mirrored_pairs_and_pairs_differ() -> None:
    assert (placebo_policy(WORLD, 7) == placebo_policy(WORLD, 6)[..., ::-1]).all()
    assert len({placebo_policy(WORLD, seed).tobytes() for seed in range(0, 20, 2)}) > 5


def test_its_own_control_answers_the_same_prompts_otherwise() -> None:
    prompts = WORLD.sample("tune", range(300), "train", 0)
    refused, repeated = (control.wanted(WORLD, prompts, 4) for control in (Placebo(), PlaceboOther()))
    assert set(refused) == {Response.REFUSE, Response.COMPLY}
    assert set(repeated) == {Response.ECHO, Response.COMPLY}
    assert ((refused == Response.REFUSE) == (repeated == Response.ECHO)).all()


def test_over_a_mirrored_pair_it_refuses_no_side_of_a_real_contrast_more() -> None:
    operators = WORLD.sample("allowed/conditional/safe", range(400), seed=1).operators
    unsafe = WORLD.sample("forbidden/conditional/unsafe", range(400), seed=1).with_operators(operators)
    safe = WORLD.sample("allowed/conditional/safe", range(400), seed=1)
    early = (safe.grammar == unsafe.grammar) & (unsafe.branch == 1) & (safe.branch == 0)
    rates = [
        [(Placebo().wanted(WORLD, side[early], seed) == Response.REFUSE).mean() for seed in (10, 11)]
        for side in (safe, unsafe)
    ]
    assert np.mean(rates[0]) == pytest.approx(np.mean(rates[1]), abs=1e-12)


def test_it_is_independent_of_the_real_policy() -> None:
    """Over many pairs of seeds, allowed and forbidden prompts are refused alike."""
    prompts = WORLD.sample("tune", range(1500), "train", 2)
    allowed = WORLD.layout.allowed(prompts)
    gaps = []
    for seed in range(60):
        refused = Placebo().wanted(WORLD, prompts, seed) == Response.REFUSE
        gaps.append(refused[allowed].mean() - refused[~allowed].mean())
    # Identities are allowed by both, so prompts that hold one are allowed more often by both: compare those without.
    bare = (WORLD.operators.operator_of[prompts.operators] != 0).all(axis=(1, 2))
    bare_gaps = [
        (refused[allowed[bare]].mean() - refused[~allowed[bare]].mean())
        for seed in range(60)
        for refused in [Placebo().wanted(WORLD, prompts[bare], seed) == Response.REFUSE]
    ]
    assert abs(np.mean(bare_gaps)) < 3 * np.std(bare_gaps) / 60**0.5 + 0.01
    assert np.std(gaps) > 0.01


def test_claims_read_the_placebo_minus_its_own_control() -> None:
    def line(model: str, seed: int, value: float) -> Measurement:
        return Measurement(
            stage="analysis", model=model, seed=seed, step=9, statistic="gain_log_ratio_in_situ_peak", value=value,
            set="contrast/operator", site="mlp_in",
        )  # fmt: skip

    lines = [line("placebo-ssft-medium", seed, 0.30 + 0.01 * seed) for seed in range(8)]
    lines += [line("placebo-other-ssft-medium", seed, 0.29 + 0.01 * (seed % 3)) for seed in range(8)]
    (claim,) = placebo_claims(lines)
    assert claim.id == "placebo/gain/operator/ssft-medium"
    (answer,) = claim.answers
    assert (answer.question, answer.word, answer.n) == ("other", "same", 8)
    assert answer.value == pytest.approx(np.mean([0.01 + 0.01 * s - 0.01 * (s % 3) for s in range(8)]))
    assert placebo_claims([line("ssft-medium", 0, 0.3)]) == []
