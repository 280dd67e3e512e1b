"""Which layers carry the behaviour, and can two tunings of one base lend each other layers?

layers               -        Shapley values, only one, leave one out, by `layer` (none: `module` ends)
swap/PARTNER         j        the first j blocks of this model, the rest of the partner
"""

import numpy as np

from deltaw.behaviour.exact import Behaviour
from deltaw.interventions.layers import (
    MOST_PLAYERS,
    coalition,
    leave_one_out,
    only_one,
    players_of,
    shapley_values,
    swapped,
)
from deltaw.interventions.states import State, layers_of
from deltaw.interventions.subject import Subject, player_fields
from deltaw.statistics import FloatArray

MEASURES = {"shapley": shapley_values, "only_one": only_one, "leave_one_out": leave_one_out}


def measure_layers(subject: Subject) -> None:
    """Shapley values, only one and leave one out of every block and of the ends, from all coalitions."""
    players = list(players_of(subject.base))
    if len(players) > MOST_PLAYERS:
        subject.lens.absent["layers"] = (
            f"the model has {len(players)} parts, and values of all coalitions are for at most {MOST_PLAYERS}"
        )
        return
    kinds = (
        ("refuse_rate", subject.forbidden, Behaviour.REFUSE),
        ("comply_rate", subject.allowed, Behaviour.COMPLY),
        ("refuse_rate", subject.allowed, Behaviour.REFUSE),
    )
    tables: dict[tuple[str, str], list[FloatArray]] = {(rate, name): [] for rate, name, _ in kinds}
    for number in range(2 ** len(players)):
        answered = subject.answer(subject.few, coalition(subject.base, subject.tuned, number))
        for rate, name, what in kinds:
            tables[rate, name].append(answered.are(name, what))
    view = subject.sheet.with_(intervention="layers", n_unit="prompt", unit="share of prompts")
    for (rate, name), rows in tables.items():
        values = np.array(rows)  # (coalitions, prompts)
        for how, measured in MEASURES.items():
            for place, (player, each) in enumerate(zip(players, measured(values), strict=True)):
                fields = {**player_fields(player), "set": name, "n": len(each)}
                view.add(f"{how}_{rate}", *subject.mean(each, 5, place), **fields)


def measure_swaps(subject: Subject, partner: State) -> None:
    """The first j blocks of this model under the rest of the partner's, a tuning of the same base."""
    blocks = layers_of(subject.base)
    for count in range(1, len(blocks)):
        answered = subject.answer(subject.conditional, swapped(subject.tuned, partner, blocks[:count]))
        name = f"swap/{subject.sweep.partner}"
        subject.add_rates(answered, subject.sheet.with_(intervention=name, dose=count, module="whole"))
