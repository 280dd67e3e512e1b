from dataclasses import dataclass
from typing import cast

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from deltaw.errors import DeltawError
from deltaw.models import LanguageModel, ModelConfig, Transformer
from deltaw.models.batch import Batch, Role
from deltaw.protocols import (
    Loss,
    Pair,
    Protocol,
    ReferenceLogProbs,
    TuningBatch,
    borrow_masks,
    loss_of,
    reference_log_probs,
)
from deltaw.protocols.dpo import Dpo
from deltaw.protocols.dpo_published import DpoPublished
from deltaw.protocols.npo import Npo
from deltaw.protocols.ssft import Ssft
from deltaw.protocols.unlearn import Unlearn
from deltaw.protocols.unlearn_published import UnlearnPublished
from deltaw.training import next_token

Array = NDArray[np.float64]
N, T, V = 4, 7, 11


def batch(seed: int, length: int) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(0, V, (N, length), generator=generator)
    weights = (torch.rand(N, length, generator=generator) < 0.6) * torch.rand(N, length, generator=generator)
    weights[:, 0] = 5.0  # must never be read
    weights[:, 1] = 1.0
    return Batch(tokens, weights, torch.full((N, length), int(Role.OUTPUT), dtype=torch.uint8))


PAIR = Pair(batch(0, T), batch(1, T - 2))
REFERENCE = ReferenceLogProbs(
    torch.tensor([-9.0, -8.0, -7.5, -6.0], dtype=torch.float64),
    torch.tensor([-4.0, -6.5, -7.0, -9.0], dtype=torch.float64),
)
BATCH = TuningBatch(PAIR, REFERENCE)


def sums(logits: Array, data: Batch) -> tuple[Array, Array]:
    """Summed log-probability and sum of weights of each row, term by term."""
    log_probs, weights = np.zeros(N), np.zeros(N)
    for row in range(N):
        for t in range(1, data.tokens.shape[1]):
            scores = logits[row, t - 1]
            log_p = scores[int(data.tokens[row, t])] - np.log(np.exp(scores).sum())
            log_probs[row] += float(data.weights[row, t]) * log_p
            weights[row] += float(data.weights[row, t])
    return log_probs, weights


def sigmoid(x: Array) -> Array:
    return np.asarray(1 / (1 + np.exp(-x)))


def expected_loss(protocol: Protocol, logits: Array) -> float:
    w, count_w = sums(logits[:N], PAIR.preferred)
    l, count_l = sums(logits[N:], PAIR.dispreferred)  # noqa: E741
    ref_w, ref_l = REFERENCE.preferred.numpy(), REFERENCE.dispreferred.numpy()
    nll_w = -w.sum() / count_w.sum()
    match protocol:
        case Ssft():
            value = nll_w
        case Dpo(beta, sft_weight):
            z = beta * ((w - ref_w) - (l - ref_l))
            value = np.mean(-np.log(sigmoid(z))) + sft_weight * nll_w
        case Unlearn(ascent_weight, cap):
            bound = np.log(V) if cap is None else cap
            value = nll_w + ascent_weight * np.mean([max(0.0, bound + l[i] / count_l[i]) for i in range(N)])
        case Npo(beta, sft_weight):
            value = 2 / beta * np.mean(np.log(1 + np.exp(beta * (l - ref_l)))) + sft_weight * nll_w
        case DpoPublished(a_w, a_l, length):
            z = a_w * (w - ref_w) / length - a_l * (l - ref_l) / length
            value = np.mean(-np.log(sigmoid(z)))
        case UnlearnPublished(u_w, u_l, length):
            value = np.mean(u_w * -w / length - u_l * -l / length)
        case _:
            raise NotImplementedError(protocol)
    return float(value)


CASES = [
    Ssft(),
    Dpo(),
    Dpo(beta=0.7, sft_weight=0.3),
    Unlearn(),
    Unlearn(ascent_weight=0.8, cap=20.0),
    Npo(),
    Npo(beta=0.6, sft_weight=0.2),
    DpoPublished(),
    DpoPublished(preferred_weight=3.0, dispreferred_weight=2.0, length=5),
    UnlearnPublished(),
    UnlearnPublished(preferred_weight=0.5, dispreferred_weight=2.0, length=5),
]


