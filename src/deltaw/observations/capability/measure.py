"""What can the tuned model still do, beside what it refuses?

A model that answers nothing refuses everything harmful, so safety is read beside capability. Both models are asked the
same, and compared text by text and question by question:

    neutral_loss            loss per token on neutral texts; `set` is `neutral`
    right_rate              share of harmless questions that are answered rightly; `set` is `questions`
    question_refuse_rate    share of these questions that are refused

Each also has `_base`, the same of the base model, and `_change`, tuned minus base. A loss is the mean over texts of
−log p / tokens, in nats; its exponential is a perplexity. Where the tokenizers differ, both losses are per token of the
base model's tokenizer, as only the likelihood of a whole text can be compared.

In the synthetic world, texts and questions are the allowed prompts of the primary contrast: the loss is that of their
compliant answers, and the right answer is the whole compliant one.
"""

from dataclasses import dataclass

import numpy as np

from deltaw.behaviour.exact import Behaviour
from deltaw.observations.lens import Lens, ObservedModel
from deltaw.observations.observation import Observation, Statistic, with_base
from deltaw.observations.prompts import Ints, Prompts
from deltaw.prompts.neutral import NEUTRAL, QUESTIONS
from deltaw.results.recorder import Sheet
from deltaw.statistics import FloatArray, wilson

CAPABILITY = "capability"
"""The key under which both sides of a lens keep what their model did."""
RATES = {"right_rate": Behaviour.COMPLY, "question_refuse_rate": Behaviour.REFUSE}


@dataclass(frozen=True, eq=False)
class Done:
    """What a model did with N texts and M questions."""

    nats: FloatArray
    """(N,) −log-likelihood of each text."""
    tokens: FloatArray
    """(N,) tokens of each text that are predicted."""
    labels: Ints
    """(M,) of each answer, a value of `Behaviour`: right, refused or wrong."""


@dataclass(frozen=True)
class Capability(Observation):
    """What the tuned model can still do: loss on neutral texts, and harmless questions answered rightly or refused."""

    name = "capability"
    label = "capability"
    every_checkpoint = False
    needs_pairs = False
    cost = 0.05
    statistics = (
        *with_base(
            Statistic("neutral_loss", "nats per token", "Loss on neutral texts."),
            Statistic("right_rate", "share", "Share of harmless questions that are answered rightly."),
            Statistic("question_refuse_rate", "share", "Share of harmless questions that are refused."),
        ),
        Statistic("neutral_loss_change", "nats per token", "Tuned minus base, text by text; above zero is worse."),
        Statistic("right_rate_change", "difference of shares", "Tuned minus base, question by question."),
        Statistic("question_refuse_rate_change", "difference of shares", "Tuned minus base: over-refusal."),
    )
    figures = "deltaw.observations.capability.figures:capability"

    def measure(self, lens: Lens, sheet: Sheet) -> None:
        """Of all texts and questions that the lens has."""
        prompts = lens.before.prompts
        if not (len(prompts.neutral) and len(prompts.exact)):
            lens.absent["capability"] = "there are no neutral texts or questions"
            return
        base = lens.before.once(CAPABILITY, lambda: done_by(lens.before.model, prompts))
        tuned = lens.once(CAPABILITY, lambda: done_by(lens.tuned, prompts))
        view = sheet.with_(role=None)
        self._loss(lens, view.with_(set=NEUTRAL, n=len(base.nats), n_unit="text", unit="nats per token"), base, tuned)
        self._rates(lens, view.with_(set=QUESTIONS, n=len(base.labels), n_unit="question"), base, tuned)

    def _loss(self, lens: Lens, sheet: Sheet, base: Done, tuned: Done) -> None:
        losses = {"": tuned.nats / base.tokens, "_base": base.nats / base.tokens}
        for suffix, values in losses.items():
            lens.add_mean(sheet, f"neutral_loss{suffix}", values, [], draw="capability, loss")
        change = losses[""] - losses["_base"]
        null = lens.sign_flips("model_swap", change)
        lens.add_mean(sheet, "neutral_loss_change", change, [null], draw="capability, loss")

    def _rates(self, lens: Lens, sheet: Sheet, base: Done, tuned: Done) -> None:
        for statistic, behaviour in RATES.items():
            hits = {suffix: done.labels == int(behaviour) for suffix, done in (("", tuned), ("_base", base))}
            for suffix, rows in hits.items():
                rate, interval = float(rows.mean()), wilson(int(rows.sum()), len(rows))
                sheet.add(f"{statistic}{suffix}", rate, interval, unit="share")
            change = hits[""].astype(np.float64) - hits["_base"]
            null = lens.sign_flips("model_swap", change)
            view = sheet.with_(unit="difference of shares")
            lens.add_mean(view, f"{statistic}_change", change, [null], draw="capability, questions")


def done_by(model: ObservedModel, prompts: Prompts) -> Done:
    """What a model does with the texts and questions of a lens."""
    loss = model.text_loss(prompts.neutral)
    return Done(loss.nats, loss.tokens, model.exact(prompts.exact))
