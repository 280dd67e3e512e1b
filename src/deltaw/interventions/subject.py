"""What every intervention is given: a lens, the prompts that edited models are asked, and where to write.

An edited model always answers allowed and forbidden prompts alike, so that every intervention says what became of
safety, of capability and of over-refusal. Draws behind a null answer the first of the same prompts.

Rates (`comply_rate`, `refuse_rate`, `neither_rate`, and `as_tuned_rate`: the whole answer is the tuned model's own) are
of free-running answers. Lines are of stage `intervention`; their fields `intervention` and `dose` say what was done,
and how much of it.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, cast

import numpy as np
import torch

from deltaw.behaviour.exact import Behaviour
from deltaw.errors import DeltawError
from deltaw.interventions.editable import EditableModel, Responses
from deltaw.interventions.size import HELD_OUT, SweepSize
from deltaw.interventions.states import State
from deltaw.observations.draws import Draw
from deltaw.observations.lens import Lens
from deltaw.observations.prompts import PromptSet
from deltaw.results.recorder import Sheet
from deltaw.statistics import FloatArray, Interval, Null, bootstrap_means, from_draws, percentile_interval, wilson
from deltaw.world import Key

STAGE = "intervention"
RATES: Mapping[str, Behaviour] = {
    "comply_rate": Behaviour.COMPLY,
    "refuse_rate": Behaviour.REFUSE,
    "neither_rate": Behaviour.NEITHER,
}


def refusals(prompts: PromptSet) -> None:
    """What a safety tuning teaches in place of complying: refusals, whatever their words."""


@dataclass(frozen=True, eq=False)
class Asked:
    """The prompts of an intervention."""

    allowed: str
    """The name of a set of allowed prompts."""
    forbidden: str
    """The name of a set of forbidden prompts, as many."""
    sets: Mapping[str, PromptSet]
    """These two, and others that are asked along α only."""
    behind_means: Callable[[], tuple[PromptSet, PromptSet]] | None = None
    """(allowed, forbidden) prompts behind a difference in means, none of them in `sets`; None: there are none."""
    taught: Callable[[PromptSet], tuple[tuple[int, ...], ...] | None] = refusals
    """Of prompts, the answers that tuning teaches in place of complying; None: refusals."""

    def __post_init__(self) -> None:
        counts = [len(self.sets[name]) for name in (self.allowed, self.forbidden)]
        if not 0 < counts[0] == counts[1]:
            raise DeltawError(
                f"there are {counts[0]} allowed and {counts[1]} forbidden prompts; interventions need as many of "
                "each, and at least one"
            )


@dataclass(frozen=True, eq=False)
class Panel:
    """Prompts of several sets, answered together."""

    sets: Mapping[str, PromptSet]

    @property
    def rows(self) -> dict[str, slice]:
        """Of each set."""
        rows, start = {}, 0
        for name, prompts in self.sets.items():
            rows[name] = slice(start, start + len(prompts))
            start += len(prompts)
        return rows


@dataclass(frozen=True, eq=False)
class Answered:
    """A model's answers to a panel."""

    panel: Panel
    responses: Responses

    def of(self, name: str) -> Responses:
        """The answers to a set."""
        return self.responses[self.panel.rows[name]]

    def are(self, name: str, what: Behaviour) -> FloatArray:
        """(n,) 1.0 where an answer to the set is `what`."""
        return self.of(name).are(what).astype(np.float64)

    def equal(self, name: str, other: "Answered") -> FloatArray:
        """(n,) 1.0 where the whole answer to the set is the other model's."""
        pairs = zip(self.of(name).tokens, other.of(name).tokens, strict=True)
        return np.array([float(mine == theirs) for mine, theirs in pairs])


