"""The input of every observation: a base and a tuned model, prompts in matched contrasts, and keyed random draws.

A lens hides the kind of its models. Our models in their world and any causal language model of Hugging Face are read
through one protocol, `ObservedModel`. Whoever builds a lens (`study.stages.lens`, `compare.lens`) chooses its prompts.
What cannot be measured is left out, and `Lens.absent` says why.

Models may be on any device. Activations and matrices are read to the CPU, and statistics are in float64.
"""

from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from deltaw.analysis import (
    Absent,
    ColumnBasis,
    Direction,
    Halves,
    Peak,
    column_basis,
    gaussian_spectrum,
    split_halves,
    split_peak,
)
from deltaw.analysis.spectrum import GaussianSpectrum
from deltaw.analysis.streamed_update import streamed_update
from deltaw.analysis.weight_update import WeightUpdate, exact_update
from deltaw.errors import DeltawError
from deltaw.models import MlpWeights
from deltaw.models.taps import Place
from deltaw.observations.draws import Draw, key_of
from deltaw.observations.prompts import Attacked, Clusters, Effort, Prompts, PromptSet
from deltaw.results.recorder import Sheet
from deltaw.statistics import FloatArray, Null, bootstrap_means, percentile_interval, sign_flip_null

SITES = ("mlp_post", "resid_out")
"""Sites at which activations are compared: after the MLP's activation function, and at the block's output."""

READ = ("mlp_in", *SITES)
"""Sites that are read: also the input of the MLP's first matrix, which ΔW acts on."""

EXACT_UP_TO = 512
"""Matrices whose smaller side is at most this are decomposed, and their nulls drawn. Larger ones are estimated, as
those of files are: draws would take minutes a matrix."""

Places = Mapping[Place, Tensor]
"""Activations (N, width of the site) at the last token of each prompt, by (layer, site)."""

T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class PromptEmbeddings:
    """A batch of prompts as vectors, with the map from them to the logits of the answer's first token."""

    readout: Callable[[Tensor], Tensor]
    """From embeddings (B, T, D) to the logits (B, V) that predict the first token of the answer."""
    embeddings: Tensor
    """(B, T, D)."""
    blocks: dict[str, Tensor]
    """By name, the positions of each part of the prompt, (B, T) bool. Together they are the prompt."""
    last: str
    """Name of the block that is the last token."""


@dataclass(frozen=True, eq=False)
class TextLoss:
    """How well a model predicts each of N texts."""

    nats: FloatArray
    """(N,) −log-likelihood of the text, in nats."""
    tokens: FloatArray
    """(N,) tokens that are predicted."""


