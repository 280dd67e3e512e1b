"""Logistic regression that survives separation, with intervals that know about clusters.

Attacks often succeed always or never, and then the maximum-likelihood slope is infinite. Firth's penalty (1993),
½ log det I(β), the Jeffreys prior, keeps every coefficient finite (Heinze and Schemper, 2002) and takes away the bias
of order 1/n. It is preferred to a ridge because it has nothing to tune and does not depend on a predictor's unit.

Rows that share a prompt (or a seed) are not independent, so the interval comes from a cluster-robust sandwich, with
several clusterings at once by Cameron, Gelbach and Miller (2011). Where that is smaller than what independent rows
would give, as under separation, where residuals vanish, the latter counts.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats
from scipy.special import expit, log_expit

from deltaw.errors import DeltawError
from deltaw.statistics.arrays import FloatArray, clusters_of, vector
from deltaw.statistics.intervals import Interval

_STEPS, _LONGEST_STEP, _TOLERANCE = 200, 5.0, 1e-9


@dataclass(frozen=True, eq=False)
class LogisticFit:
    """Log odds = X β. coefficients (p,). variances (p,): the larger of the two below.

    robust (p, p): by clusters. independent (p, p): the inverse information. degrees: of freedom of the t law, one less
    than the fewest clusters. n: rows.
    """

    coefficients: FloatArray
    robust: FloatArray
    independent: FloatArray
    degrees: int
    n: int

    @property
    def variances(self) -> FloatArray:
        """(p,) what the intervals take."""
        return np.maximum(np.diagonal(self.robust), np.diagonal(self.independent))

    def interval(self, column: int, confidence: float = 0.95) -> Interval:
        """Student's t interval of one coefficient. One cluster gives (−∞, ∞)."""
        if self.degrees < 1:
            return Interval(-np.inf, np.inf)
        half = float(stats.t.ppf(0.5 + confidence / 2, self.degrees)) * float(np.sqrt(self.variances[column]))
        return Interval(float(self.coefficients[column]) - half, float(self.coefficients[column]) + half)


def firth_logistic(X: ArrayLike, y: ArrayLike, clusters: Sequence[ArrayLike] = ()) -> LogisticFit:
    """Firth's logistic regression of y (n,) of 0 and 1 on X (n, p); give the intercept as a column of ones.

    clusters: one or more arrays of names (n,), such as prompts and seeds; none: rows are independent. DeltawError if
    sizes differ, y holds anything else, or columns of X depend on each other. Cost: about ten times n p².
    """
    x, target = _checked(X, y)
    beta, information, residual = _solve(x, target)
    bread = np.asarray(np.linalg.inv(information), dtype=np.float64)
    scores = x * residual[:, None]  # they sum to zero at the estimate
    numbers, fewest = _numbered(clusters, len(target))
    meat = np.zeros_like(bread)
    for sign, ids in numbers:
        count = int(ids.max()) + 1
        sums = np.stack([np.bincount(ids, weights=column, minlength=count) for column in scores.T], axis=1)
        meat += sign * count / max(count - 1, 1) * sums.T @ sums
    robust = np.asarray(bread @ _non_negative(meat) @ bread, dtype=np.float64)
    return LogisticFit(beta, robust, bread, fewest - 1, len(target))


def bootstrap_coefficients(
    X: ArrayLike, y: ArrayLike, generator: np.random.Generator, clusters: ArrayLike | None = None, draws: int = 200
) -> FloatArray:
    """(draws, p) coefficients of Firth's regression on whole clusters drawn with replacement. Cost: a fit a draw."""
    x, target = _checked(X, y)
    (ids,), count = clusters_of([np.arange(len(target)) if clusters is None else clusters])
    if len(ids) != len(target):
        raise DeltawError(f"clusters name {len(ids)} rows, there are {len(target)}; expected one name per row")
    out = np.empty((draws, x.shape[1]))
    for draw in range(draws):
        times = np.bincount(generator.integers(0, count, size=count), minlength=count)
        rows = np.repeat(np.arange(len(ids)), times[ids])
        out[draw] = _solve(x[rows], target[rows])[0]
    return out


