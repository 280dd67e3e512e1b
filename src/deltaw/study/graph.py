"""A recipe as a graph of stages."""

from dataclasses import replace
from typing import TypeVar

from deltaw.errors import DeltawError
from deltaw.observations.dose_response.measure import DoseResponse
from deltaw.observations.observation import Observation
from deltaw.observations.overlap.measure import Overlap
from deltaw.pipeline.stage import Stage, device_of
from deltaw.recipes.config import LeftOut, Recipe, Subspaces, doses_of
from deltaw.recipes.grid_worlds import Cell
from deltaw.recipes.tuned import Tuned
from deltaw.study.stages.analysis import (
    AddedConfig,
    AnalysisConfig,
    SubspacesConfig,
    analyse,
    measure_added,
    measure_subspaces,
)
from deltaw.study.stages.attack import AttackingConfig, attack_model
from deltaw.study.stages.dose_response import DosingConfig, measure_doses
from deltaw.study.stages.evaluate import BehaviourConfig, make_behaviour
from deltaw.study.stages.finetune import ReferenceConfig, TuneConfig, make_reference, make_tuned
from deltaw.study.stages.grid_cell import CellConfig, base_name, make_cell
from deltaw.study.stages.intervene import InterveningConfig, intervene
from deltaw.study.stages.left_out import LeftOutConfig, make_left_out
from deltaw.study.stages.overlap import AligningConfig, SeedsConfig, align_models, align_seeds
from deltaw.study.stages.pretrain import BaseConfig, BaseGate, make_base
from deltaw.study.stages.samples import SamplesConfig, make_samples
from deltaw.study.stages.shared import SeedConfig
from deltaw.study.stages.world import make_world

T = TypeVar("T")
PROBED = 256
"""Prompts behind a probe, where a recipe has none of its own."""
SHOWN = (
    "ssft-medium",
    "dpo-medium",
    "unlearn-medium",
    "other-ssft-medium",
)  # in prompts.jsonl, beside the base


def stages(recipe: Recipe) -> list[Stage]:
    """All stages of a study, seed by seed. Their weights are seconds, roughly, on one core."""
    of_seed = _of_grid if recipe.cells else _of_seed
    graph = [stage for seed in recipe.seeds for stage in of_seed(recipe, seed)]
    overlap = recipe.subspaces and recipe.subspaces.overlap
    if overlap and len(recipe.seeds) > 1 and not recipe.cells:
        graph.append(_across_seeds(recipe, _is(Overlap, overlap)))
    return [replace(stage, device=device_of(stage.config)) for stage in graph]


def _of_seed(recipe: Recipe, seed: int) -> list[Stage]:
    shared = SeedConfig(recipe.world, recipe.sizes, seed)
    of_base = SeedConfig(recipe.base_world or recipe.world, recipe.sizes, seed)
    device = recipe.pretraining.device
    base = f"base-s{seed}"
    graph = [
        Stage(f"world-s{seed}", make_world, shared, weight=10),
        Stage(
            base,
            make_base,
            BaseConfig(of_base, recipe.pretraining, recipe.base_checkpoints),
            threads=recipe.base_threads,
            weight=400,
            gate=None if recipe.base_gate is None else BaseGate(recipe.base_gate),
        ),
        Stage(
            f"behaviour-base-s{seed}",
            make_behaviour,
            BehaviourConfig(shared, None, recipe.prompt_attacks, device),
            {"model": base},
            weight=40,
        ),
    ]
    references: dict[str, list[Tuned]] = {}
    for tuned in recipe.tunings:
        if tuned.config.protocol.needs_reference:
            references.setdefault(_reference_name(tuned, seed), []).append(tuned)
    for name, needing in references.items():
        data = needing[0].config.data
        rows = max(tuned.config.batch * tuned.config.optimiser.steps for tuned in needing)
        graph.append(Stage(name, make_reference, ReferenceConfig(shared, rows, data), {"base": base}, weight=40))
    for tuned in recipe.tunings:
        name = _reference_name(tuned, seed)
        graph += _of_tuned(recipe, shared, tuned, base, name if tuned in references.get(name, ()) else None)
    if recipe.left_out:
        graph += _of_left_out(recipe, recipe.left_out, seed, base)
    if recipe.subspaces:
        graph += _of_subspaces(recipe, recipe.subspaces, shared, base)
    shown = [tuned for tuned in recipe.tunings if tuned.name in SHOWN]
    models = {"base": base, **{tuned.name: _tune_name(tuned, seed) for tuned in shown}}
    showing = SamplesConfig(shared, tuple(shown), recipe.prompt_attacks, device)
    graph.append(Stage(f"samples-s{seed}", make_samples, showing, models, weight=5))
    return graph


