"""All figures of a report, section by section. A figure whose measurements a study lacks is named as missing."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from deltaw.charts.figure import Figure
from deltaw.charts.tables import Tables
from deltaw.observations.attacked_prompts import figures as attacked_prompts
from deltaw.observations.clusters import figures as clusters
from deltaw.observations.dose_response import figures as dose_response
from deltaw.observations.gain import figures as gain
from deltaw.observations.null_space import figures as null_space
from deltaw.observations.overlap import figures as overlap
from deltaw.observations.probe import figures as probe
from deltaw.observations.ranks import figures as ranks
from deltaw.observations.refusal_direction import figures as refusal_direction
from deltaw.observations.sensitivity import figures as sensitivity
from deltaw.observations.update_effect import figures as update_effect
from deltaw.report.figures import attacks_on_models, behaviour, interventions


@dataclass(frozen=True)
class Section:
    """A part of the page: its figures, and what could not be drawn."""

    id: str
    figures: tuple[Figure, ...]
    missing: tuple[str, ...]


_Make = Callable[[Tables], Figure | None]
SECTIONS: dict[str, tuple[tuple[str, _Make], ...]] = {
    "behaviour": (("behaviour at the end", behaviour.behaviour), ("attack success", behaviour.attacks)),
    "training": (
        ("the base model's training", behaviour.base_training),
        ("behaviour over tuning", behaviour.tuning_curves),
        ("objectives over tuning", behaviour.losses),
    ),
    "clusters": (
        ("separation by layer at mlp_post", clusters.clusters),
        ("separation by layer at resid_out", partial(clusters.clusters, site="resid_out")),
        ("separation over checkpoints", clusters.cluster_changes),
    ),
    "null-space": (
        ("energy in the null space", null_space.null_energy),
        ("profile of the null space", null_space.profile),
        ("energy over the size of the column space", null_space.energy_curve),
        ("size and rank of the update", null_space.sizes),
    ),
    "row-space": (
        ("forbidden against allowed, mean over layers", gain.gain_ratios),
        ("gain by layer", gain.gains),
        ("row energy by layer", gain.row_energy),
    ),
    "sensitivity": (
        ("change of sensitivity, beside the published statistic", sensitivity.changes),
        ("where the sensitivity lies", sensitivity.blocks),
    ),
    "subspaces": (
        ("ranks over checkpoints", ranks.ranks_over_training),
        ("ranks at the end", ranks.rank_levels),
        ("overlap of updates", overlap.overlaps),
        ("overlap across layers and seeds", overlap.overlaps_elsewhere),
        ("the direction of refusal", refusal_direction.refusal),
        ("what a probe reads", probe.probes),
    ),
    "function": (("change of the MLPs' outputs", update_effect.effects), ("update by module", null_space.budget)),
    "interventions": (
        ("behaviour along the update", interventions.alphas),
        ("behaviour along parts of the update", interventions.scopes),
        ("behaviour along single layers of the update", interventions.scopes_by_layer),
        ("null-space and column-space part", interventions.parts),
        ("what each part carries", interventions.carried),
        ("behaviour over rank", interventions.ranks),
        ("layers", interventions.layers),
        ("layers swapped between tunings", interventions.swaps),
        ("patches", interventions.patches),
        ("what patches cost", interventions.patch_costs),
        ("difference in means", interventions.directions),
    ),
    "attacks": (
        ("position of attacked prompts", attacked_prompts.positions),
        ("gain on attacked prompts", attacked_prompts.attack_gains),
        ("success against position and gain", attacked_prompts.against_success),
        ("co_text by length", attacked_prompts.unsafe_side),
        ("success of soft prompts and token search", attacks_on_models.inserted),
        ("success of prefill", attacks_on_models.prefilled),
        ("relearning", attacks_on_models.relearned),
        ("position under attacks on models", attacks_on_models.looks_allowed),
        ("gain under attacks on models", attacks_on_models.acted_on),
        ("dose and response", dose_response.responses),
        ("position by dose", dose_response.doses),
    ),
}


def sections(tables: Tables) -> dict[str, Section]:
    """Every section by id; a section of which nothing was measured has no figures."""
    drawn = {name: [(what, make(tables)) for what, make in makers] for name, makers in SECTIONS.items()}
    return {
        name: Section(
            name,
            tuple(figure for _, figure in figures if figure is not None),
            tuple(what for what, figure in figures if figure is None),
        )
        for name, figures in drawn.items()
    }
