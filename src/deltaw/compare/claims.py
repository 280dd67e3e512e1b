"""The study's claims, read on one real pair of checkpoints: of its weights, and of activations on matched prompts.

Statistic, nulls and scale are the study's (`deltaw.claims`). A claim has its value beside its nulls and a control, and
no word: two checkpoints are one case. About activations the unit is the prompt pair, so there is an interval over
pairs. The control is another tuning of the same base that teaches something harmless, measured by a comparison of its
own.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from deltaw.attacks.prompts.defaults import ON_REQUESTS
from deltaw.claims import PEAK, STATEMENTS, Collected, Query, Statement, answered, value_in, without_words
from deltaw.prompts.matched import CONTRASTS
from deltaw.results import Claim, Measurement

NO_WORDS = "two checkpoints are one case; it has numbers and no word"
LIPSCHITZ = "log of the tuned over the base model's spectral norm of the Jacobian at the embeddings"
OWN_INPUTS = "log ratio of ‖ΔWa‖ / ‖Wa‖, a entering the tuned model's MLP"
BASE_INPUTS = "a entering the base model's MLP"
LAST = "last token before the answer"


@dataclass(frozen=True)
class Asked:
    """How a claim of the study is asked of a pair. Its statistic, and where that is read, are the study's."""

    text: str
    site: str
    set: str = "{contrast}"
    """Of its line; `{contrast}` stands for the name of the contrast."""


ASKED: Mapping[str, Asked] = {
    "clusters/combination": Asked(
        "Tuning moves allowed and forbidden prompts apart", f"inside the MLP (mlp_post), {LAST}; {PEAK}"
    ),
    "clusters-at-output/combination": Asked(
        "Tuning moves allowed and forbidden prompts apart at the blocks' output", f"resid_out, {LAST}; {PEAK}"
    ),
    "gain/combination": Asked(
        "The update acts more on forbidden prompts than on allowed ones", f"{OWN_INPUTS}, {LAST}; {PEAK}"
    ),
    "gain-at-base-inputs/combination": Asked(
        "The update would act more on forbidden prompts as the base model reads them", f"{BASE_INPUTS}, {LAST}; {PEAK}"
    ),
    "row-space": Asked(
        "The top input directions of the update hold more of forbidden than of allowed activations",
        f"{BASE_INPUTS}, {LAST}, mean over layers; top 8 right singular vectors",
    ),
    "sensitivity-falls-on-forbidden": Asked(
        "The local Lipschitz constant falls on forbidden prompts", LIPSCHITZ, "{contrast}/forbidden"
    ),
    "sensitivity-rises-on-allowed": Asked(
        "The local Lipschitz constant rises on allowed prompts", LIPSCHITZ, "{contrast}/allowed"
    ),
    "sensitivity": Asked(
        "The local Lipschitz constant falls on forbidden prompts relative to allowed ones",
        "forbidden minus allowed, pair by pair, of the log ratio of spectral norms",
    ),
}
OF_ATTACKS: Mapping[str, Asked] = {
    "attack-looks-allowed": Asked(
        "Under {attack}, activations of forbidden prompts lie nearer to allowed ones than without it",
        f"inside the MLP (mlp_post), {LAST}, mean over layers by precision; 0 forbidden, 1 allowed",
        "{contrast}/forbidden",
    ),
    "attack-escapes-update": Asked(
        "The update acts less on prompts under {attack} than on the forbidden ones they are from",
        f"log ratio of the gains, tuned model's own inputs, {LAST}; {PEAK}",
        "{contrast}/forbidden",
    ),
}
OF_WEIGHTS: Mapping[str, Asked] = {
    "update-is-small": Asked("The update is smaller than a tenth of the weights", "mean over layers"),
    "null-space": Asked(
        "The update lies more in the left null space of W than in its column space", "mean over layers"
    ),
}


@dataclass(frozen=True)
class Lines:
    """What claims are read from."""

    measured: Sequence[Measurement]
    """Of the comparison."""
    control: Sequence[Measurement] = ()
    """Of a control's comparison, on the same prompts."""
    control_name: str | None = None
    """None: there is no control."""


def weight_claims(kinds: Iterable[str], lines: Lines) -> list[Claim]:
    """The numbers of the claims about weights, of each of these kinds of matrix."""
    return _claims(
        _read(prefix, kind, asked, f"{kind}, {asked.site}", {"module": kind}, lines)
        for kind in kinds
        for prefix, asked in OF_WEIGHTS.items()
    )


def prompt_claims(lines: Lines) -> list[Claim]:
    """The numbers of each claim that the lines of `compare_prompts` measure, by contrast and attack."""
    under = [(prefix, asked, attack.name) for prefix, asked in OF_ATTACKS.items() for attack in ON_REQUESTS]
    read = []
    for contrast in CONTRASTS:
        for prefix, asked, attack in [*((prefix, asked, None) for prefix, asked in ASKED.items()), *under]:
            where = {"set": asked.set.format(contrast=contrast), "attack": attack}
            site = f"{asked.site}; {contrast} pairs"
            read.append(_read(prefix, attack or contrast, asked, site, where, lines, attack))
    return _claims(read)


_Asked = tuple[Statement, Collected, str | None]


def _claims(read: Iterable[_Asked | None]) -> list[Claim]:
    """The claims of what was measured, with numbers and no words."""
    known = [asked for asked in read if asked is not None]
    claims = answered([(statement, collected) for statement, collected, _ in known], exploratory=True)
    return [
        without_words(replace(claim, n_unit="pair" if claim.low is None else unit), NO_WORDS)
        for claim, (_, _, unit) in zip(claims, known, strict=True)
    ]


def _read(
    prefix: str,
    name: str,
    asked: Asked,
    site: str,
    where: Mapping[str, str | None],
    lines: Lines,
    attack: str | None = None,
) -> _Asked | None:
    """A statement of the study, what was measured of it here, and what its n counts. None if nothing was.

    name: of the claim, after the first word of the prefix. where: fields of its lines, in place of the study's.
    """
    known = next(statement for statement in STATEMENTS if statement.id.startswith(f"{prefix}/"))
    statistic = known.query.statistic
    place: dict[str, object] = {**dict(known.query.where), **where}
    rows = _rows(lines.measured, statistic, place)
    if not rows:
        return None
    controls = (lines.control_name,) if known.controls and lines.control_name is not None else ()
    statement = replace(
        known,
        id=f"{prefix.partition('/')[0]}/{name}",
        text=asked.text.format(attack=attack),
        site=site,
        controls=controls,
        query=Query(statistic, ()),
        against=None,
        primary=False,
    )
    beside = _rows(lines.control, statistic, place) if controls else []
    measured = {control: {0: value_in(beside)} if beside else {} for control in controls}
    return statement, Collected({0: value_in(rows)}, measured), rows[0].n_unit


def _rows(lines: Iterable[Measurement], statistic: str, where: Mapping[str, object]) -> list[Measurement]:
    """The lines of one value, a null each."""
    return [
        line
        for line in lines
        if line.statistic == statistic
        and line.layer is None
        and all(getattr(line, name) == value for name, value in where.items())
    ]
