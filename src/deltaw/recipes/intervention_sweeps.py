"""How much of each intervention is made on a tuned model: the sweep of a study, and the exhaustive one.

A sweep is a part of a recipe. `ON_MEDIUM` and its smaller sisters take about a minute of one core each at the size of
`quick`; `EXHAUSTIVE` is what `deltaw interventions` runs on a finished study.
"""

from dataclasses import replace

from deltaw.interventions.sweep import Sweep

__all__ = ["EXHAUSTIVE", "SMOKE", "STANDARD", "Sweep", "Sweeps"]

Sweeps = tuple[tuple[str, Sweep], ...]
"""(name of a tuning, its sweep)."""

ON_MEDIUM = Sweep()
ON_SMALL = Sweep(parts=("alpha",), prompts=256, scopes=())
ON_CONTROL = Sweep(parts=("subspace",))
ON_OTHER = Sweep(parts=("subspace", "patches"), ks=(8,), everywhere=False)

STANDARD: Sweeps = (
    ("ssft-medium", replace(ON_MEDIUM, partner="dpo-medium", everywhere=False)),
    ("dpo-medium", replace(ON_MEDIUM, partner="unlearn-medium", everywhere=False)),
    ("unlearn-medium", replace(ON_MEDIUM, partner="ssft-medium", everywhere=False)),
    *(
        (f"{name}-small", ON_SMALL)
        for protocol in ("ssft", "dpo", "unlearn")
        for name in (protocol, f"other-{protocol}")
    ),
    *((f"other-{protocol}-medium", ON_OTHER) for protocol in ("ssft", "dpo", "unlearn")),
    *((f"{control}-ssft-medium", ON_CONTROL) for control in ("operators", "constant")),
)
"""What a study that decides has: everything its claims read, and no more."""

SMOKE: Sweeps = (
    (
        "ssft-medium",
        Sweep(
            prompts=6, few=4, draws=2, alphas=(1.0, 2.0), scopes=("mlp",), scope_alphas=(2.0,), ranks=(1,),
            removed=(1,), partner="dpo-medium", attacked=6, ks=(2,), everywhere=False, means=6,
        ),
    ),
    ("ssft-small", Sweep(parts=("alpha",), prompts=6, few=4, draws=2, alphas=(1.0, 2.0), scopes=())),
    (
        "other-ssft-medium",
        Sweep(parts=("subspace", "patches"), prompts=6, few=4, draws=2, attacked=6, ks=(2,), everywhere=False),
    ),
)  # fmt: skip

EXHAUSTIVE = Sweep(
    prompts=400,
    few=200,
    draws=40,
    alphas=(-1.0, -0.5, 0.0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 2.0, 3.0),
    scopes=("mlp", "mlp_in", "attention", "norms", "embeddings", "layers"),
    scope_alphas=(-1.0, 0.5, 1.0, 1.5, 2.0, 3.0),
    rescaled=True,
    ranks=(0, 1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96),
    removed=(1, 2, 4, 8, 16, 32, 64),
    attacked=400,
    ks=(1, 2, 4, 8, 16, 32, 0),
    means=400,
    doses=(-1.0, 0.5, 1.0, 2.0),
)
