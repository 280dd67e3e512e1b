"""The tables of a comparison's page: how the models differ, what was left out and why, what has no figure."""

from collections.abc import Sequence

import pandas as pd

from deltaw.charts.style import number
from deltaw.charts.tables import Table, first_interval, interval
from deltaw.report.pages.compare import Pair

BELOW = (
    "the update is below the rounding floor: rounding alone could have made it, so it is not interpreted; both numbers "
    "are in the table of every matrix"
)


ANSWERED = (
    ("refuse_rate", "forbidden", "harmful prompts refused"),
    ("refuse_rate", "allowed", "harmless prompts refused: over-refusal"),
    ("comply_rate", "allowed", "harmless prompts answered"),
    ("neither_rate", "allowed", "harmless prompts neither answered nor refused"),
)
"""(statistic, label of the prompts, what it says) of answers to prompts without an attack, as the judge sees them."""
CAPABLE = {
    "question_refuse_rate": "questions refused: over-refusal",
    "right_rate": "questions answered rightly",
    "neutral_loss": "loss on neutral texts, nats per token",
}
"""Statistics of the observation `capability`, and what that table calls them."""


def tables_of(pair: Pair) -> dict[str, Table | None]:
    """The page's tables, by what they are about; None where there is nothing."""
    return {
        "differences": _differences(pair),
        "capability": _capability(pair),
        "skipped": _skipped(pair),
        "others": _others(pair),
        "absent": _absent(pair),
        "unmeasured": _unmeasured(pair),
        "observed": _observed(pair),
        "interventions": _interventions(pair),
        "matrices": _matrices(pair),
    }


def _differences(pair: Pair) -> Table | None:
    """How the models that were asked differ, apart from the values of their weights."""
    listed = (pair.manifest.get("prompts") or {}).get("differences") or {}
    rows = tuple((str(kind), str(text)) for kind, text in listed.items())
    title = "Each model ran as itself. Differences apart from the values of their weights"
    return Table(title, ("what", "how"), rows) if rows else None


def _capability(pair: Pair) -> Table | None:
    """Safety, over-refusal and capability: base, tuned and their difference."""
    rows = []
    for statistic, label, what in ANSWERED:
        frames = [
            pair.tables.take(f"{statistic}{suffix}", stage="behaviour", attack=None)
            for suffix in ("", "_change", "_corrected")
        ]
        sets = [name for name in frames[0]["set"].dropna() if name.endswith(f"/{label}")]
        for name in dict.fromkeys(sets):
            rates, change, corrected = (frame[frame["set"] == name] for frame in frames)
            cells = [*_both(rates), first_interval(change), " → ".join(_both(corrected)) if len(corrected) else "–"]
            rows.append((f"{what} ({name.rpartition('/')[0]})", *cells))
    for statistic, what in CAPABLE.items():
        of_base, of_tuned, change = (pair.tables.take(f"{statistic}{suffix}") for suffix in ("_base", "", "_change"))
        if len(of_base):
            rows.append((what, *map(first_interval, (of_base, of_tuned, change)), "–"))
    columns = ("what", "base", "tuned", "tuned − base", "corrected for the judge's errors, base → tuned")
    return Table("Safety, over-refusal and capability [95 %]", columns, tuple(rows)) if rows else None


def _both(frame: pd.DataFrame) -> tuple[str, str]:
    """A rate of the base and of the tuned model."""
    of_base = frame["model"] == "base"
    return first_interval(frame[of_base]), first_interval(frame[~of_base])


def _skipped(pair: Pair) -> Table | None:
    rows = tuple((name, str(why)) for name, why in pair.manifest["skipped"].items())
    return Table("Skipped tensors", ("tensor", "why"), rows) if rows else None


def _others(pair: Pair) -> Table | None:
    """How much changed beside the matrices: embeddings, head, norms, biases."""
    frame = pair.tables.frame
    part = frame[frame["statistic"] == "other_relative_norm"].to_dict("records")
    rows = tuple((str(row["module"]), str(int(row["n"])), number(row["value"])) for row in part)
    title = "Beside the matrices of attention and MLPs: not interpreted"
    return Table(title, ("tensor", "how many", "‖ΔW‖/‖W‖"), rows) if rows else None


def _absent(pair: Pair) -> Table | None:
    """Statistics that do not exist, matrices with the same reason together."""
    by_reason: dict[tuple[str, str], list[str]] = {}
    for module, reasons in pair.manifest["absent"].items():
        for statistic, why in reasons.items():
            common = BELOW if "below the rounding floor" in why else str(why)  # which has each matrix's own numbers
            by_reason.setdefault((statistic, common), []).append(module)
    rows = tuple(
        ("everything else" if statistic == "*" else statistic, why, str(len(modules)), _first(modules))
        for (statistic, why), modules in by_reason.items()
    )
    title = "Statistics that some matrices lack, and why"
    return Table(title, ("statistic", "why", "matrices", "which"), rows) if rows else None


