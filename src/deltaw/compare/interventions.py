"""Interventions on two real checkpoints: the tuned model is edited, and asked some of the matched pairs again.

Each intervention goes to the journal as it is finished. One that would take more answers than the effort allows is left
out, and the reason is kept for the report.
"""

import hashlib
import inspect
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, fields, is_dataclass, replace
from typing import Any

import numpy as np

from deltaw.behaviour.exact import Behaviour
from deltaw.behaviour.judge import Judge, Verdict
from deltaw.compare.asking import Effort, judged_answer
from deltaw.errors import DeltawError, PluginError
from deltaw.interventions import Asked, Intervention, Responses, Subject, SweepSize, intervene_on
from deltaw.models.huggingface import Chat
from deltaw.observations.lens import Lens
from deltaw.observations.prompts import PromptSet
from deltaw.results import Measurement
from deltaw.results.journal import Journal
from deltaw.results.recorder import Sheet

BEHAVIOURS = {
    Verdict.COMPLY: Behaviour.COMPLY,
    Verdict.REFUSE: Behaviour.REFUSE,
    Verdict.NEITHER: Behaviour.NEITHER,
}


def judged_by(judge: Judge) -> Callable[[Chat, PromptSet, list[list[int]]], Responses]:
    """What a model's answers to prompts are, from their tokens."""

    def judged(chat: Chat, prompts: PromptSet, answers: list[list[int]]) -> Responses:
        verdicts = [judged_answer(chat, *both, judge) for both in zip(prompts, answers, strict=True)]
        labels = np.array([int(BEHAVIOURS[verdict]) for verdict in verdicts])
        return Responses(labels, tuple(tuple(answer) for answer in answers))

    return judged


def intervene_on_checkpoints(
    interventions: Sequence[Intervention],
    lens: Lens,
    effort: Effort,
    attacks: Sequence[str],
    sheet: Sheet,
    absent: dict[str, str],
    journal: Journal,
    say: Callable[[str], None],
    why_not: str | None = None,
) -> None:
    """Makes them and writes their lines.

    attacks: what names each attack on the lens's prompts, its options and its code. absent: gets what was left out, and
    why. why_not: why the update of one model cannot be put into the other, if so.
    """
    if why_not is not None:
        absent |= {f"intervention: {intervention.label}": why_not for intervention in interventions}
        return
    contrast = lens.before.contrasts[lens.primary]
    count = min(effort.intervened, len(contrast.allowed) // 2)
    if count < 2:
        absent["interventions"] = f"{len(contrast.allowed)} matched pairs; at least 4 are needed"
        return
    size = SweepSize(prompts=count, few=max(1, count // 2), draws=effort.intervention_draws)
    kept_subject: list[Subject] = []  # both models' parameters are read only if anything is left to do

    def subject() -> Subject:
        if not kept_subject:
            kept_subject.append(Subject(lens, asked_of(lens, size.prompts), size, Sheet(**sheet.shared)))
        return kept_subject[0]

    for intervention in interventions:
        label = f"intervention: {intervention.label}"
        bounded = _bounded(intervention, {"pairs": count, "means": len(contrast.allowed) - count})
        cost = bounded.answered(size, len(lens.layers), len(attacks))
        if cost > effort.answers:
            absent[label] = f"it would take {cost} answers, and the effort allows {effort.answers}"
            continue
        part = f"{label}, {_made_from(bounded, size, attacks)}"
        if part not in journal.parts:
            say(f"{intervention.label}: {cost} answers of edited models")
        kept = journal.part(part, lambda made=bounded: _made(made, subject()))  # type: ignore[misc]
        sheet.lines.extend(Measurement(**line) for line in kept["lines"])
        absent |= {f"intervention: {name}": why for name, why in kept["absent"].items()}


def asked_of(lens: Lens, count: int) -> Asked:
    """The first `count` pairs of the primary contrast answer; the others stand behind a difference in means."""
    contrast = lens.before.contrasts[lens.primary]
    allowed, forbidden = f"{contrast.name}/allowed", f"{contrast.name}/forbidden"
    sets = {allowed: contrast.allowed[:count], forbidden: contrast.forbidden[:count]}
    return Asked(allowed, forbidden, sets, lambda: (contrast.allowed[count:], contrast.forbidden[count:]))


def _bounded(intervention: Intervention, most: Mapping[str, int]) -> Intervention:
    """The intervention with no more pairs, and no more prompts behind means, than the effort and the prompts allow."""
    options: set[str] = {part.name for part in fields(intervention)} if is_dataclass(intervention) else set()
    changes = {name: min(getattr(intervention, name), count) for name, count in most.items() if name in options}
    made: Any = intervention
    return replace(made, **changes) if changes else intervention


def _made(intervention: Intervention, subject: Subject) -> dict[str, Any]:
    subject.sheet.lines.clear()
    subject.lens.absent.clear()
    try:
        intervene_on(intervention, subject)
    except PluginError:
        raise
    except DeltawError as error:  # what these models cannot give
        subject.sheet.lines.clear()
        subject.lens.absent[intervention.label] = str(error)
    return {"lines": [asdict(line) for line in subject.sheet.lines], "absent": dict(subject.lens.absent)}


def _made_from(intervention: Intervention, size: SweepSize, attacks: Sequence[str]) -> str:
    """A hash of its options, its code, the sizes and the attacks, so that a change of one of them makes it again."""
    code = inspect.getsource(inspect.getmodule(type(intervention)) or type(intervention))
    text = json.dumps([intervention.described(), asdict(size), list(attacks), code], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