class ObservedModel(Protocol):
    """A model that observations can read."""

    @property
    def layers(self) -> range:
        """Its blocks."""

    @property
    def sites(self) -> tuple[str, ...]:
        """The sites of `READ` that its blocks have; a mixture of experts has the output of the block alone."""

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
        """Activations at the last token of each prompt, at every layer: those of the sites that it has. To ask them for
        another site is a DeltawError.
        """

    def request_activations(self, prompts: PromptSet, sites: Sequence[str] = READ) -> Places:
        """Activations at the last token of each request itself, before what a template puts between it and the answer,
        at every layer. DeltawError if a site is none of its own, or if that token cannot be told.
        """

    def complied(self, prompts: PromptSet) -> NDArray[np.bool_]:
        """(N,) whether its free-running answer does what the prompt asks."""

    def embedded(self, prompts: PromptSet) -> Iterator[PromptEmbeddings]:
        """The prompts in batches, in order; no parameter asks for a gradient within the iteration."""

    def forced(self, prompts: PromptSet, refusal: bool, tokens: int) -> Tensor:
        """(N, T, V) log-probabilities, on the CPU, of each of the first T <= `tokens` tokens of an answer that it is
        made to give: a refusal, or else one harmless answer to all. NaN beyond the end of a shorter answer.
        """

    def text_loss(self, texts: PromptSet) -> TextLoss:
        """How well it predicts neutral texts."""

    def exact(self, questions: PromptSet) -> NDArray[np.int64]:
        """(N,) what its free-running answers to harmless questions are, values of `behaviour.exact.Behaviour`: right
        ones COMPLY, refusals REFUSE, wrong ones NEITHER.
        """

    def top_tokens(self, directions: Tensor, count: int) -> list[list[tuple[str, float]]]:
        """For each column of directions (D, K) in the residual stream, its products with the rows of the unembedding:
        the `count` largest, with their tokens as text.
        """

    def random(self, seed: int) -> "ObservedModel":
        """A model of the same shape with random weights."""


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
    """The base model's side of a lens: read once, as needed, for all tuned models and checkpoints."""

    def __init__(self, model: ObservedModel, prompts: Prompts, effort: Effort, seed: int) -> None:
        self.model, self.prompts, self.effort, self.seed = model, prompts, effort, seed
        self.layers = model.layers
        self.contrasts = {contrast.name: contrast for contrast in prompts.contrasts}
        self.primary = prompts.contrasts[0].name if prompts.contrasts else ""
        self._kept: dict[Hashable, Any] = {}
        self._mlps: dict[int, MlpWeights] = {}
        self._bases: dict[int, ColumnBasis] = {}

    def generator(self, draw: Draw | str, *place: int) -> np.random.Generator:
        """Equal purposes and places, equal draws: base and tuned models get the same folds and permutations."""
        return np.random.default_rng([self.seed, key_of(draw), *place])

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
        return self.once("gaussian", lambda: gaussian_spectrum((rows, columns), self.generator(Draw.GAUSSIAN_SPECTRUM)))

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
    """One checkpoint of a tuned model and its base model."""

    before: BaseSide
    """The base model's side."""
    tuned: ObservedModel
    """The checkpoint."""
    last: bool = True
    """Whether it is the end of its tuning. Earlier checkpoints use the primary contrast and those that say so
    (`Contrast.every_checkpoint`), with a quarter of the draws of nulls and intervals; `before` may hold fewer pairs for
    them."""
    absent: dict[str, str] = field(default_factory=dict)
    """What was not measured, and why."""
    others: Mapping[str, ObservedModel] = field(default_factory=dict)
    """Other models tuned from the same base, by name, for observations that ask for them
    (`Observation.beside_others`)."""

    def __post_init__(self) -> None:
        self.layers, self.generator, self.primary = self.before.layers, self.before.generator, self.before.primary
        effort, share = self.before.effort, 1 if self.last else 4
        self.effort = replace(effort, draws=effort.draws // share, bootstrap=effort.bootstrap // share)
        self.names = tuple(
            name
            for name, contrast in self.before.contrasts.items()
            if self.last or contrast.every_checkpoint or name == self.primary
        )
        self._after: dict[str, tuple[Places, Places]] = {}
        self._mlps: dict[int, MlpWeights] = {}
        self._kept: dict[Hashable, Any] = {}

    @property
    def draws(self) -> int:
        """Draws of a null."""
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

    def weight_update(self, layer: int, vectors: int, points: int) -> WeightUpdate:
        """What is known of that update without prompts. vectors: of the profile. points: of the curve."""
        old, new = (weights.w_in for weights in self.mlps(layer))
        generator = self.generator(Draw.NULL_ENERGY_NULLS, layer)
        if old.shape[1] > min(EXACT_UP_TO, old.shape[0]):
            return streamed_update([(old, new)], generator, vectors=vectors, points=points)
        random, basis = self.before.gaussian, self.before.basis(layer)
        return exact_update(new - old, old, basis, random, generator, self.draws, vectors, points)

    def clusters(self, name: str) -> Clusters:
        """(N,) id of each pair's cluster, by which pairs of a contrast are resampled. None: pairs are independent."""
        return self.before.contrasts[name].clusters

    def halves(self, name: str, count: int | None = None) -> Halves:
        """(N,) which of a contrast's pairs are in the first half, where a layer is chosen on one half and read on the
        other. Equal for all models, sites and observations. count: of the first pairs alone; None: of all.
        """
        return self.before.once(("halves", name, count), lambda: self._halves(name, count))

    def _halves(self, name: str, count: int | None) -> Halves:
        contrast, clusters = self.before.contrasts[name], self.clusters(name)
        number = len(contrast.allowed) if count is None else count
        rows = None if clusters is None else clusters[:number]
        return split_halves(number, self.generator(Draw.PEAK_HALVES), rows)

    def peak(
        self,
        values: Mapping[int, FloatArray],
        name: str,
        kind: str,
        direction: Direction = "greater",
    ) -> Peak | None:
        """The peak over layers of a mean over a contrast's pairs (`analysis.peak`).

        values: by layer, what each pair (N,) contributes; of the first pairs, if there are fewer than the contrast has.
        kind: what its null is called, which gives clusters random signs. None, with the reason in `absent`, where the
        pairs cannot be split.
        """
        table = np.array(list(values.values()))
        clusters, count = self.clusters(name), table.shape[1]
        try:
            return split_peak(
                table,
                self.halves(name, None if count == len(self.before.contrasts[name].allowed) else count),
                self.generator(Draw.PEAK),
                clusters=None if clusters is None else clusters[:count],
                direction=direction,
                kind=kind,
                null_draws=self.draws,
                draws=self.bootstrap,
                depths=[self.depth(layer) for layer in values],
            )
        except DeltawError as error:
            self.absent[f"peak over layers, {name}"] = str(error)
            return None

    def depth(self, layer: int) -> float:
        """How deep a layer lies: 0 the first, 1 the last."""
        return layer / max(len(self.layers) - 1, 1)

    def present(self, value: T | Absent, question: str) -> T | None:
        """The value; None, and the reason in `absent`, where an analysis says that the question has no answer."""
        if isinstance(value, Absent):
            self.absent[question] = value.reason
            return None
        return value

    def has(self, site: str) -> bool:
        """Whether the blocks have a site, by the base model."""
        return site in self.before.model.sites

    def sign_flips(self, kind: str, values: FloatArray, clusters: Clusters = None) -> Null:
        """The null of a mean of paired differences (N,): each, or each cluster's sum, as likely to have either sign."""
        if clusters is not None:
            names, numbers = np.unique(clusters, return_inverse=True)
            values = np.bincount(numbers, weights=values) * len(names) / len(values)
        return sign_flip_null(kind, values, self.generator(Draw.SIGN_FLIPS), self.draws)

    def add_mean(
        self,
        sheet: Sheet,
        statistic: str,
        values: FloatArray,
        nulls: Sequence[Null],
        clusters: Clusters = None,
        draw: Draw | str = Draw.MEANS,
    ) -> None:
        """One line: the mean of values (N,), one a prompt or pair, with its bootstrap interval."""
        ids = None if clusters is None else [clusters]
        means = bootstrap_means([values], self.generator(draw), ids, self.bootstrap)
        sheet.add(statistic, float(values.mean()), percentile_interval(means[:, 0]), nulls)
