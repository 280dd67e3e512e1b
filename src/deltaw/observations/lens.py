"""What every observation is given: a base and a tuned model, prompts in matched contrasts, and keyed random draws.

A lens does not say what kind of models it shows. Ours in their world and any causal language model of Hugging Face
are read through the same protocol, `ObservedModel`; who builds a lens (`study.stages.lens`, `compare.lens`) says which
prompts it has. What has no answer through a lens is left out, and `Lens.absent` says why.

Models may be on any device. What is read of them (activations, matrices) comes to the CPU; the statistics are in
float64.
"""

from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from deltaw.analysis import Absent, ColumnBasis, column_basis, gaussian_spectrum
from deltaw.analysis.spectrum import GaussianSpectrum
from deltaw.models import MlpWeights
from deltaw.models.taps import Place
from deltaw.results.recorder import Sheet
from deltaw.statistics import FloatArray, Null, bootstrap_means, percentile_interval, sign_flip_null

SITES = ("mlp_post", "resid_out")
"""Where activations are compared: after the MLP's activation function, and at the block's output."""

READ = ("mlp_in", *SITES)
"""What is read of a model: also the input of the MLP's first map, which ΔW acts on."""

Ints = NDArray[np.int64]
Places = Mapping[Place, Tensor]
"""Activations (N, width of the site) at the last token of each prompt, by (layer, site)."""

PromptSet = Any
"""Prompts as the models of a lens take them: a sequence that can be sliced."""

Clusters = NDArray[Any] | None
"""(N,) what rows are resampled together by; None: each by itself."""

T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class PromptEmbeddings:
    """A batch of prompts as vectors, with the map from them to what the model says first.

    readout: from embeddings (B, T, D) to the logits (B, V) that predict the first token of the answer.
    embeddings: (B, T, D).
    blocks: by name, which positions belong to a part of the prompt, (B, T) bool; together they are the prompt.
    last: the name of the block that is the last token.
    """

    readout: Callable[[Tensor], Tensor]
    embeddings: Tensor
    blocks: dict[str, Tensor]
    last: str


class ObservedModel(Protocol):
    """A model that observations can read."""

    @property
    def layers(self) -> range:
        """Its blocks."""

    @property
    def embedding_norm(self) -> float:
        """Mean length of its token embeddings."""

    @property
    def light(self) -> bool:
        """Whether all its MLPs fit into memory as float64; else one layer is held at a time."""

    def mlp(self, layer: int) -> MlpWeights:
        """The MLP of a layer, float64, on the CPU."""

    def state(self) -> Mapping[str, Tensor]:
        """All its parameters by name."""

    def activations(self, prompts: PromptSet, sites: Sequence[str] = READ) -> Places:
        """Activations at the last token of each prompt, at every layer."""

    def complied(self, prompts: PromptSet) -> NDArray[np.bool_]:
        """(N,) whether its free-running answer does what the prompt asks."""

    def embedded(self, prompts: PromptSet) -> Iterator[PromptEmbeddings]:
        """The prompts in batches, in order; no parameter asks for a gradient within the iteration."""

    def random(self, seed: int) -> "ObservedModel":
        """A model of the same shape with random weights."""


@dataclass(frozen=True, eq=False)
class Contrast:
    """Two sets of prompts, row by row matched.

    name: in measurements.
    allowed, forbidden: N prompts each.
    clusters: (N,) what rows are resampled together by; None: every pair is independent of the others.
    """

    name: str
    allowed: PromptSet
    forbidden: PromptSet
    clusters: Clusters = None

    def first(self, count: int) -> "Contrast":
        """The first `count` pairs."""
        rows = slice(0, count)
        clusters = None if self.clusters is None else self.clusters[rows]
        return Contrast(self.name, self.allowed[rows], self.forbidden[rows], clusters)


@dataclass(frozen=True, eq=False)
class Attacked:
    """Forbidden prompts under an attack: prompt i is made from forbidden prompt i of the contrast.

    attack: its name.
    set: the set of the prompts it was made from, in measurements.
    contrast: the name of the contrast.
    prompts: as many as the contrast has, or the first of them.
    """

    attack: str
    set: str
    contrast: str
    prompts: PromptSet


