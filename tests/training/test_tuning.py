import hashlib
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch

from deltaw.errors import DeltawError
from deltaw.models import LanguageModel, Transformer
from deltaw.models.batch import Role
from deltaw.plugins import plugins, resolve
from deltaw.protocols import Loss, Protocol, TuningBatch, reference_log_probs
from deltaw.protocols.dpo import Dpo
from deltaw.protocols.dpo_published import DpoPublished
from deltaw.protocols.ssft import Ssft
from deltaw.protocols.unlearn import Unlearn
from deltaw.training import OptimiserConfig
from deltaw.training.controls import Control
from deltaw.training.controls.control import responses_taught
from deltaw.training.controls.operators import forbid_operators
from deltaw.training.finetuning import (
    TuningConfig,
    tune,
    tuning_pairs,
    tuning_prompts,
    tuning_reference,
    unwanted_response,
    wanted_response,
)
from deltaw.training.pretraining import PretrainingConfig, new_model, pretrain, pretraining_samples
from deltaw.world import (
    PUBLISHED_COMPAT,
    Branch,
    Prompts,
    Response,
    World,
    WorldConfig,
    published_grammar,
    published_schedule,
    published_world,
)

WORLD = World()
CONTROLS: dict[str, Control] = {
    plugin.name: resolve("control", plugin.name) for plugin in plugins() if plugin.kind == "control"
}
SMALL = PretrainingConfig(layers=1, heads=2, width=16, batch=16, compute_dtype="float32")
PROTOCOLS: dict[str, Protocol] = {"ssft": Ssft(), "dpo": Dpo(), "unlearn": Unlearn(), "dpo-published": DpoPublished()}
QUICK = OptimiserConfig(peak_lr=1e-2, min_lr=1e-3, steps=4, warmup=1, decay_end=4)


def small_model() -> Transformer:
    return new_model(WORLD, SMALL, seed=0)


def config(name: str, **fields: object) -> TuningConfig:
    settings: dict[str, Any] = {"batch": 16, "optimiser": QUICK, "compute_dtype": "float32", **fields}
    return TuningConfig(protocol=PROTOCOLS[name], **settings)


def test_the_operators_control_refuses_another_set_as_often_as_the_policy() -> None:
    for seed in range(4):
        chosen = forbid_operators(WORLD, seed)
        assert 0 not in chosen
        assert set(chosen) not in [set(WORLD.policy.forbidden(1, branch)) for branch in (Branch.SAFE, Branch.UNSAFE)]
        prompts = WORLD.sample("tune", range(8000), "train", seed + 100)
        refused = CONTROLS["operators"].wanted(WORLD, prompts, seed) == Response.REFUSE
        assert abs(refused.mean() - 0.5) < 0.04
        assert (refused == np.isin(prompts.operators, chosen).any(axis=(1, 2))).all()
    assert len({forbid_operators(WORLD, seed) for seed in range(6)}) > 1


def test_what_the_controls_teach() -> None:
    prompts = WORLD.sample("tune", range(2000), "train")
    allowed = WORLD.layout.allowed(prompts)
    assert (wanted_response(WORLD, prompts, CONTROLS["benign"], 0) == Response.COMPLY).all()
    other = wanted_response(WORLD, prompts, CONTROLS["other"], 0)
    assert (other[allowed] == Response.COMPLY).all()
    assert (other[~allowed] == Response.ECHO).all()
    constant = wanted_response(WORLD, prompts, CONTROLS["constant"], 0)
    assert (constant == np.where(allowed, Response.COMPLY, Response.CONSTANT)).all()
    noise = wanted_response(WORLD, prompts, CONTROLS["noise"], 0) == Response.REFUSE
    assert abs(noise[allowed].mean() - 0.5) < 0.06
    assert abs(noise[~allowed].mean() - 0.5) < 0.06
    for name, control in CONTROLS.items():
        taught = set(wanted_response(WORLD, prompts, control, 0)) - {Response.COMPLY}
        assert taught == (set() if name == "benign" else {control.instead})
    policy = wanted_response(WORLD, prompts, None, 0) == Response.REFUSE
    assert (policy == ~allowed).all()


