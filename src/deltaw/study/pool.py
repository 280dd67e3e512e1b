"""Finished runs of one recipe with other seeds, taken as one: the claims are decided anew over the seeds of all.

An unclear answer says how many seeds would decide it; this is how they are added. Nothing is made again, and the runs
stay as they are: the directory made here is a run of its own, whose models lie where they were. replication.md beside
the page has each run's own answers, by the same rule. What looking at the first runs before adding seeds costs is in
docs/calibration.md.
"""

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from deltaw.charts.tables import interval
from deltaw.claims import decide
from deltaw.errors import DeltawError
from deltaw.pipeline.run_directory import claim_directory, differences
from deltaw.report import write_report
from deltaw.results import (
    Answer,
    Claim,
    Results,
    load,
    markdown_table,
    read_measurements,
    write_claims,
    write_json_atomic,
    write_jsonl_atomic,
    write_measurements,
    write_text_atomic,
)
from deltaw.results.records import CLAIMS, MANIFEST, MEASUREMENTS, PROMPTS
from deltaw.results.store import measurements_of

REPLICATION = "replication.md"
_HEAD = """\
# Answers of `{recipe}`, run by run and together

Each run's seeds alone and all of them, by the rule as it is now: word, mean difference [95 % interval over seeds]. A
run of one seed has no words. Made by `deltaw pool`.

"""
_OF_EACH = ("seeds", "finished", "code", "versions", "processor", "engine", "seconds", "peak_bytes")
_NEEDED = {"recipe", "config", "seeds", "exploratory", "stages", "models", "seconds", "processor", "peak_bytes"}


def pool(runs: Sequence[Path], out: Path) -> Path:
    """Decide the claims over the seeds of all `runs`, in the directory `out`; returns the path of its report.

    DeltawError if there are fewer than two runs, one is not finished or is a grid, they differ in anything but seeds,
    or two share a seed.
    """
    if len(runs) < 2:
        raise DeltawError("there is nothing to pool; name at least two finished runs of one recipe")
    loaded = [load(run) for run in runs]
    _check_alike(loaded)
    loaded.sort(key=lambda results: results.manifest["seeds"])
    manifest = _manifest(loaded, out)
    claim_directory(out, {"pooled": manifest["config"]})
    parts = [read_measurements(measurements_of(results.path)) for results in loaded]
    lines = [line for part in parts for line in part]
    *alone, together = (decide(measurements, manifest["exploratory"]) for measurements in (*parts, lines))
    names = [_named(results.manifest["seeds"]) for results in loaded]
    head = _HEAD.format(recipe=manifest["recipe"])
    write_measurements(out / MEASUREMENTS, lines)
    write_claims(out / CLAIMS, together)
    write_text_atomic(out / REPLICATION, head + replication(names, alone, together))
    write_jsonl_atomic(out / PROMPTS, [prompt for results in loaded for prompt in results.prompts])
    write_json_atomic(out / MANIFEST, manifest)
    return write_report(out)


def replication(names: Sequence[str], alone: Sequence[Sequence[Claim]], together: Sequence[Claim]) -> str:
    """A row for each question of a claim that every run has measured, as Markdown.

    alone: by run, as `names`, the same claims in the same order as `together`.
    """
    rows = []
    for versions in zip(*alone, together, strict=True):
        by_question = [{answer.question: answer for answer in claim.answers} for claim in versions]
        for question in by_question[-1]:
            cells = [_answer(answers.get(question)) for answers in by_question]
            rows.append([f"`{versions[0].id}`", question, *cells])
    return f"{markdown_table(('claim', 'question', *names, 'together'), rows)}\n"


def _answer(answer: Answer | None) -> str:
    if answer is None or answer.value is None:
        return "–"
    low, high = (float("nan") if end is None else end for end in (answer.low, answer.high))
    numbers = interval(answer.value, low, high)
    return numbers if answer.word is None else f"{answer.word}, {numbers}"


def _named(seeds: Sequence[int]) -> str:
    """`seed 0`, `seeds 101 to 106` where they follow each other, else all of them."""
    consecutive = len(seeds) > 2 and list(seeds) == list(range(seeds[0], seeds[-1] + 1))
    listed = f"{seeds[0]} to {seeds[-1]}" if consecutive else ", ".join(map(str, seeds))
    return f"seed{'s' if len(seeds) > 1 else ''} {listed}"


def _check_alike(loaded: Sequence[Results]) -> None:
    for results in loaded:
        lacking = [name for name in _NEEDED if results.manifest.get(name) is None]
        if lacking or not results.manifest["seeds"] or results.manifest["seconds"].get("all_stages") is None:
            raise DeltawError(f"{results.path} is not a study of seeds, which alone can be pooled")
        if results.manifest["config"].get("cells"):
            raise DeltawError(f"{results.path} is a grid; claims are decided on studies of one world")
    first = loaded[0]
    for results in loaded[1:]:
        if unlike := differences(_but_seeds(first), _but_seeds(results)):
            raise DeltawError(f"{first.path} and {results.path} differ in more than seeds: {unlike}")
    counts = Counter(seed for results in loaded for seed in results.manifest["seeds"])
    repeated = sorted(seed for seed, count in counts.items() if count > 1)
    if repeated:
        raise DeltawError(
            f"the seed {repeated[0]} is in two of the runs; pool runs whose seeds differ, such as of --seed 0 and "
            "--seed 1"
        )


def _but_seeds(results: Results) -> dict[str, Any]:
    """What made the run, seeds apart: its recipe, and the sweep if its interventions were made by one."""
    config = {name: value for name, value in results.manifest["config"].items() if name != "seeds"}
    return {**config, "sweep": results.manifest.get("sweep")}


def _manifest(loaded: Sequence[Results], out: Path) -> dict[str, Any]:
    """What the runs have in common and together; `pooled` has what each has of its own."""
    manifests = [results.manifest for results in loaded]
    seeds = [seed for manifest in manifests for seed in manifest["seeds"]]
    processors = dict.fromkeys(str(manifest["processor"].get("name")) for manifest in manifests)
    common = {name: value for name, value in manifests[0].items() if name not in _OF_EACH}
    return {
        **common,
        "seeds": seeds,
        "config": {**common["config"], "seeds": seeds},
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": manifests[0].get("versions"),
        "processor": {**manifests[0]["processor"], "name": "; ".join(processors)},
        "seconds": {"all_stages": round(sum(manifest["seconds"]["all_stages"] for manifest in manifests), 1)},
        "peak_bytes": max(manifest["peak_bytes"] for manifest in manifests),
        "stages": [_seen_from(out, results, stage) for results in loaded for stage in results.manifest["stages"]],
        "models": [_seen_from(out, results, model) for results in loaded for model in results.manifest["models"]],
        "pooled": [part for results in loaded for part in _parts(results, out)],
    }


def _parts(results: Results, out: Path) -> list[dict[str, Any]]:
    """The run, or the runs that it was pooled from."""
    whole = {"path": ".", **{name: results.manifest.get(name) for name in _OF_EACH}}
    return [_seen_from(out, results, part) for part in results.manifest.get("pooled") or [whole]]


def _seen_from(out: Path, results: Results, entry: Mapping[str, Any]) -> dict[str, Any]:
    """The entry with its path, if it has one, relative to `out`; links are followed, as opening the path would."""
    if entry.get("path") is None:
        return dict(entry)
    return {**entry, "path": os.path.relpath((results.path / entry["path"]).resolve(), out.resolve())}
