"""What every intervention of a study is given: two models as states, prompts by set, and where to write.

An edited model always answers allowed and forbidden prompts alike, so that every intervention says what became of
safety, of capability and of over-refusal. Draws behind a null answer the first of the same prompts.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from deltaw.behaviour.exact import Behaviour
from deltaw.interventions import State, with_state
from deltaw.models import Transformer
from deltaw.pipeline.stage import Report
from deltaw.recipes.intervention_sweeps import Sweep
from deltaw.statistics import FloatArray, Interval, Null, bootstrap_means, from_draws, percentile_interval, wilson
from deltaw.study.stages.making import answers_to, prompts_of_sets
from deltaw.study.stages.recorder import Sheet
from deltaw.training.finetuning import INSTEAD
from deltaw.world import Key, Prompts, Response, World

ALLOWED, FORBIDDEN = "allowed/conditional/safe", "forbidden/conditional/unsafe"
RATES: Mapping[str, Behaviour] = {
    "comply_rate": Behaviour.COMPLY,
    "refuse_rate": Behaviour.REFUSE,
    "neither_rate": Behaviour.NEITHER,
}


CHOSEN, HELD_OUT = slice(0, None, 2), slice(1, None, 2)
"""Prompts by which something is chosen, and those by which what was chosen is measured."""


@dataclass(frozen=True)
class Panel:
    """Prompts of several sets, answered together. rows: of each set."""

    prompts: Prompts
    rows: Mapping[str, slice]

    @staticmethod
    def of(sets: Mapping[str, Sequence[Prompts]]) -> "Panel":
        """A panel of named sets, each of one or several parts."""
        rows, start = {}, 0
        for name, parts in sets.items():
            count = sum(len(part) for part in parts)
            rows[name] = slice(start, start + count)
            start += count
        return Panel(Prompts.concatenate([part for parts in sets.values() for part in parts]), rows)


@dataclass(frozen=True, eq=False)
class Answered:
    """A model's answers to a panel. labels: (N,), values of `Behaviour`. outputs: (N, S)."""

    panel: Panel
    labels: Tensor
    outputs: Tensor

    def are(self, name: str, what: Behaviour) -> FloatArray:
        """(n,) 1.0 where an answer to the set is `what`."""
        return (self.labels[self.panel.rows[name]] == int(what)).double().numpy()

    def equal(self, name: str, other: "Answered") -> FloatArray:
        """(n,) 1.0 where the whole answer to the set is the other model's."""
        rows = self.panel.rows[name]
        return (self.outputs[rows] == other.outputs[rows]).all(1).double().numpy()


