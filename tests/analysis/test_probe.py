"""The probe: what was planted is read, what was not is at chance, and remembering is no reading."""

import numpy as np
import pytest
import torch
from planted import draw

from deltaw.analysis import probe
from deltaw.errors import DeltawError

LABELS = np.random.default_rng(0).integers(0, 6, 400)


def planted(strength: float, seed: int = 0) -> torch.Tensor:
    """Activations with a common mean, a steep spectrum, and a direction for each of six labels."""
    scale = torch.from_numpy(np.arange(1, 33, dtype=np.float64) ** -0.5)
    return draw(seed, 400, 32) * scale + 5 + strength * draw(99, 6, 32)[torch.from_numpy(LABELS)]


def test_a_planted_label_is_read_and_another_is_at_chance() -> None:
    found = probe(planted(1.0), LABELS, np.random.default_rng(1))
    assert found.accuracy > 0.95
    assert found.interval.low > found.null.high
    assert found.labels == 6
    nothing = probe(planted(0.0), LABELS, np.random.default_rng(1))
    assert nothing.accuracy in nothing.null
    assert nothing.null.mean == pytest.approx(1 / 6, abs=0.03)
    assert nothing.most_frequent == np.bincount(LABELS).max() / 400


def test_more_dimensions_than_rows_do_not_help_where_there_is_nothing() -> None:
    found = probe(draw(3, 60, 300), LABELS[:60], np.random.default_rng(0))
    assert found.accuracy < 0.45
    assert found.accuracy in found.null


def test_a_remembered_combination_is_not_read() -> None:
    """Activations name one of 80 combinations and nothing else; the label is any function of it."""
    ids = np.random.default_rng(2).integers(0, 80, 400)
    labels = np.random.default_rng(3).integers(0, 6, 80)[ids]
    x = torch.eye(80, dtype=torch.float64)[torch.from_numpy(ids)] + 0.05 * draw(0, 400, 80)
    assert probe(x, labels, np.random.default_rng(0)).accuracy > 0.9
    held_out = probe(x, labels, np.random.default_rng(0), ids=ids)
    assert held_out.accuracy in held_out.null
    assert held_out.accuracy < 0.4


def test_ridge_is_that_of_the_normal_equations() -> None:
    """With the folds dealt again, predictions are those of solving for each penalty and taking the best by GCV."""
    from deltaw.analysis.crossfit import deal
    from deltaw.analysis.probe import PENALTIES

    x = planted(0.25, seed=4)
    found = probe(x, LABELS, np.random.default_rng(5))
    (fold,) = deal([np.arange(400)], 5, np.random.default_rng(5))
    a, correct = x.numpy(), np.zeros(400)
    for number in range(5):
        train, test = fold != number, fold == number
        centred, y = a[train] - a[train].mean(0), np.eye(6)[LABELS[train]]
        mean, gram = y.mean(0), centred.T @ centred
        best: tuple[float, np.ndarray] | None = None
        for penalty in PENALTIES:
            inverse = np.linalg.inv(gram + penalty * np.trace(gram) / 32 * np.eye(32))
            weights = inverse @ centred.T @ (y - mean)
            freedom = 1 + np.trace(centred @ inverse @ centred.T)
            score = ((y - mean - centred @ weights) ** 2).sum() / (1 - freedom / train.sum()) ** 2
            if best is None or score < best[0]:
                best = score, weights
        assert best is not None
        correct[test] = ((a[test] - a[train].mean(0)) @ best[1] + mean).argmax(1) == LABELS[test]
    assert (found.correct == correct).all()


def test_equal_generators_give_two_models_equal_folds_whatever_the_draws() -> None:
    one = probe(planted(0.3), LABELS, np.random.default_rng(7), draws=2)
    two = probe(planted(0.3), LABELS, np.random.default_rng(7), draws=9)
    assert (one.correct == two.correct).all()


def test_a_mistake_is_a_sentence() -> None:
    with pytest.raises(DeltawError, match="a label for each id"):
        probe(planted(0.0), LABELS, np.random.default_rng(0), ids=np.arange(400) // 8)
    with pytest.raises(DeltawError, match="one label only"):
        probe(planted(0.0), np.zeros(400), np.random.default_rng(0))
    with pytest.raises(DeltawError, match="one of each a row"):
        probe(planted(0.0), LABELS[:5], np.random.default_rng(0))
