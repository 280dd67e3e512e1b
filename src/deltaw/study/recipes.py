"""Recipes: functions that return the whole configuration of a study. `--recipe` is the one dial; it sets the rest.

`quick` explores: one seed, minutes on two cores, verdicts marked exploratory. `standard` decides: six seeds that no
other run has used, all controls, the same world and training, hours on two cores. `smoke` runs every stage in seconds,
so that the machinery can be tested; its numbers mean nothing. `grid` asks when attacks on prompts work, in worlds that
differ from that of `quick` in one thing each (`cells.py`). `paper-laptop` is the paper's world and model by training
that learns fast, on a laptop. `paper` is the paper's world, model and optimisation with
our objectives; in `paper-shared` unsafe text has no level-5 rules of its own; `paper-compat` is the published code's.
"""

from collections.abc import Callable
from dataclasses import replace

from deltaw.attacks import RelearningConfig, TokenSearchConfig
from deltaw.errors import DeltawError
from deltaw.model import choose_precision
from deltaw.study.cells import cells
from deltaw.study.configuration import LeftOut, ModelAttacks, Recipe, Subspaces
from deltaw.study.sizes import Sizes
from deltaw.study.sweeps import SMOKE, STANDARD
from deltaw.study.tuned import Tuned
from deltaw.training.optimisers import OptimiserConfig
from deltaw.training.pretraining import PretrainingConfig
from deltaw.training.tuning import CONTROLS, TuningConfig
from deltaw.world import PUBLISHED_COMPAT, ViewSchedule, WorldConfig, published_schedule, published_world

MEDIUM, SMALL = 1e-3, 1e-4  # η_M and η_S = η_M / 10: the same for all protocols
PAPER_MEDIUM, PAPER_SMALL = 1e-4, 1e-5  # of the published code


