"""All figures of a report, section by section. A figure whose measurements a study lacks is named as missing."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from deltaw.charts.figure import Figure
from deltaw.charts.tables import Tables
from deltaw.report.figures import attacks_on_models as breaking
from deltaw.report.figures import behaviour as following
from deltaw.report.figures import clusters_and_null_space as observations
from deltaw.report.figures import directions_and_doses as subspaces
from deltaw.report.figures import interventions as intervening
from deltaw.report.figures import sensitivity as sensing
from deltaw.report.figures import update_effect as acting


@dataclass(frozen=True)
class Section:
    """A part of the page: its figures, and what could not be drawn."""

    id: str
    figures: tuple[Figure, ...]
    missing: tuple[str, ...]


_Make = Callable[[Tables], Figure | None]
SECTIONS: dict[str, tuple[tuple[str, _Make], ...]] = {
    "behaviour": (("behaviour at the end", following.behaviour), ("attack success", following.attacks)),
    "training": (
        ("the base model's training", following.base_training),
        ("behaviour over tuning", following.tuning_curves),
        ("objectives over tuning", following.losses),
    ),
    "clusters": (
        ("separation by layer at mlp_post", observations.clusters),
        ("separation by layer at resid_out", partial(observations.clusters, site="resid_out")),
        ("separation over checkpoints", observations.cluster_changes),
    ),
    "null-space": (
        ("energy in the null space", observations.null_energy),
        ("profile of the null space", observations.profile),
        ("energy over the size of the column space", observations.energy_curve),
        ("size and rank of the update", observations.sizes),
    ),
    "row-space": (
        ("forbidden against allowed, mean over layers", acting.gain_ratios),
        ("gain by layer", acting.gains),
        ("row energy by layer", acting.row_energy),
    ),
    "sensitivity": (
        ("change of sensitivity, beside the published statistic", sensing.changes),
        ("where the sensitivity lies", sensing.blocks),
    ),
    "subspaces": (
        ("ranks over checkpoints", subspaces.ranks_over_training),
        ("ranks at the end", subspaces.rank_levels),
        ("overlap of updates", subspaces.overlaps),
        ("overlap across layers and seeds", subspaces.overlaps_elsewhere),
        ("the direction of refusal", subspaces.refusal),
        ("what a probe reads", subspaces.probes),
    ),
    "function": (("change of the MLPs' outputs", acting.effects), ("update by module", acting.budget)),
    "interventions": (
        ("behaviour along the update", intervening.alphas),
        ("behaviour along parts of the update", intervening.scopes),
        ("behaviour along single layers of the update", intervening.scopes_by_layer),
        ("null-space and column-space part", intervening.parts),
        ("what each part carries", intervening.carried),
        ("behaviour over rank", intervening.ranks),
        ("layers", intervening.layers),
        ("layers swapped between tunings", intervening.swaps),
        ("patches", intervening.patches),
        ("what patches cost", intervening.patch_costs),
        ("difference in means", intervening.directions),
    ),
    "attacks": (
        ("position of attacked prompts", acting.positions),
        ("gain on attacked prompts", acting.attack_gains),
        ("success against position and gain", acting.against_success),
        ("co_text by length", acting.unsafe_side),
        ("success of soft prompts and token search", breaking.inserted),
        ("success of prefill", breaking.prefilled),
        ("relearning", breaking.relearned),
        ("position under attacks on models", breaking.looks_allowed),
        ("gain under attacks on models", breaking.acted_on),
        ("dose and response", subspaces.responses),
        ("position by dose", subspaces.doses),
    ),
}


def sections(tables: Tables) -> dict[str, Section]:
    """Every section by id; a section of which nothing was measured has no figures."""
    found = {}
    for name, makers in SECTIONS.items():
        drawn = [(what, make(tables)) for what, make in makers]
        found[name] = Section(
            name,
            tuple(figure for _, figure in drawn if figure is not None),
            tuple(what for what, figure in drawn if figure is None),
        )
    return found
