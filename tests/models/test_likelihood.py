import numpy as np
import numpy_decoder
import pytest
import torch
from lively_model import lively_model, some_tokens

from deltaw.models import Transformer, mean_nll, response_log_probs, response_weights, token_nll
from deltaw.models.batch import Batch


@pytest.fixture
def model() -> Transformer:
    return lively_model()


@pytest.fixture
def tokens() -> torch.Tensor:
    return some_tokens()


@pytest.fixture
def batch(tokens: torch.Tensor) -> Batch:
    weights = torch.rand(tokens.shape, generator=torch.Generator().manual_seed(2))
    weights[torch.rand(tokens.shape, generator=torch.Generator().manual_seed(3)) < 0.5] = 0
    weights[:, 0] = 1.0  # must never be read
    return Batch(tokens, weights, torch.zeros(tokens.shape, dtype=torch.uint8))


def expected_nll(model: Transformer, batch: Batch) -> numpy_decoder.Array:
    logits, _ = numpy_decoder.forward(model, batch.tokens)
    log_probs = numpy_decoder.log_softmax(logits)
    nll = np.zeros(batch.tokens.shape)
    for row in range(len(batch)):
        for t in range(1, batch.tokens.shape[1]):
            if batch.weights[row, t] != 0:
                nll[row, t] = -log_probs[row, t - 1, batch.tokens[row, t]]
    return nll


def test_likelihoods_equal_numpy(model: Transformer, batch: Batch) -> None:
    nll, weights = expected_nll(model, batch), batch.weights.double().numpy()
    logits = model(batch.tokens)
    np.testing.assert_allclose(token_nll(logits, batch).detach().numpy(), nll, atol=1e-4)
    rows = -(nll * weights)[:, 1:].sum(1)
    np.testing.assert_allclose(response_log_probs(logits, batch).detach().numpy(), rows, atol=1e-4)
    np.testing.assert_allclose(response_weights(batch).numpy(), weights[:, 1:].sum(1), rtol=1e-6)
    mean = (nll * weights)[:, 1:].sum() / weights[:, 1:].sum()
    assert mean_nll(logits, batch).item() == pytest.approx(mean, abs=1e-5)


def test_the_gradient_reaches_only_positions_with_loss(model: Transformer, batch: Batch) -> None:
    logits = model(batch.tokens).detach().requires_grad_()
    mean_nll(logits, batch).backward()  # type: ignore[no-untyped-call]
    assert logits.grad is not None
    reached = logits.grad.abs().sum(-1) > 0
    assert torch.equal(reached[:, :-1], batch.weights[:, 1:] > 0)
    assert not reached[:, -1].any()


def test_logits_of_other_positions_are_refused(model: Transformer, batch: Batch) -> None:
    with pytest.raises(ValueError, match="positions"):
        token_nll(model(batch.tokens)[:, :-1], batch)
