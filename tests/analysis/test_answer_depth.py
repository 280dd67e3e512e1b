"""Divergence along answers against scipy's, and its share on the first tokens against planted ones."""

import numpy as np
import pytest
import torch
from scipy import stats

from deltaw.analysis import Absent
from deltaw.analysis.answer_depth import divergence, early_share
from deltaw.errors import DeltawError


def log_probs(seed: int, *shape: int) -> torch.Tensor:
    return torch.log_softmax(torch.from_numpy(np.random.default_rng(seed).standard_normal(shape)), -1)


def test_divergence_is_scipys_of_the_tuned_model_from_the_base_model() -> None:
    tuned, base = log_probs(0, 3, 4, 7), log_probs(1, 3, 4, 7)
    tuned[1, 3:] = base[1, 3:] = torch.nan
    kl = divergence(tuned, base)
    assert np.isnan(kl[1, 3])
    assert np.isnan(kl).sum() == 1
    assert kl[2, 1] == pytest.approx(stats.entropy(tuned[2, 1].exp().numpy(), base[2, 1].exp().numpy()))
    assert divergence(base, base)[0] == pytest.approx(0.0)


def test_a_token_that_the_tuned_model_never_says_counts_nothing() -> None:
    tuned = torch.tensor([[[0.0, -torch.inf]]])
    assert divergence(tuned, torch.tensor([[[0.5, 0.5]]]).log())[0, 0] == pytest.approx(np.log(2))


def test_answers_of_two_lengths_are_told() -> None:
    with pytest.raises(DeltawError, match="tokenizers"):
        divergence(log_probs(0, 3, 4, 7), log_probs(0, 3, 5, 7))


def test_a_shallow_divergence_exceeds_its_null_and_an_even_one_does_not() -> None:
    generator = np.random.default_rng(0)
    noise = generator.exponential(size=(40, 10))
    shallow = noise * np.where(np.arange(10) < 2, 5.0, 0.2)
    early = early_share(shallow, 2, np.random.default_rng(1))
    assert not isinstance(early, Absent)
    assert early.share == pytest.approx(shallow[:, :2].sum() / shallow.sum())
    assert early.null.mean == pytest.approx(0.2)
    assert early.share > early.null.high
    inside = 0
    for seed in range(40):
        even = early_share(np.random.default_rng(seed).exponential(size=(40, 10)), 2, np.random.default_rng(seed))
        assert not isinstance(even, Absent)
        inside += even.null.low <= even.share <= even.null.high
    assert inside >= 34


def test_shorter_answers_have_their_own_chance() -> None:
    kl = np.ones((2, 8))
    kl[1, 4:] = np.nan
    early = early_share(kl, 2, np.random.default_rng(0))
    assert not isinstance(early, Absent)
    assert early.share == early.null.mean == pytest.approx(4 / 12)
    assert early.null.low == early.null.high == pytest.approx(4 / 12)


def test_equal_models_and_short_answers_have_no_share() -> None:
    for kl, first, reason in ((np.zeros((3, 5)), 2, "same"), (np.ones((3, 2)), 2, "more than 2")):
        absent = early_share(kl, first, np.random.default_rng(0))
        assert isinstance(absent, Absent)
        assert reason in absent.reason
