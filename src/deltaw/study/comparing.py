"""What every observation of a tuned model reads: the contrasts, and a base and a tuned model's activations on them.

The primary contrast is the *same conditional operators* on safe and on unsafe operands, pair by pair; the secondary one
is the same text under operators that are always and never allowed. Activations are read at the last prompt token.
"""

from dataclasses import dataclass

import numpy as np
from torch import Tensor

from deltaw.analysis import ColumnBasis, column_basis
from deltaw.model import Transformer, activations, mlp
from deltaw.statistics import FloatArray, Null, bootstrap_means, from_draws, percentile_interval
from deltaw.study.recipes import Sizes
from deltaw.study.sheet import Sheet
from deltaw.training.pretraining import as_batch
from deltaw.world import Prompts, Response, World

SITES = ("mlp_post", "resid_out")
PRIMARY, SECONDARY = "contrast/conditional", "contrast/operator"


Places = dict[tuple[int, str], Tensor]


@dataclass(frozen=True)
class Contrast:
    """Two sets of prompts, row by row matched: allowed and forbidden."""

    name: str
    allowed: Prompts
    forbidden: Prompts


def contrasts(world: World, count: int, seed: int) -> tuple[Contrast, Contrast]:
    """The primary and the secondary contrast (see the module's docstring), `count` pairs each."""
    rows = range(count)
    safe = world.sample("allowed/conditional/safe", rows, seed=seed)
    unsafe = world.sample("forbidden/conditional/unsafe", rows, seed=seed).with_operators(safe.operators)
    never = world.sample("forbidden/never/safe", rows, seed=seed)
    always = never.with_operators(world.sample("allowed/always/safe", rows, seed=seed).operators)
    return Contrast(PRIMARY, safe, unsafe), Contrast(SECONDARY, always, never)


def read(model: Transformer, world: World, prompts: Prompts) -> Places:
    """Activations (N, width) at the last prompt token, by (layer, site); `mlp_in` is among the sites."""
    encoded = world.layout.encode(prompts, np.full(len(prompts), Response.COMPLY))
    return activations(model, as_batch(encoded), ("mlp_in", *SITES), range(model.config.layers))


class Comparison:
    """A base and a tuned model with the contrasts' activations in both: what every observation reads."""

    def __init__(
        self, base: Transformer, tuned: Transformer, world: World, pairs: tuple[Contrast, ...],
        before: dict[str, tuple[Places, Places]], sizes: Sizes, seed: int, last: bool,
    ) -> None:  # fmt: skip
        self.base, self.tuned, self.world, self.pairs, self.before = base, tuned, world, pairs, before
        self.sizes, self.seed, self.last = sizes, seed, last
        chosen = pairs if last else pairs[:1]
        self.after = {c.name: (read(tuned, world, c.allowed), read(tuned, world, c.forbidden)) for c in chosen}
        self.layers = range(base.config.layers)
        self.mlps = [(mlp(base, layer).double(), mlp(tuned, layer).double()) for layer in self.layers]

    def generator(self, *words: int) -> np.random.Generator:
        """Equal words, equal generators: base and tuned models get the same folds and permutations."""
        return np.random.default_rng([self.seed, *words])

    def update(self, layer: int) -> tuple[Tensor, Tensor]:
        """(ΔW, W) of the MLP's first matrix."""
        old, new = self.mlps[layer]
        return new.w_in - old.w_in, old.w_in

    def basis(self, layer: int) -> ColumnBasis:
        """C(W) of the base model's first MLP matrix."""
        return column_basis(self.mlps[layer][0].w_in)


def mean_null(nulls: list[Null]) -> Null:
    """The null of a mean over layers: of its draws where all have some, else by the bands' half widths."""
    kind, mean = nulls[0].kind, float(np.mean([null.mean for null in nulls]))
    draws = [null.draws for null in nulls]
    if all(d is not None for d in draws):
        return from_draws(kind, np.mean([d for d in draws if d is not None], axis=0), mean=mean)
    low, high = (
        float(np.sqrt(np.sum([(getattr(null, edge) - null.mean) ** 2 for null in nulls])) / len(nulls))
        for edge in ("low", "high")
    )
    return Null(kind, mean, mean - low, mean + high)


def add_mean(at: Comparison, sheet: Sheet, statistic: str, values: FloatArray, nulls: list[Null], unit: str) -> None:
    """One line: the mean of values (N,), one a prompt or pair, with its bootstrap interval."""
    means = bootstrap_means([values], at.generator(13), draws=at.sizes.bootstrap)
    sheet.add(statistic, float(values.mean()), percentile_interval(means[:, 0]), nulls, unit=unit)
