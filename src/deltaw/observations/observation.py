"""What an observation is: something measured of a base and a tuned model, through a lens. To add one, add a file.

    @dataclass(frozen=True)
    class UpdateNorm(Observation):
        \"\"\"How long the update is, layer by layer.\"\"\"

        name = "update-norm"
        label = "length of the update"
        statistics = (Statistic("update_norm", "norm", "‖ΔW‖ of the MLP's first matrix."),)

        def measure(self, lens: Lens, sheet: Sheet) -> None:
            for layer in lens.layers:
                delta, _ = lens.update(layer)
                sheet.add("update_norm", float(delta.norm()), unit="norm", layer=layer)

The first line of the docstring is the sentence that lists, `--help` and the report show. A recipe holds the object.
Figures stand in another module, since the report imports nothing that measures: `figures` names a function there.
"""

from abc import abstractmethod
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

from deltaw.component import Component, plugin_named
from deltaw.observations.lens import Lens
from deltaw.results.recorder import Sheet


@dataclass(frozen=True)
class Statistic:
    """A number that an observation writes."""

    name: str
    """In measurements."""
    unit: str
    """In measurements."""
    sentence: str
    """What it says."""


class Observation(Component):
    """Something that is measured. Subclasses are frozen dataclasses whose fields are the observation's options."""

    statistics: ClassVar[tuple[Statistic, ...]] = ()
    """Everything that it writes."""
    every_checkpoint: ClassVar[bool] = True
    """Whether it is measured at every checkpoint of a tuning, or at the last one only."""
    beside_others: ClassVar[bool] = False
    """Whether a study gives it, in `Lens.others`, the other models that were tuned from the same base."""
    needs_pairs: ClassVar[bool] = True
    """Whether it needs matched prompts; without them, a comparison makes only those that do not."""
    cost: ClassVar[float] = 0.25
    """What it takes at a checkpoint, as a share of all observations of the recipe's own; a dry run adds it up."""
    figures: ClassVar[str] = ""
    """`module:function`: gives a sequence of figures (`charts.figure.Figure`) from the tables of a run
    (`charts.tables.Tables`). The module must import neither PyTorch nor what measures. Empty: the report has a table.
    """

    @abstractmethod
    def measure(self, lens: Lens, sheet: Sheet) -> None:
        """Write what the lens shows. What it cannot say goes to `lens.absent`, with the reason."""

    def recorded(self) -> dict[str, Any]:
        """What a manifest says of it, so that the report need not import it."""
        statistics = [asdict(statistic) for statistic in self.statistics]
        return {**self.told(), "figures": self.figures, "statistics": statistics}


def observe(observation: Observation, lens: Lens, sheet: Sheet) -> None:
    """Measure it. PluginError if one that is not deltaw's own raises an error, or writes what is no number."""
    with plugin_named(observation, "observation"):
        observation.measure(lens, sheet)


def with_base(*statistics: Statistic) -> tuple[Statistic, ...]:
    """The statistics of the tuned model, and the same of the base model, whose names end in `_base`."""
    of_base = (
        Statistic(f"{statistic.name}_base", statistic.unit, f"The same of the base model: {statistic.sentence}")
        for statistic in statistics
    )
    return (*statistics, *of_base)


def names_of(observations: Iterable[Observation]) -> list[str]:
    """What they are called."""
    return [observation.name for observation in observations]
