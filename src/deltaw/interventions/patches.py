"""Patches of a tuned model: ΔW is made to read another prompt (`deltaw.interventions.patching`). What does refusal do?

Every row has a forbidden prompt of the lens's primary contrast, its allowed twin and, attack by attack, the prompt that
the attack made of it. Lines name target and source:

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
from numpy.typing import NDArray

from deltaw.behaviour.exact import Behaviour
from deltaw.interventions.editable import Responses, picked
from deltaw.interventions.intervention import Intervention
from deltaw.interventions.patching import At, Maps, Patch, acting
from deltaw.interventions.size import SweepSize
from deltaw.interventions.subject import RATES, Subject, add_share
from deltaw.models.state_parts import first_map
from deltaw.observations.prompts import Ints, PromptSet
from deltaw.results.recorder import Sheet
from deltaw.statistics import FloatArray, Interval, Null, from_draws, wilson

LEAST = 10  # prompts behind a share
CLAIMED = 8  # the rank at which claims read patches

Bools = NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Unpatched:
    """N prompts and the tuned model's answers to them, as it is."""

    subject: Subject
    prompts: PromptSet
    responses: Responses

    @property
    def complied(self) -> Bools:
        """(N,) where the answer does what is asked."""
        return self.responses.are(Behaviour.COMPLY)

    @property
    def taught(self) -> Bools:
        """(N,) where the answer is what tuning teaches in place of complying."""
        return self.subject.gets(self.prompts, self.responses) > 0

    @property
    def lengths(self) -> Ints:
        """(N,) tokens of each prompt."""
        return self.subject.model.lengths(self.prompts)

    def picked(self, rows: Ints) -> "Unpatched":
        """Some rows, in their order."""
        return Unpatched(self.subject, picked(self.prompts, rows), self.responses[rows])

    def turned(self) -> "Unpatched":
        """Each row the next one's: other prompts of the same kind."""
        count = len(self.prompts)
        return self.picked(np.arange(1, count + 1) % count)


@dataclass(frozen=True)
class Patches(Intervention):
    """ΔW is made to read another prompt: does refusal come back under an attack, and does it go without one?"""

    name = "patches"
    label = "patches"

    pairs: int = 128
    """Prompts of each attack on prompts, source included."""
    ks: tuple[int, ...] = (8, 0)
    """Ranks of the patches, 0 for full rank."""
    everywhere: bool = True
    """Whether all positions of the prompt are patched as well."""

    def measure(self, subject: Subject) -> None:
        """Every patch of the sweep, on every attack on prompts and on the twins."""
        before = subject.lens.before
        if not before.primary:
            subject.lens.absent["patches"] = "there are no matched pairs of an allowed and a forbidden prompt"
            return
        contrast = before.contrasts[before.primary].first(self.pairs)
        forbidden, allowed = (ask(subject, prompts) for prompts in (contrast.forbidden, contrast.allowed))
        for name, asked in ((subject.forbidden, forbidden), (subject.allowed, allowed)):
            _rates(subject.sheet.with_(set=name, intervention="unpatched"), asked.responses)
        returned: dict[tuple[float, At], list[Returned]] = {}
        for attacked in before.attacked:
            if attacked.contrast != contrast.name:
                continue
            hit = ask(subject, attacked.prompts[: len(contrast.forbidden)])
            rows_here = np.arange(len(hit.prompts))
            source, twin = forbidden.picked(rows_here), allowed.picked(rows_here)
            view = subject.sheet.with_(attack=attacked.attack, set=subject.forbidden)
            _rates(view.with_(intervention="unpatched"), hit.responses)
            rows = source.taught & hit.complied
            for dose, patch, with_nulls in _kinds(self, subject, source, hit):
                kind_view = view.with_(dose=dose, role=patch.at)
                restored = _restored(subject, (hit, source, twin), rows, patch, with_nulls, kind_view)
                returned.setdefault((dose, patch.at), []).append(restored)
                write_returned(restored, kind_view)
                kept = _patched(subject, source, hit, patch, kind_view.with_(intervention="remove"))
                _share(kind_view.with_(intervention="remove"), "refusal_removed", ~kept[rows])
            _on_allowed(self, subject, twin, hit, view.with_(intervention="remove"))
        for (dose, at), parts in returned.items():
            write_returned(
                together(parts), subject.sheet.with_(attack="any", set=subject.forbidden, dose=dose, role=at)
            )
        _twins(self, subject, forbidden, allowed)

    def answered(self, size: SweepSize, blocks: int, attacks: int) -> int:
        """Prompts that are answered."""
        patched = len(self.ks) * (2 if self.everywhere else 1)
        return self.pairs * (1 + attacks) * (2 + 3 * patched) + size.draws * size.few * (attacks + 1)


@dataclass(frozen=True, eq=False)
class Returned:
    """Where refusal came back: 1.0 or 0.0 a row."""

    prompts: Ints
    """(n,) whose numbers; one may be under several attacks."""
    hits: FloatArray
    """(n,)."""
    control: FloatArray
    """(n,), from an allowed source; (0,) if not made."""
    chance: FloatArray
    """(draws,) the shares in random directions, of these rows or the first of them; (0,) if not made or there are no
    rows."""


