"""Does ΔW avoid the principal directions of W, and is it sparse?

Of the first matrix of each MLP, with the k strongest singular directions of W:

    principal_energy     the share of ‖ΔW‖² on them; `set` is left (outputs), right (inputs) or both
    principal_rotation   the largest principal angle between them and those of the tuned matrix; `set` is the side
    changed_share        the share of entries whose stored numbers differ; `set` is the format of the tuned matrix

Two papers read the same pattern in opposite ways: few entries change, in small subnetworks (Mukherjee et al., 2025);
or updates avoid the principal directions, and bfloat16 hides their small part (Zhu et al., 2025). So `changed_share`
has two nulls of storage (`analysis.changed_entries`), and energy and angles have that of random directions.
"""

from dataclasses import dataclass

from deltaw.analysis.changed_entries import changed_entries
from deltaw.analysis.principal_directions import (
    energy_share_nulls,
    energy_shares,
    principal,
    rotation_angle_nulls,
    rotation_angles,
)
from deltaw.observations.by_layer import ByLayer
from deltaw.observations.lens import Lens
from deltaw.observations.observation import Observation, Statistic
from deltaw.results.recorder import Sheet
from deltaw.statistics import Null

LARGEST = 1024
"""The smaller side of a matrix up to which the angles get their null: a draw is an SVD."""


@dataclass(frozen=True)
class OffPrincipal(Observation):
    """Does ΔW avoid the principal directions of W, and is it sparse beyond what rounding hides?"""

    name = "off-principal"
    label = "off the principal directions"
    every_checkpoint = False
    statistics = (
        Statistic("principal_energy", "share of energy", "The share of ‖ΔW‖² on the strongest directions of W."),
        Statistic("principal_rotation", "degrees", "How far the strongest directions of W turned, at most."),
        Statistic("changed_share", "share of entries", "The share of entries whose stored numbers differ."),
    )
    figures = "deltaw.observations.off_principal.figures:off_principal"

    directions: int = 8
    """Of W on each side, the strongest; at most half of the smaller side."""
    rotations: int = 20
    """Draws of the null of the angles, each an SVD of a matrix like W."""

    def measure(self, lens: Lens, sheet: Sheet) -> None:
        """By layer, with the means over layers."""
        lines = ByLayer(sheet, "mlp.in_proj")
        for layer in lens.layers:
            self._of_layer(lens, layer, lines)
        lines.write_means()

    def _of_layer(self, lens: Lens, layer: int, lines: ByLayer) -> None:
        old, new = (weights.w_in for weights in lens.mlps(layer))
        changed = changed_entries(old, new)
        lines.add(layer, "changed_share", changed.share, "share of entries", changed.nulls, set=changed.format)
        delta, k = new - old, max(1, min(self.directions, min(old.shape) // 2))
        of = principal(old, k)
        shares = lens.present(energy_shares(delta, of), f"principal_energy, layer {layer}")
        if shares is None:
            return
        nulls = energy_share_nulls(delta, k, lens.generator("off-principal, energy", layer), lens.draws)
        for side, share in shares.items():
            lines.add(layer, "principal_energy", share, "share of energy", [nulls[side]], set=side)
        turned: dict[str, list[Null]] = {}
        if min(old.shape) <= LARGEST:
            generator = lens.generator("off-principal, angles", layer)
            drawn = rotation_angle_nulls(old, of, delta, generator, self.rotations)
            turned = {side: [null] for side, null in drawn.items()}
        else:
            lens.absent[f"null of principal_rotation, layer {layer}"] = (
                f"the smaller side of W is above {LARGEST}, and each draw would be an SVD of it"
            )
        for side, angle in rotation_angles(of, new).items():
            lines.add(layer, "principal_rotation", angle, "degrees", turned.get(side, []), set=side)
