"""What an intervention needs of a model, beside what observations read: that it can be edited, and answers."""

from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from deltaw.behaviour.exact import Behaviour
from deltaw.interventions.hooks import Edit, Place
from deltaw.interventions.patching import Patch
from deltaw.interventions.states import State
from deltaw.observations.lens import ObservedModel
from deltaw.observations.prompts import Ints, PromptSet


@dataclass(frozen=True, eq=False)
class Responses:
    """Free-running greedy answers to N prompts, judged.

    labels: (N,), values of `Behaviour`: by exact match in the synthetic world, by a judge of plain English.
    tokens: of each answer, without padding.
    """

    labels: Ints
    tokens: tuple[tuple[int, ...], ...]

    def are(self, what: Behaviour) -> NDArray[np.bool_]:
        """(N,) which answers are `what`."""
        return np.asarray(self.labels == int(what))

    def __getitem__(self, rows: slice | Ints) -> "Responses":
        numbers = np.arange(len(self.labels))[rows]
        return Responses(self.labels[rows], tuple(self.tokens[row] for row in numbers.tolist()))


class EditableModel(ObservedModel, Protocol):
    """A model that interventions can edit. Nothing that is edited survives its context."""

    def answers(self, *parts: PromptSet) -> Responses:
        """Its answers to the prompts of all parts, in order, with the edits in force."""

    def lengths(self, prompts: PromptSet) -> Ints:
        """(N,) tokens of each prompt, as the model reads it."""

    def edited(self, state: State) -> "AbstractContextManager[EditableModel]":
        """Within this context, the model that holds `state` and is else the same."""

    def editing(self, edits: Mapping[Place, Edit]) -> AbstractContextManager[None]:
        """Within this context, this model goes on with the edited activations."""

    def patched(self, target: PromptSet, source: PromptSet, patch: Patch) -> Responses:
        """Its answers to `target`, judged as such, where its update reads `source`, row by row.

        DeltawError if there are not as many sources, or all positions are patched and lengths differ.
        """


def picked(prompts: PromptSet, rows: Ints) -> PromptSet:
    """The prompts of some rows, in their order."""
    if isinstance(prompts, list | tuple):
        return [prompts[row] for row in rows.tolist()]
    return prompts[rows]
