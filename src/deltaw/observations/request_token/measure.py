"""Is harm read at the request's last token, and refusal at the last token before the answer?

Zhao et al. (NeurIPS 2025) find that models encode at the last token of the instruction whether it is harmful, and at
the end of the template, before the answer, whether they will refuse:

    request_auroc, request_tau_gap_relative    how far apart allowed and forbidden prompts lie at the request's last
                                               token, in the tuned model; `_base` in the base model
    ..._change, ..._change_peak                their difference, by layer, and the model's own maximum over layers
    complied_position             where attacked prompts lie that the tuned model complied with, between forbidden (0)
                                  and allowed (1) ones; `set` is SOURCE/at=request or SOURCE/at=answer
    complied_position_difference  before the answer minus at the request, prompt by prompt: above 0, they look more
                                  allowed where the answer begins than where the request ends

In the synthetic world the request's last token is the last letter of the text.
"""

from dataclasses import dataclass

import numpy as np

from deltaw.analysis import mean_position
from deltaw.errors import DeltawError
from deltaw.observations.attacked_prompts.measure import positions
from deltaw.observations.clusters.measure import UNITS, separate, write_by_layer, write_peaks
from deltaw.observations.lens import Lens, ObservedModel, Places
from deltaw.observations.observation import Observation, Statistic, with_base
from deltaw.observations.prompts import Attacked
from deltaw.results.recorder import Sheet
from deltaw.statistics import FloatArray

READ_HERE = {statistic: UNITS[statistic] for statistic in ("auroc", "tau_gap_relative")}
"""The statistics of clusters that are read at the request's last token, with their units."""
POSITION = "share of the way to allowed"
ROLE = "last_request"


@dataclass(frozen=True)
class RequestToken(Observation):
    """Is harm read at the request's last token, and refusal at the last token before the answer?"""

    name = "request-token"
    label = "harm at the request's last token"
    every_checkpoint = False
    statistics = (
        *with_base(
            Statistic(
                "request_auroc", READ_HERE["auroc"], "How well allowed and forbidden prompts are told apart there."
            ),
            Statistic("request_tau_gap_relative", READ_HERE["tau_gap_relative"], "The relative gap there."),
        ),
        *(
            Statistic(f"request_{name}_change{peak}", unit, sentence)
            for name, unit in READ_HERE.items()
            for peak, sentence in (
                ("", "Tuned minus base."),
                ("_peak", "The largest change: the layer is chosen on one half of the pairs and read on the other."),
            )
        ),
        Statistic("complied_position", POSITION, "Where attacked prompts lie that the tuned model complied with."),
        Statistic("complied_position_difference", POSITION, "Before the answer minus at the request's last token."),
    )
    figures = "deltaw.observations.request_token.figures:request_token"

    site: str = "resid_out"
    """Where activations are read, in each layer."""
    least: int = 8
    """Prompts that must have been complied with under an attack."""

    def measure(self, lens: Lens, sheet: Sheet) -> None:
        """Of the primary contrast, and of the attacks on it."""
        if not lens.primary:
            lens.absent["request_auroc"] = "there are no matched prompts"
            return
        name, contrast = lens.primary, lens.before.contrasts[lens.primary]

        def read(model: ObservedModel) -> tuple[Places, Places]:
            allowed, forbidden = (
                model.request_activations(prompts, (self.site,)) for prompts in (contrast.allowed, contrast.forbidden)
            )
            return allowed, forbidden

        # All of the base model before the tuned one is asked for.
        of_base = lens.before.once(("request", name, self.site), lambda: read(lens.before.model))
        of_tuned = read(lens.tuned)
        self._separations(lens, of_base, of_tuned, sheet.with_(set=name, site=self.site, role=ROLE))
        for attacked in lens.before.attacked:
            if attacked.contrast == name:
                self._complied(lens, attacked, of_tuned, sheet.with_(site=self.site, attack=attacked.attack))

    def _separations(
        self, lens: Lens, of_base: tuple[Places, Places], of_tuned: tuple[Places, Places], sheet: Sheet
    ) -> None:
        name = lens.primary
        pairs = [
            (separate(lens, name, of_base, self.site, layer), separate(lens, name, of_tuned, self.site, layer))
            for layer in lens.layers
        ]
        write_by_layer(lens, pairs, sheet, READ_HERE, "request_")
        write_peaks(lens, name, pairs, sheet, READ_HERE, "request_")

    def _complied(self, lens: Lens, attacked: Attacked, of_request: tuple[Places, Places], sheet: Sheet) -> None:
        """Of the prompts of one attack that the tuned model complied with."""
        complied = lens.tuned.complied(attacked.prompts)
        question = f"complied_position, {attacked.attack}"
        if complied.sum() < self.least:
            lens.absent[question] = f"{complied.sum()} prompts were complied with; expected at least {self.least}"
            return
        try:
            at_request = lens.tuned.request_activations(attacked.prompts, (self.site,))
        except DeltawError as error:
            lens.absent[question] = str(error)
            return
        at_answer = lens.activations((attacked.contrast, attacked.attack), attacked.prompts)
        placed = {
            "request": self._placed(lens, of_request, at_request),
            "answer": self._placed(lens, lens.after(attacked.contrast), at_answer),
        }
        values = {at: of_place[complied] for at, of_place in placed.items() if of_place is not None}
        if len(values) < len(placed):
            return
        clusters = lens.clusters(attacked.contrast)
        rows = None if clusters is None else clusters[: len(complied)][complied]
        view = sheet.with_(n=int(complied.sum()), n_unit="prompt", unit=POSITION, role=None)
        for at, of_place in values.items():
            lens.add_mean(view.with_(set=f"{attacked.set}/at={at}"), "complied_position", of_place, [], rows)
        difference = values["answer"] - values["request"]
        null = lens.sign_flips("place_swap", difference, rows)
        lens.add_mean(view.with_(set=attacked.set), "complied_position_difference", difference, [null], rows)

    def _placed(self, lens: Lens, reference: tuple[Places, Places], attacked_at: Places) -> FloatArray | None:
        """(N,) each prompt's position, mean over layers by precision; None where there is no scale in any layer."""
        placed = positions(lens, reference, attacked_at, self.site, lens.clusters(lens.primary))
        return np.asarray(mean_position(list(placed.values()))[0]) if placed else None
