"""The stages that fine-tune: the base model's log-probabilities, and one tuned model."""

from dataclasses import dataclass

from safetensors.torch import load_file, save_file

from deltaw.errors import DeltawError
from deltaw.models import Transformer
from deltaw.pipeline.stage import StageContext
from deltaw.protocols.pair import ReferenceLogProbs
from deltaw.recipes.tuned import Tuned
from deltaw.results import write_json_atomic
from deltaw.results.recorder import Sheet
from deltaw.study.stages.checkpoints import Checkpoints
from deltaw.study.stages.shared import SeedConfig, last_model, prompts_of_sets, write_log
from deltaw.study.stages.tuned_models import follow, tuned_fields
from deltaw.training.finetuning import TuningData, tune, tuning_reference
from deltaw.world import World


@dataclass(frozen=True)
class ReferenceConfig:
    """The stage that computes the base model's log-probabilities of the tuning responses."""

    shared: SeedConfig
    rows: int
    """How many prompts."""
    data: TuningData
    """What all tunings that need them learn from."""


def make_reference(context: StageContext) -> None:
    """Log-probabilities of both responses to all tuning prompts, for protocols that need them."""
    config: ReferenceConfig = context.config
    shared, data = config.shared, config.data
    base, _ = last_model(context.inputs["base"])
    world, base = World(shared.world), base.to(data.device)
    log_probs = tuning_reference(world, base, config.rows, data, shared.seed, context.report)
    if not bool((log_probs.preferred.isfinite() & log_probs.dispreferred.isfinite()).all()):
        raise DeltawError(
            "the base model's log-probabilities are not all numbers; train it at a lower rate, or restore it"
        )
    save_file(
        {"preferred": log_probs.preferred.cpu(), "dispreferred": log_probs.dispreferred.cpu()},
        context.out / "reference.safetensors",
    )


@dataclass(frozen=True)
class TuneConfig:
    """The stage that makes one tuned model."""

    shared: SeedConfig
    tuned: Tuned
    checkpoints: tuple[int, ...]
    refusal_threshold: float


def make_tuned(context: StageContext) -> None:
    """Tune; keep every checkpoint; follow behaviour on a few prompts of each set; note the matched checkpoint."""
    config: TuneConfig = context.config
    shared, tuned = config.shared, config.tuned
    world, seed = World(shared.world), shared.seed
    fields = tuned_fields(tuned, seed)
    sets = prompts_of_sets(world, shared.sizes.checkpoint, seed)
    kept = Checkpoints(context.scratch, config.checkpoints)

    def on_checkpoint(step: int, model: Transformer) -> None:
        sheet = Sheet(stage="tune", **fields)
        rate = follow(model, world, sets, sheet.with_(step=step), tuned.config.control, seed)
        kept.write(step, sheet.lines, {"refused": rate}, model, {**fields, "step": step})

    base, _ = last_model(context.inputs["base"])
    reference = None
    if "reference" in context.inputs:
        saved = load_file(context.inputs["reference"] / "reference.safetensors")
        device = tuned.config.device
        reference = ReferenceLogProbs(saved["preferred"].to(device), saved["dispreferred"].to(device))
    log = tune(
        world,
        base,
        tuned.config,
        seed,
        reference,
        checkpoints=config.checkpoints,
        on_checkpoint=on_checkpoint,
        progress=context.report,
        snapshots=kept.snapshots,
    )
    kept.copy_models(context.out)
    sheet = Sheet(stage="tune", **fields)
    sheet.lines += kept.lines()
    refused = {step: float(notes["refused"]) for step, notes in kept.notes()}
    matched = next((step for step, rate in sorted(refused.items()) if rate >= config.refusal_threshold), None)
    if matched is not None:
        sheet.add("matched_step", matched, unit="update", step=matched)
    write_json_atomic(context.out / "matched.json", {"step": matched, "refusal_rates": refused})
    write_log(log, context.out, sheet, max(1, tuned.config.optimiser.steps // 60), tuned.config.protocol.unit)
    sheet.write(context.out)
