"""Which part of ΔW makes the model refuse: what it writes inside the column space of W, outside of it, or the rest?

null, column, rest   -        only these parts of the update (joined by +); null and column are those of the first
                              MLP matrices' ΔW, rest is everything else. `base` has none of them

carried_share              Shapley value of null, column and rest for answering forbidden prompts as the tuned model
carried_null_minus_column  that of null minus that of column: the mean, without and with the rest, of what the null
                           part alone achieves minus what the column part alone does. Null: ΔW split by chance
"""

from collections.abc import Mapping, Sequence

import numpy as np
from torch import Tensor

from deltaw.interventions.subject import Answered, Subject
from deltaw.interventions.subspace import Parts, Split, carried, random_split, split_update, with_norm, with_parts
from deltaw.results.recorder import Sheet
from deltaw.statistics import from_draws

SOURCES = ("null", "column", "rest")
ONE_PART = (1, 2, 5, 6)
"""The combinations that have one of the two parts, without and with the rest: those that a random split changes."""


def measure_subspace(subject: Subject) -> None:
    """All eight combinations of ΔW's null-space part, its column-space part and the rest of the update, beside ΔW split
    by chance.
    """
    split = split_update(subject.base, subject.tuned)
    combined = [subject.answer(subject.conditional, _with(subject, split, number)) for number in range(8)]
    drawn = [
        {number: subject.answer(subject.few, _with(subject, random, number)) for number in ONE_PART}
        for random in (random_split(split, subject.torch_generator(f"split/{k}")) for k in range(subject.sweep.draws))
    ]
    view = subject.sheet.with_(module="mlp.in_proj")
    for number, answered in enumerate(combined):
        named_view = view.with_(intervention=named(number))
        draws = [random[number] for random in drawn] if number in ONE_PART else []
        subject.add_rates(answered, named_view, draws)
        subject.add_as_tuned(answered, named_view)
    if subject.sweep.rescaled:
        for number in ONE_PART:
            answered = subject.answer(subject.conditional, _with(subject, _rescaled(split), number))
            subject.add_rates(answered, view.with_(intervention=f"{named(number)}/rescaled"))
    _carried(subject, combined, drawn, view)


def named(number: int) -> str:
    """Which sources a combination has: bit 0 is null, bit 1 column, bit 2 rest."""
    return "+".join(name for place, name in enumerate(SOURCES) if number >> place & 1) or "base"


def _with(subject: Subject, split: Split, number: int) -> dict[str, Tensor]:
    parts = [part for place, part in enumerate((split.null, split.column)) if number >> place & 1]
    return with_parts(subject.base, subject.tuned, parts, rest=bool(number >> 2 & 1))


def _rescaled(split: Split) -> Split:
    """Both parts at the norm of ΔW, layer by layer."""

    def whole(parts: Parts) -> Parts:
        return {k: with_norm(part, float((split.null[k] + split.column[k]).norm())) for k, part in parts.items()}

    return Split(whole(split.null), whole(split.column), split.kept)


def _carried(
    subject: Subject, combined: Sequence[Answered], drawn: Sequence[Mapping[int, Answered]], view: Sheet
) -> None:
    forbidden = subject.forbidden
    values = np.array([answered.equal(forbidden, subject.own) for answered in combined])
    values = values[:, : subject.sweep.few]  # the prompts of the null
    shares, chance = carried(
        values,
        [
            {number: answered.equal(forbidden, subject.own_few) for number, answered in random.items()}
            for random in drawn
        ],
    )
    shared = view.with_(set=forbidden, n=values.shape[1], n_unit="prompt", unit="share of prompts")
    for place, source in enumerate(SOURCES):
        nulls = [from_draws("random_split", chance[:, place])] if source != "rest" else []
        shared.add("carried_share", *subject.mean(shares[place], 3, place), nulls, intervention=source)
    difference = from_draws("random_split", chance[:, 0] - chance[:, 1])
    shared.add("carried_null_minus_column", *subject.mean(shares[0] - shares[1], 4), [difference])
