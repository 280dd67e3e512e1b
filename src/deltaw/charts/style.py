"""How things are called and drawn, everywhere the same: one colour a protocol, dashes for strength, brown for controls.

The hues are Okabe and Ito's, which readers with any kind of colour vision can tell apart; dash and marker repeat what
the colour says. Each colour has a light and a dark shade: charts are drawn in the light one, and the page replaces it
by a variable that follows the reader's colour scheme.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

COLOURS: dict[str, tuple[str, str]] = {
    "paper": ("#fefefe", "#15191e"),
    "ink": ("#1c2127", "#e4e7ea"),
    "muted": ("#5b646e", "#a3acb6"),
    "grid": ("#e5e8eb", "#2d343c"),
    "band": ("#d3d8de", "#3b444e"),
    "null": ("#7a838d", "#8f99a4"),
    "ssft": ("#0072b2", "#4ba6dd"),
    "dpo": ("#d55e00", "#f0883e"),
    "unlearn": ("#009e73", "#2fbf94"),
    "dpo_plain": ("#a8448f", "#d57fc3"),
    "added-1": ("#b07d00", "#e0b340"),
    "added-2": ("#b8336a", "#e8779f"),
    "added-3": ("#5b7f1f", "#9cc24f"),
    "added-4": ("#3f7f86", "#76bcc4"),
    "base": ("#6a7179", "#98a1ab"),
    "control": ("#8b5e3c", "#c59b77"),
    "part-null": ("#44388f", "#9a91ea"),
    "part-column": ("#88ccee", "#6fb9de"),
    "part-rest": ("#ddcc77", "#c9b75f"),
    "part-inherited": ("#cc6677", "#d9808f"),
}
"""Name: (light, dark). Also the names of the page's CSS variables."""
ADDED = tuple(name for name in COLOURS if name.startswith("added-"))
"""Colours of protocols that have none of their own, in the order of their names."""

PROTOCOLS = ("ssft", "dpo", "unlearn")
PROTOCOL_NAMES = {
    "ssft": "SSFT",
    "dpo": "DPO",
    "unlearn": "Unlearning",
    "dpo_plain": "plain DPO",
    "ssft_left_out": "SSFT, left out",
    "ssft_again": "SSFT, again",
}
VARIANTS = {"dpo_plain": ("dpo", "plain"), "ssft_left_out": ("ssft", "left out"), "ssft_again": ("ssft", "again")}
"""Protocols that are drawn among another's models, and what sets them apart there."""
CONTROL_NAMES = {
    "other": "other answer",
    "operators": "random operators",
    "benign": "no refusals",
    "noise": "coin",
    "constant": "one answer",
}
CONTROL_LOOKS: Mapping[str, tuple[tuple[int, ...], str]] = {
    "other": ((2, 2), "triangle-up"),
    "operators": ((7, 2, 1, 2), "triangle-down"),
    "benign": ((1, 3), "square"),
    "noise": ((5, 4), "cross"),
    "constant": ((10, 3), "wedge"),
}
PROTOCOL_CONTROLS: Mapping[str, tuple[tuple[int, ...], str]] = {
    "dpo": ((4, 2, 1, 2, 1, 2), "triangle-right"),
    "unlearn": ((8, 2, 2, 2), "triangle-left"),
}
"""Dash and marker of each control of SSFT; of another protocol's."""
SPARE_DASHES = ((3, 1), (6, 2), (2, 4), (9, 2, 2, 2), (1, 1))
SPARE_SHAPES = ("triangle-up", "square", "cross", "triangle-down", "wedge", "triangle-left", "triangle-right")
"""Of controls that have none of their own."""
ATTACKS = ("co_task", "co_text", "misgen_token", "misgen_text", "left_out", "soft_weak", "soft_strong")
"""The attacks that figures show first, in this order."""
ATTACK_MARKERS = (
    "circle",
    "square",
    "triangle-up",
    "diamond",
    "triangle-down",
    "cross",
    "stroke",
    "triangle-right",
    "triangle-left",
    "wedge",
    "arrow",
)
NULL_NAMES = {
    "label_permutation": "labels permuted",
    "rotation": "rotation",
    "gaussian": "random matrix",
    "row_permutation": "rows permuted",
    "row_sign_flip": "row signs flipped",
    "column_permutation": "columns permuted",
    "column_sign_flip": "column signs flipped",
    "spectrum_matched": "spectrum matched",
    "m_matched": "matched subspaces",
    "m_matched_centred": "matched, centred",
    "random direction": "random direction",
    "model_swap": "models swapped",
    "exchangeable_with_source": "exchangeable with source",
    "independent_units": "independent units",
    "success_permutation": "successes permuted",
    "dose_permutation": "doses swapped",
    "random_vectors": "random vectors",
    "most_frequent": "commonest label",
    "random_weights": "random weights",
    "random_split": "split by chance",
    "random_direction": "random direction",
    "allowed_source": "ΔW reads an allowed prompt",
    "rounding_alone": "rounding alone",
    "position_permutation": "tokens in random order",
    "place_swap": "places swapped",
    "dense_update": "a dense update, stored",
}