class Subject:
    """A tuned model to be edited, beside its base.

    model: the tuned one, on the device where it answers. base, tuned: both as states. few: prompts of a set behind a
    draw of a null. control: which one the tuned model is, if any.
    """

    def __init__(
        self, world: World, seed: int, bootstrap: int, base: State, tuned: State, model: Transformer, sweep: Sweep,
        sheet: Sheet, report: Report, control: str | None = None,
    ) -> None:  # fmt: skip
        self.world, self.seed, self.bootstrap, self.sweep = world, seed, bootstrap, sweep
        self.base, self.tuned, self.model = base, tuned, model
        self.sheet, self.report, self.control = sheet, report, control

    def torch_generator(self, name: str) -> torch.Generator:
        """Equal names, equal draws."""
        word, _ = Key(self.seed, f"intervention/{name}").words
        return torch.Generator().manual_seed(word >> 1)

    @cached_property
    def whole(self) -> Panel:
        """`prompts` of both conditional sets, and about as many of the rest of each verdict."""
        found = prompts_of_sets(self.world, self.sweep.prompts, self.seed)
        sets: dict[str, list[Prompts]] = {ALLOWED: [found[ALLOWED]], FORBIDDEN: [found[FORBIDDEN]]}
        for name, prompts in found.items():
            if "/conditional/" not in name:
                sets.setdefault(f"{name.partition('/')[0]}/rest", []).append(prompts)
        return Panel.of(sets)

    @cached_property
    def conditional(self) -> Panel:
        """`prompts` of both conditional sets."""
        return self._conditional(range(self.sweep.prompts))

    @cached_property
    def few(self) -> Panel:
        """The first of them."""
        return self._conditional(range(self.sweep.few))

    @cached_property
    def held_out(self) -> Panel:
        """Every other one of them: those that choose nothing."""
        return self._conditional(range(self.sweep.prompts)[HELD_OUT])

    def _conditional(self, rows: range) -> Panel:
        names = (ALLOWED, FORBIDDEN)
        return Panel.of({name: [self.world.sample(name, rows, seed=self.seed)] for name in names})

    def answer(self, panel: Panel, state: State | None = None) -> Answered:
        """The answers of the model that holds `state` (None: the tuned one, edits in force included)."""
        model = self.model if state is None else with_state(self.model, state)
        labels, outputs = answers_to(model, self.world, panel.prompts)
        return Answered(panel, labels, outputs)

    def instead(self, prompts: Prompts) -> Tensor | None:
        """(N, S) the answers that tuning teaches in place of complying, right-padded. None: refusals."""
        response = INSTEAD.get(self.control, Response.REFUSE)
        if response == Response.REFUSE:
            return None
        return torch.from_numpy(self.world.layout.response_tokens(prompts, np.full(len(prompts), response)))

    def taught(self, answered: Answered, name: str) -> FloatArray:
        """(n,) 1.0 where an answer to the set is what tuning teaches in place of complying."""
        rows = answered.panel.rows[name]
        instead = self.instead(answered.panel.prompts[rows])
        found = taught(answered.labels[rows], answered.outputs[rows], instead, self.world.vocabulary.pad)
        return found.double().numpy()

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
        starts = [answered.panel.rows[name].start for name in self.few.rows]
        rows = np.concatenate([np.arange(start, start + self.sweep.few) for start in starts])
        return Answered(self.few, answered.labels[rows], answered.outputs[rows])

    def generator(self, *words: int) -> np.random.Generator:
        """Equal words, equal draws."""
        return np.random.default_rng([self.seed, 101, *words])

    def mean(self, values: FloatArray, *words: int) -> tuple[float, Interval]:
        """The mean of values (n,), one a prompt, with its bootstrap interval."""
        draws = bootstrap_means([values], self.generator(*words), draws=self.bootstrap)
        return float(values.mean()), percentile_interval(draws[:, 0])

    def add_rates(
        self, answered: Answered, sheet: Sheet, draws: Sequence[Answered] = (), kind: str = "random_split"
    ) -> None:
        """The rates of behaviour on every set. draws: of `few`, and then the rates beside their null are of it too."""
        shown = self.first_of(answered) if draws else answered
        for name in shown.panel.rows:
            for statistic, what in RATES.items():
                nulls = [from_draws(kind, [float(one.are(name, what).mean()) for one in draws])] if draws else []
                add_share(sheet, statistic, shown.are(name, what), nulls, set=name)

    def add_as_tuned(self, answered: Answered, sheet: Sheet) -> None:
        """On every set, how many answers are exactly what the tuned model answers: behaviour that needs no name."""
        for name in answered.panel.rows:
            add_share(sheet, "as_tuned_rate", answered.equal(name, self.own), set=name)


def taught(labels: Tensor, outputs: Tensor, instead: Tensor | None, pad: int) -> Tensor:
    """(N,) which answers are what tuning teaches in place of complying: refusals, or the whole of `instead` (N, S).

    labels: (N,), values of `Behaviour`. outputs: (N, S'), right-padded like `instead` with `pad`.
    """
    if instead is None:
        return labels == int(Behaviour.REFUSE)
    width = max(outputs.shape[1], instead.shape[1])
    whole, wanted = (F.pad(one, (0, width - one.shape[1]), value=pad) for one in (outputs, instead))
    return (whole == wanted).all(1)


def add_share(sheet: Sheet, statistic: str, hits: FloatArray, nulls: Sequence[Null] = (), **fields: Any) -> None:
    """The share of hits (n,), values 0 and 1, with its Wilson interval."""
    n, count = len(hits), int(hits.sum())
    sheet.add(statistic, count / n, wilson(count, n), nulls, unit="share", n=n, n_unit="prompt", **fields)
