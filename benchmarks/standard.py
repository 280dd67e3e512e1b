"""The tables of docs/standard.md, from the measurements kept in docs/results (`python benchmarks/standard.py`).

Every difference is paired by seed: a tuned model minus a control on the same base model, then mean and Student's 95 %
interval over seeds. The first four tables are in the page, and a test compares them; what comes after them is what its
sentences cite.
"""

import gzip
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from deltaw.results import markdown_table
from deltaw.statistics import t_interval

RESULTS = Path(__file__).parents[1] / "docs" / "results"
THIRD, EARLIER = tuple(range(113, 119)), tuple(range(101, 113))
LAYERS = range(4)
LAST_STEP = 400
PROTOCOLS = {"ssft": "SSFT", "dpo": "DPO+NLL", "unlearn": "unlearning"}
STATISTICS = (
    "tau_gap_relative_change",
    "gain_relative_in_situ",
    "gain_log_ratio_in_situ",
    "null_energy_left",
    "update_relative_norm",
    "comply_rate",
    "refuse_rate",
    "target_rate",
    "position",
    "sensitivity_log_ratio_spectral",
    "sensitivity_log_ratio_max_logit_published",
)
FORBIDDEN, ALLOWED = "forbidden/conditional/unsafe", "allowed/conditional/safe"
GAPS = {"gap, `mlp_post`": "mlp_post", "gap, `resid_out`": "resid_out"}
GAIN = "gain, in situ"

Key = tuple[object, ...]
Model = Callable[[str], str]

OTHER: Model = "other-{}-medium".format
OWN_CONSTANT: Model = "constant-{}-medium".format
SSFT_CONSTANT: Model = "constant-ssft-medium".format


class Kept:
    """Measurements of last checkpoints by what they are of; of a value with several nulls, the row of sign flips."""

    def __init__(self, *runs: str) -> None:
        self.values: dict[Key, float] = {}
        self.nulls: dict[Key, float] = {}
        for run in runs:
            with gzip.open(RESULTS / run / "measurements.jsonl.gz", "rt", encoding="utf-8") as lines:
                for line in lines:
                    if any(f'"{statistic}"' in line for statistic in STATISTICS):
                        self._add(json.loads(line))

    def _add(self, row: dict[str, object]) -> None:
        # Other stages repeat some of these on fewer prompts, or at a checkpoint that is matched to another model's.
        if row["stage"] not in ("analysis", "behaviour") or row["step"] != LAST_STEP:
            return
        key = tuple(row[name] for name in ("statistic", "model", "seed", "layer", "site", "set", "attack"))
        self.values[key] = float(str(row["value"]))
        if row["null_kind"] == "row_sign_flip":
            self.nulls[key] = float(str(row["null_mean"]))

    def value(self, statistic: str, model: str, seed: int, layer: int | None = None, **where: str) -> float:
        """Of the last checkpoint. layer: None means over all layers. KeyError if it was not kept."""
        return self.values[self._key(statistic, model, seed, layer, **where)]

    def null(self, statistic: str, model: str, seed: int, layer: int | None = None, **where: str) -> float:
        """The mean of the same statistic where the signs of the update's rows are flipped at random."""
        return self.nulls[self._key(statistic, model, seed, layer, **where)]

    @staticmethod
    def _key(statistic: str, model: str, seed: int, layer: int | None, **where: str) -> Key:
        return (statistic, model, seed, layer, where.get("site"), where.get("set"), where.get("attack"))

    def curve(self, name: str, contrast: str, model: str, seed: int) -> np.ndarray:
        """(layers,): how much tuning moved the relative gap, or the log ratio of gains, forbidden over allowed."""
        which = f"contrast/{contrast}"
        if name in GAPS:
            gaps = [
                self.value("tau_gap_relative_change", model, seed, layer, site=GAPS[name], set=which)
                for layer in LAYERS
            ]
            return np.array(gaps)
        gains = [
            [
                self.value("gain_relative_in_situ", model, seed, layer, site="mlp_in", set=f"{which}/{kind}")
                for layer in LAYERS
            ]
            for kind in ("forbidden", "allowed")
        ]
        return np.log(gains[0]) - np.log(gains[1])

    def over_layers(self, name: str, contrast: str, model: str, seed: int) -> float:
        """As the study kept it over all layers: all there is of `constant` by DPO and unlearning."""
        statistic, site = (
            ("tau_gap_relative_change", GAPS[name]) if name in GAPS else ("gain_log_ratio_in_situ", "mlp_in")
        )
        return self.value(statistic, model, seed, site=site, set=f"contrast/{contrast}")