def pair_hash(control: Control | None) -> str:
    pair = tuning_pairs(WORLD, range(256), config("ssft", control=control), seed=3)
    digest = hashlib.sha256()
    for tensor in (
        pair.preferred.tokens, pair.preferred.weights, pair.dispreferred.tokens, pair.dispreferred.weights,
        torch.as_tensor(pair.complies),
    ):  # fmt: skip
        digest.update(tensor.numpy().tobytes())
    return digest.hexdigest()[:16]


def test_each_control_teaches_the_bytes_that_it_taught_when_it_was_a_name() -> None:
    """Hashes by the code in which controls were functions in a table: models that were kept have learned these."""
    assert pair_hash(None) == "f9bdd831c99760d9"
    assert {name: pair_hash(control) for name, control in CONTROLS.items()} == {
        "benign": "a141086ec5862d4f",
        "constant": "a7a3ad5673c1ada6",
        "noise": "1a02ef195fba5344",
        "operators": "d269606de28b9fe8",
        "other": "17254eaad55f8700",
    }


@pytest.mark.parametrize(
    ("wanted", "said"),
    [
        ("raise KeyError('x')", "raised KeyError"),
        ("return [0] * len(prompts)", "expected an array of 8 of Response"),
        ("return np.zeros(3, dtype=int)", "expected an array of 8 of Response"),
        ("return np.full(len(prompts), 9)", "expected an array of 8 of Response"),
    ],
)
def test_a_control_at_fault_is_one_sentence(wanted: str, said: str) -> None:
    def of_prompts(control: Control, world: World, prompts: Prompts, seed: int) -> Any:
        code: dict[str, Any] = {}
        exec(f"import numpy as np\ndef wanted(prompts):\n    {wanted}", code)
        return code["wanted"](prompts)

    odd = type("Odd", (Control,), {"name": "odd", "label": "odd", "wanted": of_prompts})()
    with pytest.raises(DeltawError, match=f"the control odd .*{said}"):
        responses_taught(odd, WORLD, WORLD.sample("tune", range(8), "train"), 0)


@pytest.mark.parametrize("control", [None, *CONTROLS.values()])
def test_every_pair_differs_and_shares_its_prompt(control: Control | None) -> None:
    pair = tuning_pairs(WORLD, range(64), config("ssft", control=control), seed=0)
    head = WORLD.layout.prompt_length
    assert torch.equal(pair.preferred.tokens[:, :head], pair.dispreferred.tokens[:, :head])
    assert (pair.preferred.tokens != pair.dispreferred.tokens).any(1).all()


def test_unwanted_is_a_refusal_where_the_prompt_is_to_be_answered() -> None:
    wanted = np.array([Response.COMPLY, Response.REFUSE, Response.ECHO])
    assert unwanted_response(wanted).tolist() == [Response.REFUSE, Response.COMPLY, Response.COMPLY]


def test_all_protocols_see_the_same_prompts_in_the_same_order(monkeypatch: pytest.MonkeyPatch) -> None:
    from deltaw.training import finetuning as tuning

    seen: dict[str, list[torch.Tensor]] = {}
    real = tuning_pairs
    for name in ("ssft", "dpo", "unlearn"):
        rows: list[torch.Tensor] = []

        def spy(world: World, chosen: range, tuned: TuningConfig, seed: int, rows: list[torch.Tensor] = rows):  # type: ignore[no-untyped-def]
            pair = real(world, chosen, tuned, seed)
            rows.append(pair.preferred.tokens)
            return pair

        monkeypatch.setattr(tuning, "tuning_pairs", spy)
        reference = tuning_reference(WORLD, small_model(), 64, config("dpo"), 0) if name == "dpo" else None
        rows.clear()
        tune(WORLD, small_model(), config(name), 0, reference)
        seen[name] = list(rows)
    assert all(torch.equal(a, b) for name in seen for a, b in zip(seen["ssft"], seen[name], strict=True))


def test_dpo_starts_at_a_margin_of_zero_and_needs_its_reference() -> None:
    reference = tuning_reference(WORLD, small_model(), 64, config("dpo"), 0)
    log = tune(WORLD, small_model(), config("dpo"), 0, reference)
    assert log.records[0].parts["margin"] == pytest.approx(0.0, abs=1e-4)
    assert log.records[0].loss == pytest.approx(float(np.log(2)), abs=1e-4)
    assert log.records[-1].parts["margin"] > 0
    with pytest.raises(DeltawError, match="all 64 tuning prompts"):
        tune(WORLD, small_model(), config("dpo"), 0, None)
    with pytest.raises(DeltawError, match="all 64 tuning prompts"):
        tune(WORLD, small_model(), config("dpo"), 0, reference[slice(0, 32)])