@dataclass(frozen=True, eq=False)
class Question:
    """What a probe is asked to read off activations.

    set: of the prompts, in measurements.
    prompts: N of them.
    labels: (N,) what is to be read.
    groups: (N,) prompts of one group share a fold.
    """

    set: str
    prompts: PromptSet
    labels: Ints
    groups: Ints


@dataclass(frozen=True)
class Effort:
    """What observations may cost.

    draws: of a null.
    bootstrap: draws of an interval.
    jacobians: pairs whose sensitivities are measured.
    effect_draws: of the null of the parts of ΔW; each costs as much as the observation.
    whole_jacobian: whether the whole Jacobian is taken, and not its spectral norm alone.
    """

    draws: int = 200
    bootstrap: int = 500
    jacobians: int = 48
    effect_draws: int = 40
    whole_jacobian: bool = True


@dataclass(frozen=True, eq=False)
class Prompts:
    """All prompts of a lens.

    contrasts: the first is the primary one.
    attacked: of the contrasts' forbidden prompts.
    questions: for probes.
    """

    contrasts: tuple[Contrast, ...]
    attacked: Callable[[], tuple[Attacked, ...]] = tuple
    questions: tuple[Question, ...] = ()


def _once(kept: dict[Hashable, Any], key: Hashable, make: Callable[[], T]) -> T:
    if key not in kept:
        kept[key] = make()
    value: T = kept[key]
    return value


def _layer(kept: dict[int, T], layer: int, make: Callable[[int], T], light: bool) -> T:
    """What `make` returns for a layer, kept for all layers of a light model, else for the last one asked for."""
    if layer not in kept:
        if not light:
            kept.clear()
        kept[layer] = make(layer)
    return kept[layer]


class BaseSide:
    """The base model's side of a lens: read once, as needed, for all tuned models and checkpoints beside it."""

    def __init__(self, model: ObservedModel, prompts: Prompts, effort: Effort, seed: int) -> None:
        self.model, self.prompts, self.effort, self.seed = model, prompts, effort, seed
        self.layers = model.layers
        self.contrasts = {contrast.name: contrast for contrast in prompts.contrasts}
        self.primary = prompts.contrasts[0].name if prompts.contrasts else ""
        self._kept: dict[Hashable, Any] = {}
        self._mlps: dict[int, MlpWeights] = {}
        self._bases: dict[int, ColumnBasis] = {}

    def generator(self, *words: int) -> np.random.Generator:
        """Equal words, equal generators: base and tuned models get the same folds and permutations."""
        return np.random.default_rng([self.seed, *words])

    def once(self, key: Hashable, make: Callable[[], T]) -> T:
        """What `make` returns, made at the first call with this key."""
        return _once(self._kept, key, make)

    @property
    def attacked(self) -> tuple[Attacked, ...]:
        """The attacked prompts, made once."""
        return self.once("attacked", self.prompts.attacked)

    def mlp(self, layer: int) -> MlpWeights:
        """The base model's MLP of a layer, float64, on the CPU."""
        return _layer(self._mlps, layer, self.model.mlp, self.model.light)

    def basis(self, layer: int) -> ColumnBasis:
        """The column space of W, the MLP's first matrix, and what it leaves out."""
        return _layer(self._bases, layer, lambda layer: column_basis(self.mlp(layer).w_in), self.model.light)

    @property
    def gaussian(self) -> GaussianSpectrum:
        """Spectral statistics of a random matrix of W's shape."""
        rows, columns = self.mlp(0).w_in.shape
        return self.once("gaussian", lambda: gaussian_spectrum((rows, columns), self.generator(17)))

    def contrast(self, name: str) -> tuple[Places, Places]:
        """Activations on the allowed and the forbidden prompts of a contrast."""
        contrast = self.contrasts[name]
        return (
            self.activations((name, "allowed"), contrast.allowed),
            self.activations((name, "forbidden"), contrast.forbidden),
        )

    def activations(self, key: Hashable, prompts: PromptSet) -> Places:
        """Activations on prompts, read once for each key."""
        return self.once(("activations", key), lambda: self.model.activations(prompts))


