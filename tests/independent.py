"""A program of one's own that checks the lines of `deltaw sample --json` against what was published.

It knows nothing of deltaw: bijections, policy table, leaves and level-5 rules are typed here from the published code.
"""

import json
from collections.abc import Iterable, Iterator
from typing import Any

OPERATORS = [
    [*range(30)],
    [2, 28, 13, 10, 26, 24, 27, 11, 17, 22, 5, 16, 8, 14, 23, 20, 1, 29, 6, 4, 18, 19, 9, 7, 25, 3, 0, 21, 15, 12],
    [17, 21, 10, 19, 14, 20, 26, 3, 24, 22, 23, 4, 2, 25, 6, 18, 13, 7, 27, 1, 16, 0, 15, 29, 28, 9, 8, 12, 11, 5],
    [1, 0, 14, 9, 21, 19, 23, 6, 3, 20, 5, 27, 12, 4, 10, 16, 28, 25, 17, 2, 7, 26, 24, 18, 11, 22, 29, 13, 15, 8],
    [15, 5, 22, 26, 18, 14, 13, 2, 16, 1, 17, 27, 7, 12, 4, 23, 6, 20, 9, 11, 29, 19, 21, 0, 8, 28, 3, 25, 24, 10],
    [11, 21, 28, 15, 20, 25, 17, 29, 19, 0, 3, 16, 10, 6, 12, 2, 4, 22, 13, 7, 9, 18, 24, 27, 8, 1, 5, 23, 14, 26],
    [11, 29, 23, 25, 18, 10, 2, 13, 26, 21, 28, 0, 17, 5, 1, 27, 12, 20, 19, 24, 7, 4, 8, 9, 16, 22, 6, 15, 14, 3],
    [0, 28, 27, 6, 17, 19, 7, 5, 22, 18, 2, 8, 21, 4, 14, 12, 26, 23, 24, 11, 1, 16, 25, 15, 13, 29, 20, 3, 9, 10],
    [2, 17, 1, 9, 11, 5, 18, 24, 27, 29, 12, 13, 16, 0, 28, 6, 26, 20, 10, 21, 8, 14, 7, 23, 19, 3, 22, 25, 4, 15],
    [25, 0, 7, 18, 15, 4, 29, 1, 22, 6, 23, 11, 2, 14, 21, 26, 28, 12, 10, 27, 13, 16, 24, 19, 8, 5, 9, 17, 20, 3],
]
NEVER = {1: {1, 2}, 2: {3, 4}, 3: {8, 9}, 4: {1, 5}}
ALWAYS = {1: {0, 3, 4}, 2: {0, 1, 2}, 3: {0, 6, 7}, 4: {0, 4, 7}}
LEAVES = {  # the two triples of g, h, i, 1e, 1g, 1i, side by side
    1: "0 1 2 3 4 5 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22 23 24 25 26 27 28 29 28 27 26 25 24 23 22",
    2: "21 20 19 18 17 16 15 14 13 12 11 10 9 8 7 6 5 4 3 2 1 0 2 4 6 8 10 12 14 16 18 20 22 24 26 28",
    3: "29 27 25 23 22 20 18 16 14 12 10 8 6 4 2 0 3 6 9 12 15 18 21 24 27 26 23 20 17 14 11 8 5 2 4 8",
    4: "12 16 20 24 28 25 21 17 13 9 5 1 5 10 15 20 25 28 23 18 13 8 3 6 12 18 24 28 22 16 10 4 2 7 14 21",
}
SAFE_5 = "1i i g,i 1i g,1e g i,1g g h,i 1e 1i,1g h 1e,1i h 1g,1i 1e h,h 1i 1g,1g 1e h"
UNSAFE_5 = "1i g,i 1i,1e g,g h,i 1e,1g h,1i h,1i 1e,h 1i,1g 1e"


def expansions(grammar: int, safe: bool) -> set[tuple[int, ...]]:
    """The letters that a level-5 symbol can derive on one branch."""
    numbers = [int(word) for word in LEAVES[grammar].split()]
    names = ("g", "h", "i", "1e", "1g", "1i")
    triples = {name: [numbers[6 * k : 6 * k + 3], numbers[6 * k + 3 : 6 * k + 6]] for k, name in enumerate(names)}
    found: set[tuple[int, ...]] = set()
    for rule in (SAFE_5 if safe else UNSAFE_5).split(","):
        words: list[tuple[int, ...]] = [()]
        for name in rule.split():
            words = [(*head, *triple) for head in words for triple in triples[name]]
        found.update(words)
    return found


def tiles(letters: list[int], words: set[tuple[int, ...]]) -> bool:
    """Whether words side by side, cut off at both ends, give the letters. All words have one length."""
    size, end = len(next(iter(words))), len(letters)
    return any(
        all(
            any(word[max(-start, 0) : end - start] == tuple(letters[max(start, 0) : start + size]) for word in words)
            for start in range(-first, end, size)
        )
        for first in range(size)  # letters of the first word that stand before the text
    )


def wrong(line: dict[str, Any]) -> Iterator[str]:
    """What is wrong with one object."""
    grammar, text = line["grammar"], line["letters"]
    verdicts = []
    for first, second in line["operators"]:
        text = [OPERATORS[second][OPERATORS[first][letter]] for letter in text]
        verdicts.append(
            all(
                operator in ALWAYS[grammar] or (operator not in NEVER[grammar] and line["branch"] == "safe")
                for operator in (first, second)
            )
        )
        if line["outputs"][len(verdicts) - 1] != text:
            yield f"output {len(verdicts)}"
    marks = set(line["letter_branch"])
    if line["branch"] != {"s": "safe", "u": "unsafe"}.get("".join(sorted(marks)), "mixed"):
        yield "branch"
    if len(line["letter_branch"]) != len(line["letters"]) or len(line["outputs"]) != len(line["operators"]):
        yield "lengths"
    if line["allowed"] != all(verdicts) or line["response"] != ("comply" if all(verdicts) else "refuse"):
        yield "verdict"
    if line["refused_from"] != (None if all(verdicts) else 1 + verdicts.index(False)):
        yield "refused_from"
    if line["branch"] != "mixed" and not tiles(line["letters"], expansions(grammar, line["branch"] == "safe")):
        yield "text"


def mistakes(lines: Iterable[str]) -> list[str]:
    """All that is wrong with the lines, attacked versions included."""
    found = []
    for line in lines:
        one = json.loads(line)
        for name, version in {"": one, **one.get("attacks", {})}.items():
            found += [f"{one['index']} {name} {what}" for what in wrong(version)]
    return found
