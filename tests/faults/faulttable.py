"""The tables of docs/reliability.md."""

from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

BEGIN, END = "<!-- begin: make faults -->", "<!-- end: make faults -->"
MATRICES = (
    ("Struck while a stage of this kind was made", "stage", ("kill", "term", "ctrl-c", "worker", "scheduler")),
    ("A file of this kind was damaged", "file", ("flip", "truncate")),
)


class Round(Protocol):
    """What the tables need of a result."""

    @property
    def fault(self) -> str: ...

    @property
    def title(self) -> str: ...

    @property
    def subject(self) -> str: ...

    @property
    def ending(self) -> str: ...

    @property
    def passed(self) -> bool | None: ...


def replace_table(page: Path, results: Sequence[Round], rounds: int, seed: str) -> None:
    """Writes the tables between the two marks of a page. ValueError if it does not have them."""
    text = page.read_text(encoding="utf-8")
    if BEGIN not in text or END not in text:
        raise ValueError(f"{page} has no lines {BEGIN} and {END}")
    head, tail = text.partition(BEGIN)[0], text.partition(END)[2]
    page.write_text(f"{head}{BEGIN}\n{tables(results, rounds, seed)}{END}{tail}", encoding="utf-8")


def tables(results: Sequence[Round], rounds: int, seed: str) -> str:
    """All tables as Markdown."""
    passed = sum(result.passed is True for result in results)
    tried = sum(result.passed is not None for result in results)
    lines = [f"`make faults ROUNDS={rounds} SEED={seed}`: {passed} of {tried} rounds ended with the same hashes.", ""]
    in_matrices: set[str] = set()
    for title, head, faults in MATRICES:
        in_matrices.update(faults)
        lines += _matrix(title, head, [result for result in results if result.fault in faults], faults)
    rest = [result for result in results if result.fault not in in_matrices]
    if rest:
        lines += ["| other faults | rounds | same hashes | how |", "|---|---|---|---|"]
        for name in dict.fromkeys(result.fault for result in rest):
            lines.append(_row([result for result in rest if result.fault == name]))
        lines.append("")
    return "\n".join(lines)


def _matrix(title: str, head: str, results: Sequence[Round], faults: Sequence[str]) -> list[str]:
    if not results:
        return []
    titles = {result.fault: result.title for result in results}
    columns = [fault for fault in faults if fault in titles]
    cells: dict[tuple[str, str], list[Round]] = defaultdict(list)
    for result in results:
        cells[result.subject, result.fault].append(result)
    lines = [f"{title}: rounds with the same hashes, of rounds.", ""]
    lines += [f"| {head} | " + " | ".join(titles[fault] for fault in columns) + " |", "|---" * (len(columns) + 1) + "|"]
    for subject in dict.fromkeys(result.subject for result in results):
        shown = [_share(cells[subject, fault]) for fault in columns]
        lines.append(f"| {subject} | " + " | ".join(shown) + " |")
    hows = [_how([result for result in results if result.fault == fault]) for fault in columns]
    return [*lines, "| *how* | " + " | ".join(hows) + " |", ""]


def _row(results: Sequence[Round]) -> str:
    tried = [result for result in results if result.passed is not None]
    if not tried:
        return f"| {results[0].title} | 0 | | not tried: {results[0].ending} |"
    good = sum(result.passed is True for result in tried)
    return f"| {results[0].title} | {len(tried)} | {good} | {_how(tried)} |"


def _share(results: Sequence[Round]) -> str:
    return f"{sum(result.passed is True for result in results)} of {len(results)}" if results else ""


def _how(results: Sequence[Round]) -> str:
    endings = Counter(result.ending for result in results if result.passed)
    if len(endings) == 1:
        return next(iter(endings))
    return "; ".join(f"{count}: {ending}" for ending, count in endings.most_common())
