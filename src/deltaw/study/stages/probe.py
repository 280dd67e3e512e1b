"""Two questions to a tuned model at its last checkpoint: does ΔW write along the direction of refusal, and can the
harmful answer still be read where it refuses?

The probe reads the first letter of the compliant output at the last prompt token, where it would be said next. It is a
function of operators and the text's first letter, so prompts that share both share a fold: a probe that remembered
combinations would score no better than chance. Beside the tuned model stand the base model, which says the letter, and
a model with random weights, whose activations hold operators and letters but compute nothing.
"""

import numpy as np
import torch
from numpy.typing import NDArray

from deltaw.analysis import DirectionShare, Probe, direction_share, probe, top_left
from deltaw.models import MlpWeights, Transformer
from deltaw.statistics import Interval, Null, bootstrap
from deltaw.study.stages.comparison import PRIMARY, Comparison, Places, flipped, read
from deltaw.study.stages.recorder import Sheet, present
from deltaw.world import Prompts, World

PROBE_SITE = "resid_out"
PROBED = ("forbidden/conditional/unsafe", "allowed/conditional/safe")
MODULES = {"mlp.in_proj": "mlp_pre", "mlp.out_proj": "resid_out"}
"""Matrix of the MLP, and the site in whose space its outputs lie."""


def observe_refusal(at: Comparison, directions: int, sheet: Sheet) -> None:
    """The share of the difference in means, and its angle, in the span of ΔW's strongest output directions, by layer.

    Of the tuned model's activations, and, with the suffix `_base`, of the base model's: a direction that was there. A
    layer without a direction has no line, so there is no mean over layers.
    """
    for number, (module, site) in enumerate(MODULES.items()):
        for k in (1, directions):
            view = sheet.with_(set=f"{PRIMARY}/k={k}", site=site, n=at.before.sizes.contrast, n_unit="pair")
            for suffix in ("", "_base"):
                for layer in at.layers:
                    found = _direction(at, layer, module, k, suffix, at.generator(42, number, layer))
                    if found is not None:
                        _add_share(view.with_(layer=layer, module=f"blocks.{layer}.{module}"), suffix, found)


def _direction(
    at: Comparison, layer: int, module: str, k: int, suffix: str, generator: np.random.Generator
) -> DirectionShare | None:
    old, new = at.mlps[layer]
    delta = new.w_in - old.w_in if module == "mlp.in_proj" else new.w_out - old.w_out
    if not bool((delta != 0).any()):
        return None
    places, weights = (at.before.contrast(PRIMARY), old) if suffix else (at.after[PRIMARY], new)
    allowed, forbidden = (_outputs(found, layer, module, weights) for found in places)
    basis = top_left(delta, min(k, *delta.shape))
    found: DirectionShare | None = present(direction_share(forbidden, allowed, basis, generator, at.draws))
    return found


def _outputs(places: Places, layer: int, module: str, weights: MlpWeights) -> torch.Tensor:
    """Activations (N, m) in the space that the matrix writes to."""
    if module == "mlp.in_proj":
        return places[(layer, "mlp_in")].double() @ weights.w_in.T + weights.b_in
    return places[(layer, "resid_out")].double()


def _add_share(sheet: Sheet, suffix: str, found: DirectionShare) -> None:
    sheet.add(f"refusal_share{suffix}", found.share, found.interval, found.nulls, unit="share of squared norm")
    # More in the span is a smaller angle.
    ends = Interval(_angle(found.interval.high), _angle(found.interval.low))
    nulls = [Null(null.kind, _angle(null.mean), _angle(null.high), _angle(null.low)) for null in found.nulls]
    sheet.add(f"refusal_angle{suffix}", found.angle, ends, nulls, unit="degrees")


def _angle(share: float) -> float:
    return float(np.degrees(np.arccos(np.sqrt(np.clip(share, 0, 1)))))


def observe_probe(at: Comparison, prompts: int, permutations: int, sheet: Sheet) -> None:
    """Held-out accuracy of reading the compliant output's first letter, by layer, in three models."""
    before = at.before
    generator = torch.Generator().manual_seed(before.seed)
    random = Transformer(before.model.config, generator).to(before.model.embed.weight.device)
    models = {"": at.tuned, "_base": before.model, "_random": random}
    for number, name in enumerate(PROBED):
        asked = early(before.world, name, prompts, before.seed)
        labels, ids = first_letters(before.world, asked)
        places = {suffix: read(model, before.world, asked) for suffix, model in models.items()}
        view = sheet.with_(set=name, site=PROBE_SITE, n=len(asked), n_unit="prompt", unit="share")
        for layer in at.layers:
            found = {
                suffix: probe(
                    rows[(layer, PROBE_SITE)], labels, at.generator(43, number, layer), ids=ids,
                    draws=permutations if suffix == "" else 2, bootstrap_draws=at.bootstrap,
                )
                for suffix, rows in places.items()
            }  # fmt: skip
            _add_probe(at, view.with_(layer=layer), found, ids)


def _add_probe(at: Comparison, sheet: Sheet, found: dict[str, Probe], ids: NDArray[np.int64]) -> None:
    tuned, base, random = found[""], found["_base"], found["_random"]
    chance = [
        tuned.null,
        Null("most_frequent", tuned.most_frequent, tuned.most_frequent, tuned.most_frequent),
        Null("random_weights", random.accuracy, random.interval.low, random.interval.high),
    ]
    sheet.add("probe_accuracy", tuned.accuracy, tuned.interval, chance)
    sheet.add("probe_accuracy_base", base.accuracy, base.interval, chance[1:])
    sheet.add("probe_accuracy_random", random.accuracy, random.interval, chance[1:2])
    difference = tuned.correct - base.correct
    interval = bootstrap(difference, at.generator(44), clusters=ids, draws=at.bootstrap)
    sheet.add("probe_accuracy_change", float(difference.mean()), interval, [flipped(at, "model_swap", difference)])


def early(world: World, name: str, count: int, seed: int) -> Prompts:
    """The first `count` prompts of a set, without late ones: their first output harms nobody."""
    prompts = world.sample(name, range(count), seed=seed)
    return prompts[world.layout.first_forbidden(prompts) == 0]


def first_letters(world: World, prompts: Prompts) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """(labels, ids) (N,): the first letter of the first compliant output, and what it is a function of."""
    parts = np.column_stack([prompts.grammar, prompts.operators[:, 0], prompts.letters[:, 0]])
    _, ids = np.unique(parts, axis=0, return_inverse=True)
    return world.layout.outputs(prompts)[:, 0, 0], ids.reshape(-1)
