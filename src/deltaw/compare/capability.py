"""Capability beside safety in a few numbers: for the manifest, and for a line at the end of a comparison."""

from collections.abc import Iterable, Mapping

from deltaw.observations.capability.words import OF_OBSERVATION, OF_PROMPTS
from deltaw.prompts.matched import LABELS
from deltaw.results import Measurement

WHAT: Mapping[tuple[str, str | None], str] = {
    **{(statistic, label): said for (statistic, label), said in OF_PROMPTS.items()},
    **{(statistic, None): said for statistic, said in OF_OBSERVATION.items()},
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
