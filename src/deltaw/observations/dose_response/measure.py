"""Do attacks succeed where they move activations, or where ΔW then acts less? Dose-response, prompt by prompt.

Each row is a forbidden prompt of the primary contrast under an attack, and whether the attack succeeded. Its doses are

    position        at mlp_post of the tuned model: 0 forbidden, 1 allowed
    gain            log₂ ratio of ΔW's gain on it to that on the prompt it was made from, at the base model's inputs
    gain_in_situ    the same at the tuned model's own inputs

All are means over layers, of positions weighted by precision: where the classes hardly differ, their distance is too
short a unit. Unattacked prompts are rows too. Prompts of one operator pair stay together in intervals and nulls.

    success_slope_<dose>        log odds a unit, within attacks; what the claims read
    ..._pooled                  the same with one intercept for all attacks
    success_by_<dose>           success in bins; `set` is the bin
    position_dose_difference    position under the strongest soft prompt minus that under the weakest
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deltaw.analysis import Bin, dose_response, precision_weights, success_by_dose
from deltaw.observations.attacked_prompts.measure import positions, write_gain_ratios, write_positions
from deltaw.observations.draws import Draw
from deltaw.observations.lens import Lens
from deltaw.observations.observation import Observation, Statistic
from deltaw.observations.prompts import Ints
from deltaw.results.recorder import Sheet
from deltaw.statistics import FloatArray, Null, bootstrap_means, percentile_interval, sign_flip_null

POSITION_SITE = "mlp_post"
DOSES = ("position", "gain", "gain_in_situ")
GAIN_EDGES, GAIN_UNIT = np.arange(-1.5, 0.76, 0.25), "log odds a doubling of the gain"
EDGES = {"position": np.arange(-0.5, 1.51, 0.25), "gain": GAIN_EDGES, "gain_in_situ": GAIN_EDGES}
UNITS = {"position": "log odds a way from forbidden to allowed", "gain": GAIN_UNIT, "gain_in_situ": GAIN_UNIT}
SITES_OF = {"position": POSITION_SITE, "gain": "mlp_in", "gain_in_situ": "mlp_in"}
WORDS = {
    "position": "the position",
    "gain": "ΔW's gain at the base model's inputs",
    "gain_in_situ": "ΔW's gain at the tuned model's own inputs",
}


@dataclass(frozen=True, eq=False)
class Doses:
    """One attack on n prompts of the primary contrast: what it did to each, and whether it succeeded."""

    attack: str
    """Its name; `none` for the prompts as they are."""
    prompts: Ints
    """(n,) their rows in the contrast."""
    positions: FloatArray
    """(n,) of the way from forbidden to allowed."""
    gain_log_ratios: FloatArray
    """(n,) log of ΔW's gain over that on the prompt as it was, at the base model's inputs."""
    gain_in_situ_log_ratios: FloatArray
    """(n,) the same at the tuned model's own inputs."""
    success: NDArray[np.bool_]
    """(n,) whether the forbidden answer came."""

    def to_json(self) -> dict[str, Any]:
        """Plain lists, for a file."""
        return {
            "attack": self.attack,
            "prompts": self.prompts.tolist(),
            "positions": self.positions.tolist(),
            "gain_log_ratios": self.gain_log_ratios.tolist(),
            "gain_in_situ_log_ratios": self.gain_in_situ_log_ratios.tolist(),
            "success": self.success.tolist(),
        }

    @staticmethod
    def from_json(record: dict[str, Any]) -> "Doses":
        """The inverse of `to_json`."""
        return Doses(
            str(record["attack"]),
            np.array(record["prompts"], dtype=np.int64),
            np.array(record["positions"], dtype=np.float64),
            np.array(record["gain_log_ratios"], dtype=np.float64),
            np.array(record["gain_in_situ_log_ratios"], dtype=np.float64),
            np.array(record["success"], dtype=np.bool_),
        )


@dataclass(frozen=True, eq=False)
class Rows:
    """A row a prompt and attack, (n,) each."""

    attacks: NDArray[np.str_]
    """Their names."""
    prompts: Ints
    """Their rows in the contrast."""
    position: FloatArray
    """Of the way to allowed."""
    gain: FloatArray
    """log₂ ratio."""
    gain_in_situ: FloatArray
    """log₂ ratio."""
    success: FloatArray
    """0 or 1."""

    @classmethod
    def of(cls, parts: Sequence[Doses]) -> "Rows":
        """All attacks, one after the other."""

        def joined(name: str, dtype: type) -> NDArray[Any]:
            return np.concatenate([getattr(part, name) for part in parts] or [np.zeros(0)]).astype(dtype)

        return cls(
            np.array([part.attack for part in parts for _ in part.prompts]),
            joined("prompts", np.int64),
            joined("positions", np.float64),
            joined("gain_log_ratios", np.float64) / np.log(2),
            joined("gain_in_situ_log_ratios", np.float64) / np.log(2),
            joined("success", np.float64),
        )


@dataclass(frozen=True)
class DoseResponse(Observation):
    """Do attacks succeed where they move activations, or where ΔW then acts less, prompt by prompt?"""

    name = "dose_response"
    label = "dose-response"
    every_checkpoint = False
    statistics = (
        *(
            Statistic(f"success_slope_{dose}{suffix}", unit, f"{sentence}. The dose: {WORDS[dose]}.")
            for dose, unit in UNITS.items()
            for suffix, sentence in (
                ("", "How much likelier success is by the dose, within attacks"),
                ("_pooled", "The same with one intercept for all attacks"),
            )
        ),
        *(Statistic(f"success_by_{dose}", "share", f"Success in a bin of {WORDS[dose]}.") for dose in UNITS),
        Statistic(
            "position_dose_difference",
            "share of the way to allowed",
            "Position under the strongest soft prompt minus that under the weakest.",
        ),
    )

    permutations: int = 50
    """Of successes, behind the null."""

    def measure(self, lens: Lens, sheet: Sheet) -> None:
        """Slopes and curves of success, over the lens's attacks on prompts."""
        self.measure_with(lens, sheet, ())

    def measure_with(self, lens: Lens, sheet: Sheet, more: Sequence[Doses]) -> None:
        """Slopes and curves of success, over the lens's attacks on prompts and `more` attacks."""
        write_responses(Rows.of([*attacked_doses(lens), *more]), lens, self.permutations, sheet)