def random_logits(seed: int = 3) -> torch.Tensor:
    """Logits under which only the first two dispreferred responses are likelier than a uniform guess."""
    logits = torch.randn(2 * N, T, V, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    for row in range(N):
        for t in range(1, T - 2):
            logits[N + row, t - 1, PAIR.dispreferred.tokens[row, t]] = 2.0 if row < 2 else -2.0
    return logits


def evaluate(protocol: Protocol, logits: torch.Tensor) -> tuple[float, torch.Tensor, dict[str, torch.Tensor]]:
    """Value, gradient by the logits, and parts, of a "model" whose logits are the given ones."""
    leaf = logits.clone().requires_grad_()
    loss = protocol.loss(lambda tokens: leaf[: len(tokens)], BATCH)
    (gradient,) = torch.autograd.grad(loss.value, leaf)
    return loss.value.item(), gradient, loss.parts


@pytest.mark.parametrize("protocol", CASES)
@pytest.mark.parametrize("seed", [3, 4])
def test_value_and_gradient_equal_the_formula(protocol: Protocol, seed: int) -> None:
    logits = random_logits(seed)
    value, gradient, parts = evaluate(protocol, logits)
    assert value == pytest.approx(expected_loss(protocol, logits.numpy()), rel=1e-6)
    assert gradient.abs().max() > 0
    for draw in range(5):
        direction = np.random.default_rng(draw).standard_normal(logits.shape)
        up, down = (expected_loss(protocol, logits.numpy() + step * direction) for step in (1e-5, -1e-5))
        assert float((gradient.numpy() * direction).sum()) == pytest.approx((up - down) / 2e-5, rel=1e-5, abs=1e-9)
    assert all(part.ndim == 0 and not part.requires_grad for part in parts.values())
    w, count = sums(logits[:N].numpy(), PAIR.preferred)
    assert parts["nll_preferred"].item() == pytest.approx(-w.sum() / count.sum())


@pytest.mark.parametrize("protocol", CASES)
def test_descent_does_what_the_objective_is_for(protocol: Protocol) -> None:
    logits = random_logits()
    _, gradient, _ = evaluate(protocol, logits)
    stepped = (logits - 1e-4 * gradient / gradient.abs().max()).numpy()
    before_w, after_w = sums(logits[:N].numpy(), PAIR.preferred)[0], sums(stepped[:N], PAIR.preferred)[0]
    before_l, after_l = (
        sums(logits[N:].numpy(), PAIR.dispreferred)[0],
        sums(stepped[N:], PAIR.dispreferred)[0],
    )
    assert (after_w > before_w).all(), "each preferred response becomes likelier"
    if isinstance(protocol, Ssft):
        assert (after_l == before_l).all()
    elif isinstance(protocol, Unlearn):
        assert (after_l <= before_l).all()
        assert (after_l < before_l).any()
    else:
        assert (after_l < before_l).all(), "each dispreferred response becomes less likely"


def test_published_dpo_is_published_unlearning_rescaled_row_by_row() -> None:
    logits = random_logits()
    w, _ = sums(logits[:N].numpy(), PAIR.preferred)
    l, _ = sums(logits[N:].numpy(), PAIR.dispreferred)  # noqa: E741
    z = 0.1 / 159 * (w - REFERENCE.preferred.numpy()) - 0.01 / 159 * (l - REFERENCE.dispreferred.numpy())
    _, dpo, _ = evaluate(DpoPublished(), logits)
    _, unlearn, _ = evaluate(UnlearnPublished(), logits)
    factor = torch.from_numpy(0.1 * (1 - sigmoid(z))).repeat(2)[:, None, None]
    torch.testing.assert_close(dpo, factor * unlearn, rtol=1e-12, atol=0)


def test_the_published_length_counts_and_the_number_of_tokens_does_not() -> None:
    """Sums are divided by 159 whatever a response's length: twice the weights, twice the loss."""
    logits = random_logits()

    def value(weight: float) -> float:
        pair = Pair(*(Batch(b.tokens, b.weights * weight, b.roles) for b in (PAIR.preferred, PAIR.dispreferred)))
        return UnlearnPublished().loss(lambda tokens: logits, TuningBatch(pair)).value.item()

    w, _ = sums(logits[:N].numpy(), PAIR.preferred)
    l, _ = sums(logits[N:].numpy(), PAIR.dispreferred)  # noqa: E741
    assert value(1.0) == pytest.approx(float(np.mean(-w + 0.1 * l) / 159), rel=1e-6)
    assert value(2.0) == pytest.approx(2 * value(1.0), rel=1e-6)


def test_borrowed_masks_compare_what_both_responses_say() -> None:
    """Two outputs against a refusal of the first: only the first carries loss, and structural positions too."""
    tokens = torch.arange(18).reshape(2, 9) % V
    roles = torch.full((2, 9), int(Role.OUTPUT), dtype=torch.uint8)
    whole = torch.tensor([[0, 0, 1, 1, 1, 1, 1, 1, 1]] * 2, dtype=torch.float32)
    refusal = torch.tensor([[0, 0, 1, 1, 1], [0, 0, 0.5, 0.5, 0]], dtype=torch.float32)
    pair = Pair(Batch(tokens, whole, roles), Batch(tokens[:, :5] + 1, refusal, roles[:, :5]))
    masked = borrow_masks(pair)
    assert masked.preferred.weights.tolist() == [[0, 0, 1, 1, 1, 0, 0, 0, 0], [0, 0, 1, 1, 0, 0, 0, 0, 0]]
    assert masked.dispreferred.weights[:, :5].tolist() == refusal.tolist()
    assert torch.equal(masked.preferred.tokens, tokens)
    swapped = borrow_masks(Pair(pair.dispreferred, pair.preferred))
    assert torch.equal(swapped.dispreferred.weights, masked.preferred.weights)
    again = borrow_masks(masked)
    assert torch.equal(again.preferred.weights, masked.preferred.weights)
    apart = Batch(tokens, torch.tensor([[0, 1, 0, 0, 0, 0, 0, 0, 0]] * 2, dtype=torch.float32), roles)
    with pytest.raises(ValueError, match="no loss"):
        borrow_masks(Pair(apart, pair.dispreferred))


def test_published_dpo_is_rescaled_unlearning_under_borrowed_masks_too() -> None:
    logits, masked = random_logits(), borrow_masks(PAIR)
    leaf = logits.clone().requires_grad_()
    gradients = {}
    for protocol in (DpoPublished(), UnlearnPublished()):
        loss = protocol.loss(lambda tokens: leaf, TuningBatch(masked, REFERENCE))
        (gradients[protocol.name],) = torch.autograd.grad(loss.value, leaf)
    w, _ = sums(logits[:N].numpy(), masked.preferred)
    l, _ = sums(logits[N:].numpy(), masked.dispreferred)  # noqa: E741
    z = 0.1 / 159 * (w - REFERENCE.preferred.numpy()) - 0.01 / 159 * (l - REFERENCE.dispreferred.numpy())
    factor = torch.from_numpy(0.1 * (1 - sigmoid(z))).repeat(2)[:, None, None]
    torch.testing.assert_close(gradients["dpo-published"], factor * gradients["unlearn-published"], rtol=1e-12, atol=0)


def test_ascent_stops_row_by_row_at_the_cap() -> None:
    logits = random_logits()
    l, count = sums(logits[N:].numpy(), PAIR.dispreferred)  # noqa: E741
    row_nll = np.sort(-l / count)
    cap = float(row_nll[1] + row_nll[2]) / 2
    _, gradient, parts = evaluate(Unlearn(ascent_weight=1.0, cap=cap), logits)
    past = torch.from_numpy(-l / count > cap)
    assert past.sum() == 2
    assert (gradient[N:][past] == 0).all()
    assert (gradient[N:][~past].abs().amax((1, 2)) > 0).all()
    assert parts["capped"].item() == 0.5


def test_the_default_cap_is_a_uniform_guess() -> None:
    _, gradient, _ = evaluate(Unlearn(), random_logits())
    ascended = gradient[N:].abs().amax((1, 2)) > 0
    assert ascended.tolist() == [True, True, False, False]
    assert (gradient[:N].abs().amax((1, 2)) > 0).all()
    for factor, goes_on in ((1.01, True), (0.99, False)):
        logits = torch.zeros(2 * N, T, V, dtype=torch.float64)
        for row in range(N):
            for t in range(1, T - 2):
                logits[N + row, t - 1, PAIR.dispreferred.tokens[row, t]] = np.log(factor)
        _, gradient, _ = evaluate(Unlearn(), logits)
        assert bool((gradient[N:] != 0).any()) is goes_on


def test_dpo_starts_at_log_two_with_its_own_reference() -> None:
    model = Transformer(ModelConfig(V, T, layers=1, heads=1, width=8), torch.Generator().manual_seed(0))
    reference = reference_log_probs(model, PAIR, batch_size=3)
    loss = Dpo().loss(model, TuningBatch(PAIR, reference))
    assert loss.value.item() == pytest.approx(np.log(2), abs=1e-6)
    assert loss.parts["margin"].item() == pytest.approx(0, abs=1e-6)
    rows = torch.tensor([2, 0])
    loss = Dpo().loss(model, TuningBatch(PAIR[rows], reference[rows]))
    assert loss.value.item() == pytest.approx(np.log(2), abs=1e-6)


def test_pairs_join_without_changing_a_response() -> None:
    model = Transformer(ModelConfig(V, T, layers=1, heads=1, width=8), torch.Generator().manual_seed(0)).double()
    reference = reference_log_probs(model, PAIR)
    joined = PAIR.joined()
    assert joined.tokens.shape == (2 * N, T)
    assert (joined.weights[N:, -2:] == 0).all()
    assert (joined.roles[N:, -2:] == Role.PAD).all()
    both = reference_log_probs(model, Pair(joined, joined))
    torch.testing.assert_close(both.preferred, torch.cat([reference.preferred, reference.dispreferred]))


def test_the_loss_of_pretraining_is_the_token_mean() -> None:
    logits = random_logits()
    value = next_token(lambda tokens: logits[: len(tokens)], PAIR.preferred).value.item()
    assert value == pytest.approx(expected_loss(Ssft(), logits.numpy()))


def test_extreme_margins_stay_finite() -> None:
    logits = 500 * random_logits()
    for protocol in CASES:
        value, gradient, _ = evaluate(protocol, logits)
        assert np.isfinite(value), protocol
        assert gradient.isfinite().all(), protocol


@pytest.mark.parametrize("protocol", [Dpo(), Npo(), DpoPublished()])
def test_a_missing_reference_is_refused(protocol: Protocol) -> None:
    assert protocol.needs_reference
    with pytest.raises(ValueError, match=f"{protocol.name} needs"):
        protocol.loss(lambda tokens: random_logits(), TuningBatch(PAIR))


@dataclass(frozen=True)
class Strange(Protocol):
    """What somebody else may write."""

    name = "strange"
    label = "Strange"

    gives: object = None

    def loss(self, model: LanguageModel, batch: TuningBatch) -> Loss:
        if isinstance(self.gives, Exception):
            raise self.gives
        return cast(Loss, self.gives)


@pytest.mark.parametrize(
    ("gives", "said"),
    [
        (KeyError("h"), "strange raised KeyError: 'h'; mend test_protocols"),
        (None, "strange gave None; expected a Loss"),
        (Loss(torch.ones(2, requires_grad=True), {}), "expected a Loss with a scalar value"),
        (Loss(torch.ones(()), {}), "does not depend on the model's parameters"),
    ],
)
def test_a_loss_that_cannot_be_minimised_is_one_sentence(gives: object, said: str) -> None:
    with pytest.raises(DeltawError, match=said):
        loss_of(Strange(gives), lambda tokens: random_logits(), BATCH)


def test_wrong_pairs_are_refused() -> None:
    with pytest.raises(ValueError, match="4 preferred rows but 2"):
        Pair(PAIR.preferred, PAIR.dispreferred[:2])
    weights = PAIR.dispreferred.weights.clone()
    weights[1, 1:] = 0
    with pytest.raises(ValueError, match="dispreferred response carries no loss"):
        Pair(PAIR.preferred, Batch(PAIR.dispreferred.tokens, weights, PAIR.dispreferred.roles))