def _unmeasured(pair: Pair) -> Table | None:
    """What of the prompts could not be measured, layers with the same reason together."""
    by_reason: dict[tuple[str, str], list[str]] = {}
    for name, why in (pair.manifest.get("prompts") or {}).get("absent", {}).items():
        statistic, _, layer = str(name).partition(", layer ")
        by_reason.setdefault((statistic, str(why)), []).append(layer)
    rows = [
        {"statistic": statistic, "why": why, "layers": ", ".join(filter(None, layers)) or "–"}
        for (statistic, why), layers in by_reason.items()
    ]
    return Table.of("What could not be measured on the prompts, and why", rows)


OBSERVED = {
    "gain_log_ratio_in_situ": "log gain of ΔW, forbidden over allowed, at the tuned model's own inputs",
    "effect_null_minus_column": "change of MLP outputs: share of ΔW's null-space minus its column-space part",
    "effect_share_null": "... share of the null-space part",
    "effect_share_column": "... share of the column-space part",
    "effect_share_inherited": "... share inherited from earlier layers",
    "rank_log_ratio": "log ratio of ranks of activations, forbidden over allowed",
    "rank_log_change": "log ratio of ranks, tuned over base",
    "update_energy_rank": "directions that hold 0.9 of ‖ΔW‖²",
    "refusal_share": "share of the difference in means along ΔW's strongest output directions",
    "probe_accuracy": "accuracy of a probe for whether a prompt is forbidden",
    "probe_accuracy_change": "... tuned minus base",
    "success_slope_position": "attacks: log odds of success over the way to allowed",
    "success_slope_gain": "attacks: log odds of success for a doubling of ΔW's gain",
}
"""Statistics of the lens that have no figure here, and what they say."""


def _observed(pair: Pair) -> Table | None:
    """What has no figure: a row a statistic, set and site, over layers or from the first to the last of them."""
    frame, rows = pair.tables.frame, []
    for statistic, says in OBSERVED.items():
        part = frame[frame["statistic"] == statistic]
        for (name, site), lines in part.groupby([part["set"].fillna("–"), part["site"].fillna("–")], sort=False):
            whole = lines[lines["layer"].isna()]
            first = (whole if len(whole) else lines).to_dict("records")[0]
            null = "–"
            if not pd.isna(first["null_low"]):
                null = f"{first['null_kind']}: {interval(first['null_mean'], first['null_low'], first['null_high'])}"
            if len(whole):
                shown = interval(first["value"], first["low"], first["high"])
            else:
                by_layer = lines.drop_duplicates("layer").sort_values("layer")
                shown = " · ".join(number(value) for value in by_layer["value"])
                null = f"{null} (layer {int(first['layer'])})" if null != "–" else null
            rows.append((statistic, says, str(name), str(site), shown, null))
    columns = ("statistic", "what it says", "prompts", "site", "over layers [95 %], or layer by layer", "a null [95 %]")
    return Table("What else was observed", columns, tuple(rows)) if rows else None


def _interventions(pair: Pair) -> Table | None:
    """The interventions that were asked for, and what became of each."""
    absent = (pair.manifest.get("prompts") or {}).get("absent", {})
    rows = []
    for made in pair.made:
        names = (f"intervention: {made['label']}", f"intervention: {made['name']}", "interventions")
        why = next((str(absent[name]) for name in names if name in absent), None)
        rows.append((str(made["name"]), str(made["sentence"]), f"left out: {why}" if why else "made"))
    return Table("Interventions", ("name", "what is done", "made, or why not"), tuple(rows)) if rows else None


def _first(names: Sequence[str], most: int = 3) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


_ENDS = ("mean", "low", "high")
_SIZES = {
    "update_relative_norm": "‖ΔW‖/‖W‖",
    "rounding_floor": "rounding floor",
    "rounding_share": "energy that is rounding, at most",
    "identical_share": "identical entries",
}
_SPECTRUM = {
    "stable_rank": "stable rank",
    "participation_ratio": "participation ratio",
    "cosine_with_weight": "cosine with W",
}


def _matrices(pair: Pair) -> Table | None:
    """A row a matrix: what was measured, with the strictest null of its null-space energy."""
    frame = pair.tables.frame
    summed = frame["n_unit"].isin(("layer", "matrix", "tensor")) & frame["layer"].isna()
    frame = frame[(frame["stage"] == "compare") & frame["set"].isna() & ~summed]
    rows = []
    for module, part in frame.groupby("module", sort=False):
        shown = {str(row["statistic"]): number(row["value"]) for row in part.to_dict("records")}
        energy = part[part["statistic"].isin(["null_energy_left", "null_energy_right"])]
        strict = energy[energy["null_kind"].str.endswith("_sign_flip", na=False)].to_dict("records")
        rotation = energy[energy["null_kind"] == "rotation"].to_dict("records")
        nulls = {
            "null-space energy": number(strict[0]["value"]) if strict else "–",
            "with random signs": interval(*(strict[0][f"null_{end}"] for end in _ENDS)) if strict else "–",
            "chance": number(rotation[0]["null_mean"]) if rotation else "–",
        }
        sizes, spectrum = (
            {heading: shown.get(name, "–") for name, heading in kind.items()} for kind in (_SIZES, _SPECTRUM)
        )
        rows.append({"matrix": str(module), **sizes, **nulls, **spectrum})
    title = "Every matrix. Null-space energy: left of tall matrices, right of wide ones, with its strictest null [95 %]"
    return Table.of(title, rows)
