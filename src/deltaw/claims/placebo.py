"""What the pipeline finds where there is nothing to find: tunings that refuse by a policy independent of the real one.

For each primary claim, the model `placebo-MODEL` minus its own control `placebo-other-MODEL`, measured by the real
policy's contrasts and read by the claim's own query. Over seeds, whose random policies come in mirrored pairs, the mean
is the pipeline's bias (`deltaw.training.controls.placebo`).
"""

from collections.abc import Sequence
from dataclasses import replace

from deltaw.claims.decision import answered
from deltaw.claims.lookup import Collected, Ledger
from deltaw.claims.statements import OTHER, PRIMARY, Statement, as_control
from deltaw.results import Claim, Measurement


def placebo_claims(measurements: Sequence[Measurement], statements: Sequence[Statement] = PRIMARY) -> list[Claim]:
    """Each primary claim of a placebo and its own control; those that were not measured are left out."""
    ledger = Ledger(measurements)
    read: list[tuple[Statement, Collected]] = []
    for statement in statements:
        of_placebo, of_control = (as_control(name, statement.query) for name in ("placebo", f"placebo-{OTHER}"))
        placebo = replace(
            statement,
            id=f"placebo/{statement.id}",
            query=of_placebo,
            shape=None,
            controls=(OTHER,),
            only_controls=True,
        )
        values, controls = ledger.values_of(of_placebo), ledger.values_of(of_control)
        if values:
            beside = {seed: value for seed, value in controls.items() if seed in values}
            read.append((placebo, Collected(values, {OTHER: beside}, len(ledger.seeds) - len(values))))
    return answered(read, exploratory=True)
