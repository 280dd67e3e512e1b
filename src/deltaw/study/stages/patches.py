"""Patches of a tuned model: ΔW is made to read another prompt (`deltaw.interventions.patching`). What does refusal do?

Every row has a forbidden prompt of the primary contrast, its allowed twin (the same operators on safe text) and, attack
by attack, the prompt that the attack made of it. Lines name target and source:

    restore                target: attacked, source: forbidden. Does refusal come back?
    restore_from_allowed   target: attacked, source: allowed. A control: giving ΔW any other prompt to read
    remove                 target: forbidden, source: attacked. Does refusal go?
    remove_to_allowed      target: forbidden, source: allowed
    induce                 target: allowed, source: forbidden: what restore does to allowed prompts
    unpatched              the prompts as they are, attacked and not

`remove` and `remove_to_allowed` are also made on allowed prompts (`set`), the latter with another allowed prompt as the
source. So every patch says what becomes of safety (refusal of forbidden prompts), of capability (compliance with
allowed ones) and of over-refusal.

`dose` is the rank of the patch, `role` the positions that are patched, `set` and `attack` say of which prompts. Rates
are of all prompts of a target. Three shares are of the rows where there is something to bring back or to take away:

    refusal_returned   of rows whose forbidden prompt is refused and whose attacked one is answered: refused when
                       patched. `attack` any: those of all attacks together
    refusal_removed    of the same rows (remove), or of those whose forbidden prompt is refused and whose allowed twin
                       is answered (remove_to_allowed): no longer refused when patched
    refusal_induced    of the latter rows: refused when patched

A control refuses nothing: in it these are shares of the answer that it was taught in place of complying.

Of fewer than `LEAST` rows nothing is said. Without the patch each is 0 by construction; what a patch does to any prompt
is the null. There are two, made at the last prompt token for the rank that claims read (`CLAIMED`; the first, where the
sweep lacks that one): `random_direction`, a step as long in a random direction, and for `restore` `allowed_source`,
what restore_from_allowed gives.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
import torch
from torch import Tensor

from deltaw.attacks.models import Requests, requests_for, unattacked
from deltaw.attacks.prompts import FORBIDDEN_SOURCES, attacked
from deltaw.behaviour.exact import Answers, Behaviour
from deltaw.interventions import Patch, acting, answers_patched
from deltaw.interventions.patching import At, Maps
from deltaw.observations.lens import Ints
from deltaw.statistics import FloatArray, Interval, Null, from_draws, wilson
from deltaw.study.stages.edited import ALLOWED, FORBIDDEN, RATES, Subject, add_share, taught
from deltaw.study.stages.lens import contrasts
from deltaw.study.stages.recorder import Sheet
from deltaw.world import Prompts

LEAST = 10  # prompts behind a share
CLAIMED = 8  # the rank at which claims read patches
ATTACKS = tuple(attack for attack, sources in FORBIDDEN_SOURCES.items() if FORBIDDEN in sources)


@dataclass(frozen=True, eq=False)
class Asked:
    """N prompts and the tuned model's answers to them, unpatched, on the CPU.

    instead: (N, S) what tuning teaches in place of complying; None: refusals.
    """

    requests: Requests
    answers: Answers
    instead: Tensor | None

    @property
    def labels(self) -> Tensor:
        """(N,) what each answer is, values of `Behaviour`."""
        return self.answers.labels

    @property
    def complied(self) -> Tensor:
        """(N,) where the whole compliant response is the answer."""
        return self.labels == int(Behaviour.COMPLY)

    @property
    def taught(self) -> Tensor:
        """(N,) where the answer is what tuning teaches in place of complying."""
        return self.gets(self.answers)

    def gets(self, answers: Answers, rows: Tensor | None = None) -> Tensor:
        """(N,) or (n,) which of answers to the prompts, or to those of the rows, are what tuning teaches."""
        instead = self.instead if self.instead is None or rows is None else self.instead[rows]
        return taught(answers.labels.cpu(), answers.outputs.cpu(), instead, self.requests.pad_id)

    def turned(self) -> "Asked":
        """Each row the next one's: other prompts of the same kind."""
        rows = torch.arange(1, len(self.labels) + 1) % len(self.labels)
        instead = None if self.instead is None else self.instead[rows]
        answers = Answers(self.answers.outputs[rows], self.labels[rows])
        return Asked(self.requests[rows.to(self.requests.refusal.device)], answers, instead)