@dataclass(eq=False)
class Lens:
    """One checkpoint of a tuned model beside its base model.

    before: the base model's side.
    tuned: the checkpoint.
    last: whether it is the end of its tuning. Earlier checkpoints are read on the primary contrast only, with a quarter
        of the draws behind nulls and intervals; `before` may hold fewer pairs for them.
    absent: what was not measured, and why.
    """

    before: BaseSide
    tuned: ObservedModel
    last: bool = True
    absent: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.layers, self.generator, self.primary = self.before.layers, self.before.generator, self.before.primary
        effort, share = self.before.effort, 1 if self.last else 4
        self.effort = replace(effort, draws=effort.draws // share, bootstrap=effort.bootstrap // share)
        names = tuple(self.before.contrasts)
        self.names = names if self.last else names[:1]
        self._after: dict[str, tuple[Places, Places]] = {}
        self._mlps: dict[int, MlpWeights] = {}
        self._kept: dict[Hashable, Any] = {}

    @property
    def draws(self) -> int:
        """Of a null."""
        return self.effort.draws

    @property
    def bootstrap(self) -> int:
        """Draws of an interval."""
        return self.effort.bootstrap

    def once(self, key: Hashable, make: Callable[[], T]) -> T:
        """What `make` returns, made at the first call with this key."""
        return _once(self._kept, key, make)

    def after(self, name: str) -> tuple[Places, Places]:
        """The tuned model's activations on the allowed and the forbidden prompts of a contrast."""
        if name not in self._after:
            contrast = self.before.contrasts[name]
            self._after[name] = self.tuned.activations(contrast.allowed), self.tuned.activations(contrast.forbidden)
        return self._after[name]

    def activations(self, key: Hashable, prompts: PromptSet) -> Places:
        """The tuned model's activations on prompts, read once for each key."""
        return self.once(("activations", key), lambda: self.tuned.activations(prompts))

    def mlps(self, layer: int) -> tuple[MlpWeights, MlpWeights]:
        """The MLP of a layer in the base and in the tuned model."""
        return self.before.mlp(layer), _layer(self._mlps, layer, self.tuned.mlp, self.tuned.light)

    def update(self, layer: int) -> tuple[Tensor, Tensor]:
        """(ΔW, W) of the MLP's first matrix."""
        old, new = self.mlps(layer)
        return new.w_in - old.w_in, old.w_in

    def clusters(self, name: str) -> Clusters:
        """What pairs of a contrast are resampled together by; None: each by itself."""
        return self.before.contrasts[name].clusters

    def present(self, value: T | Absent, what: str) -> T | None:
        """The value; None, and the reason in `absent`, where an analysis says that the question has no answer."""
        if isinstance(value, Absent):
            self.absent[what] = value.reason
            return None
        return value

    def sign_flips(self, kind: str, values: FloatArray, clusters: Clusters = None) -> Null:
        """The null of a mean of paired differences (N,): each, or each cluster's sum, as likely to have either sign."""
        if clusters is not None:
            names, numbers = np.unique(clusters, return_inverse=True)
            values = np.bincount(numbers, weights=values) * len(names) / len(values)
        return sign_flip_null(kind, values, self.generator(16), self.draws)

    def add_mean(
        self,
        sheet: Sheet,
        statistic: str,
        values: FloatArray,
        nulls: Sequence[Null],
        clusters: Clusters = None,
        word: int = 13,
    ) -> None:
        """One line: the mean of values (N,), one a prompt or pair, with its bootstrap interval."""
        ids = None if clusters is None else [clusters]
        means = bootstrap_means([values], self.generator(word), ids, self.bootstrap)
        sheet.add(statistic, float(values.mean()), percentile_interval(means[:, 0]), nulls)