def _reference_name(tuned: Tuned, seed: int) -> str:
    """One stage for all tunings with the same prompts and answers."""
    parts = [tuned.control or "", f"from-{tuned.config.first_row}" if tuned.config.first_row else ""]
    return "-".join(["reference", *filter(None, parts), f"s{seed}"])


def _of_left_out(recipe: Recipe, left_out: LeftOut, seed: int, base: str) -> list[Stage]:
    world = replace(recipe.world, left_out=left_out.operators)
    shared, tuned = SeedConfig(world, recipe.sizes, seed), left_out.tuned
    compared = next(candidate for candidate in recipe.tunings if candidate.name == left_out.compared)
    name = _tune_name(tuned, seed)
    models = {"tuned": name, "compared": _tune_name(compared, seed), "base": base}
    config = TuneConfig(shared, tuned, recipe.checkpoints[-1:], recipe.refusal_threshold)
    return [
        Stage(name, make_tuned, config, {"base": base}, weight=80),
        Stage(f"behaviour-left-out-s{seed}", make_left_out, LeftOutConfig(shared, tuned, compared), models, weight=30),
    ]


def _of_subspaces(recipe: Recipe, subspaces: Subspaces, shared: SeedConfig, base: str) -> list[Stage]:
    """Directions and dose-response of every tuned model, and the angles between their updates."""
    seed, followed = shared.seed, _followed(recipe)
    graph = []
    for tuned in followed:
        models = {"base": base, "tuned": _tune_name(tuned, seed)}
        if subspaces.observations and (subspaces.ranked is None or tuned.name in subspaces.ranked):
            observed = subspaces.observations
            counting = SubspacesConfig(shared, tuned, recipe.checkpoints, observed, subspaces.probed)
            name = f"analysis-subspaces-{tuned.name}-s{seed}"
            graph.append(Stage(name, measure_subspaces, counting, models, weight=25))
        if subspaces.dose_response is None or (subspaces.dosed is not None and tuned.name not in subspaces.dosed):
            continue
        attacked = recipe.model_attacks.on(tuned.name)
        measured = _is(DoseResponse, subspaces.dose_response)
        dosing = DosingConfig(shared, tuned, recipe.prompt_attacks, doses_of(attacked), measured)
        inputs = models | ({"attacks": f"attacks-{tuned.name}-s{seed}"} if attacked else {})
        graph.append(Stage(f"analysis-doses-{tuned.name}-s{seed}", measure_doses, dosing, inputs, weight=20))
    if subspaces.overlap is not None:
        inputs = {"base": base, **{tuned.name: _tune_name(tuned, seed) for tuned in followed}}
        aligning = AligningConfig(shared, followed, _is(Overlap, subspaces.overlap))
        graph.append(Stage(f"analysis-angles-s{seed}", align_models, aligning, inputs, weight=20))
    return graph


def _is(kind: type[T], observation: Observation) -> T:
    """The observation, which has to be of a class: its stage asks for more than `measure`."""
    if not isinstance(observation, kind):
        raise DeltawError(f"the recipe has {type(observation).__name__} where only {kind.__name__} can be")
    return observation


def _across_seeds(recipe: Recipe, overlap: Overlap) -> Stage:
    followed = tuple(tuned for tuned in _followed(recipe) if tuned.strength == "medium")
    shared = tuple(SeedConfig(recipe.world, recipe.sizes, seed) for seed in recipe.seeds)
    inputs = {f"base-s{seed}": f"base-s{seed}" for seed in recipe.seeds}
    inputs |= {f"{tuned.name}-s{seed}": _tune_name(tuned, seed) for tuned in followed for seed in recipe.seeds}
    return Stage("analysis-angles-seeds", align_seeds, SeedsConfig(shared, followed, overlap), inputs, weight=20)


def _followed(recipe: Recipe) -> tuple[Tuned, ...]:
    return tuple(tuned for tuned in recipe.tunings if not tuned.curve_only)


def in_cell(tuned: Tuned, cell: Cell) -> Tuned:
    """A tuning as one cell of a grid has it, called by its name and its cell."""
    return replace(tuned, name=f"{tuned.name}@{cell.name}")


def cell_stage(kind: str, cell: Cell, seed: int) -> str:
    """The name of a cell's stage; kind: `base`, `cell`, or a tuning's name."""
    return f"{kind}-{cell.name}-s{seed}"


