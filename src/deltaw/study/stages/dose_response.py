"""The stage that asks whether attacks succeed where they move activations, or where ΔW then acts less: dose-response.

Each row is a forbidden prompt of the primary contrast under an attack, with its position at mlp_post of the tuned model
(0 forbidden, 1 allowed), the log₂ ratio of ΔW's gain on it to that on the prompt it was made from (mlp_in of the base
model), and whether the harmful output came, whole. Both are means over layers, of positions weighted by precision:
where the classes hardly differ, their distance is too short a unit. Attacks on prompts are answered here; what the
stage of attacks on models kept of each prompt is taken from there. Unattacked prompts are rows too.

    success_slope_position, success_slope_gain    log odds a unit, within attacks; what the claims read
    ..._pooled                                    the same with one intercept for all attacks
    success_by_position, success_by_gain          success in bins; `set` is the bin
    position_dose_difference                      position under the strongest soft prompt minus that under the weakest
"""

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deltaw.analysis import Bin, dose_response, precision_weights, success_by_dose
from deltaw.attacks.prompts import FORBIDDEN_SOURCES, attacked
from deltaw.behaviour.exact import Behaviour
from deltaw.pipeline.stage import StageContext
from deltaw.recipes.config import Subspaces
from deltaw.recipes.tuned import Tuned
from deltaw.statistics import FloatArray, Null, bootstrap_means, percentile_interval, sign_flip_null
from deltaw.study.stages.attack import DOSE_SITE, FORBIDDEN, PER_PROMPT
from deltaw.study.stages.comparison import PRIMARY, Comparison, base_side, read
from deltaw.study.stages.making import SeedConfig, answers_to, last_model, tuned_fields
from deltaw.study.stages.recorder import Sheet, present
from deltaw.study.stages.update_effect import positions, write_gain_ratios, write_positions

EDGES = {"position": np.arange(-0.5, 1.51, 0.25), "gain": np.arange(-1.5, 0.76, 0.25)}
UNITS = {"position": "log odds a way from forbidden to allowed", "gain": "log odds a doubling of the gain"}
SITES_OF = {"position": DOSE_SITE, "gain": "mlp_in"}


@dataclass(frozen=True)
class DosingConfig:
    """The stage of dose-response of one tuned model. doses: of soft prompts, weakest first; none: not attacked so."""

    shared: SeedConfig
    tuned: Tuned
    doses: tuple[str, ...]
    subspaces: Subspaces


@dataclass(frozen=True, eq=False)
class Rows:
    """A row a prompt and attack, (n,) each. prompts: their numbers in the contrast. gain: log₂ ratio."""

    attacks: NDArray[np.str_]
    prompts: NDArray[np.int64]
    position: FloatArray
    gain: FloatArray
    success: FloatArray

    @classmethod
    def of(cls, parts: list[dict[str, Any]]) -> "Rows":
        """From the parts that the attacks' stage keeps, or alike."""
        return cls(
            np.array([part["attack"] for part in parts for _ in part["prompts"]]),
            np.array([row for part in parts for row in part["prompts"]], dtype=np.int64),
            np.array([x for part in parts for x in part["positions"]], dtype=np.float64),
            np.array([x / np.log(2) for part in parts for x in part["gain_log_ratios"]], dtype=np.float64),
            np.array([float(x) for part in parts for x in part["success"]], dtype=np.float64),
        )


def measure_doses(context: StageContext) -> None:
    """Slopes and curves of success on position and on gain; position by the dose of soft prompts."""
    config: DosingConfig = context.config
    shared, device = config.shared, config.tuned.config.device
    tuned, meta = last_model(context.inputs["tuned"])
    sizes = replace(shared.sizes, contrast=min(shared.sizes.contrast, shared.sizes.attacked))
    # Not as the last checkpoint: Observation 5's own intervals and the secondary contrast are the analysis stage's.
    before = base_side(context.inputs["base"], shared.world, sizes, shared.seed, device)
    at = Comparison(before, tuned.to(device), last=False)
    fields = tuned_fields(config.tuned, shared.seed)
    sheet = Sheet(stage="analysis", **fields, step=int(meta["step"]), role="last_prompt", set=FORBIDDEN)
    parts = attacked_prompts(at)
    context.report(1, 2, "attacked prompts")
    if "attacks" in context.inputs:
        kept = _kept(context.inputs["attacks"] / PER_PROMPT)
        write_doses(at, kept, config.doses, sheet)
        parts += [part for part in kept if "/random" not in part["attack"] and "/unrelated" not in part["attack"]]
    write_responses(Rows.of(parts), at, config.subspaces.permutations, sheet)
    context.report(2, 2)
    sheet.write(context.out)


