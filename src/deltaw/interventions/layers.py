"""Which layers carry the behaviour: a game whose players are parts of the model.

Players are the blocks and, as one more, the `ends`: embeddings, final norm and unembedding. A coalition S plays the
model whose parts in S are tuned and whose others are the base's; its value v(S) is any number that behaviour gives,
such as the share of forbidden prompts refused. From the values of all 2^n coalitions:

    only one         v({i}) − v(∅)
    leave one out    v(all) − v(all ∖ {i})
    Shapley value    Σ_{S ∌ i} |S|! (n − |S| − 1)! / n! · [v(S ∪ {i}) − v(S)]     (Shapley, 1953)

The first asks what a layer does alone, the second what is lost without it; they disagree where layers need each other
or stand in for each other. The third averages over all orders in which the layers can be added, and its values add up
to v(all) − v(∅). Two layers: `swapped` takes some layers from one tuned model and the rest from another of the same
base.

Which layers carry the behaviour, and can two tunings of one base lend each other layers?

layers               -        Shapley values, only one, leave one out, by `layer` (none: `module` ends)
"""

import math
from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from deltaw.behaviour.exact import Behaviour
from deltaw.errors import DeltawError
from deltaw.interventions.intervention import Intervention
from deltaw.interventions.size import SweepSize
from deltaw.interventions.states import State, chosen, layers_of, names_in
from deltaw.interventions.subject import Subject, player_fields
from deltaw.statistics import FloatArray

ENDS = "ends"
MOST_PLAYERS = 12  # 4,096 coalitions


def players_of(state: State) -> dict[str, frozenset[str]]:
    """Player -> names of its tensors: `layer K` for every block, then `ends`. Together they are all tensors."""
    blocks = {f"layer {layer}": names_in(f"layer {layer}", state) for layer in layers_of(state)}
    inside = frozenset().union(*blocks.values())
    return {**blocks, ENDS: frozenset(state) - inside}


def coalition(base: State, tuned: State, number: int) -> dict[str, Tensor]:
    """The state of a coalition: player i (in the order of `players_of`) is tuned if bit i of `number` is set."""
    players = list(players_of(base).values())
    if not 0 <= number < 2 ** len(players):
        raise DeltawError(
            f"coalition {number} does not exist; {len(players)} players have 0 to {2 ** len(players) - 1}"
        )
    names: set[str] = set()
    for place, own in enumerate(players):
        if number >> place & 1:
            names |= own
    return chosen(base, tuned, names)


def swapped(first: State, second: State, layers: Collection[int]) -> dict[str, Tensor]:
    """The blocks called `layers` from the first model, all else, the ends included, from the second."""
    names = frozenset().union(*(names_in(f"layer {layer}", first) for layer in layers))
    return chosen(second, first, names)


def shapley_values(values: FloatArray) -> FloatArray:
    """(n, ...) Shapley values of n players from values (2^n, ...) of all coalitions, numbered as in `coalition`.

    They add up to values[-1] − values[0]. Linear in the values, so that values of single prompts give theirs.
    """
    values, n = _table(values)
    numbers = np.arange(len(values))
    sizes = np.array([int(number).bit_count() for number in numbers])
    weight = np.array([math.factorial(s) * math.factorial(n - s - 1) / math.factorial(n) for s in range(n)] + [0.0])
    shares = []
    for player in range(n):
        without = numbers[(numbers >> player & 1) == 0]
        gained = values[without | 1 << player] - values[without]
        shares.append(np.tensordot(weight[sizes[without]], gained, axes=1))
    return np.array(shares)


def only_one(values: FloatArray) -> FloatArray:
    """(n, ...) what each player does alone: v({i}) − v(∅)."""
    values, n = _table(values)
    return np.asarray(values[[1 << player for player in range(n)]] - values[0])


def leave_one_out(values: FloatArray) -> FloatArray:
    """(n, ...) what is lost without each player: v(all) − v(all ∖ {i})."""
    values, n = _table(values)
    return np.asarray(values[-1] - values[[len(values) - 1 - (1 << player) for player in range(n)]])


def _table(values: FloatArray) -> tuple[FloatArray, int]:
    table = np.asarray(values, dtype=np.float64)
    n = len(table).bit_length() - 1
    if len(table) != 2**n or n < 1:
        raise DeltawError(f"there are {len(table)} values; n players have 2^n coalitions")
    if n > MOST_PLAYERS:
        raise DeltawError(f"there are {n} players; exact values are for at most {MOST_PLAYERS}")
    return table, n


MEASURES = {"shapley": shapley_values, "only_one": only_one, "leave_one_out": leave_one_out}


@dataclass(frozen=True)
class LayerCoalitions(Intervention):
    """Which layers carry the behaviour: Shapley values over all coalitions of tuned and base layers."""

    name = "layers"
    label = "layers"

    def measure(self, subject: Subject) -> None:
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
                for place, (player, of_prompts) in enumerate(zip(players, measured(values), strict=True)):
                    fields = {**player_fields(player), "set": name, "n": len(of_prompts)}
                    view.add(f"{how}_{rate}", *subject.mean(of_prompts, 5, place), **fields)

    def answered(self, size: SweepSize, blocks: int, attacks: int) -> int:
        """Prompts that are answered."""
        return (1 << blocks + 1) * size.both_few
