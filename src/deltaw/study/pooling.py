"""Finished runs of one recipe with other seeds, taken as one: the claims are decided anew over the seeds of all.

An undecided claim says how many seeds would decide it; this is how they are added. Nothing is made again, and the runs
stay as they are: the directory made here is a run of its own, whose models lie where they were. Who adds seeds because
a claim was undecided looks at it twice: docs/calibration.md has how often the rule then errs. replication.md beside the
page has the verdict of each run alone, by the same rule: what the first run found, the next could have missed.
"""

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from deltaw.errors import DeltawError
from deltaw.evidence import decide
from deltaw.report import write_report
from deltaw.report.tables import interval
from deltaw.results import (
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
from deltaw.results.store import CLAIMS, MANIFEST, MEASUREMENTS, PROMPTS, measurements_of
from deltaw.study.artifacts import canonical
from deltaw.study.directory import claim_directory

REPLICATION = "replication.md"
_HEAD = """\
# Verdicts of `{recipe}`, run by run and together

Each run's seeds alone and all of them, by the rule as it is now: verdict, value [95 % interval]. Made by `deltaw pool`.

"""
_OF_EACH = ("seeds", "finished", "versions", "processor", "engine", "seconds", "peak_bytes")


def pool(runs: Sequence[Path], out: Path) -> Path:
    """Decide the claims over the seeds of all `runs`, in the directory `out`; returns the path of its report.

    DeltawError if there are fewer than two runs, one is not finished or is a grid, they differ in anything but seeds,
    or two share a seed.
    """
    if len(runs) < 2:
        raise DeltawError("there is nothing to pool; name at least two finished runs of one recipe")
    found = [load(run) for run in runs]
    _check_alike(found)
    seeds = [seed for one in found for seed in one.manifest["seeds"]]
    first = found[0].manifest
    claim_directory(out, {"pooled": first["config"], "seeds": seeds})
    parts, exploratory = [read_measurements(measurements_of(one.path)) for one in found], first["exploratory"]
    lines = [line for part in parts for line in part]
    claims = decide(lines, exploratory)
    write_measurements(out / MEASUREMENTS, lines)
    write_claims(out / CLAIMS, claims)
    alone = [decide(part, exploratory) for part in parts]
    names = [f"seeds {_listed(one.manifest['seeds'])}" for one in found]
    write_text_atomic(out / REPLICATION, _HEAD.format(recipe=first["recipe"]) + replication(names, alone, claims))
    write_jsonl_atomic(out / PROMPTS, [prompt for one in found for prompt in one.prompts])
    write_json_atomic(out / MANIFEST, _manifest(found, seeds, out))
    return write_report(out)


def replication(names: Sequence[str], alone: Sequence[Sequence[Claim]], together: Sequence[Claim]) -> str:
    """How many claims have one verdict in every run and how many are contradicted, then a row a claim, as Markdown.

    alone: by run, as `names`, the same claims in the same order as `together`.
    """
    rows = [[f"`{each[0].id}`", *map(_verdict, each)] for each in zip(*alone, together, strict=True)]
    verdicts = [{claim.verdict for claim in each} for each in zip(*alone, strict=True)]
    alike = sum(len(found) == 1 for found in verdicts)
    against = sum({"holds", "fails"} <= found for found in verdicts)
    counts = f"{alike} have the same verdict in every run; {against} hold in one and fail in another."
    return f"Of {len(rows)} claims {counts}\n\n{markdown_table(('claim', *names, 'together'), rows)}\n"


def _verdict(claim: Claim) -> str:
    if claim.value is None:
        return claim.verdict
    nowhere = float("nan")
    ends = (nowhere, nowhere) if claim.low is None or claim.high is None else (claim.low, claim.high)
    return f"{claim.verdict}, {interval(claim.value, *ends)}"


def _listed(seeds: Sequence[int]) -> str:
    """`101 to 106` where they follow each other."""
    whole = len(seeds) > 2 and list(seeds) == list(range(seeds[0], seeds[-1] + 1))
    return f"{seeds[0]} to {seeds[-1]}" if whole else ", ".join(map(str, seeds))


def _check_alike(found: Sequence[Results]) -> None:
    first, *others = found
    for one in found:
        if not {"config", "seeds", "exploratory"} <= one.manifest.keys():
            raise DeltawError(f"{one.path} is not a study of seeds, which alone can be pooled")
        if one.manifest["config"].get("cells"):
            raise DeltawError(f"{one.path} is a grid; claims are decided on studies of one world")
    wanted = _but_seeds(first)
    for one in others:
        other = _but_seeds(one)
        unlike = [name for name in wanted.keys() | other.keys() if wanted.get(name) != other.get(name)]
        if unlike:
            raise DeltawError(f"{one.path} and {first.path} differ in {', '.join(sorted(unlike))}, not in seeds alone")
    counts = Counter(seed for one in found for seed in one.manifest["seeds"])
    twice = sorted(seed for seed, count in counts.items() if count > 1)
    if twice:
        raise DeltawError(
            f"the seed {twice[0]} is in two of the runs; pool runs whose seeds differ, such as of --seed 0 and --seed 1"
        )


def _but_seeds(one: Results) -> dict[str, str]:
    return {name: canonical(value) for name, value in one.manifest["config"].items() if name != "seeds"}


def _manifest(found: Sequence[Results], seeds: Sequence[int], out: Path) -> dict[str, Any]:
    """The first run's, with what the runs have together; `pooled` has what each had of its own."""
    manifests = [one.manifest for one in found]
    first = manifests[0]
    processors = dict.fromkeys(m["processor"]["name"] for m in manifests)
    return {
        **first,
        "seeds": list(seeds),
        "config": {**first["config"], "seeds": list(seeds)},
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        "processor": {**first["processor"], "name": "; ".join(processors)},
        "seconds": {name: round(sum(m["seconds"][name] for m in manifests), 1) for name in first["seconds"]},
        "peak_bytes": max(m["peak_bytes"] for m in manifests),
        "stages": [{**stage, "path": _seen_from(out, one, stage)} for one in found for stage in one.manifest["stages"]],
        "models": [{**model, "path": _seen_from(out, one, model)} for one in found for model in one.manifest["models"]],
        "pooled": [{name: m[name] for name in _OF_EACH} for m in manifests],
    }


def _seen_from(out: Path, one: Results, entry: Mapping[str, Any]) -> str:
    return os.path.relpath(one.path / entry["path"], out.absolute())
