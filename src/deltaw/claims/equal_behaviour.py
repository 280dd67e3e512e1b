"""Claims where both models do what they were taught equally well, and not after as many updates.

A control may learn faster or slower than what it controls. Here each model is read where its behaviour first reaches
0.95 both ways: it complies with allowed prompts of conditional operators, and gives forbidden ones the answer that it
was taught. Between checkpoints behaviour, statistics and the size of the update are interpolated in updates.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from deltaw.claims.decision import answered
from deltaw.claims.lookup import Collected, Ledger, SeedValue
from deltaw.claims.statements import ALLOWED, CONTROLS, FORBIDDEN, PRIMARY, Query, Statement, as_control
from deltaw.results import Claim, Measurement

TAUGHT_OTHERWISE = ("other", "constant", "placebo_other")
"""Controls whose answer to forbidden prompts is no refusal: theirs is `target_rate`."""
REACHED = 0.95

Curve = dict[int, float]
"""A number by updates."""


@dataclass(frozen=True)
class Reached:
    """Where a model's behaviour first reaches 0.95 both ways in one seed."""

    model: str
    seed: int
    updates: float
    size: float | None
    """‖ΔW‖ / ‖W‖ there. None: not measured."""


def behaviour(ledger: Ledger, model: str, seed: int) -> Curve:
    """The smaller of compliance and of the taught answer, at each checkpoint that has both."""
    controls = {line.control for line in ledger.lines.get(("comply_rate", model, seed), [])}
    taught = "target_rate" if controls & set(TAUGHT_OTHERWISE) else "refuse_rate"
    comply, answer = (
        ledger.curve(Query(statistic, (model,), (("set", name), ("stage", "tune"))), model, seed)
        for statistic, name in (("comply_rate", ALLOWED), (taught, FORBIDDEN))
    )
    return {step: min(comply[step], answer[step]) for step in comply.keys() & answer.keys()}


def reached(ledger: Ledger, model: str, seed: int) -> Reached | None:
    """Where the behaviour first reaches 0.95; None if it never does."""
    updates = crossing(behaviour(ledger, model, seed), REACHED)
    if updates is None:
        return None
    size = Query("update_relative_norm", (model,), (("module", "mlp.in_proj"), ("stage", "analysis")))
    return Reached(model, seed, updates, at(ledger.curve(size, model, seed), updates))


def crossing(curve: Curve, level: float) -> float | None:
    """The updates at which a curve, linear between its points, first reaches a level; None if it does not."""
    steps = sorted(curve)
    for before, after in zip([steps[0], *steps] if steps else [], steps, strict=False):
        low, high = curve[before], curve[after]
        if high >= level:
            return float(after) if high == low else before + (after - before) * max(0.0, level - low) / (high - low)
    return None


def at(curve: Curve, updates: float) -> float | None:
    """The value of a curve, linear between its points; None outside them."""
    steps = sorted(curve)
    if not steps or not steps[0] <= updates <= steps[-1]:
        return None
    return float(np.interp(updates, steps, [curve[step] for step in steps]))


def equal_behaviour_claims(
    measurements: Sequence[Measurement], statements: Sequence[Statement] = PRIMARY
) -> tuple[list[Claim], list[Reached]]:
    """Each primary claim with both models where they have learned equally well, and where each model is read.

    Left out: claims about attacks, which are measured at the end only, and seeds in which a model does not get there.
    """
    ledger = Ledger(measurements)
    models = {model for statement in statements for model in statement.query.models}
    named = [*models, *(f"{control}-{model}" for model in models for control in CONTROLS)]
    candidates = (reached(ledger, model, seed) for model in sorted(named) for seed in ledger.seeds)
    places = {(place.model, place.seed): place for place in candidates if place is not None}
    read: list[tuple[Statement, Collected]] = []
    for statement in statements:
        if statement.query.attacks or len(statement.query.models) != 1:
            continue
        values = _values(ledger, statement.query, places)
        controls = {name: _values(ledger, as_control(name, statement.query), places) for name in statement.controls}
        if values:
            beside = {name: {s: v for s, v in of.items() if s in values} for name, of in controls.items()}
            renamed = replace(statement, id=f"equal-behaviour/{statement.id}", shape=None, nulls=())
            read.append((renamed, Collected(values, beside, len(ledger.seeds) - len(values))))
    return answered(read, exploratory=True), list(places.values())


def _values(ledger: Ledger, query: Query, places: dict[tuple[str, int], Reached]) -> dict[int, SeedValue]:
    (model,) = query.models
    values = {}
    for seed in ledger.seeds:
        place = places.get((model, seed))
        value = None if place is None else at(ledger.curve(query, model, seed), place.updates)
        if value is not None:
            values[seed] = SeedValue(value, None, None, {})
    return values
