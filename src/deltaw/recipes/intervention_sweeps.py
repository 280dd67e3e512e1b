"""How much of each intervention is made on a tuned model: the sweep of a study, and the exhaustive one.

A sweep is a part of a recipe. `ON_MEDIUM` and its smaller sisters take about a minute of one core each at the size of
`quick`; `EXHAUSTIVE` is what `deltaw interventions` runs on a finished study.
"""

from dataclasses import dataclass, replace

from deltaw.errors import DeltawError

PARTS = ("alpha", "subspace", "rank", "layers", "swaps", "patches", "directions")


@dataclass(frozen=True)
class Sweep:
    """The interventions on one tuned model, and how many prompts stand behind each number.

    parts: which of `PARTS` are made. prompts: of each conditional set; `few`: of those of the coalitions of layers and
    of the `draws` behind each null. alphas: of the whole model; scopes and layers at `scope_alphas`. rescaled: the
    null-space and column-space parts at the norm of ΔW as well. ranks, removed: ranks kept and taken out. partner: the
    tuning whose layers are swapped in. attacked: prompts of each attack on prompts, source included. ks: ranks of the
    patches, 0 for full rank; `everywhere`: patch all positions of the prompt as well. means: prompts of each kind
    behind a difference in means. doses: at which it is added.
    """

    parts: tuple[str, ...] = PARTS
    prompts: int = 128
    few: int = 64
    draws: int = 20
    alphas: tuple[float, ...] = (-1.0, 0.0, 0.5, 1.0, 1.25, 1.5, 2.0, 3.0)
    scopes: tuple[str, ...] = ("mlp", "attention")
    scope_alphas: tuple[float, ...] = (0.5, 1.0, 2.0)
    rescaled: bool = False
    ranks: tuple[int, ...] = (0, 1, 2, 4, 8, 16, 32)
    removed: tuple[int, ...] = (1, 4, 16)
    partner: str | None = None
    attacked: int = 128
    ks: tuple[int, ...] = (8, 0)
    everywhere: bool = True
    means: int = 128
    doses: tuple[float, ...] = (1.0,)

    def __post_init__(self) -> None:
        unknown = [part for part in self.parts if part not in PARTS]
        if unknown:
            raise DeltawError(f"there is no part {unknown[0]!r} of a sweep; there are {', '.join(PARTS)}")
        if not 1 <= self.few <= self.prompts:
            raise DeltawError(f"few is {self.few}; give at least 1 and at most prompts, {self.prompts}")
        if self.draws < 2:
            raise DeltawError(f"draws is {self.draws}; a null needs at least 2")


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
