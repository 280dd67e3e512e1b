"""Can two tunings of one base lend each other layers?

swap/PARTNER         j        the first j blocks of this model, the rest of the partner
"""

from dataclasses import dataclass

from deltaw.interventions.intervention import Intervention
from deltaw.interventions.layers import swapped
from deltaw.interventions.size import SweepSize
from deltaw.interventions.states import layers_of
from deltaw.interventions.subject import Subject


@dataclass(frozen=True)
class LayerSwaps(Intervention):
    """Layers swapped between two tunings of one base: the first of this model under the rest of a partner."""

    name = "swaps"
    label = "layers swapped"

    def measure(self, subject: Subject) -> None:
        """The first j blocks of this model under the rest of the partner's."""
        if subject.partner is None:
            subject.lens.absent["swaps"] = "there is no other tuning of the same base"
            return
        blocks = layers_of(subject.base)
        for count in range(1, len(blocks)):
            answered = subject.answer(subject.conditional, swapped(subject.tuned, subject.partner, blocks[:count]))
            name = f"swap/{subject.size.partner}"
            subject.add_rates(answered, subject.sheet.with_(intervention=name, dose=count, module="whole"))

    def answered(self, size: SweepSize, blocks: int, attacks: int) -> int:
        """Prompts that are answered."""
        return (blocks - 1) * size.conditional if size.partner else 0
