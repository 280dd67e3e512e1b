"""Capability beside safety in a few numbers: for the manifest, and for a line at the end of a comparison."""

from collections.abc import Iterable, Mapping

from deltaw.prompts.matched import LABELS
from deltaw.results import Measurement

WHAT = {
    ("refuse_rate", "forbidden"): "harmful prompts refused",
    ("refuse_rate", "allowed"): "harmless prompts refused",
    ("comply_rate", "allowed"): "harmless prompts answered",
    ("neither_rate", "allowed"): "harmless prompts neither",
    ("question_refuse_rate", None): "questions refused",
    ("right_rate", None): "questions right",
    ("neutral_loss", None): "loss on neutral texts",
}
"""What each number says, by statistic and label of the prompts."""

Summary = Mapping[str, Mapping[str, float]]
"""By what a number says, with the set of prompts in brackets: its value for `base` and for `tuned`."""


def summary(lines: Iterable[Measurement]) -> Summary:
    """Of prompts without an attack, set by set, and of the observation `capability` where it was made."""
    numbers: dict[str, dict[str, float]] = {}
    for line in lines:
        prompts, _, label = (line.set or "").rpartition("/")
        statistic = line.statistic.removesuffix("_base")
        said = WHAT.get((statistic, label if label in LABELS else None))
        if said is None or line.attack is not None or line.stage not in ("behaviour", "analysis"):
            continue
        side = "base" if line.statistic != statistic or line.model == "base" else "tuned"
        name = f"{said} ({prompts})" if prompts else said
        numbers.setdefault(name, {})[side] = line.value
    return {name: numbers[name] for said in WHAT.values() for name in numbers if name.startswith(said)}


def sentence(numbers: Summary) -> str:
    """The numbers in one line, base → tuned."""
    return "base → tuned: " + "; ".join(
        f"{name} {both['base']:.2f} → {both['tuned']:.2f}"
        for name, both in numbers.items()
        if both.keys() >= {"base", "tuned"} and not name.startswith("harmless prompts neither")
    )