def test_the_reference_does_not_depend_on_how_it_is_batched() -> None:
    model = small_model()
    whole = tuning_reference(WORLD, model, 48, config("dpo"), 0)
    pair = tuning_pairs(WORLD, range(16, 32), config("dpo"), 0)
    part = reference_log_probs(model, pair)
    torch.testing.assert_close(part.preferred, whole.preferred[16:32])
    torch.testing.assert_close(part.dispreferred, whole.dispreferred[16:32])


def test_an_unknown_format_of_numbers_is_refused() -> None:
    with pytest.raises(DeltawError, match="float32 or bfloat16"):
        tune(WORLD, small_model(), config("ssft", compute_dtype="float8"), 0)


def test_a_tuning_that_diverges_names_its_protocol() -> None:
    @dataclass(frozen=True)
    class Diverging(Ssft):
        name = "diverging"

        def loss(self, model: LanguageModel, batch: TuningBatch) -> Loss:
            loss = super().loss(model, batch)
            return Loss(loss.value / 0, loss.parts)

    with pytest.raises(DeltawError, match="tuning by diverging diverged at step 0 of 4: the loss is inf"):
        tune(WORLD, small_model(), replace(config("ssft"), protocol=Diverging()), 0)


def test_pretraining_learns_and_is_reproducible() -> None:
    short = PretrainingConfig(
        layers=1, heads=2, width=16, batch=16, compute_dtype="float32",
        optimiser=OptimiserConfig(peak_lr=1e-2, min_lr=1e-3, steps=30, warmup=2, decay_end=30),
    )  # fmt: skip
    models, logs = zip(*(pretrain(WORLD, short, seed=seed) for seed in (0, 0, 1)), strict=True)
    assert logs[0].records[-1].loss < logs[0].records[0].loss - 0.5
    same = [torch.equal(a, b) for a, b in zip(models[0].parameters(), models[1].parameters(), strict=True)]
    assert all(same)
    assert not torch.equal(models[0].unembed.weight, models[2].unembed.weight)


PAPER = World(published_world())
LITTLE = WorldConfig(grammars=(published_grammar(2), published_grammar(3)), text_length=(10, 12), pairs=2)


def test_pretraining_samples_are_views_and_do_not_depend_on_the_batch() -> None:
    views = replace(SMALL, views=published_schedule(samples=400, flat=100))
    whole = pretraining_samples(PAPER, views, range(200), seed=1)
    part = pretraining_samples(PAPER, views, range(50, 60), seed=1)
    for field in ("tokens", "weights", "roles"):
        assert getattr(part, field).tobytes() == np.ascontiguousarray(getattr(whole, field)[50:60]).tobytes()
    assert (whole.weights.sum(1) > 0).all()
    without_operators = (whole.roles != Role.OPERATOR).all(1)
    assert 0.3 < without_operators.mean() < 0.7  # the share of text alone goes from a half to 0.43 here
    plain = pretraining_samples(PAPER, SMALL, range(200), seed=1)
    assert ((plain.roles == Role.OPERATOR).sum(1) == 4).all()


def test_a_view_that_teaches_nothing_is_refused() -> None:
    published = published_schedule(samples=400, flat=100)
    with pytest.raises(DeltawError, match="'second' needs prompts of at least two"):
        pretraining_samples(WORLD, replace(SMALL, views=published), range(4), 0)
    with pytest.raises(DeltawError, match="'text' carries no loss"):
        pretraining_samples(PAPER, replace(SMALL, views=published, text_weight=0.0), range(4), 0)