RULES: dict[str, Callable[[np.ndarray], float]] = {
    "layer 1": lambda curve: float(curve[0]),
    "layer 2": lambda curve: float(curve[1]),
    "layer 3": lambda curve: float(curve[2]),
    "layer 4": lambda curve: float(curve[3]),
    "mean": lambda curve: float(curve.mean()),
    "maximum": lambda curve: float(curve.max()),
}


def interval(values: Sequence[float], digits: int = 2) -> str:
    """Mean and Student's 95 % interval, with signs."""
    span = t_interval(values)
    low, mean, high = (f"{number:+.{digits}f}" for number in (span.low, float(np.mean(values)), span.high))
    return f"{mean} [{low}, {high}]".replace("-", "−")


def span_of_seeds(values: Sequence[float], digits: int = 2) -> str:
    """Mean, least and greatest of the seeds."""
    return f"{np.mean(values):.{digits}f} [{min(values):.{digits}f}, {max(values):.{digits}f}]".replace("-", "−")


def differences(
    kept: Kept, name: str, contrast: str, rule: str, control: Model | None, seeds: Sequence[int]
) -> list[str]:
    """By protocol, the tuned model's value by `rule`, minus the control's."""
    cells = []
    for protocol in PROTOCOLS:
        values = []
        for seed in seeds:
            tuned = RULES[rule](kept.curve(name, contrast, f"{protocol}-medium", seed))
            beside = 0.0 if control is None else RULES[rule](kept.curve(name, contrast, control(protocol), seed))
            values.append(tuned - beside)
        cells.append(interval(values))
    return cells


def beyond_own_constant(kept: Kept, name: str, contrast: str) -> list[str]:
    """By protocol, the tuned model's value over all layers minus that of `constant` by the same protocol."""
    return [
        interval(
            [
                kept.over_layers(name, contrast, f"{protocol}-medium", seed)
                - kept.over_layers(name, contrast, OWN_CONSTANT(protocol), seed)
                for seed in THIRD
            ]
        )
        for protocol in PROTOCOLS
    ]


def by_operator(kept: Kept) -> str:
    """Always-allowed against never-allowed operators on the same safe text."""
    rows = []
    for name in (*GAPS, GAIN):
        for rule, beyond_constant in (
            ("mean", beyond_own_constant(kept, name, "operator")),
            ("maximum", differences(kept, name, "operator", "maximum", SSFT_CONSTANT, THIRD)),
        ):
            beyond_other = differences(kept, name, "operator", rule, OTHER, THIRD)
            cells = [cell for pair in zip(beyond_other, beyond_constant, strict=True) for cell in pair]
            rows.append([name if rule == "mean" else "", rule, *cells])
    titles = [cell for title in PROTOCOLS.values() for cell in (f"{title} − `other`", "− `constant`")]
    return markdown_table(["", "over layers", *titles], rows)


def by_combination(kept: Kept) -> str:
    """The same conditional operators on safe and on unsafe text."""
    rows = [
        [name if rule == "layer 3" else "", rule, *differences(kept, name, "conditional", rule, OTHER, THIRD)]
        for name in (GAIN, "gap, `resid_out`")
        for rule in ("layer 3", "layer 4", "mean", "maximum")
    ]
    return markdown_table(["minus own `other`", "over layers", *PROTOCOLS.values()], rows)