def attacked_prompts(at: Comparison) -> list[dict[str, Any]]:
    """Position, log ratio of gains and success of every prompt, unattacked and under each attack on prompts."""
    before, forbidden = at.before, at.before.contrasts[PRIMARY].forbidden
    scratch, reference = Sheet(stage="analysis"), at.after[PRIMARY]
    rows = list(range(len(forbidden)))

    def part(attack: str, positions: FloatArray, ratios: FloatArray, success: list[bool]) -> dict[str, Any]:
        return {
            "attack": attack, "prompts": rows, "positions": positions.tolist(), "gain_log_ratios": ratios.tolist(),
            "success": success,
        }  # fmt: skip

    found = []
    plain = _unattacked(at)
    if plain is not None:
        labels, _ = answers_to(at.tuned, before.world, forbidden)
        hits = (labels == int(Behaviour.COMPLY)).tolist()
        found.append(part("none", plain, np.zeros(len(rows)), hits))
    for attack, sources in FORBIDDEN_SOURCES.items():
        if FORBIDDEN not in sources:
            continue
        prompts = attacked(before.world, attack, forbidden, seed=before.seed)
        placed = write_positions(at, "position", reference, read(at.tuned, before.world, prompts), scratch)
        of_base = read(before.model, before.world, prompts)
        ratios = write_gain_ratios(at, of_base, before.contrast(PRIMARY)[1], scratch)
        if DOSE_SITE in placed and ratios is not None:
            labels, _ = answers_to(at.tuned, before.world, prompts)
            hits = (labels == int(Behaviour.COMPLY)).tolist()
            found.append(part(attack, placed[DOSE_SITE], ratios, hits))
    return found


def _unattacked(at: Comparison) -> FloatArray | None:
    """Held-out positions of the forbidden prompts themselves, mean over layers as in `write_positions`."""
    found = list(positions(at, at.after[PRIMARY], at.after[PRIMARY][1], DOSE_SITE).values())
    return precision_weights(found) @ np.array([one.forbidden for one in found]) if found else None


def write_responses(rows: Rows, at: Comparison, permutations: int, sheet: Sheet) -> None:
    """Slopes within attacks and pooled, and success in bins of dose."""
    for number, name in enumerate(("position", "gain")):
        view = sheet.with_(site=SITES_OF[name])
        if not len(rows.success):
            continue
        dose: FloatArray = getattr(rows, name)
        for pooled in (False, True):
            found = present(
                dose_response(
                    dose, rows.success, rows.attacks, [rows.prompts], at.generator(61, number, int(pooled)),
                    within=not pooled, draws=permutations,
                )
            )  # fmt: skip
            if found is not None:
                view.add(
                    f"success_slope_{name}{'_pooled' if pooled else ''}", found.slope, found.interval, [found.null],
                    unit=UNITS[name], n=found.n, n_unit="prompt and attack",
                )  # fmt: skip
        for one in success_by_dose(dose, rows.success, EDGES[name]):
            view.add(
                f"success_by_{name}", one.rate, one.interval,
                unit="share", n=one.n, n_unit="prompt and attack", set=bin_name(name, one),
            )  # fmt: skip


def bin_name(dose: str, one: Bin) -> str:
    """What a bin is called in measurements: `position=+0.25..+0.50`."""
    return f"{dose}={one.low:+.2f}..{one.high:+.2f}"


def write_doses(at: Comparison, kept: list[dict[str, Any]], doses: tuple[str, ...], sheet: Sheet) -> None:
    """Prompt by prompt, position under the strongest soft prompt minus that under the weakest.

    Nulls: doses swapped within prompts, and what random vectors as far from their start do with the same two doses.
    """
    positions = {part["attack"]: np.array(part["positions"]) for part in kept}
    weakest, strongest = doses[0], doses[-1]
    if weakest == strongest or not {weakest, strongest} <= positions.keys():
        return
    difference, draws = positions[strongest] - positions[weakest], at.before.sizes.bootstrap
    nulls = [sign_flip_null("dose_permutation", difference, at.generator(64), at.before.sizes.draws)]
    random = [positions.get(f"{name}/random") for name in (strongest, weakest)]
    if random[0] is not None and random[1] is not None:
        moved = random[0] - random[1]
        ends = percentile_interval(bootstrap_means([moved], at.generator(62), draws=draws)[:, 0])
        nulls.append(Null("random_vectors", float(moved.mean()), ends.low, ends.high))
    ends = percentile_interval(bootstrap_means([difference], at.generator(63), draws=draws)[:, 0])
    sheet.add(
        "position_dose_difference", float(difference.mean()), ends, nulls,
        site=DOSE_SITE, unit="share of the way to allowed", n=len(difference), n_unit="prompt",
    )  # fmt: skip


def _kept(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