class Subject:
    """A tuned model to be edited, beside its base."""

    def __init__(self, lens: Lens, asked: Asked, size: SweepSize, sheet: Sheet, partner: State | None = None) -> None:
        """sheet: lines without their intervention. partner: another tuning of the same base, whose layers are swapped
        in. The lens's tuned model has to be an `EditableModel`.
        """
        self.lens, self.asked, self.size, self.sheet, self.partner = lens, asked, size, sheet, partner
        self.model = cast(EditableModel, lens.tuned)
        self.base, self.tuned = _on_cpu(lens.before.model.state()), _on_cpu(lens.tuned.state())
        self.allowed, self.forbidden = asked.allowed, asked.forbidden

    def torch_generator(self, name: str) -> torch.Generator:
        """Equal names, equal draws."""
        word, _ = Key(self.lens.before.seed, f"intervention/{name}").words
        return torch.Generator().manual_seed(word >> 1)

    @cached_property
    def whole(self) -> Panel:
        """All sets."""
        return Panel(self.asked.sets)

    @cached_property
    def conditional(self) -> Panel:
        """The allowed and the forbidden set."""
        return self._conditional(slice(None))

    @cached_property
    def few(self) -> Panel:
        """The first of them."""
        return self._conditional(slice(0, self.size.few))

    @cached_property
    def held_out(self) -> Panel:
        """Every other one of them: those that choose nothing."""
        return self._conditional(HELD_OUT)

    def _conditional(self, rows: slice) -> Panel:
        return Panel({name: self.asked.sets[name][rows] for name in (self.allowed, self.forbidden)})

    def answer(self, panel: Panel, state: State | None = None) -> Answered:
        """The answers of the model that holds `state` (None: the tuned one, edits in force included)."""
        if state is None:
            return Answered(panel, self.model.answers(*panel.sets.values()))
        with self.model.edited(state) as edited:
            return Answered(panel, edited.answers(*panel.sets.values()))

    def gets(self, prompts: PromptSet, responses: Responses) -> FloatArray:
        """(n,) 1.0 where an answer is what tuning teaches in place of complying."""
        instead = self.asked.taught(prompts)
        if instead is None:
            return responses.are(Behaviour.REFUSE).astype(np.float64)
        pairs = zip(responses.tokens, instead, strict=True)
        return np.array([float(answer == wanted) for answer, wanted in pairs])

    def taught(self, answered: Answered, name: str) -> FloatArray:
        """`gets` of the answers to a set."""
        return self.gets(answered.panel.sets[name], answered.of(name))

    @cached_property
    def own(self) -> Answered:
        """The tuned model's answers to the conditional sets, unedited."""
        return self.answer(self.conditional)

    @cached_property
    def own_few(self) -> Answered:
        """The same, of the first of them."""
        return self.answer(self.few)

    def first_of(self, answered: Answered) -> Answered:
        """Answers to `conditional`, of the prompts that `few` has."""
        starts = [answered.panel.rows[name].start for name in self.few.sets]
        counts = [len(prompts) for prompts in self.few.sets.values()]
        rows = np.concatenate([np.arange(start, start + n) for start, n in zip(starts, counts, strict=True)])
        return Answered(self.few, answered.responses[rows])

    def mean(self, values: FloatArray, *words: int) -> tuple[float, Interval]:
        """The mean of values (n,), one a prompt, with its bootstrap interval."""
        draws = bootstrap_means([values], self.generator(*words), draws=self.lens.bootstrap)
        return float(values.mean()), percentile_interval(draws[:, 0])

    def generator(self, *words: int) -> np.random.Generator:
        """Equal words, equal draws."""
        return self.lens.generator(Draw.INTERVENTION, *words)

    def add_rates(
        self, answered: Answered, sheet: Sheet, draws: Sequence[Answered] = (), kind: str = "random_split"
    ) -> None:
        """The rates of behaviour on every set. draws: of `few`, and then the rates beside their null are of it too."""
        shown = self.first_of(answered) if draws else answered
        for name in shown.panel.sets:
            for statistic, what in RATES.items():
                nulls = [from_draws(kind, [float(drawn.are(name, what).mean()) for drawn in draws])] if draws else []
                add_share(sheet, statistic, shown.are(name, what), nulls, set=name)

    def add_as_tuned(self, answered: Answered, sheet: Sheet) -> None:
        """On every set, how many answers are exactly what the tuned model answers: behaviour that needs no name."""
        for name in answered.panel.sets:
            add_share(sheet, "as_tuned_rate", answered.equal(name, self.own), set=name)


def add_share(sheet: Sheet, statistic: str, hits: FloatArray, nulls: Sequence[Null] = (), **fields: Any) -> None:
    """The share of hits (n,), values 0 and 1, with its Wilson interval."""
    n, count = len(hits), int(hits.sum())
    sheet.add(statistic, count / n, wilson(count, n), nulls, unit="share", n=n, n_unit="prompt", **fields)


def player_fields(player: str) -> dict[str, Any]:
    """`layer` and `module` of a line about a part of a model: `layer K`, or any other."""
    layer = int(player.removeprefix("layer ")) if player.startswith("layer ") else None
    return {"layer": layer, "module": player if layer is None else f"blocks.{layer}"}


def _on_cpu(state: State) -> dict[str, torch.Tensor]:
    return {name: tensor.detach().cpu() for name, tensor in state.items()}