def null_space(kept: Kept, seeds: Sequence[int], *, constants: bool = True) -> str:
    """ρ_N of the first MLP matrix, mean over layers, and what is left of it beside shape and controls."""

    def row(title: str, control: Model | None) -> list[str]:
        cells = []
        for protocol in PROTOCOLS:
            values = [kept.value("null_energy_left", f"{protocol}-medium", seed) for seed in seeds]
            if control is not None:
                values = [
                    value - kept.value("null_energy_left", control(protocol), seed)
                    for value, seed in zip(values, seeds, strict=True)
                ]
            cells.append(span_of_seeds(values, 3) if control is None else interval(values, 3))
        return [title, *cells]

    beyond_shape = [
        interval(
            [
                kept.value("null_energy_left", f"{protocol}-medium", seed)
                - kept.null("null_energy_left", f"{protocol}-medium", seed)
                for seed in seeds
            ],
            3,
        )
        for protocol in PROTOCOLS
    ]
    rows = [
        row("ρ_N [least, greatest of the seeds]", None),
        ["minus its mean under row sign flips", *beyond_shape],
        row("minus own `other`", OTHER),
    ]
    if constants:
        rows.append(row("minus own `constant`", OWN_CONSTANT))
    return markdown_table(["", *PROTOCOLS.values()], rows)


def facts(kept: Kept) -> str:
    """Behaviour, size of the update and attacks, each tuned model beside its `other`."""
    models = [model for protocol in PROTOCOLS for model in (f"{protocol}-medium", OTHER(protocol))]
    models.append("constant-ssft-medium")

    def row(title: str, statistic: str, digits: int = 2, **where: str) -> list[str]:
        cells = []
        for model in models:
            # What a control was taught in place of refusing is its target; a refusal is counted as such.
            taught = statistic == "refuse_rate" and model.startswith(("other", "constant"))
            try:
                values = [kept.value("target_rate" if taught else statistic, model, seed, **where) for seed in THIRD]
            except KeyError:
                cells.append("–")
            else:
                cells.append(span_of_seeds(values, digits))
        return [title, *cells]

    rows = [
        row("allowed prompts answered", "comply_rate", set=ALLOWED),
        row("forbidden prompts: the taught answer", "refuse_rate", set=FORBIDDEN),
        row("‖ΔW‖/‖W‖, first MLP matrix", "update_relative_norm", 3),
        *(
            row(f"success of `{attack}`", "comply_rate", set=FORBIDDEN, attack=attack)
            for attack in ("co_task", "co_text", "soft_weak", "soft_strong")
        ),
        *(
            row(f"position under `{attack}`", "position", site="mlp_post", set=FORBIDDEN, attack=attack)
            for attack in ("soft_weak", "soft_strong")
        ),
    ]
    titles = [cell for title in PROTOCOLS.values() for cell in (title, "its `other`")]
    return markdown_table(["", *titles, "SSFT's `constant`"], rows)


def sensitivity(kept: Kept, statistic: str, side: str) -> str:
    """Tuned over base, geometric mean over seeds, by protocol."""
    logs = [
        [kept.value(statistic, f"{protocol}-medium", seed, set=f"contrast/conditional/{side}") for seed in THIRD]
        for protocol in PROTOCOLS
    ]
    return ", ".join(f"{np.exp(np.mean(values)):.2f}" for values in logs)


def learned(kept: Kept, model: str) -> int:
    """In how many seeds a model does as taught on 0.95 of allowed and of forbidden prompts, conditional operators."""
    taught = "target_rate" if model.startswith(("other", "constant")) else "refuse_rate"
    return sum(
        kept.value("comply_rate", model, seed, set=ALLOWED) >= 0.95
        and kept.value(taught, model, seed, set=FORBIDDEN) >= 0.95
        for seed in THIRD
    )


