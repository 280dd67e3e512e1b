"""Representation rerouting: its formula in numpy, on hidden states read apart; and what it does to a model."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch

from deltaw.errors import DeltawError
from deltaw.models import Transformer, tap
from deltaw.models.batch import Role
from deltaw.protocols import Pair, TuningBatch
from deltaw.protocols.circuit_breakers import CircuitBreakers
from deltaw.training import OptimiserConfig
from deltaw.training.controls.other import Other
from deltaw.training.finetuning import TuningConfig, tune, tuning_pairs
from deltaw.training.pretraining import PretrainingConfig, new_model
from deltaw.world import World

WORLD = World()
MODEL = PretrainingConfig(layers=3, heads=2, width=16, batch=16, compute_dtype="float32")
ADAM = OptimiserConfig(peak_lr=3e-3, min_lr=3e-3, steps=24, warmup=1, decay_end=24)
CONFIG = TuningConfig(protocol=CircuitBreakers(), batch=16, optimiser=ADAM, compute_dtype="float32")


def states(model: Transformer, tokens: torch.Tensor, layers: tuple[int, ...]) -> np.ndarray:
    with torch.no_grad(), tap(model, ("resid_out",), layers) as recorded:
        model(tokens)
    return np.stack([recorded[layer, "resid_out"].double().numpy() for layer in layers])


@pytest.mark.parametrize("progress", [0.0, 0.3, 1.0])
def test_the_loss_is_the_formula(progress: float) -> None:
    base, model = new_model(WORLD, MODEL, 0), new_model(WORLD, MODEL, 1)
    pair = tuning_pairs(WORLD, range(16), CONFIG, 0)
    protocol = CircuitBreakers(alpha=3.0, layers=(0, 2))
    loss = protocol.loss(model, TuningBatch(pair, base=base, progress=torch.tensor(progress)))
    cosines, distances = [], []
    assert pair.complies is not None
    assert 0 < pair.complies.sum() < 16
    for row, keeps in enumerate(pair.complies.tolist()):
        half = (pair.preferred if keeps else pair.dispreferred)[row : row + 1]
        before, after = (states(m, half.tokens, (0, 2))[:, 0] for m in (base, model))
        for layer in range(2):
            for t in range(half.tokens.shape[1]):
                h0, h = before[layer, t], after[layer, t]
                if keeps and half.roles[0, t] != Role.PAD:
                    distances.append(np.sqrt(((h0 - h) ** 2).sum()))
                elif not keeps and t + 1 < half.tokens.shape[1] and half.weights[0, t + 1] != 0:
                    cosines.append(h0 @ h / np.sqrt((h0 @ h0) * (h @ h)))
    assert min(cosines) < 0 < max(cosines)
    reroute, retain = np.maximum(cosines, 0).mean(), np.mean(distances)
    expected = 3.0 * (1 - progress / 2) * reroute + 3.0 * progress / 2 * retain
    assert loss.value.item() == pytest.approx(expected, rel=1e-5)
    assert loss.parts["cosine"].item() == pytest.approx(np.mean(cosines), rel=1e-4)


def test_a_model_that_has_not_moved_is_all_cosine() -> None:
    base = new_model(WORLD, MODEL, 0)
    model = copy.deepcopy(base)
    loss = CircuitBreakers().loss(model, TuningBatch(tuning_pairs(WORLD, range(16), CONFIG, 0), base=base))
    assert loss.parts["rerouting"].item() == pytest.approx(1.0)
    assert loss.parts["retaining"].item() == 0.0
    loss.value.backward()  # type: ignore[no-untyped-call]
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())


def test_tuning_turns_harmful_states_away_and_touches_no_later_weight() -> None:
    base = new_model(WORLD, MODEL, 0)
    model = copy.deepcopy(base)
    log = tune(WORLD, model, CONFIG, 0)
    first, last = log.records[0], log.records[-1]
    assert first.parts["cosine"] == pytest.approx(1.0, abs=1e-5)
    assert last.parts["cosine"] < 0.5
    assert last.loss < first.loss / 2
    moved = {
        name for (name, a), b in zip(base.named_parameters(), model.parameters(), strict=True) if not torch.equal(a, b)
    }
    assert any(name.startswith("blocks.0") for name in moved)
    assert any(name.startswith("blocks.1") for name in moved)
    assert not any(name.startswith(("blocks.2", "unembed")) for name in moved)


def test_a_batch_of_one_kind_has_one_term() -> None:
    base, model = new_model(WORLD, MODEL, 0), new_model(WORLD, MODEL, 1)
    pair = tuning_pairs(WORLD, range(16), CONFIG, 0)
    assert pair.complies is not None
    allowed = CircuitBreakers().loss(model, TuningBatch(pair[pair.complies], base=base))
    assert allowed.parts["rerouting"].item() == 0.0
    forbidden = CircuitBreakers().loss(model, TuningBatch(pair[~pair.complies], base=base))
    assert forbidden.parts["retaining"].item() == 0.0


def test_what_it_needs_is_said() -> None:
    model, pair = new_model(WORLD, MODEL, 0), tuning_pairs(WORLD, range(4), CONFIG, 0)
    with pytest.raises(ValueError, match="needs the base model"):
        CircuitBreakers().loss(model, TuningBatch(pair))
    with pytest.raises(ValueError, match="which responses comply"):
        CircuitBreakers().loss(model, TuningBatch(Pair(pair.preferred, pair.dispreferred), base=model))
    with pytest.raises(DeltawError, match="layers of circuit-breakers are"):
        CircuitBreakers(layers=(7,)).loss(model, TuningBatch(pair, base=model))
    assert CircuitBreakers().chosen_layers(32) == (10, 20)
    with pytest.raises(DeltawError, match="teaches the same as no control"):
        replace(CONFIG, control=Other())