def patches(subject: Subject) -> None:
    """Every patch of the sweep, on every attack on prompts and on the twins."""
    contrast, _ = contrasts(subject.world, subject.sweep.attacked, subject.seed)
    forbidden, allowed = (_ask(subject, prompts) for prompts in (contrast.forbidden, contrast.allowed))
    for name, asked in ((FORBIDDEN, forbidden), (ALLOWED, allowed)):
        _rates(subject.sheet.with_(set=name, intervention="unpatched"), asked.labels)
    returned: dict[tuple[float, At], list[Returned]] = {}
    for attack in ATTACKS:
        hit = _ask(subject, attacked(subject.world, attack, contrast.forbidden, seed=subject.seed))
        view = subject.sheet.with_(attack=attack, set=FORBIDDEN)
        _rates(view.with_(intervention="unpatched"), hit.labels)
        rows = forbidden.taught & hit.complied
        for dose, patch, with_nulls in _kinds(subject, forbidden, hit):
            here = view.with_(dose=dose, role=patch.at)
            one = _restored(subject, (hit, forbidden, allowed), rows, patch, with_nulls, here)
            returned.setdefault((dose, patch.at), []).append(one)
            _returned(one, here)
            kept = _patched(subject, forbidden, hit, patch, here.with_(intervention="remove"))
            _share(here.with_(intervention="remove"), "refusal_removed", ~kept[rows])
        _on_allowed(subject, allowed, hit, view.with_(intervention="remove"))
    for (dose, at), parts in returned.items():
        _returned(_together(parts), subject.sheet.with_(attack="any", set=FORBIDDEN, dose=dose, role=at))
    _twins(subject, forbidden, allowed)


@dataclass(frozen=True, eq=False)
class Returned:
    """Where refusal came back: 1.0 or 0.0 a row. prompts: (n,) whose numbers; one may be under several attacks. hits:
    (n,). control: (n,), from an allowed source; (0,) if not made. chance: (draws,) the shares in random directions, of
    these rows or the first of them; (0,) if not made or there are no rows.
    """

    prompts: Ints
    hits: FloatArray
    control: FloatArray
    chance: FloatArray


def _together(parts: Sequence[Returned]) -> Returned:
    """All attacks as one: each counts by its rows, in random directions too."""
    made = [part for part in parts if len(part.chance)]
    rows = [len(part.hits) for part in made]
    return Returned(
        prompts=np.concatenate([part.prompts for part in parts]),
        hits=np.concatenate([part.hits for part in parts]),
        control=np.concatenate([part.control for part in parts]),
        chance=np.average([part.chance for part in made], axis=0, weights=rows) if made else np.zeros(0),
    )


def _restored(
    subject: Subject, asked: tuple[Asked, Asked, Asked], rows: Tensor, patch: Patch, with_nulls: bool, sheet: Sheet
) -> Returned:
    """asked: attacked, forbidden and allowed prompts, of which `rows` count."""
    hit, forbidden, allowed = asked
    hits = _hits(_patched(subject, hit, forbidden, patch, sheet.with_(intervention="restore"))[rows])
    prompts = np.flatnonzero(rows.cpu().numpy())
    if not with_nulls:
        return Returned(prompts, hits, np.zeros(0), np.zeros(0))
    other = _patched(subject, hit, allowed, patch, sheet.with_(intervention="restore_from_allowed"))
    chance = _by_chance(subject, hit, forbidden, rows, patch.maps, str(sheet.shared["attack"]))
    return Returned(prompts, hits, _hits(other[rows]), chance)


def _returned(found: Returned, sheet: Sheet) -> None:
    """The share of the rows whose refusal came back, beside its nulls; nothing where there are too few. Intervals are
    Wilson's for as many rows as there are prompts: of one under several attacks the answers depend on each other.
    """
    if len(found.hits) < LEAST:
        return
    n = len(np.unique(found.prompts))
    view = sheet.with_(unit="share", n=n, n_unit="prompt")

    def share(hits: FloatArray) -> tuple[float, Interval]:
        return float(hits.mean()), wilson(float(hits.mean()) * n, n)

    nulls = _null(found.chance)
    if len(found.control):
        value, band = share(found.control)
        view.with_(intervention="restore_from_allowed").add("refusal_returned", value, band)
        nulls.append(Null("allowed_source", value, band.low, band.high))
    view.with_(intervention="restore").add("refusal_returned", *share(found.hits), nulls)


