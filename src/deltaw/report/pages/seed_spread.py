"""How much of a number's spread over seeds comes from base models, and how much from tunings."""

from typing import Any

from deltaw.charts.shared import PRIMARY
from deltaw.charts.style import number
from deltaw.charts.tables import Tables
from deltaw.statistics import variance_components

AGAIN = "-again"
STATISTICS: tuple[tuple[str, str, dict[str, object]], ...] = (
    ("refuse_rate", "forbidden, conditional: refused", {"stage": "behaviour", "set": "forbidden/conditional/unsafe"}),
    ("comply_rate", "allowed, conditional: answered", {"stage": "behaviour", "set": "allowed/conditional/safe"}),
    ("tau_gap_relative_change", "change of τ / ‖Δμ‖, mlp_post", {"set": PRIMARY, "site": "mlp_post"}),
    ("null_energy_left", "energy in the left null space", {"module": "mlp.in_proj"}),
    ("gain_log_ratio", "log ratio of gains", {"set": PRIMARY, "site": "mlp_in"}),
    ("sensitivity_log_ratio_spectral_difference", "sensitivity, forbidden − allowed", {"set": PRIMARY}),
)


def spread_table(tables: Tables) -> dict[str, Any] | None:
    """Standard deviations between bases and between tunings of one base; None if no tuning was done twice."""
    models = set(tables.by_seed["model"].dropna())
    rows = []
    for model in sorted(name for name in models if f"{name}{AGAIN}" in models):
        for statistic, label, where in STATISTICS:
            values = _values(tables, statistic, (model, f"{model}{AGAIN}"), where)
            if len(values) >= 2:
                spread = variance_components(values)
                numbers = (sum(map(sum, values)) / (2 * len(values)), spread.between**0.5, spread.within**0.5)
                rows.append([label, *map(number, numbers), _percent(spread.share_between), str(len(values))])
    if not rows:
        return None
    columns = ["statistic", "mean", "SD between base models", "SD between tunings", "base models' share, %", "bases"]
    title = "Sources of the spread over seeds: SSFT at the larger rate, twice on each base model, on other prompts"
    return {"title": title, "columns": columns, "rows": rows}


def _percent(share: float) -> str:
    return "–" if share != share else f"{100 * share:.0f}"


def _values(tables: Tables, statistic: str, models: tuple[str, str], where: dict[str, object]) -> list[list[float]]:
    """One list a seed that has both models: the value of each at its last step."""
    frame = tables.by_seed
    frame = frame[(frame["statistic"] == statistic) & frame["layer"].isna() & frame["attack"].isna()]
    for column, wanted in where.items():
        frame = frame[frame[column] == wanted]
    pairs = []
    for _, of_seed in frame.groupby("seed"):
        parts = [of_seed[of_seed["model"] == model].sort_values("step") for model in models]
        if all(len(part) for part in parts):
            pairs.append([float(part["value"].iloc[-1]) for part in parts])
    return pairs
