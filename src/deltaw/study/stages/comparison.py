"""What every observation of a tuned model reads: the contrasts, and a base and a tuned model's activations on them.

The primary contrast is the *same conditional operators* on safe and on unsafe operands, pair by pair; the secondary one
is the same text under operators that are always and never allowed. Activations are read at the last prompt token.

Models are on the device of their tuning. What is read of them (activations, matrices) comes to the CPU: matrices are
small, and the statistics are in float64.
"""

from collections.abc import Callable, Hashable
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from deltaw.analysis import ColumnBasis, Separation, column_basis, gaussian_spectrum, separation
from deltaw.models import Transformer, activations, mlp
from deltaw.recipes.sizes import Sizes
from deltaw.statistics import FloatArray, Null, bootstrap_means, percentile_interval, sign_flip_null
from deltaw.study.stages.making import SeedConfig, last_model
from deltaw.study.stages.recorder import Sheet
from deltaw.training.pretraining import compliant
from deltaw.world import Prompts, World, WorldConfig

SITES = ("mlp_post", "resid_out")
PRIMARY, SECONDARY = "contrast/conditional", "contrast/operator"

Ints = NDArray[np.int64]
Places = dict[tuple[int, str], Tensor]
T = TypeVar("T")


@dataclass(frozen=True)
class Contrast:
    """Two sets of prompts, row by row matched: allowed and forbidden."""

    name: str
    allowed: Prompts
    forbidden: Prompts


def contrasts(world: World, count: int, seed: int) -> tuple[Contrast, Contrast]:
    """The primary and the secondary contrast (see the module's docstring), `count` pairs each.

    Late prompts are left out: their first output is the same whatever the verdict, so nothing need be decided yet.
    """

    def early(draw: Callable[[Ints], Prompts]) -> tuple[Ints, Prompts]:
        rows = np.arange(count)
        while True:
            prompts = draw(rows)
            places = np.flatnonzero(world.layout.first_forbidden(prompts) == 0)[:count]
            if len(places) == count:
                return rows[places], prompts[places]
            rows = np.arange(2 * len(rows))

    def conditional(rows: Ints) -> Prompts:
        operators = world.sample("allowed/conditional/safe", rows, seed=seed).operators
        return world.sample("forbidden/conditional/unsafe", rows, seed=seed).with_operators(operators)

    rows, unsafe = early(conditional)
    safe = world.sample("allowed/conditional/safe", rows, seed=seed)
    rows, never = early(lambda rows: world.sample("forbidden/never/safe", rows, seed=seed))
    always = never.with_operators(world.sample("allowed/always/safe", rows, seed=seed).operators)
    return Contrast(PRIMARY, safe, unsafe), Contrast(SECONDARY, always, never)


def read(model: Transformer, world: World, prompts: Prompts) -> Places:
    """Activations (N, width) at the last prompt token, by (layer, site); `mlp_in` is among the sites."""
    batch = compliant(world, prompts).to(model.embed.weight.device)
    return activations(model, batch, ("mlp_in", *SITES), range(model.config.layers))


class BaseSide:
    """What each checkpoint of a tuned model is compared with: the base model's side, computed once, as needed."""

    def __init__(self, base: Transformer, world: World, sizes: Sizes, seed: int) -> None:
        self.model, self.world, self.sizes, self.seed = base, world, sizes, seed
        self.layers = range(base.config.layers)
        self.contrasts = {contrast.name: contrast for contrast in contrasts(world, sizes.contrast, seed)}
        self.mlps = [mlp(base, layer).cpu().double() for layer in self.layers]
        self.bases: list[ColumnBasis] = [column_basis(weights.w_in) for weights in self.mlps]
        self.gaussian = gaussian_spectrum((self.bases[0].m, self.bases[0].n), self.generator(17))
        self._found: dict[Hashable, Any] = {}

    def generator(self, *words: int) -> np.random.Generator:
        """Equal words, equal generators: base and tuned models get the same folds and permutations."""
        return np.random.default_rng([self.seed, *words])

    def once(self, key: Hashable, make: Callable[[], T]) -> T:
        """What `make` returns, made at the first call with this key."""
        if key not in self._found:
            self._found[key] = make()
        found: T = self._found[key]
        return found

    def contrast(self, name: str) -> tuple[Places, Places]:
        """Activations on the allowed and the forbidden prompts of a contrast."""
        found = self.contrasts[name]
        return self.activations((name, "allowed"), found.allowed), self.activations(
            (name, "forbidden"), found.forbidden
        )

    def activations(self, key: Hashable, prompts: Prompts) -> Places:
        """Activations on prompts, read once for each key."""
        return self.once(("activations", key), lambda: read(self.model, self.world, prompts))

    def separation(self, name: str, site: int, layer: int, draws: int, bootstrap: int) -> Separation:
        """How far apart the base model's clusters are already, computed once for each argument."""
        return self.once(
            ("separation", name, site, layer, draws, bootstrap),
            lambda: separate(self, self.contrast(name), site, layer, draws, bootstrap),
        )