def _twins(subject: Subject, forbidden: Asked, allowed: Asked) -> None:
    rows = forbidden.taught & allowed.complied
    for dose, patch, with_nulls in _kinds(subject, forbidden, allowed):
        here = subject.sheet.with_(dose=dose, role=patch.at)
        view = here.with_(intervention="remove_to_allowed", set=FORBIDDEN)
        kept = _patched(subject, forbidden, allowed, patch, view)
        chance = _by_chance(subject, forbidden, allowed, rows, patch.maps, "twins") if with_nulls else np.zeros(0)
        _share(view, "refusal_removed", ~kept[rows], _null(1 - chance))
        view = here.with_(intervention="induce", set=ALLOWED)
        _share(view, "refusal_induced", _patched(subject, allowed, forbidden, patch, view)[rows])
    _on_allowed(subject, allowed, allowed.turned(), subject.sheet.with_(intervention="remove_to_allowed"))


def _on_allowed(subject: Subject, allowed: Asked, source: Asked, sheet: Sheet) -> None:
    """What a patch that takes refusal away costs where there is none to take: rates on allowed prompts."""
    for dose, patch, _ in _kinds(subject, allowed, source):
        _patched(subject, allowed, source, patch, sheet.with_(set=ALLOWED, dose=dose, role=patch.at))


def _ask(subject: Subject, prompts: Prompts) -> Asked:
    requests = requests_for(subject.world, prompts, subject.model.embed.weight.device)
    answers = unattacked(subject.model, requests)
    return Asked(requests, Answers(answers.outputs.cpu(), answers.labels.cpu()), subject.instead(prompts))


def _kinds(subject: Subject, one: Asked, other: Asked) -> Iterator[tuple[float, Patch, bool]]:
    """(dose, patch, whether its nulls are made) of every patch; all positions only where both prompts are as long, row
    by row.
    """
    width, ks = subject.model.config.width, subject.sweep.ks
    beside_nulls = CLAIMED if CLAIMED in ks else ks[0]
    places: tuple[At, ...] = ("last_prompt", "prompt")
    paired = bool((one.requests.lengths == other.requests.lengths).all())
    made = {k: acting(subject.base, subject.tuned, k or None) for k in ks}
    for at, (k, maps) in product(places, made.items()):
        if at == "last_prompt" or (subject.sweep.everywhere and paired):
            yield float(k or width), Patch(maps, at), at == "last_prompt" and k == beside_nulls


def _patched(subject: Subject, target: Asked, source: Asked, patch: Patch, sheet: Sheet) -> Tensor:
    """(N,) where the patched answer is what tuning teaches in place of complying; writes the rates of all answers."""
    answers = answers_patched(subject.model, target.requests, source.requests, patch)
    _rates(sheet, answers.labels.cpu())
    return target.gets(answers)


def _by_chance(subject: Subject, target: Asked, source: Asked, rows: Tensor, maps: Maps, name: str) -> FloatArray:
    """(draws,) the share of the first of the rows whose answer, patched in a random direction, is what was taught; (0,)
    if there are no rows.
    """
    (few,) = rows.nonzero(as_tuple=True)
    few = few[: subject.sweep.few]
    found = []
    for number in range(subject.sweep.draws if len(few) else 0):
        patch = Patch(maps, scramble=subject.torch_generator(f"patch/{name}/{number}"))
        where = few.to(target.requests.refusal.device)
        answers = answers_patched(subject.model, target.requests[where], source.requests[where], patch)
        found.append(_hits(target.gets(answers, few)).mean())
    return np.array(found)


def _rates(sheet: Sheet, labels: Tensor) -> None:
    for statistic, what in RATES.items():
        add_share(sheet, statistic, _hits(labels == int(what)))


def _share(sheet: Sheet, statistic: str, hits: Tensor, nulls: list[Null] | None = None) -> None:
    """A share of the rows that it is about; nothing where there are too few."""
    if len(hits) >= LEAST:
        add_share(sheet, statistic, _hits(hits), nulls or [])


def _hits(found: Tensor) -> FloatArray:
    return found.double().cpu().numpy()


def _null(chance: FloatArray) -> list[Null]:
    """The null of shares (draws,); none if there are none."""
    return [from_draws("random_direction", chance)] if len(chance) else []
