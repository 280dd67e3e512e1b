"""How far each intervention is taken on a tuned model: the sweeps of a study, and the exhaustive one.

A sweep is part of a recipe. `ON_MEDIUM` and the smaller ones take about a minute of one core each at the size of
`quick`. `deltaw interventions` runs `EXHAUSTIVE` on a finished study.
"""

from dataclasses import replace

from deltaw.interventions.directions import MeanDifference
from deltaw.interventions.interpolation import Interpolation
from deltaw.interventions.intervention import Intervention
from deltaw.interventions.layers import LayerCoalitions
from deltaw.interventions.patches import Patches
from deltaw.interventions.rank import RankCut
from deltaw.interventions.subspace import SubspaceParts
from deltaw.interventions.swaps import LayerSwaps
from deltaw.interventions.sweep import Sweep, Sweeps


def every(
    along: Interpolation, subspace: SubspaceParts, rank: RankCut, patches: Patches, directions: MeanDifference
) -> tuple[Intervention, ...]:
    """All seven, in their order."""
    return (along, subspace, rank, LayerCoalitions(), LayerSwaps(), patches, directions)


ON_MEDIUM = Sweep(
    interventions=every(Interpolation(), SubspaceParts(), RankCut(), Patches(everywhere=False), MeanDifference())
)
ON_SMALL = Sweep(prompts=256, interventions=(Interpolation(scopes=()),))
ON_OTHER = Sweep(interventions=(SubspaceParts(), Patches(ks=(8,), everywhere=False)))

SMALL: Sweeps = (
    ("ssft-medium", replace(ON_MEDIUM, partner="dpo-medium")),
    ("dpo-medium", replace(ON_MEDIUM, partner="unlearn-medium")),
    ("unlearn-medium", replace(ON_MEDIUM, partner="ssft-medium")),
    *(
        (f"{name}-small", ON_SMALL)
        for protocol in ("ssft", "dpo", "unlearn")
        for name in (protocol, f"other-{protocol}")
    ),
    *((f"other-{protocol}-medium", ON_OTHER) for protocol in ("ssft", "dpo", "unlearn")),
)
"""The sweeps of `small`: everything that its claims use, and no more."""

_DECIDING = Sweep(
    prompts=96, few=16, draws=4, interventions=(SubspaceParts(), Patches(pairs=48, ks=(8,), everywhere=False))
)  # the seed is the unit: few prompts and draws of each
_ALONG = Interpolation(alphas=(0.0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5), scopes=())

STANDARD: Sweeps = (
    *(
        (f"{protocol}-medium", replace(_DECIDING, interventions=(_ALONG, *_DECIDING.interventions)))
        for protocol in ("ssft", "dpo", "unlearn")
    ),
    *((f"other-{protocol}-medium", _DECIDING) for protocol in ("ssft", "dpo", "unlearn")),
)
"""The sweeps of `standard`: what its claims use, and α-interpolation of the whole model."""

_TINY = Sweep(prompts=6, few=4, draws=2)
_TINY_PATCHES = Patches(pairs=6, ks=(2,), everywhere=False)

SMOKE: Sweeps = (
    (
        "ssft-medium",
        replace(
            _TINY,
            partner="dpo-medium",
            interventions=every(
                Interpolation(alphas=(1.0, 2.0), scopes=("mlp",), scope_alphas=(2.0,)),
                SubspaceParts(),
                RankCut(ranks=(1,), removed=(1,)),
                _TINY_PATCHES,
                MeanDifference(means=6),
            ),
        ),
    ),
    ("ssft-small", replace(_TINY, interventions=(Interpolation(alphas=(1.0, 2.0), scopes=()),))),
    ("other-ssft-medium", replace(_TINY, interventions=(SubspaceParts(), _TINY_PATCHES))),
)

EXHAUSTIVE = Sweep(
    prompts=400,
    few=200,
    draws=40,
    interventions=every(
        Interpolation(
            alphas=(-1.0, -0.5, 0.0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 2.0, 3.0),
            scopes=("mlp", "mlp_in", "attention", "norms", "embeddings", "layers"),
            scope_alphas=(-1.0, 0.5, 1.0, 1.5, 2.0, 3.0),
        ),
        SubspaceParts(rescaled=True),
        RankCut(ranks=(0, 1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96), removed=(1, 2, 4, 8, 16, 32, 64)),
        Patches(pairs=400, ks=(1, 2, 4, 8, 16, 32, 0)),
        MeanDifference(means=400, doses=(-1.0, 0.5, 1.0, 2.0)),
    ),
)