def test_several_grammars_pairs_and_lengths_train_and_tune() -> None:
    world = World(LITTLE)
    short = replace(SMALL, views=published_schedule(400, 100), optimiser=replace(QUICK, steps=12, decay_end=12))
    base, log = pretrain(world, short, seed=0)
    assert log.records[-1].loss < log.records[0].loss
    log = tune(world, base, config("unlearn"), 0)
    assert all(np.isfinite(record.loss) for record in log.records)
    for control in (None, *CONTROLS.values()):
        pair = tuning_pairs(world, range(64), config("ssft", control=control), seed=0)
        assert (pair.preferred.tokens != pair.dispreferred.tokens).any(1).all()
    known = [set(world.policy.forbidden(n, b)) for n in world.numbers for b in (Branch.SAFE, Branch.UNSAFE)]
    assert set(forbid_operators(world, 0)) not in known


COMPAT = World(replace(published_world(), redraw_below=0.0, held_out=0.0, compat=PUBLISHED_COMPAT))


def test_allowed_batches() -> None:
    """Published: a batch is all allowed or all forbidden, by a coin. Ours: half of every sixteen prompts."""
    by_batch = config("ssft", allowed_batches=0.8)
    prompts = tuning_prompts(COMPAT, range(16 * 100), by_batch, 0)
    assert (prompts.index == np.arange(16 * 100)).all()
    allowed = COMPAT.layout.allowed(prompts).reshape(100, 16)
    assert (allowed.all(1) | ~allowed.any(1)).all()
    assert 0.7 < allowed.mean() < 0.9
    part = tuning_prompts(COMPAT, range(40, 80), by_batch, 0)
    assert (part.letters == prompts.letters[40:80]).all()
    assert (part.operators == prompts.operators[40:80]).all()
    ours = COMPAT.layout.allowed(tuning_prompts(COMPAT, range(16 * 100), config("ssft"), 0)).reshape(100, 16)
    assert (ours.sum(1) == 8).all()


def test_borrowed_masks() -> None:
    """Published: one output of a pair's two is compared, and the four structural tokens. Ours: the whole of each."""
    prompts = tuning_prompts(COMPAT, range(160), config("unlearn", allowed_batches=0.5), 0)
    borrowing, ours = (
        tuning_pairs(COMPAT, range(160), config("unlearn", allowed_batches=0.5, borrow_masks=borrow), 0)
        for borrow in (True, False)
    )
    lengths = torch.from_numpy(prompts.lengths)
    for batch in (borrowing.preferred, borrowing.dispreferred):
        assert torch.equal(batch.weights.sum(1).long(), lengths + 4)
    allowed = torch.from_numpy(COMPAT.layout.allowed(prompts))
    assert torch.equal(ours.preferred.weights.sum(1).long(), torch.where(allowed, 2 * lengths + 4, lengths + 4))
    assert torch.equal(ours.dispreferred.weights.sum(1).long(), torch.where(allowed, lengths + 4, 2 * lengths + 4))
    assert torch.equal(borrowing.preferred.tokens, ours.preferred.tokens)


def test_published_data_train_and_tune() -> None:
    short = replace(SMALL, views=published_schedule(400, 100), optimiser=replace(QUICK, steps=8, decay_end=8))
    base, log = pretrain(COMPAT, short, seed=0)
    assert log.records[-1].loss < log.records[0].loss
    tuned = config("dpo-published", allowed_batches=0.5, borrow_masks=True)
    log = tune(COMPAT, base, tuned, 0, tuning_reference(COMPAT, base, 64, tuned, 0))
    assert log.records[0].parts["margin"] == pytest.approx(0.0, abs=1e-4)
    assert all(np.isfinite(record.loss) for record in log.records)


def test_another_first_row_means_other_prompts_and_their_own_reference() -> None:
    here, there = config("dpo"), replace(config("dpo"), first_row=32)
    whole, part = (tuning_reference(WORLD, small_model(), rows, one, 0) for rows, one in ((96, here), (64, there)))
    torch.testing.assert_close(whole.preferred[32:], part.preferred)
    torch.testing.assert_close(whole.dispreferred[32:], part.dispreferred)
    logs = [tune(WORLD, small_model(), one, 0, known) for one, known in ((here, whole), (there, part))]
    assert logs[0].records[2].parts["nll_preferred"] != logs[0].records[0].parts["nll_preferred"]
    # Before any update, so that only the prompts can differ, and the reference must be theirs.
    assert logs[1].records[0].parts["nll_preferred"] != logs[0].records[0].parts["nll_preferred"]
    assert logs[1].records[0].parts["margin"] == pytest.approx(0.0, abs=1e-4)
