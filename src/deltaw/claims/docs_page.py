"""The claims as a page, docs/claims.md: what is claimed, how it is answered, and how many seeds that takes.

Nothing is written by hand: the statements are `statements`, the rule is `decision`. Re-make the page with

    python -m deltaw.claims.docs_page --docs docs
"""

from collections.abc import Iterable, Sequence
from pathlib import Path

import tyro

from deltaw.claims.decision import planned_seeds, word_power
from deltaw.claims.statements import ATTACKS, CONTRASTS, PROTOCOLS, STATEMENTS, Statement
from deltaw.errors import mistakes_said
from deltaw.results import markdown_table, write_text_atomic

SEEDS = 8
"""What the run that decides has at the least."""

_HEAD = """\
# The claims

Made from [statements.py](../src/deltaw/claims/statements.py) by `make ledger`; a test fails if the two differ. What is
here is written down before the seeds that decide it are run. The history of that file is the proof.

Each claim is a number of each seed: a base model of its own, with all that is tuned from it. It answers **three
questions, each for itself**. There is no total.

1. **Seen?** Is the paper's statement true of the tuned model beside the base model (or beside its reference value)?
2. **More than shape?** Is it more than the update's own size and shape give? Asked only where the null has a mean of
   its own. A null that is symmetric about zero repeats the first question, and is only drawn.
3. **More than a harmless tuning?** Two answers: beside the same protocol's own `other`, which teaches another answer
   that depends on the text, and beside its own `constant`, which teaches one harmless answer to all forbidden prompts.
   *About safety* needs "more" in both. "More" than `other` and "same" as `constant` reads *about giving one answer*.

**Words.** Each question is about one difference a seed, on the claim's scale, with Student's t intervals over seeds.

| word | when |
|---|---|
| same (of question 1: absent) | the 90 % interval lies inside ± the margin; this goes before the others |
| more (seen) | the 95 % interval lies above zero, the mean is at least the smallest effect, p after Holm at most 0.05 |
| less (opposite) | the same, mirrored |
| unclear | all else; it says how many seeds would decide |

Holm's correction is over the primary claims, question by question. "Same" is not corrected: it says of one difference
that it is small, and of twenty differences as large as their margin one would be called so. A word is offered only if
its power is at least 0.8 at the planned spread: "same" at a true difference of zero, "more" at twice the smallest
effect. One seed explores: it has numbers and no words. How often each word is wrong: [calibration](calibration.md).

**Layers.** The curve over layers is the result. The primary number is each model's own maximum over layers: the layer
is chosen on one half of the prompt pairs and read on the other, and the other way round, for controls and nulls alike.
Any fixed layer decides the sign by itself ([log](log.md)).

**Two contrasts.** {contrasts}.
The first is the paper's; the second is ours, and harder: only the text tells what is forbidden.

**In situ.** Activations are the tuned model's, at its own inputs, as the paper reads them.
"""
_PLAN = """
Margins equal the smallest effects. *spread*: standard deviation between seeds that the plan reckons with, from 18 seeds
of the small world, which were looked at before. *power*: of "more" at twice the smallest effect, after Holm's first
step, and of "same" at zero, with {seeds} seeds. *seeds*: the fewest with which both are offered. *shape*: the null with
a mean of its own.

## The second table

Ours, or the paper's statement read in another way, asked of each protocol or of each attack ({attacks}). It has no part
in Holm's correction.
"""


def page(statements: Sequence[Statement] = STATEMENTS) -> str:
    """The whole page as Markdown."""
    contrasts = ";\n".join(f"*by {name}*: {told}" for name, (_, told) in CONTRASTS.items())
    first = [statement for statement in statements if statement.primary]
    second = [statement for statement in statements if not statement.primary]
    return "\n".join(
        [
            _HEAD.format(contrasts=contrasts),
            f"## The primary table\n\nEach row is asked of {', '.join(PROTOCOLS.values())}: {len(first)} claims.\n",
            _primary(first),
            _PLAN.format(seeds=SEEDS, attacks=", ".join(ATTACKS)),
            _second(second),
            "",
        ]
    )


def families(statements: Iterable[Statement]) -> dict[str, list[Statement]]:
    """Statements that are asked of each protocol or attack alike, by their common name."""
    groups: dict[str, list[Statement]] = {}
    for statement in statements:
        family, _, last = statement.id.rpartition("/")
        groups.setdefault(family if last in (*PROTOCOLS, *ATTACKS) else statement.id, []).append(statement)
    return groups


def _primary(statements: Sequence[Statement]) -> str:
    rows = []
    for family, (statement, *_) in families(statements).items():
        more, same = word_power(statement, SEEDS)
        rows.append(
            (
                str(statement.observation),
                f"`{family}`",
                f"`{statement.query.statistic}`: {statement.site}",
                _side(statement),
                f"{statement.smallest_effect:.2g}",
                f"{statement.spread:g}",
                f"{more:.2f}, {same:.2f}",
                str(planned_seeds(statement) or "over 64"),
                f"`{statement.shape}`" if statement.shape else "–",
            )
        )
    columns = ("", "claim", "statistic and site", "side", "smallest effect", "spread", "power", "seeds", "shape")
    return markdown_table(columns, rows)


def _second(statements: Sequence[Statement]) -> str:
    rows = []
    for family, (statement, *_) in families(statements).items():
        text = statement.text
        for name in PROTOCOLS.values():
            text = text.replace(f"{name}'s", "the").replace(name, "tuning")
        text = text.replace(ATTACKS[0], "an attack")
        controls = ", ".join(f"`{name}`" for name in statement.controls) or statement.uncontrolled
        rows.append(
            (
                str(statement.observation),
                f"`{family}`",
                text[0].upper() + text[1:],
                f"`{statement.query.statistic}`",
                f"{_side(statement)}, {statement.smallest_effect:.2g}",
                controls,
            )
        )
    return markdown_table(("", "claim", "in words", "statistic", "side, smallest effect", "controls"), rows)


def _side(statement: Statement) -> str:
    side = "above" if statement.direction == "greater" else "below"
    scale = "" if statement.scale == "identity" else f" ({statement.scale})"
    return f"{side} {statement.reference:g}{scale}"


def write(docs: Path) -> None:
    """Write claims.md into `docs`."""
    write_text_atomic(docs / "claims.md", page())


if __name__ == "__main__":
    with mistakes_said():
        tyro.cli(write)