def permuted_coefficients(
    X: ArrayLike, y: ArrayLike, generator: np.random.Generator, strata: ArrayLike, draws: int = 200
) -> FloatArray:
    """(draws, p) coefficients with the outcomes y in random order within strata (n,): what they are if, within a
    stratum, nothing in X has to do with them.
    """
    x, target = _checked(X, y)
    (ids,), _ = clusters_of([strata])
    within = np.argsort(ids, kind="stable")
    out = np.empty((draws, x.shape[1]))
    shuffled = target.copy()
    for draw in range(draws):
        shuffled[within] = target[np.lexsort((generator.random(len(ids)), ids))]
        out[draw] = _solve(x, shuffled)[0]
    return out


def _checked(X: ArrayLike, y: ArrayLike) -> tuple[FloatArray, FloatArray]:
    x, target = np.asarray(X, dtype=np.float64), vector(y, "outcomes")
    if x.ndim != 2 or len(x) != len(target) or not np.isfinite(x).all():
        raise DeltawError(
            f"X has shape {x.shape} for {len(target)} outcomes; expected finite numbers, a row an outcome"
        )
    if not np.isin(target, (0.0, 1.0)).all():
        raise DeltawError("outcomes must be 0 or 1, failure or success")
    if np.linalg.matrix_rank(x) < x.shape[1]:
        raise DeltawError(
            f"the {x.shape[1]} columns of X depend on each other, so their coefficients are not defined; leave one out"
        )
    return x, target


def _solve(x: FloatArray, y: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
    """(β, information, residuals of the penalised score) by Newton's steps, halved until the likelihood rises."""
    beta = np.zeros(x.shape[1])
    value, information, residual = _at(x, y, beta)
    for _ in range(_STEPS):
        step = np.linalg.solve(information, x.T @ residual)
        longest = float(np.abs(step).max())
        step *= min(1.0, _LONGEST_STEP / longest) if longest > 0 else 1.0
        for _ in range(30):
            proposed = _at(x, y, beta + step)
            if proposed[0] >= value - 1e-12 * abs(value):
                break
            step = step / 2
        beta = beta + step
        value, information, residual = proposed
        if float(np.abs(step).max()) < _TOLERANCE:
            break
    return beta, information, residual


def _at(x: FloatArray, y: FloatArray, beta: FloatArray) -> tuple[float, FloatArray, FloatArray]:
    """(penalised log-likelihood, information, y − π + h (½ − π)) with h the leverages."""
    eta = x @ beta
    probability = expit(eta)
    weight = probability * (1 - probability)
    information = (x * weight[:, None]).T @ x
    sign, logdet = np.linalg.slogdet(information)
    if sign <= 0 or not np.isfinite(logdet):  # far out, where all probabilities are 0 or 1: no place to step to
        return -np.inf, information, y - probability
    leverage = weight * np.einsum("ij,ij->i", x, np.linalg.solve(information, x.T).T)
    likelihood = float((y * log_expit(eta) + (1 - y) * log_expit(-eta)).sum() + logdet / 2)
    return likelihood, information, y - probability + leverage * (0.5 - probability)


def _numbered(clusters: Sequence[ArrayLike], n: int) -> tuple[list[tuple[int, np.ndarray]], int]:
    """(sign, cluster numbers) of each term of the multi-way sandwich, and the fewest clusters of any clustering."""
    if not len(clusters):
        return [(1, np.arange(n))], n
    clusterings = []
    for names in clusters:
        (ids,), count = clusters_of([names])
        if len(ids) != n:
            raise DeltawError(f"clusters name {len(ids)} rows, there are {n}; expected one name per row")
        clusterings.append((ids, count))
    terms = []
    for chosen in range(1, 1 << len(clusterings)):  # inclusion and exclusion over sets of clusterings
        part = [ids for place, (ids, _) in enumerate(clusterings) if chosen >> place & 1]
        _, joint = np.unique(np.stack(part), axis=1, return_inverse=True)
        terms.append((1 if len(part) % 2 else -1, joint.reshape(-1)))
    return terms, min(count for _, count in clusterings)


def _non_negative(matrix: FloatArray) -> FloatArray:
    """The nearest matrix without negative eigenvalues: a difference of sandwiches may have some."""
    values, vectors = np.linalg.eigh((matrix + matrix.T) / 2)
    return np.asarray((vectors * np.maximum(values, 0)) @ vectors.T)
