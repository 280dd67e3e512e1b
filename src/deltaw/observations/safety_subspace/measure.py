"""Does the update have a subspace of its own, apart from W and from other updates?

Of the first matrix of each MLP:

    energy_kept      the share of ‖ΔW‖² that k directions keep
    mode_overlap     overlap of the directions that hold 0.9 of each energy

`set` says on which side and of what: `outputs/own`, the update's own strongest directions, `inputs/W`, those of W, and,
in a study, `outputs/with=NAME`, those of another tuning of the same base, controls among them. Ponkshe et al. (2026)
find that safety updates share their subspaces with useful ones. A subspace of safety would keep more of other safety
updates than of controls, and more than chance.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from deltaw.analysis.principal_directions import Principal, energy_share_nulls, energy_shares
from deltaw.analysis.safety_subspaces import Modes, mode_overlap, modes, own_energy
from deltaw.observations.by_layer import ByLayer
from deltaw.observations.lens import Lens
from deltaw.observations.observation import Observation, Statistic
from deltaw.results.recorder import Sheet
from deltaw.statistics import Null

SIDES = {"left": "outputs", "right": "inputs"}


@dataclass(frozen=True)
class SafetySubspace(Observation):
    """Does ΔW have a subspace of its own, apart from W's strongest directions and from other updates?"""

    name = "safety-subspace"
    label = "subspace of the update"
    every_checkpoint = False
    beside_others = True
    statistics = (
        Statistic("energy_kept", "share of energy", "The share of ‖ΔW‖² that the strongest directions keep."),
        Statistic("mode_overlap", "squared cosine", "Overlap of the directions that hold most of each energy."),
    )
    figures = "deltaw.observations.safety_subspace.figures:safety_subspace"

    directions: int = 8
    """That keep energy; at most half of the smaller side."""
    share: float = 0.9
    """Of the energy, held by the modes whose overlap is taken."""

    def measure(self, lens: Lens, sheet: Sheet) -> None:
        """By layer, with the means over layers."""
        lines = ByLayer(sheet, "mlp.in_proj")
        for layer in lens.layers:
            delta, weight = lens.update(layer)
            own = lens.present(modes(delta), f"energy_kept, layer {layer}")
            if own is None:
                continue
            k = max(1, min(self.directions, min(delta.shape) // 2))
            kept, chance = own_energy(own, k)
            for side in SIDES.values():
                lines.add(layer, "energy_kept", kept, "share of energy", [chance], set=f"{side}/own")
            nulls = energy_share_nulls(delta, k, lens.generator("safety-subspace", layer), lens.draws)
            matrices = {"W": weight} | {
                f"with={name}": model.mlp(layer).w_in - weight for name, model in lens.others.items()
            }
            for name, matrix in matrices.items():
                theirs = lens.present(modes(matrix), f"energy_kept, {name}, layer {layer}")
                if theirs is not None:
                    self._beside(lines, layer, name, (delta, own), theirs, k, nulls)
        lines.write_means()

    def _beside(
        self,
        lines: ByLayer,
        layer: int,
        name: str,
        update: tuple[Tensor, Modes],
        theirs: Modes,
        k: int,
        nulls: Mapping[str, Null],
    ) -> None:
        """Lines of an update on another matrix's directions. Those of fewer than k are left out of the energy."""
        delta, own = update
        overlaps = mode_overlap(own, theirs, self.share)
        of = Principal(theirs.left[:, :k], theirs.right[:, :k])
        shares = energy_shares(delta, of) if of.left.shape[1] == k else {}
        for side, words in SIDES.items():
            overlap, chance = overlaps[side]
            lines.add(layer, "mode_overlap", overlap, "squared cosine", [chance], set=f"{words}/{name}")
            if isinstance(shares, dict) and side in shares:
                lines.add(layer, "energy_kept", shares[side], "share of energy", [nulls[side]], set=f"{words}/{name}")