def _optimiser(rate: float, steps: int) -> OptimiserConfig:
    return OptimiserConfig(
        peak_lr=rate,
        min_lr=rate / 100,
        steps=steps,
        warmup=max(1, steps // 12),
        decay_end=steps,
        weight_decay=0.0,
    )


Protocol = tuple[str, str, dict[str, float]]
"""Its name, its objective, and the objective's options."""

PROTOCOLS: tuple[Protocol, ...] = (
    ("ssft", "ssft", {}),
    ("dpo", "dpo", {"beta": 0.1, "sft_weight": 4.0}),
    ("unlearn", "unlearn", {"ascent_weight": 0.1}),
)
PUBLISHED_PROTOCOLS: tuple[Protocol, ...] = (
    ("ssft", "ssft", {}),
    ("dpo", "dpo_published", {}),
    ("unlearn", "unlearn_published", {}),
)


def _tunings(
    batch: int,
    device: str,
    compute_dtype: str,
    optimisers: dict[str, OptimiserConfig],
    protocols: tuple[Protocol, ...] = PROTOCOLS,
    controls: tuple[str, ...] = ("other", "operators", "constant"),
    compat: bool = False,
) -> tuple[Tuned, ...]:
    """Three protocols at two strengths, plain DPO, and the controls. Same steps and rates for all, and same prompts but
    with `compat`, where four fifths of SSFT's batches are allowed ones, and half of the others'.
    """

    def tuned(protocol: str, objective: str, options: dict[str, float], strength: str, control: str | None) -> Tuned:
        name = f"{protocol}-{strength}" if control is None else f"{control}-{protocol}-{strength}"
        optimiser = optimisers[strength]
        config = TuningConfig(objective, options, control, batch, optimiser, device=device, compute_dtype=compute_dtype)
        if compat:
            ssft = objective == "ssft"
            config = replace(config, allowed_batches=0.8 if ssft else 0.5, borrow_masks=not ssft)
        return Tuned(name.replace("_", "-"), protocol, strength, control, config)

    of_strength = [tuned(*protocol, strength, None) for strength in optimisers for protocol in protocols]
    plain = replace(tuned("dpo_plain", "dpo", {"beta": 0.1}, "medium", None), curve_only=True)
    return (*of_strength, plain, *(tuned("ssft", "ssft", {}, "medium", control) for control in controls))


def _strengths(steps: int) -> dict[str, OptimiserConfig]:
    return {"medium": _optimiser(MEDIUM, steps), "small": _optimiser(SMALL, steps)}


STANDARD_SEEDS = 6
STANDARD_BASE = 3000  # updates of each base model; `quick` affords 3,600
STANDARD_DOSES = ("soft_weak", "soft_2", "soft_4", "soft_strong")  # of soft prompts; `quick` has two more
PLAIN_STOPS = 160  # updates of plain DPO, which is only followed: by then it answers no prompt rightly


def _stopped(tuned: Tuned, steps: int) -> Tuned:
    """The same tuning, by the same schedule, with an end before its end."""
    return replace(tuned, config=replace(tuned.config, optimiser=replace(tuned.config.optimiser, steps=steps)))


LEFT_OUT = (2, 6, 8)  # of grammar 1: a never-allowed operator and two conditional ones; one and three are left


def _left_out(tunings: tuple[Tuned, ...]) -> LeftOut:
    """`ssft-medium` with other prompts: the operators `LEFT_OUT` are not among them."""
    known = next(tuned for tuned in tunings if tuned.name == "ssft-medium")
    return LeftOut(LEFT_OUT, replace(known, name="left-out-ssft-medium", protocol="ssft_left_out"), known.name)


def _dtype(device: str) -> str:
    return str(choose_precision(device).dtype).removeprefix("torch.")


def quick(device: str = "cpu", seed: int = 0) -> Recipe:
    """Grammar 1, one operator pair, 20 letters, a model of 0.8 M parameters: an exploration on a laptop."""
    dtype = _dtype(device)
    pretraining = PretrainingConfig(device=device, compute_dtype=dtype)
    steps = pretraining.optimiser.steps
    checkpoints = (0, 20, 40, 80, 120, 160, 240, 320, 400)
    tunings = tuple(
        _stopped(tuned, PLAIN_STOPS) if tuned.curve_only else tuned
        for tuned in _tunings(64, device, dtype, _strengths(checkpoints[-1]))
    )
    return Recipe(
        name="quick",
        world=WorldConfig(),
        pretraining=pretraining,
        tunings=tunings,
        checkpoints=checkpoints,
        base_checkpoints=tuple(round(steps * k / 8) for k in range(9)),
        seeds=(seed,),
        left_out=_left_out(tunings),
    )


def _controlled(tuned: Tuned, control: str) -> Tuned:
    """A protocol's own control: the same tuning, which teaches what the control does."""
    return replace(
        tuned, name=f"{control}-{tuned.name}", control=control, config=replace(tuned.config, control=control)
    )


def _again(tuned: Tuned) -> Tuned:
    """The same tuning of the same base model on other prompts, to tell the two sources of chance apart."""
    config = replace(tuned.config, first_row=tuned.config.batch * tuned.config.optimiser.steps)
    return replace(tuned, name=f"{tuned.name}-again", protocol=f"{tuned.protocol}_again", config=config)


def standard(device: str = "cpu", seed: int = 0) -> Recipe:
    """`quick` in six seeds that no earlier run has used, with every control of every claim: what verdicts rest on.

    seed: which six; those of 0 are 101 to 106. The unit of inference is the seed, so fewer prompts stand behind a
    number of one seed, and fewer checkpoints are analysed, than in `quick`. Base models are shorter, tunings not.
    """
    whole = quick(device)
    optimiser = replace(whole.pretraining.optimiser, steps=STANDARD_BASE, decay_end=STANDARD_BASE)
    first = next(tuned for tuned in whole.tunings if tuned.name == "ssft-medium")
    steps, config = whole.steps, first.config
    all_controls = _tunings(config.batch, device, config.compute_dtype, _strengths(steps), controls=tuple(CONTROLS))
    tunings = tuple(tuned for tuned in all_controls if not tuned.curve_only)
    others = tuple(
        _controlled(tuned, "other") for tuned in tunings if tuned.control is None and tuned.name != first.name
    )
    protocols = tuple(tuned.name for tuned in tunings if tuned.strength == "medium" and tuned.control is None)
    own = tuple(f"other-{name}" for name in protocols)
    ranked = (*protocols, *own, *(f"{control}-{first.name}" for control in ("operators", "constant")))
    return replace(
        whole,
        name="standard",
        pretraining=replace(whole.pretraining, optimiser=optimiser),
        tunings=(*tunings, *others, _again(first)),
        checkpoints=(0, 40, steps),
        base_checkpoints=(0, STANDARD_BASE),
        sizes=replace(whole.sizes, final=500, checkpoint=128, attacked=200, contrast=256, ceiling=1000, shown=1),
        model_attacks=replace(whole.model_attacks, controls=own, doses=STANDARD_DOSES, universal="soft_weak"),
        seeds=tuple(range(101 + STANDARD_SEEDS * seed, 101 + STANDARD_SEEDS * (seed + 1))),
        exploratory=False,
        left_out=None,
        subspaces=Subspaces(ranked=ranked, dosed=(*protocols, *own)),
        interventions=STANDARD,
    )


def smoke(device: str = "cpu", seed: int = 0) -> Recipe:
    """Every stage on a toy scale, in seconds. Its models know nothing, and its numbers mean nothing."""
    whole = quick(device, seed)
    pretraining = replace(whole.pretraining, layers=2, heads=2, width=32, batch=32, optimiser=_optimiser(3e-3, 24))
    keep = ("ssft-medium", "dpo-medium", "unlearn-medium", "ssft-small", "other-ssft-medium")
    tunings = tuple(
        tuned for tuned in _tunings(16, device, whole.pretraining.compute_dtype, _strengths(8)) if tuned.name in keep
    )
    return replace(
        whole,
        name="smoke",
        pretraining=pretraining,
        tunings=tunings,
        left_out=_left_out(tunings),
        checkpoints=(0, 4, 8),
        base_checkpoints=(0, 24),
        sizes=Sizes(final=24, checkpoint=8, attacked=16, contrast=24, draws=20, bootstrap=50, ceiling=100, shown=1),
        model_attacks=ModelAttacks(
            models=("ssft-medium",),
            controls=("other-ssft-medium",),
            prompts=10,
            doses=("soft_weak", "soft_2"),
            universal="soft_weak",
            controlled="soft_weak",
            search=TokenSearchConfig(tokens=1, steps=2, top_k=2, evaluated=2),
            prefilled=(1, 2),
            relearning=RelearningConfig(batch=4, measured=(0, 1, 2)),
            taught=8,
        ),
        subspaces=Subspaces(directions=4, probed=64, permutations=10),
        interventions=SMOKE,
    )


def gridded(whole: Recipe) -> Recipe:
    """The grid about a recipe's world: SSFT at η_M in every cell, on the recipe's scale."""
    return replace(
        whole,
        name="grid",
        tunings=tuple(tuned for tuned in whole.tunings if tuned.name == "ssft-medium"),
        checkpoints=whole.checkpoints[-1:],
        base_checkpoints=whole.base_checkpoints[-1:],
        left_out=None,
        cells=cells(whole.world),
    )


def grid(device: str = "cpu", seed: int = 0) -> Recipe:
    """When do attacks on prompts work? `quick` in worlds that differ in one thing each, with SSFT at η_M."""
    return gridded(quick(device, seed))


def _compat_world(shared_operators: bool) -> WorldConfig:
    """The published data (see `Compat`): no window is redrawn, no prompt is held out, and pre-training does not
    know the level-5 rules of unsafe text.
    """
    world = published_world(shared_operators, unsafe_level_5="unknown")
    return replace(world, redraw_below=0.0, held_out=0.0, compat=PUBLISHED_COMPAT)


def _paper_optimiser(rate: float, compat: bool) -> OptimiserConfig:
    """The published tuning: 10,000 updates, warm-up from 0, gradients clipped at 1. compat: its weight decay too."""
    return OptimiserConfig(
        peak_lr=rate,
        min_lr=1e-6,
        steps=10_000,
        warmup=2_000,
        decay_end=8_000,
        weight_decay=1e-4 if compat else 0.0,
        clip_norm=1.0,
        from_zero=True,
    )


def paper(device: str = "cpu", seed: int = 0, compat: bool = False) -> Recipe:
    """The paper's world, model (6 layers, 6 heads, d = 192) and optimisation, on our objectives, with all controls.

    compat: also the published data, batches, objectives, masks, weight decay in tuning and dead norms. The published
    code clips nothing in pre-training, as it clips before the gradient is there.
    """
    dtype, steps, batch = _dtype(device), 100_000, 512
    pretraining = PretrainingConfig(
        layers=6,
        heads=6,
        width=192,
        batch=batch,
        views=published_schedule(steps * batch, flat=steps * batch // 10),
        optimiser=OptimiserConfig(
            peak_lr=1e-3,
            min_lr=1e-5,
            steps=steps,
            warmup=20_000,
            decay_end=80_000,
            weight_decay=1e-4,
            clip_norm=None,
            from_zero=True,
        ),
        device=device,
        compute_dtype=dtype,
        block="published",
        positions="sinusoidal",
        dead_norm=compat,
    )
    optimisers = {
        "medium": _paper_optimiser(PAPER_MEDIUM, compat),
        "small": _paper_optimiser(PAPER_SMALL, compat),
    }
    protocols = PUBLISHED_PROTOCOLS if compat else PROTOCOLS
    return Recipe(
        name="paper-compat" if compat else "paper",
        world=_compat_world(shared_operators=False) if compat else published_world(),
        base_world=_compat_world(shared_operators=True) if compat else None,
        pretraining=pretraining,
        tunings=_tunings(batch, device, dtype, optimisers, protocols, tuple(CONTROLS), compat),
        checkpoints=(0, 100, 300, 1_000, 2_000, 3_000, 4_000, 6_000, 8_000, 10_000),
        base_checkpoints=tuple(range(0, 100_001, 10_000)),
        sizes=Sizes(checkpoint=500),
        seeds=(seed,),
    )


LAPTOP_BASE, LAPTOP_TUNING = 3000, 800  # updates
LAPTOP_RATE = 1e-3  # of tunings
LAPTOP_GATE = 0.99


def paper_laptop(device: str = "cpu", seed: int = 0, published_objectives: bool = False) -> Recipe:
    """`paper` by training that learns fast: its world and model, in batches of 64, the base model by Muon.

    The base model sees every prompt whole, and must answer 0.99 of them exactly in every stratum and grammar before it
    is tuned. Tunings are by AdamW, as published, each with an `other` and a `constant` of its own protocol.
    published_objectives: the published code's forms of DPO and unlearning in place of ours.

    The base model's schedule is that of a trial (docs/log.md). Rate and length of the tunings are not settled: the one
    trial at this rate fell short of 0.95 on conditional operators.
    """
    whole = paper(device, seed)
    adam = OptimiserConfig(
        peak_lr=LAPTOP_RATE, min_lr=LAPTOP_RATE / 100, steps=LAPTOP_TUNING, warmup=50, decay_end=LAPTOP_TUNING
    )
    pretraining = replace(
        whole.pretraining,
        batch=64,
        views=ViewSchedule(),
        optimiser=OptimiserConfig(
            peak_lr=3e-3,
            min_lr=3e-5,
            steps=LAPTOP_BASE,
            warmup=200,
            decay_end=LAPTOP_BASE,
            method="muon",
            decay="linear",
        ),
    )
    protocols = PUBLISHED_PROTOCOLS if published_objectives else PROTOCOLS
    dtype = whole.pretraining.compute_dtype
    tuned = [t for t in _tunings(64, device, dtype, {"medium": adam}, protocols, ()) if not t.curve_only]
    tunings = tuple(
        tuning if control is None else _controlled(tuning, control)
        for tuning in tuned
        for control in (None, "other", "constant")
    )
    return replace(
        whole,
        name="paper-laptop",
        pretraining=pretraining,
        base_gate=LAPTOP_GATE,
        tunings=tunings,
        checkpoints=(0, 50, LAPTOP_TUNING // 4, LAPTOP_TUNING // 2, LAPTOP_TUNING),
        base_checkpoints=(0, LAPTOP_BASE // 2, LAPTOP_BASE),
        sizes=Sizes(final=500, base=2000, checkpoint=128, attacked=200, contrast=256, ceiling=1000, shown=1),
        model_attacks=replace(
            whole.model_attacks,
            controls=tuple(f"other-{t.name}" for t in tuned),
            doses=("soft_weak", "soft_strong"),
            universal="soft_weak",
            controlled="soft_weak",
        ),
    )


def paper_shared(device: str = "cpu", seed: int = 0) -> Recipe:
    """`paper` in which only level 3 tells the branch: hard to see in 25 to 35 letters, so that no window is redrawn and
    the Bayes ceiling, which the dry run prints, lies well below 1.
    """
    world = replace(published_world(unsafe_level_5="shared"), redraw_below=0.0)
    return replace(paper(device, seed), name="paper-shared", world=world)


def paper_compat(device: str = "cpu", seed: int = 0) -> Recipe:
    """`paper` with what the published code does where ours departs from it."""
    return paper(device, seed, compat=True)


RECIPES: dict[str, Callable[[str, int], Recipe]] = {
    "quick": quick,
    "standard": standard,
    "smoke": smoke,
    "grid": grid,
    "paper-laptop": paper_laptop,
    "paper": paper,
    "paper-shared": paper_shared,
    "paper-compat": paper_compat,
}


def recipe(name: str, device: str = "cpu", seed: int = 0) -> Recipe:
    """The recipe of that name. DeltawError lists the names there are."""
    if name not in RECIPES:
        raise DeltawError(f"there is no recipe '{name}'; the recipes are {', '.join(RECIPES)}")
    if seed < 0:
        raise DeltawError(f"seed is {seed}; give a whole number of at least 0")
    return RECIPES[name](device, seed)