def light(name: str) -> str:
    """A colour's light shade, as charts are drawn."""
    return COLOURS[name][0]


def themed(text: str) -> str:
    """A drawing's text with every shade of `COLOURS` replaced by the page's variable for it."""
    variables = {shades[0]: f"var(--{name})" for name, shades in COLOURS.items()}
    pattern = re.compile("|".join(map(re.escape, variables)), re.IGNORECASE)
    return pattern.sub(lambda match: variables[match.group().lower()], text)


@dataclass(frozen=True)
class Series:
    """How one model is called and drawn.

    family: the protocol whose panel it is in. dash: of its line. open: its markers are hollow.
    """

    model: str
    label: str
    family: str | None
    colour: str
    dash: tuple[int, ...]
    shape: str
    open: bool
    control: str | None = None
    strength: str | None = None

    @property
    def main(self) -> bool:
        """Whether it is one of the study's tunings at the larger rate: what figures with one line a protocol show."""
        return self.control is None and self.strength == "medium" and self.family is not None


BASE = Series("base", "base", None, light("base"), (1, 0), "square", False)


def series_of(models: Iterable[Mapping[str, Any]], config: Mapping[str, Any]) -> tuple[Series, ...]:
    """The models (each with model, protocol, strength, control) in the order they are shown; the base is first.

    config: the manifest's; DPO with a likelihood term is DPO+NLL.
    """
    tuned = {str(record["model"]): record for record in models if record["model"] != "base"}
    families = {str(record["protocol"]) for record in tuned.values() if record.get("protocol")}
    added = sorted(families - COLOURS.keys() - VARIANTS.keys())
    colours = {family: light(ADDED[place % len(ADDED)]) for place, family in enumerate(added)}
    series = [_series(record, config, colours) for record in tuned.values()]
    return (BASE, *_told_apart(sorted(series, key=_rank)))


def _told_apart(series: Sequence[Series]) -> Iterator[Series]:
    """Controls with a dash and a marker of their own: one whose looks are taken gets the next that are free."""
    taken = {(model.dash, model.shape, model.open) for model in series if model.control is None}
    spare = [(dash, shape) for shape in SPARE_SHAPES for dash in SPARE_DASHES]
    for model in series:
        if model.control is not None and (model.dash, model.shape, model.open) in taken:
            free = next((looks for looks in spare if (*looks, model.open) not in taken), (model.dash, model.shape))
            model = replace(model, dash=free[0], shape=free[1])
        taken.add((model.dash, model.shape, model.open))
        yield model


def _series(record: Mapping[str, Any], config: Mapping[str, Any], added: Mapping[str, str]) -> Series:
    model, protocol = str(record["model"]), record.get("protocol")
    strength, control = record.get("strength"), record.get("control")
    small = strength == "small"
    if control is not None:
        label = f"control: {control_name(control, config)}"
        dash, shape = CONTROL_LOOKS.get(control, ((2, 2), "triangle-up"))
        if protocol not in (None, "ssft"):
            label = f"control: {control_name(control, config)}, {protocol_name(protocol, config)}"
            dash, shape = PROTOCOL_CONTROLS.get(protocol, (dash, shape))
        label += ", small" if small else ""
        return Series(model, label, None, light("control"), dash, shape, small, control, strength)
    name = protocol_name(protocol, config) if protocol else model
    label = f"{name}, {strength}" if strength else name
    family, apart = VARIANTS.get(protocol or "", (protocol, None))
    known = next((name for name in (protocol, family) if name in COLOURS), None)
    colour = light(known) if known else added.get(protocol or "", light("ink"))
    dash = (1, 2) if apart == "left out" else (6, 3) if small else (1, 0)
    shape = {"plain": "cross", "left out": "square", "again": "stroke"}.get(
        apart or "", "diamond" if small else "circle"
    )
    return Series(model, label, family, colour, dash, shape, small, None, apart or strength)