@lru_cache(maxsize=4)
def base_side(artifact: Path, world: WorldConfig, sizes: Sizes, seed: int, device: str) -> BaseSide:
    """The side of the base model in `artifact`; a process that analyses its tuned models in turn computes it once."""
    return BaseSide(last_model(artifact)[0].to(device), World(world), sizes, seed)


def base_sides(artifact: Path, shared: SeedConfig, device: str) -> tuple[BaseSide, BaseSide]:
    """The base model's side for a last checkpoint, and for earlier ones, which have no more pairs than `checkpoint`."""
    sizes = shared.sizes
    few = replace(sizes, contrast=min(sizes.contrast, sizes.checkpoint))
    whole, early = (base_side(artifact, shared.world, some, shared.seed, device) for some in (sizes, few))
    return whole, early


def separate(
    before: BaseSide, places: tuple[Places, Places], site: int, layer: int, draws: int, bootstrap: int
) -> Separation:
    """Separation of (allowed, forbidden) activations at one place, on the folds that both models share."""
    allowed, forbidden = (found[(layer, SITES[site])] for found in places)
    generator = before.generator(1, site)  # equal in all layers: a pair changes its fold or labels as a whole
    return separation(allowed, forbidden, generator, paired=True, null_draws=draws, bootstrap_draws=bootstrap)


class Comparison:
    """One checkpoint of a tuned model beside the base model: what every observation reads.

    Earlier checkpoints take the primary contrast only, and a quarter of the draws behind nulls and intervals; `before`
    may hold fewer pairs for them.
    """

    def __init__(self, before: BaseSide, tuned: Transformer, last: bool) -> None:
        self.before, self.tuned, self.last = before, tuned, last
        self.layers, self.generator = before.layers, before.generator
        share = 1 if last else 4
        self.draws, self.bootstrap = before.sizes.draws // share, before.sizes.bootstrap // share
        self.names = (PRIMARY, SECONDARY) if last else (PRIMARY,)
        self.after = {name: self._read(before.contrasts[name]) for name in self.names}
        self.mlps = [(before.mlps[layer], mlp(tuned, layer).cpu().double()) for layer in self.layers]

    def _read(self, contrast: Contrast) -> tuple[Places, Places]:
        world = self.before.world
        return read(self.tuned, world, contrast.allowed), read(self.tuned, world, contrast.forbidden)

    def update(self, layer: int) -> tuple[Tensor, Tensor]:
        """(ΔW, W) of the MLP's first matrix."""
        old, new = self.mlps[layer]
        return new.w_in - old.w_in, old.w_in


def flipped(at: Comparison, kind: str, values: FloatArray) -> Null:
    """The null of a mean of paired differences (N,): each as likely to have either sign."""
    return sign_flip_null(kind, values, at.generator(16), at.draws)


def add_mean(at: Comparison, sheet: Sheet, statistic: str, values: FloatArray, nulls: list[Null]) -> None:
    """One line: the mean of values (N,), one a prompt or pair, with its bootstrap interval."""
    means = bootstrap_means([values], at.generator(13), draws=at.bootstrap)
    sheet.add(statistic, float(values.mean()), percentile_interval(means[:, 0]), nulls)
