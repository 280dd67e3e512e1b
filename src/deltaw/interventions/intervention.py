"""What an intervention is: a tuned model is edited, and asked. To add one, add a file.

    @dataclass(frozen=True)
    class HalfWay(Intervention):
        \"\"\"Half of ΔW, of all parameters.\"\"\"

        name = "half-way"
        label = "half of ΔW"

        def measure(self, subject: Subject) -> None:
            answered = subject.answer(subject.conditional, interpolated(subject.base, subject.tuned, 0.5))
            subject.add_rates(answered, subject.sheet.with_(intervention="half-way", dose=0.5))

        def answered(self, size: SweepSize, blocks: int, attacks: int) -> int:
            return size.conditional

The first line of the docstring is the sentence that lists, `--help` and the report show. A sweep holds the object.
"""

from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

from deltaw.component import Component, plugin_named
from deltaw.interventions.size import SweepSize
from deltaw.interventions.subject import Subject


class Intervention(Component):
    """An edit of a tuned model. Subclasses are frozen dataclasses whose fields are the intervention's options."""

    pairs: int = 0
    """Matched pairs that it reads of the lens's primary contrast, and prompts of each attack on them; 0: none."""
    means: int = 0
    """Prompts of each kind that it wants behind a difference in means, none of which answers; 0: none."""

    @abstractmethod
    def measure(self, subject: Subject) -> None:
        """Ask the edited models and write their rates. What cannot be had goes to `subject.lens.absent`."""

    @abstractmethod
    def answered(self, size: SweepSize, blocks: int, attacks: int) -> int:
        """Prompts that are answered, on a model of so many blocks and under so many attacks on prompts: its cost."""

    def recorded(self) -> dict[str, Any]:
        """What a manifest says of it."""
        return {**self.described(), **self.told()}


def intervene_on(intervention: Intervention, subject: Subject) -> None:
    """Make it. PluginError if one that is not deltaw's own raises an error, or writes what is no number."""
    with plugin_named(intervention, "intervention"):
        intervention.measure(subject)


def measure_interventions(
    interventions: Sequence[Intervention],
    subject: Subject,
    report: Callable[[int, int, str], None] = lambda done, total, part: None,
) -> None:
    """Every one of them, in order."""
    for number, intervention in enumerate(interventions):
        report(number, len(interventions), intervention.name)
        intervene_on(intervention, subject)
    report(len(interventions), len(interventions), "")
