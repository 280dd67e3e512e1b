"""The stage that edits one tuned model's weights and activations, and asks the edited models (`interventions`)."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from deltaw.attacks.prompts.attack import PromptAttack
from deltaw.interventions import Asked, State, Subject, Sweep, measure_interventions, state_of
from deltaw.interventions.subject import STAGE
from deltaw.models import Transformer
from deltaw.observations.lens import BaseSide, Lens
from deltaw.observations.prompts import Effort
from deltaw.observations.prompts import Prompts as LensPrompts
from deltaw.pipeline.stage import StageContext
from deltaw.recipes.sizes import Sizes
from deltaw.recipes.tuned import Tuned
from deltaw.results.recorder import Sheet
from deltaw.study.stages.lens import ALLOWED, FORBIDDEN, SyntheticModel, attacked_prompts, contrasts
from deltaw.study.stages.shared import SeedConfig, last_model, prompts_of_sets
from deltaw.study.stages.tuned_models import tuned_fields
from deltaw.training.controls.control import Control
from deltaw.world import Prompts, Response, World

__all__ = ["STAGE", "InterveningConfig", "intervene", "synthetic_subject"]

MEANS_FROM = 1 << 30  # of the test prompts; no measurement of behaviour reaches so far


@dataclass(frozen=True)
class InterveningConfig:
    """The stage that intervenes on one tuned model."""

    shared: SeedConfig
    tuned: Tuned
    sweep: Sweep
    attacks: tuple[PromptAttack, ...]
    """On prompts."""


def intervene(context: StageContext) -> None:
    """Every part of the sweep on the tuned model's last checkpoint. A partner is the input of that name."""
    config: InterveningConfig = context.config
    shared, device = config.shared, config.tuned.config.device
    base, _ = last_model(context.inputs["base"])
    model, meta = last_model(context.inputs["tuned"])
    sheet = Sheet(stage=STAGE, **tuned_fields(config.tuned, shared.seed), step=int(meta["step"]))
    partner = state_of(last_model(context.inputs["partner"])[0]) if "partner" in context.inputs else None
    subject = synthetic_subject(
        base,
        model.to(device),
        World(shared.world),
        config.sweep,
        shared.sizes,
        shared.seed,
        sheet,
        config.attacks,
        config.tuned.config.control,
        partner,
    )
    measure_interventions(config.sweep.interventions, subject, context.report)
    sheet.write(context.out)


def synthetic_subject(
    base: Transformer,
    tuned: Transformer,
    world: World,
    sweep: Sweep,
    sizes: Sizes,
    seed: int,
    sheet: Sheet,
    attacks: Sequence[PromptAttack],
    control: Control | None = None,
    partner: State | None = None,
) -> Subject:
    """A tuned model of a world, beside its base.

    attacks: on prompts.
    control: which one the tuned model is, if any.
    partner: another tuning of the same base.
    """
    pairs = contrasts(world, sweep.pairs, seed)[:1] if sweep.pairs else ()
    by_name = {contrast.name: contrast for contrast in pairs}
    prompts = LensPrompts(pairs, lambda: attacked_prompts(world, attacks, by_name, seed))
    effort = Effort(draws=sizes.draws, bootstrap=sizes.bootstrap)
    side = BaseSide(SyntheticModel(base, world), prompts, effort, seed)
    return Subject(Lens(side, SyntheticModel(tuned, world)), asked(world, sweep, seed, control), sweep, sheet, partner)


def asked(world: World, sweep: Sweep, seed: int, control: Control | None = None) -> Asked:
    """`prompts` of both conditional sets, about as many of the rest of each verdict, and what tuning teaches."""
    by_set = prompts_of_sets(world, sweep.prompts, seed)
    rest: dict[str, list[Prompts]] = {}
    for name, prompts in by_set.items():
        if "/conditional/" not in name:
            rest.setdefault(f"{name.partition('/')[0]}/rest", []).append(prompts)
    sets = {
        ALLOWED: by_set[ALLOWED],
        FORBIDDEN: by_set[FORBIDDEN],
        **{name: Prompts.concatenate(parts) for name, parts in rest.items()},
    }

    def behind_means() -> tuple[Prompts, Prompts]:
        rows = range(MEANS_FROM, MEANS_FROM + sweep.means)
        allowed, forbidden = (world.sample(name, rows, seed=seed) for name in (ALLOWED, FORBIDDEN))
        return allowed, forbidden

    means = behind_means if sweep.means else None
    return Asked(ALLOWED, FORBIDDEN, sets, means, partial(_instead, world, control))


def _instead(world: World, control: Control | None, prompts: Prompts) -> tuple[tuple[int, ...], ...] | None:
    """The answers that tuning teaches in place of complying. None: refusals."""
    response = Response.REFUSE if control is None else control.instead
    if response == Response.REFUSE:
        return None
    tokens = world.layout.response_tokens(prompts, np.full(len(prompts), response))
    pad = world.vocabulary.pad
    return tuple(tuple(token for token in row if token != pad) for row in tokens.tolist())