def main() -> None:
    """Print it all."""
    kept = Kept("standard-s2", "constant-own")
    for title, table in (
        ("By operator, seeds 113 to 118", by_operator(kept)),
        ("By combination, seeds 113 to 118", by_combination(kept)),
        ("Null space, seeds 113 to 118", null_space(kept, THIRD)),
        ("Facts, seeds 113 to 118", facts(kept)),
    ):
        print(f"\n{title}\n\n{table}")
    print("\nEnd of the page's tables. By operator, nothing subtracted:\n")
    for name in (*GAPS, GAIN):
        for rule in ("mean", "maximum"):
            print(name, rule, *differences(kept, name, "operator", rule, None, THIRD))
    print("\nBy combination, `mlp_post`, minus own other:\n")
    for rule in RULES:
        print(rule, *differences(kept, "gap, `mlp_post`", "conditional", rule, OTHER, THIRD))
    print("\nBy operator, single layers:\n")
    for name in (*GAPS, GAIN):
        for rule in list(RULES)[:4]:
            print(name, rule, "minus own other:", *differences(kept, name, "operator", rule, OTHER, THIRD))
            print(
                name, rule, "minus SSFT's constant:", *differences(kept, name, "operator", rule, SSFT_CONSTANT, THIRD)
            )
    print("\nBy combination, minus SSFT's constant:\n")
    for name in (*GAPS, GAIN):
        for rule in ("mean", "maximum"):
            print(name, rule, *differences(kept, name, "conditional", rule, SSFT_CONSTANT, THIRD))
    print("\n`operators`, by operator, mean over layers:\n")
    for name in (*GAPS, GAIN):
        values = [float(kept.curve(name, "operator", "operators-ssft-medium", seed).mean()) for seed in THIRD]
        print(name, interval(values))
    print("\nSeeds of six that do as taught on 0.95 of prompts, both ways:\n")
    for model in (
        name.format(protocol)
        for name in ("{}-medium", "other-{}-medium", "constant-{}-medium")
        for protocol in PROTOCOLS
    ):
        print(model, learned(kept, model))
    print("\nSuccess of misgen_token and misgen_text, greatest mean of the models:\n")
    for attack in ("misgen_token", "misgen_text"):
        means = [
            np.mean([kept.value("comply_rate", model, seed, set=FORBIDDEN, attack=attack) for seed in THIRD])
            for model in (name.format(protocol) for name in ("{}-medium", "other-{}-medium") for protocol in PROTOCOLS)
        ]
        print(attack, f"{max(means):.3f}")
    print("\nSensitivity:\n")
    for statistic in ("sensitivity_log_ratio_max_logit_published", "sensitivity_log_ratio_spectral"):
        for side in ("forbidden", "allowed"):
            print(statistic, side, sensitivity(kept, statistic, side))
    earlier = Kept("standard", "standard-s1")
    print("\nSeeds 101 to 112, minus own other:\n")
    for contrast, rules in (
        ("operator", ("mean", "maximum")),
        ("conditional", ("layer 3", "layer 4", "mean", "maximum")),
    ):
        for name in (*GAPS, GAIN):
            for rule in rules:
                print(contrast, name, rule, *differences(earlier, name, contrast, rule, OTHER, EARLIER))
    print()
    print(null_space(earlier, EARLIER, constants=False))
    print("\nρ_N minus its mean under row sign flips, greatest of all layers, seeds and protocols:")
    for runs, seeds in ((kept, THIRD), (earlier, EARLIER)):
        most = max(
            runs.value("null_energy_left", f"{protocol}-medium", seed, layer)
            - runs.null("null_energy_left", f"{protocol}-medium", seed, layer)
            for protocol in PROTOCOLS
            for seed in seeds
            for layer in LAYERS
        )
        print(f"seeds {seeds[0]} to {seeds[-1]}: {most:+.3f}")


if __name__ == "__main__":
    main()
