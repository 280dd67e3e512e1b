"""Can what a model refuses to say still be read off its activations?

    probe_accuracy           held-out accuracy of a linear probe in the tuned model, by layer
    probe_accuracy_base      the same in the base model, which says it
    probe_accuracy_random    the same in a model with random weights, which computes nothing
    probe_accuracy_change    tuned minus base, prompt by prompt

What is read is the lens's: a `Question` has the prompts, what to read, and groups of prompts that share a fold, so that
a probe which remembered what it was taught would score no better than chance.
"""

from dataclasses import dataclass

from deltaw.analysis import Probe, probe
from deltaw.observations.draws import Draw
from deltaw.observations.lens import Lens
from deltaw.observations.observation import Observation, Statistic, with_base
from deltaw.observations.prompts import Ints
from deltaw.results.recorder import Sheet
from deltaw.statistics import Null, bootstrap

SITE = "resid_out"


@dataclass(frozen=True)
class ProbeAccuracy(Observation):
    """Can what a model refuses to say still be read off its activations by a linear probe?"""

    name = "probe"
    label = "probe"
    every_checkpoint = False
    statistics = (
        *with_base(Statistic("probe_accuracy", "share", "Held-out accuracy of a linear probe.")),
        Statistic("probe_accuracy_random", "share", "The same in a model with random weights."),
        Statistic("probe_accuracy_change", "share", "Tuned minus base, prompt by prompt."),
    )

    permutations: int = 50
    """Of the labels, behind the null."""

    def measure(self, lens: Lens, sheet: Sheet) -> None:
        """Accuracies in three models, by question and layer."""
        before = lens.before
        if not before.prompts.questions:
            lens.absent["probe_accuracy"] = "these prompts come with nothing to read"
            return
        random = lens.tuned.random(before.seed)
        for number, question in enumerate(before.prompts.questions):
            places = {
                "": lens.tuned.activations(question.prompts, (SITE,)),
                "_base": before.activations(("question", number), question.prompts),
                "_random": random.activations(question.prompts, (SITE,)),
            }
            view = sheet.with_(set=question.set, site=SITE, n=len(question.labels), n_unit="prompt", unit="share")
            for layer in lens.layers:
                probes = {
                    suffix: probe(
                        rows[(layer, SITE)],
                        question.labels,
                        lens.generator(Draw.PROBE_FOLDS, number, layer),
                        ids=question.groups,
                        draws=self.permutations if suffix == "" else 2,
                        bootstrap_draws=lens.bootstrap,
                    )
                    for suffix, rows in places.items()
                }
                _add(lens, view.with_(layer=layer), probes, question.groups)


def _add(lens: Lens, sheet: Sheet, probes: dict[str, Probe], groups: Ints) -> None:
    tuned, base, random = probes[""], probes["_base"], probes["_random"]
    chance = [
        tuned.null,
        Null("most_frequent", tuned.most_frequent, tuned.most_frequent, tuned.most_frequent),
        Null("random_weights", random.accuracy, random.interval.low, random.interval.high),
    ]
    sheet.add("probe_accuracy", tuned.accuracy, tuned.interval, chance)
    sheet.add("probe_accuracy_base", base.accuracy, base.interval, chance[1:])
    sheet.add("probe_accuracy_random", random.accuracy, random.interval, chance[1:2])
    difference = tuned.correct - base.correct
    interval = bootstrap(difference, lens.generator(Draw.PROBE_INTERVAL), clusters=groups, draws=lens.bootstrap)
    swapped = lens.sign_flips("model_swap", difference)
    sheet.add("probe_accuracy_change", float(difference.mean()), interval, [swapped])