def _of_grid(recipe: Recipe, seed: int) -> list[Stage]:
    by_name = {cell.name: cell for cell in recipe.cells}
    graph = [Stage(f"world-s{seed}", make_world, SeedConfig(recipe.world, recipe.sizes, seed), weight=10)]
    for cell in recipe.cells:
        shared = SeedConfig(cell.world, recipe.sizes, seed)
        base = cell_stage("base", by_name[cell.base or cell.name], seed)
        if cell.base is None:
            config = BaseConfig(shared, recipe.pretraining, recipe.base_checkpoints, base_name(cell))
            graph.append(Stage(base, make_base, config, weight=400))  # side by side, hence one thread each
        for tuned in recipe.tunings:
            name = cell_stage(f"tune-{tuned.name}", by_name[cell.tuned or cell.name], seed)
            cell_tuned = in_cell(tuned, cell)
            if cell.tuned is None:
                tuning = TuneConfig(shared, cell_tuned, recipe.checkpoints, recipe.refusal_threshold)
                graph.append(Stage(name, make_tuned, tuning, {"base": base}, weight=80))
            models = {"base": base, "tuned": name}
            stage = cell_stage(f"cell-{tuned.name}", cell, seed)
            graph.append(
                Stage(stage, make_cell, CellConfig(shared, cell, cell_tuned, recipe.prompt_attacks), models, weight=60)
            )
    return graph


def _tune_name(tuned: Tuned, seed: int) -> str:
    return f"tune-{tuned.name}-s{seed}"


def _of_tuned(recipe: Recipe, shared: SeedConfig, tuned: Tuned, base: str, reference: str | None) -> list[Stage]:
    name = _tune_name(tuned, shared.seed)
    inputs = {"base": base} | ({"reference": reference} if reference else {})
    steps = tuple(step for step in recipe.checkpoints if step <= tuned.config.optimiser.steps)
    config = TuneConfig(shared, tuned, steps, recipe.refusal_threshold)
    models = {"base": base, "tuned": name}
    protocol = tuned.config.protocol
    graph = [Stage(name, make_tuned, config, inputs, weight=20 + 60 * (protocol.responses + protocol.needs_base))]
    if tuned.curve_only:
        return graph
    graph += [
        Stage(
            f"behaviour-{tuned.name}-s{shared.seed}",
            make_behaviour,
            BehaviourConfig(shared, tuned, recipe.prompt_attacks, tuned.config.device),
            {"model": name},
            weight=50,
        ),
    ]
    on_prompts = recipe.prompt_attacks
    if recipe.observations:
        analysis = AnalysisConfig(shared, tuned, recipe.checkpoints, recipe.observations, on_prompts)
        graph.append(Stage(f"analysis-{tuned.name}-s{shared.seed}", analyse, analysis, models, weight=60))
    probed = recipe.subspaces.probed if recipe.subspaces else PROBED
    for observation in recipe.added:
        stage_name = f"observe-{observation.name}-{tuned.name}-s{shared.seed}"
        siblings = _others(recipe, tuned) if observation.beside_others else ()
        names = tuple(sibling.name for sibling in siblings)
        added = AddedConfig(shared, tuned, recipe.checkpoints, observation, on_prompts, probed, names)
        beside = {f"with {sibling.name}": _tune_name(sibling, shared.seed) for sibling in siblings}
        graph.append(Stage(stage_name, measure_added, added, models | beside, weight=30))
    attacks = recipe.model_attacks.on(tuned.name)
    if attacks:
        prompts, per_prompt = recipe.model_attacks.prompts, recipe.subspaces is not None
        attacking = AttackingConfig(shared, tuned, attacks, prompts, per_prompt)
        graph.append(Stage(f"attacks-{tuned.name}-s{shared.seed}", attack_model, attacking, models, weight=100))
    if tuned.name in dict(recipe.interventions):
        graph.append(_interventions(recipe, shared, tuned, models))
    return graph


def _others(recipe: Recipe, tuned: Tuned) -> tuple[Tuned, ...]:
    """The other tunings of the same base model, for an observation that is made beside them; none in a grid."""
    if recipe.cells:
        return ()
    return tuple(sibling for sibling in recipe.tunings if sibling.name != tuned.name and not sibling.curve_only)


def _interventions(recipe: Recipe, shared: SeedConfig, tuned: Tuned, models: dict[str, str]) -> Stage:
    sweep = dict(recipe.interventions)[tuned.name]
    partner = next((candidate for candidate in recipe.tunings if candidate.name == sweep.partner), None)
    inputs = models | ({"partner": _tune_name(partner, shared.seed)} if partner else {})
    name = f"interventions-{tuned.name}-s{shared.seed}"
    return Stage(name, intervene, InterveningConfig(shared, tuned, sweep, recipe.prompt_attacks), inputs, weight=100)
