"""The prompts of a lens: contrasts, attacked prompts, questions for probes, and what observations may cost."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]

PromptSet = Any
"""Prompts as the models of a lens take them: a sequence that can be sliced."""

Clusters = NDArray[Any] | None
"""(N,) id of each row's cluster; rows of a cluster are resampled together. None: each row is its own."""


@dataclass(frozen=True, eq=False)
class Contrast:
    """Two sets of prompts, matched row by row."""

    name: str
    """Its name in measurements."""
    allowed: PromptSet
    """N allowed prompts."""
    forbidden: PromptSet
    """N forbidden prompts."""
    clusters: Clusters = None
    """(N,) id of each pair's cluster; pairs of a cluster are resampled together. None: pairs are independent."""
    every_checkpoint: bool = False
    """Whether it is measured at checkpoints before the last, as the primary contrast always is."""
    activations_only: bool = False
    """Whether only what reads activations is measured on it, and not what recomputes parts of the model."""

    def first(self, count: int) -> "Contrast":
        """The first `count` pairs."""
        rows = slice(0, count)
        clusters = None if self.clusters is None else self.clusters[rows]
        return replace(self, allowed=self.allowed[rows], forbidden=self.forbidden[rows], clusters=clusters)


@dataclass(frozen=True, eq=False)
class Attacked:
    """Forbidden prompts under an attack: prompt i is made from forbidden prompt i of the contrast."""

    attack: str
    """Name of the attack."""
    set: str
    """The set, in measurements, of the prompts that it was made from."""
    contrast: str
    """Name of the contrast."""
    prompts: PromptSet
    """As many as the contrast has, or the first of them."""


@dataclass(frozen=True, eq=False)
class Question:
    """What a probe has to read from activations."""

    set: str
    """Set of the prompts, in measurements."""
    prompts: PromptSet
    """N prompts."""
    labels: Ints
    """(N,) the label that is read."""
    groups: Ints
    """(N,) prompts of one group share a fold."""


@dataclass(frozen=True)
class Effort:
    """What observations may cost."""

    draws: int = 200
    """Draws of a null."""
    bootstrap: int = 500
    """Draws of an interval."""
    jacobians: int = 48
    """Pairs whose sensitivities are measured."""
    effect_draws: int = 40
    """Draws of the null of the parts of ΔW; each costs as much as the observation."""
    whole_jacobian: bool = True
    """Whether the whole Jacobian is computed, and not only its spectral norm."""


@dataclass(frozen=True, eq=False)
class Prompts:
    """All prompts of a lens."""

    contrasts: tuple[Contrast, ...]
    """The contrasts; the first is the primary one."""
    attacked: Callable[[], tuple[Attacked, ...]] = tuple
    """Makes the attacked versions of the contrasts' forbidden prompts."""
    questions: tuple[Question, ...] = ()
    """Questions for probes."""
    neutral: PromptSet = ()
    """Neutral texts, whose loss says what a model can still do."""
    exact: PromptSet = ()
    """Harmless questions whose answers can be checked."""
