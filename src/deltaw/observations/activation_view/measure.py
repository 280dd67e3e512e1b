"""A view of Observation 1: some allowed and forbidden prompts in a plane, in the base and in the tuned model.

view_across    along the line between the two classes' means in the tuned model
view_beside    along the direction in which prompts of a class differ most

Planes are fitted on one half of the pairs and show prompts of the other half, so that what looks apart is apart. Each
layer has one. Lines of no layer are those of the layer in which the classes lie furthest apart in the tuned model, by
the first half. `set` ends in the number of the pair; base and tuned models are shown on the same axes.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from deltaw.observations.lens import Lens, Places
from deltaw.observations.observation import Observation, Statistic, with_base
from deltaw.results.recorder import Sheet

UNIT = "standard deviations"


@dataclass(frozen=True)
class ActivationView(Observation):
    """Some prompts of each contrast in a plane of each layer, before and after tuning."""

    name = "activation-view"
    label = "view of activations"
    every_checkpoint = False
    cost = 0.01
    statistics = with_base(
        Statistic("view_across", UNIT, "Where a prompt lies along the line between the two classes' means."),
        Statistic("view_beside", UNIT, "Where it lies along the direction in which prompts of a class differ most."),
    )

    pairs: int = 10
    """Pairs of each contrast that are shown."""
    site: str = "mlp_post"
    """Where activations are read."""

    def measure(self, lens: Lens, sheet: Sheet) -> None:
        """The prompts of each contrast, in both models."""
        for name in (name for name in lens.names if not lens.before.contrasts[name].activations_only):
            models = {"": lens.after(name), "_base": lens.before.contrast(name)}
            count = len(models[""][0][(lens.layers[0], self.site)])
            if count < 4:
                lens.absent[f"view, {name}"] = f"it has {count} pairs; a plane takes 4"
                continue
            fitted, shown = slice(0, count // 2), slice(count // 2, count // 2 + self.pairs)
            clouds = {layer: self._clouds(models[""], layer, fitted) for layer in lens.layers}
            furthest = max(lens.layers, key=lambda layer: _apart(clouds[layer]))
            view = sheet.with_(site=self.site, unit=UNIT)
            for layer in lens.layers:
                plane = Plane.of(*clouds[layer])
                for suffix, places in models.items():
                    placed = [plane.place(cloud) for cloud in self._clouds(places, layer, shown)]
                    for told in (layer, None) if layer == furthest else (layer,):
                        _write(view.with_(layer=told), name, suffix, placed)

    def _clouds(self, places: tuple[Places, Places], layer: int, rows: slice) -> tuple[Tensor, Tensor]:
        allowed, forbidden = (side[(layer, self.site)][rows].double() for side in places)
        return allowed, forbidden


@dataclass(frozen=True, eq=False)
class Plane:
    """Two orthogonal directions (2, w), the point (w,) between the classes, and each direction's unit (2,)."""

    directions: Tensor
    origin: Tensor
    units: Tensor

    @classmethod
    def of(cls, allowed: Tensor, forbidden: Tensor) -> "Plane":
        """The plane of the line between the means of (N, w) and the direction of most spread within the classes."""
        means = torch.stack([allowed.mean(0), forbidden.mean(0)])
        across = _unit(means[1] - means[0])
        within = torch.cat([allowed - means[0], forbidden - means[1]])
        rest = within - (within @ across)[:, None] * across
        beside = torch.linalg.svd(rest, full_matrices=False).Vh[0]
        directions = torch.stack([across, _unit(beside - (beside @ across) * across)])
        tiny = torch.finfo(within.dtype).tiny
        return cls(directions, means.mean(0), (within @ directions.T).std(0).clamp_min(tiny))

    def place(self, cloud: Tensor) -> list[list[float]]:
        """Where the rows of (N, w) lie: N pairs of numbers."""
        placed: list[list[float]] = (((cloud - self.origin) @ self.directions.T) / self.units).tolist()
        return placed


def _write(sheet: Sheet, contrast: str, suffix: str, placed: list[list[list[float]]]) -> None:
    """placed: (across, beside) of each prompt, of the allowed and of the forbidden ones."""
    for side, points in zip(("allowed", "forbidden"), placed, strict=True):
        for number, (across, beside) in enumerate(points):
            of_prompt = sheet.with_(set=f"{contrast}/{side}/{number:02d}")
            of_prompt.add(f"view_across{suffix}", across)
            of_prompt.add(f"view_beside{suffix}", beside)


def _unit(vector: Tensor) -> Tensor:
    length = vector.norm()
    return vector / length if length > 0 else torch.eye(len(vector), dtype=vector.dtype)[0]


def _apart(clouds: tuple[Tensor, Tensor]) -> float:
    """The distance of the means over the spread within the classes."""
    allowed, forbidden = clouds
    spread = (allowed.var(0).sum() + forbidden.var(0).sum()).sqrt()
    return float((allowed.mean(0) - forbidden.mean(0)).norm() / spread.clamp_min(torch.finfo(spread.dtype).tiny))