def together(parts: Sequence[Returned]) -> Returned:
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
    subject: Subject,
    asked: tuple[Unpatched, Unpatched, Unpatched],
    rows: Bools,
    patch: Patch,
    with_nulls: bool,
    sheet: Sheet,
) -> Returned:
    """asked: attacked, forbidden and allowed prompts, of which `rows` count."""
    hit, forbidden, allowed = asked
    hits = _hits(_patched(subject, hit, forbidden, patch, sheet.with_(intervention="restore"))[rows])
    prompts = np.flatnonzero(rows)
    if not with_nulls:
        return Returned(prompts, hits, np.zeros(0), np.zeros(0))
    other = _patched(subject, hit, allowed, patch, sheet.with_(intervention="restore_from_allowed"))
    chance = _by_chance(subject, hit, forbidden, rows, patch.maps, str(sheet.shared["attack"]))
    return Returned(prompts, hits, _hits(other[rows]), chance)


def write_returned(returned: Returned, sheet: Sheet) -> None:
    """The share of the rows whose refusal came back, beside its nulls; nothing where there are too few. Intervals are
    Wilson's for as many rows as there are prompts: of one under several attacks the answers depend on each other.
    """
    if len(returned.hits) < LEAST:
        return
    n = len(np.unique(returned.prompts))
    view = sheet.with_(unit="share", n=n, n_unit="prompt")

    def share(hits: FloatArray) -> tuple[float, Interval]:
        return float(hits.mean()), wilson(float(hits.mean()) * n, n)

    nulls = _null(returned.chance)
    if len(returned.control):
        value, band = share(returned.control)
        view.with_(intervention="restore_from_allowed").add("refusal_returned", value, band)
        nulls.append(Null("allowed_source", value, band.low, band.high))
    view.with_(intervention="restore").add("refusal_returned", *share(returned.hits), nulls)


def _twins(patches: Patches, subject: Subject, forbidden: Unpatched, allowed: Unpatched) -> None:
    rows = forbidden.taught & allowed.complied
    for dose, patch, with_nulls in _kinds(patches, subject, forbidden, allowed):
        kind_view = subject.sheet.with_(dose=dose, role=patch.at)
        view = kind_view.with_(intervention="remove_to_allowed", set=subject.forbidden)
        kept = _patched(subject, forbidden, allowed, patch, view)
        chance = _by_chance(subject, forbidden, allowed, rows, patch.maps, "twins") if with_nulls else np.zeros(0)
        _share(view, "refusal_removed", ~kept[rows], _null(1 - chance))
        view = kind_view.with_(intervention="induce", set=subject.allowed)
        _share(view, "refusal_induced", _patched(subject, allowed, forbidden, patch, view)[rows])
    _on_allowed(patches, subject, allowed, allowed.turned(), subject.sheet.with_(intervention="remove_to_allowed"))


def _on_allowed(patches: Patches, subject: Subject, allowed: Unpatched, source: Unpatched, sheet: Sheet) -> None:
    """What a patch that takes refusal away costs where there is none to take: rates on allowed prompts."""
    for dose, patch, _ in _kinds(patches, subject, allowed, source):
        _patched(subject, allowed, source, patch, sheet.with_(set=subject.allowed, dose=dose, role=patch.at))


def ask(subject: Subject, prompts: PromptSet) -> Unpatched:
    """The tuned model's answers to prompts, as it is."""
    return Unpatched(subject, prompts, subject.model.answers(prompts))


def _kinds(
    patches: Patches, subject: Subject, target: Unpatched, source: Unpatched
) -> Iterator[tuple[float, Patch, bool]]:
    """(dose, patch, whether its nulls are made) of every patch; all positions only where both prompts are as long, row
    by row.
    """
    width, ks = first_map(subject.base, 0).shape[1], patches.ks
    beside_nulls = CLAIMED if CLAIMED in ks else ks[0]
    places: tuple[At, ...] = ("last_prompt", "prompt")
    paired = bool((target.lengths == source.lengths).all())
    made = {k: acting(subject.base, subject.tuned, k or None) for k in ks}
    for at, (k, maps) in product(places, made.items()):
        if at == "last_prompt" or (patches.everywhere and paired):
            yield float(k or width), Patch(maps, at), at == "last_prompt" and k == beside_nulls


def _patched(subject: Subject, target: Unpatched, source: Unpatched, patch: Patch, sheet: Sheet) -> Bools:
    """(N,) where the patched answer is what tuning teaches in place of complying; writes the rates of all answers."""
    responses = subject.model.patched(target.prompts, source.prompts, patch)
    _rates(sheet, responses)
    return subject.gets(target.prompts, responses) > 0


def _by_chance(
    subject: Subject, target: Unpatched, source: Unpatched, rows: Bools, maps: Maps, name: str
) -> FloatArray:
    """(draws,) the share of the first of the rows whose answer, patched in a random direction, is what was taught; (0,)
    if there are no rows.
    """
    few = np.flatnonzero(rows)[: subject.size.few]
    targets, sources = picked(target.prompts, few), picked(source.prompts, few)
    shares = []
    for number in range(subject.size.draws if len(few) else 0):
        patch = Patch(maps, scramble=subject.torch_generator(f"patch/{name}/{number}"))
        responses = subject.model.patched(targets, sources, patch)
        shares.append(subject.gets(targets, responses).mean())
    return np.array(shares)


def _rates(sheet: Sheet, responses: Responses) -> None:
    for statistic, what in RATES.items():
        add_share(sheet, statistic, _hits(responses.are(what)))


def _share(sheet: Sheet, statistic: str, hits: Bools, nulls: Sequence[Null] = ()) -> None:
    """A share of the rows that it is about; nothing where there are too few."""
    if len(hits) >= LEAST:
        add_share(sheet, statistic, _hits(hits), nulls)


def _hits(where: Bools) -> FloatArray:
    return where.astype(np.float64)


def _null(chance: FloatArray) -> list[Null]:
    """The null of shares (draws,); none if there are none."""
    return [from_draws("random_direction", chance)] if len(chance) else []
