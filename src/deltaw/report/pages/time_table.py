"""Where the time of a study went."""

from collections.abc import Mapping
from typing import Any

_STAGES = {
    "world": "world: Bayes ceiling",
    "base": "base model",
    "reference": "log-probabilities of the base model",
    "tune": "tuning",
    "behaviour": "behaviour and attacks",
    "analysis": "analyses",
    "samples": "decoded prompts",
}


def cost_table(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """Seconds by kind of stage, and of every stage."""
    stages = manifest.get("stages") or []
    total = sum(stage.get("seconds") or 0.0 for stage in stages) or 1.0
    kinds: dict[str, list[float]] = {}
    for stage in stages:
        kind = str(stage.get("name", "")).partition("-")[0]
        kinds.setdefault(_STAGES.get(kind, kind), []).append(float(stage.get("seconds") or 0.0))
    counted = ((name, len(times), sum(times)) for name, times in kinds.items())
    by_kind = [
        {"name": name, "count": count, "time": duration(spent), "share": f"{100 * spent / total:.1f}"}
        for name, count, spent in sorted(counted, key=lambda kind: -kind[2])
    ]
    rows = []
    for stage in stages:
        reused = "yes" if stage.get("reused") else "no"
        rows.append(
            [str(stage.get("name")), duration(stage.get("seconds")), bytes_text(stage.get("peak_bytes")), reused]
        )
    seconds = manifest.get("seconds") or {}
    workers = (manifest.get("engine") or {}).get("workers", "?")
    summary = f"All stages together took {duration(seconds.get('all_stages'))} of work"
    if "pooled" in manifest:
        summary += f", in {len(manifest['pooled'])} runs."
    else:
        summary += (
            f"; the call that wrote this page took {duration(seconds.get('this_call'))} (workers: {workers}), without "
            "the stages it found already made."
        )
    columns = ["stage", "time", "peak memory", "found already made"]
    return {"kinds": by_kind, "summary": summary, "stages": {"title": "Every stage", "columns": columns, "rows": rows}}


def duration(seconds: float | None) -> str:
    """Seconds in words: 4.2 s, 3 min 05 s, 1 h 02 min."""
    if seconds is None:
        return "–"
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def bytes_text(count: float | None) -> str:
    """Bytes in MiB."""
    return f"{count / 2**20:.0f} MiB" if count else ""
