"""Does ΔW write along the direction of refusal?

    refusal_share    the share of the difference in means (forbidden minus allowed) that lies in the span of ΔW's
                     strongest output directions, by layer and matrix of the MLP; `set` says how many directions
    refusal_angle    its angle to that span

Of the tuned model's activations, and with the suffix `_base` of the base model's: a direction that was there before. A
layer without a direction has no line, so there is no mean over layers.
"""

from dataclasses import dataclass

import numpy as np
from torch import Tensor

from deltaw.analysis import DirectionShare, direction_share, top_left, update_rank
from deltaw.models import MlpWeights
from deltaw.observations.draws import Draw
from deltaw.observations.lens import Lens, Places
from deltaw.observations.observation import Observation, Statistic, with_base
from deltaw.results.recorder import Sheet
from deltaw.statistics import Interval, Null

MODULES = {"mlp.in_proj": "mlp_pre", "mlp.out_proj": "resid_out"}
"""Matrix of the MLP, and the site in whose space its outputs lie."""


@dataclass(frozen=True)
class RefusalDirection(Observation):
    """Does ΔW write along the direction of refusal, the difference in means of forbidden and allowed prompts?"""

    name = "refusal_direction"
    label = "direction of refusal"
    every_checkpoint = False
    statistics = with_base(
        Statistic("refusal_share", "share of squared norm", "Its share in ΔW's strongest output directions."),
        Statistic("refusal_angle", "degrees", "Its angle to them."),
    )

    directions: int = 8
    """Of ΔW's output, the strongest."""

    def measure(self, lens: Lens, sheet: Sheet) -> None:
        """Shares and angles, of the strongest direction of ΔW and of the `directions` strongest."""
        for number, (module, site) in enumerate(MODULES.items()):
            for k in (1, self.directions):
                count = len(lens.before.contrasts[lens.primary].allowed)
                view = sheet.with_(set=f"{lens.primary}/k={k}", site=site, n=count, n_unit="pair")
                for suffix in ("", "_base"):
                    for layer in lens.layers:
                        share = _share(
                            lens, layer, module, k, suffix, lens.generator(Draw.REFUSAL_DIRECTION_NULL, number, layer)
                        )
                        if share is not None:
                            _add(view.with_(layer=layer, module=f"blocks.{layer}.{module}"), suffix, share)


def _share(
    lens: Lens, layer: int, module: str, k: int, suffix: str, generator: np.random.Generator
) -> DirectionShare | None:
    old, new = lens.mlps(layer)
    delta = new.w_in - old.w_in if module == "mlp.in_proj" else new.w_out - old.w_out
    if not bool((delta != 0).any()):
        return None
    places, weights = (lens.before.contrast(lens.primary), old) if suffix else (lens.after(lens.primary), new)
    allowed, forbidden = (_outputs(by_place, layer, module, weights) for by_place in places)
    basis = top_left(delta, min(k, update_rank(delta)))
    share = direction_share(forbidden, allowed, basis, generator, lens.draws)
    return lens.present(share, f"refusal_share{suffix}, {module}, layer {layer}")


def _outputs(places: Places, layer: int, module: str, weights: MlpWeights) -> Tensor:
    """Activations (N, m) in the space that the matrix writes to."""
    if module == "mlp.in_proj":
        return places[(layer, "mlp_in")].double() @ weights.w_in.T + weights.b_in
    return places[(layer, "resid_out")].double()


def _add(sheet: Sheet, suffix: str, share: DirectionShare) -> None:
    sheet.add(f"refusal_share{suffix}", share.share, share.interval, share.nulls, unit="share of squared norm")
    # More in the span is a smaller angle.
    ends = Interval(_angle(share.interval.high), _angle(share.interval.low))
    nulls = [Null(null.kind, _angle(null.mean), _angle(null.high), _angle(null.low)) for null in share.nulls]
    sheet.add(f"refusal_angle{suffix}", share.angle, ends, nulls, unit="degrees")


def _angle(share: float) -> float:
    return float(np.degrees(np.arccos(np.sqrt(np.clip(share, 0, 1)))))