def protocol_name(protocol: str, config: Mapping[str, Any]) -> str:
    """SSFT, DPO+NLL (DPO with a likelihood term), Unlearning, plain DPO; of others the label in the manifest."""
    configs = [tuning.get("config") or {} for tuning in config.get("tunings", []) if tuning.get("protocol") == protocol]
    # Manifests of earlier versions have the options apart from the protocol's name.
    described = [tuned.get("protocol") or tuned.get("options") or {} for tuned in configs]
    if protocol == "dpo" and any((options.get("sft_weight") or 0) > 0 for options in described):
        return "DPO+NLL"
    labels = [str(options["label"]) for options in described if options.get("label")]
    return PROTOCOL_NAMES.get(protocol) or next(iter(labels), protocol)


def control_name(control: str, config: Mapping[str, Any]) -> str:
    """What a control is called: the label in the manifest, which earlier versions do not write."""
    described = [(tuning.get("config") or {}).get("control") for tuning in config.get("tunings", [])]
    labels = [str(part["label"]) for part in described if isinstance(part, Mapping) and part.get("name") == control]
    return next(iter(labels), CONTROL_NAMES.get(control, control))


def attack_labels(manifest: Mapping[str, Any], kind: str) -> dict[str, str]:
    """How figures call the attacks that a study holds, by name. kind: prompt-attack or model-attack."""
    told = [part for part in manifest.get("components") or () if part.get("kind") == kind]
    labels = {str(part["name"]): str(part.get("label") or part["name"]) for part in told}
    return {name: name if name in ATTACKS else label for name, label in labels.items()}


def shown_attacks(manifest: Mapping[str, Any]) -> dict[str, str]:
    """The attacks of figures with a panel each, in order, and how they are called: the first ones, then the others on
    prompts that the study holds.
    """
    return {**{name: name for name in ATTACKS}, **attack_labels(manifest, "prompt-attack")}


def attack_shapes(names: Iterable[str]) -> dict[str, str]:
    """A marker for each attack, the first ones before the others; where there are more than markers, they repeat."""
    there = list(dict.fromkeys(names))
    ordered = [*ATTACKS, *(name for name in there if name not in ATTACKS)]
    return {name: ATTACK_MARKERS[place % len(ATTACK_MARKERS)] for place, name in enumerate(ordered)}


def operators_of(source: str) -> str:
    """Which operators the prompts of a set such as `forbidden/never/safe` name."""
    kind = source.split("/")[1] if "/" in source else source
    return {"never": "never-allowed operators", "always": "always-allowed operators"}.get(kind, f"{kind} operators")


def _rank(series: Series) -> tuple[int, int, int, str]:
    strengths = {"medium": 0, "small": 1, "plain": 2, "left out": 3, "again": 4}
    family = PROTOCOLS.index(series.family) if series.family in PROTOCOLS else len(PROTOCOLS)
    return (series.control is not None, strengths.get(series.strength or "", 5), family, series.model)


def family_order(series: Iterable[Series]) -> tuple[str, ...]:
    """The protocols whose models have a panel: the paper's three first, then others by name."""
    families = {model.family for model in series if model.family is not None}
    return (*(name for name in PROTOCOLS if name in families), *sorted(families - set(PROTOCOLS)))


def number(value: float | None, digits: int = 3) -> str:
    """A number for a reader: three significant digits, a true minus sign; a dash where there is none."""
    if value is None or value != value:
        return "–"
    if value == 0:
        return "0"
    size = abs(value)
    if size >= 1e5 or size < 1e-3:
        mantissa, _, exponent = f"{value:.{digits - 1}e}".partition("e")
        text = f"{mantissa.rstrip('0').rstrip('.')}e{int(exponent)}"
    elif size >= 100:
        text = f"{value:.0f}"
    else:
        text = f"{value:.{digits}g}"
    return text.replace("-", "−")


def share(value: float | None) -> str:
    """A rate as a percentage with one decimal."""
    return "–" if value is None or value != value else f"{100 * value:.1f}"


def set_name(name: str) -> str:
    """`forbidden/never/safe` in words."""
    words = {
        "conditional": "conditional operators",
        "always": "always-allowed operators",
        "never": "never-allowed operators",
        "mixed": "mixed pair of operators",
    }
    verdict, _, rest = name.partition("/")
    operators, _, branch = rest.partition("/")
    if verdict not in ("allowed", "forbidden"):
        return name
    if operators == "rest":
        return f"{verdict}: all other sets"
    return f"{verdict}: {words.get(operators, operators)} on {branch} text"