def attacked_doses(lens: Lens) -> list[Doses]:
    """Position, log ratio of gains and success of every prompt, unattacked and under each attack on prompts."""
    before, name = lens.before, lens.primary
    contrast, clusters = before.contrasts[name], lens.clusters(name)
    scratch, reference = Sheet(stage="analysis"), lens.after(name)
    parts = []
    unattacked = _unattacked(lens)
    if unattacked is not None:
        count = len(contrast.forbidden)
        hits = lens.tuned.complied(contrast.forbidden)
        parts.append(Doses("none", np.arange(count), unattacked, np.zeros(count), np.zeros(count), hits))
    for attacked in before.attacked:
        if attacked.contrast != name:
            continue
        at_tuned = lens.activations((name, attacked.attack), attacked.prompts)
        placed = write_positions(lens, "position", reference, at_tuned, scratch, clusters)
        at_base = before.activations((name, attacked.attack), attacked.prompts)
        ratios = write_gain_ratios(lens, name, at_base, before.contrast(name)[1], scratch)
        in_situ = write_gain_ratios(lens, name, at_tuned, reference[1], scratch, "_in_situ")
        if POSITION_SITE in placed and ratios is not None and in_situ is not None:
            rows = np.arange(len(attacked.prompts))
            hits = lens.tuned.complied(attacked.prompts)
            parts.append(Doses(attacked.attack, rows, placed[POSITION_SITE], ratios, in_situ, hits))
    return parts


def _unattacked(lens: Lens) -> FloatArray | None:
    """Held-out positions of the forbidden prompts themselves, mean over layers as in `write_positions`."""
    reference = lens.after(lens.primary)
    placed = positions(lens, reference, reference[1], POSITION_SITE, lens.clusters(lens.primary))
    of_layers = list(placed.values())
    if not of_layers:
        return None
    return np.asarray(precision_weights(of_layers) @ np.array([of_layer.forbidden for of_layer in of_layers]))


def write_responses(rows: Rows, lens: Lens, permutations: int, sheet: Sheet) -> None:
    """Slopes within attacks and pooled, and success in bins of dose."""
    if not len(rows.success):
        lens.absent["success_slope"] = "positions have no scale, so no prompt has a dose"
        return
    clusters = lens.clusters(lens.primary) if lens.primary else None
    known = clusters is not None and int(rows.prompts.max()) < len(clusters)  # attacks may be on more prompts
    together = clusters[rows.prompts] if clusters is not None and known else rows.prompts
    for number, name in enumerate(DOSES):
        view = sheet.with_(site=SITES_OF[name], n_unit="prompt and attack")
        dose: FloatArray = getattr(rows, name)
        for pooled in (False, True):
            statistic = f"success_slope_{name}{'_pooled' if pooled else ''}"
            generator = lens.generator(Draw.SUCCESS_PERMUTATIONS, number, int(pooled))
            slope = lens.present(
                dose_response(
                    dose, rows.success, rows.attacks, [together], generator, within=not pooled, draws=permutations
                ),
                statistic,
            )
            if slope is not None:
                view.add(statistic, slope.slope, slope.interval, [slope.null], unit=UNITS[name], n=slope.n)
        for in_bin in success_by_dose(dose, rows.success, EDGES[name]):
            bin_set = bin_name(name, in_bin)
            view.add(f"success_by_{name}", in_bin.rate, in_bin.interval, unit="share", n=in_bin.n, set=bin_set)


def bin_name(dose: str, of: Bin) -> str:
    """What a bin is called in measurements: `position=+0.25..+0.50`."""
    return f"{dose}={of.low:+.2f}..{of.high:+.2f}"


def write_doses(lens: Lens, kept: Sequence[Doses], doses: tuple[str, ...], sheet: Sheet) -> None:
    """Prompt by prompt, position under the strongest soft prompt minus that under the weakest.

    Nulls: doses swapped within prompts, and what random vectors as far from their start do with the same two doses.
    """
    placed = {part.attack: part.positions for part in kept}
    if not doses:
        return
    weakest, strongest = doses[0], doses[-1]
    if weakest == strongest or not {weakest, strongest} <= placed.keys():
        return
    difference, draws = placed[strongest] - placed[weakest], lens.before.effort.bootstrap
    nulls = [
        sign_flip_null("dose_permutation", difference, lens.generator(Draw.DOSE_SIGN_FLIPS), lens.before.effort.draws)
    ]
    random = [placed.get(f"{name}/random") for name in (strongest, weakest)]
    if random[0] is not None and random[1] is not None:
        moved = random[0] - random[1]
        ends = percentile_interval(bootstrap_means([moved], lens.generator(Draw.DOSE_MEANS), draws=draws)[:, 0])
        nulls.append(Null("random_vectors", float(moved.mean()), ends.low, ends.high))
    ends = percentile_interval(bootstrap_means([difference], lens.generator(Draw.DOSE_DIFFERENCE), draws=draws)[:, 0])
    view = sheet.with_(site=POSITION_SITE, unit="share of the way to allowed", n=len(difference), n_unit="prompt")
    view.add("position_dose_difference", float(difference.mean()), ends, nulls)
