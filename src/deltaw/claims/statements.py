"""What is claimed, written down before the seeds that decide it are run; the history of this file is the proof.

The primary table has one statistic an observation, for each protocol and, where there are two, each contrast. Its
sites, layer rule, smallest effects and margins were chosen after looking at 18 seeds of the small world (docs/log.md),
which therefore explore; no seed of the run that decides had been made. The second table is ours, or reads the paper's
statements in another way; it has no part in the correction for many tests.

The rule is `decision`, what is read is `lookup`, and `docs_page` makes docs/claims.md of all this. Up to 2026-11-30
this file held 66 claims for another rule, which was withdrawn (docs/standard.md).
"""

from dataclasses import dataclass, replace

import numpy as np

from deltaw.statistics.intervals import Scale

PROTOCOLS = {"ssft-medium": "SSFT", "dpo-medium": "DPO+NLL", "unlearn-medium": "unlearning"}
COMBINATION, OPERATOR = "contrast/conditional", "contrast/operator"
CONTRASTS = {
    "operator": (OPERATOR, "the same safe text under never-allowed and always-allowed operators"),
    "combination": (COMBINATION, "the same operators on unsafe and on safe text"),
}
ALLOWED, FORBIDDEN = "allowed/conditional/safe", "forbidden/conditional/unsafe"
OTHER, CONSTANT = "other", "constant"
CONTROLS = (OTHER, CONSTANT)
"""Each model's own: tuned by the same protocol at the same rate to give another answer that depends on the text, and to
give one harmless answer to all forbidden prompts.
"""
ATTACKS = ("co_task", "co_text", "misgen_token", "misgen_text", "soft_weak", "soft_strong")
WORKING_ATTACKS = ("co_task", "co_text")
"""The paper's attacks on prompts that worked in the small world (18 seeds, 30 to 47 %); the other two hardly did."""

LOG = float(np.log(1.25))
"""A quarter more or less, as a log ratio."""
PEAK = "own maximum over layers, the layer chosen on half of the pairs and read on the others"


@dataclass(frozen=True)
class Query:
    """Which measurement: one line a model, seed and null."""

    statistic: str
    """Its name."""
    models: tuple[str, ...]
    """Models over which it is averaged."""
    where: tuple[tuple[str, str | float | None], ...] = ()
    """Further fields of the line. Without `layer` the line is of no single layer."""
    step: str = "last"
    """The last checkpoint, or the "first" after step 0."""
    attacks: tuple[str, ...] = ()
    """Attacks over which it is averaged; none: `where` says which."""


@dataclass(frozen=True)
class Statement:
    """One claim: the mean of `query` over its models, minus that of `against` where there is one."""

    id: str
    """Its name."""
    observation: int
    """The paper's observation, 1 to 5."""
    text: str
    """The claim in words."""
    paper: str
    """Where the paper says it."""
    query: Query
    """What is read."""
    smallest_effect: float
    """Above 0, on the scale: the smallest difference that would matter."""
    margin: float
    """Above 0, on the scale: a difference that surely lies within it is none."""
    spread: float
    """Standard deviation between seeds that the plan reckons with, on the scale."""
    direction: str = "greater"
    """Side of the reference on which the statement lies: greater or less."""
    reference: float = 0.0
    """Value that is neither for nor against the statement, in the statistic's unit."""
    against: Query | None = None
    """What is subtracted."""
    shape: str | None = None
    """Kind of the null that has a mean of its own; None: none has, and the question is not asked."""
    nulls: tuple[str, ...] = ()
    """Kinds of null that are drawn beside the value."""
    controls: tuple[str, ...] = CONTROLS
    """Controls with which it is compared."""
    uncontrolled: str = ""
    """Why it has none."""
    only_controls: bool = False
    """Whether it is a statement about the controls alone, and not about the tuned model."""
    site: str | None = None
    """Where it is measured, in words."""
    scale: Scale = "identity"
    """On which differences and intervals are taken."""
    primary: bool = False
    """Whether it is in the primary table."""


def sign_of(direction: str) -> float:
    """1.0 or −1.0: what turns a value so that the statement's side is positive."""
    return 1.0 if direction == "greater" else -1.0


def as_control(control: str, query: Query) -> Query:
    """The same query of each model's own control."""
    return replace(query, models=tuple(f"{control}-{model}" for model in query.models))


def _where(**fields: str | float | None) -> tuple[tuple[str, str | float | None], ...]:
    return tuple(sorted(fields.items()))


def _primary(model: str, name: str) -> list[Statement]:
    """The primary table's rows of one protocol."""
    rows = []
    for contrast, (pairs, told) in CONTRASTS.items():
        rows += [
            Statement(
                id=f"clusters/{contrast}/{model}",
                observation=1,
                text=f"{name} moves allowed and forbidden prompts apart: {told}",
                paper="section 4, observation 1",
                query=Query("tau_gap_relative_change_peak", (model,), _where(set=pairs, site="mlp_post")),
                smallest_effect=0.2,
                margin=0.2,
                spread=0.16,
                nulls=("label_permutation",),
                site=f"change of the gap τ / ‖Δμ‖ (at most 2) at mlp_post, last prompt token; {PEAK}",
                primary=True,
            ),
            Statement(
                id=f"gain/{contrast}/{model}",
                observation=3,
                text=f"{name}'s update acts more on forbidden than on allowed prompts: {told}",
                paper="section 4, observation 3",
                query=Query("gain_log_ratio_in_situ_peak", (model,), _where(set=pairs, site="mlp_in")),
                smallest_effect=LOG,
                margin=LOG,
                spread=0.16,
                nulls=("label_permutation",),
                site=f"log ratio of ‖ΔWa + Δb‖ / ‖Wa + b‖, a entering the tuned model's MLP, last prompt token; {PEAK}",
                primary=True,
            ),
        ]
    rows += [
        Statement(
            id=f"null-space/{model}",
            observation=2,
            text=f"{name}'s update lies more in the left null space of W than in its column space",
            paper="section 4, observation 2",
            query=Query("null_energy_left", (model,), _where(module="mlp.in_proj")),
            reference=0.5,
            smallest_effect=0.1,
            margin=0.1,
            spread=0.04,
            shape="row_sign_flip",
            nulls=("rotation", "row_permutation", "row_sign_flip"),
            site="ρ_N of the MLP's first matrix, mean over layers: weights have no prompts to choose a layer by",
            scale="logit",
            primary=True,
        ),
        Statement(
            id=f"sensitivity/{model}",
            observation=4,
            text=f"{name} lowers sensitivity on forbidden prompts relative to allowed ones",
            paper="section 4, observation 4",
            query=Query("sensitivity_log_ratio_spectral_difference", (model,), _where(set=COMBINATION)),
            smallest_effect=LOG,
            margin=LOG,
            spread=0.19,
            direction="less",
            nulls=("label_permutation",),
            site="log ratio, tuned over base, of the spectral norm of the Jacobian from all prompt embeddings to the "
            "log-probabilities of the first response token; forbidden minus allowed, the same operators",
            primary=True,
        ),
        Statement(
            id=f"attacked/{model}",
            observation=5,
            text=f"{name}'s update acts less on attacked prompts than on the forbidden ones they were made from",
            paper="section 5, observation 5",
            query=Query(
                "gain_log_ratio_to_forbidden_in_situ_peak",
                (model,),
                _where(set=FORBIDDEN, site="mlp_in"),
                attacks=WORKING_ATTACKS,
            ),
            smallest_effect=LOG,
            margin=LOG,
            spread=0.18,
            direction="less",
            nulls=("exchangeable_with_source",),
            site=f"log ratio of the gains, mean of {' and '.join(WORKING_ATTACKS)}, tuned model's own inputs; {PEAK}",
            primary=True,
        ),
    ]
    return rows


def _secondary(model: str, name: str) -> list[Statement]:
    """The second table's rows of one protocol."""
    whole = ("ssft", "dpo", "unlearn")[list(PROTOCOLS).index(model)]
    rows = [
        *_of_activations(model, name),
        *_of_weights(model, name),
        *_of_sensitivity(model, name),
        *_of_interventions(model, name, whole),
    ]
    gap = Query("tau_gap_relative_change", (model,), _where(set=COMBINATION, site="mlp_post"))
    return [
        *rows,
        Statement(
            id=f"clusters-grow-with-strength/{model}",
            observation=1,
            text=f"The larger learning rate of {name} moves the clusters further apart",
            paper="section 4, observation 1",
            query=gap,
            against=replace(gap, models=(f"{whole}-small",)),
            smallest_effect=0.1,
            margin=0.1,
            spread=0.15,
            controls=(OTHER,),
            site="mlp_post, last prompt token, mean over layers",
        ),
        Statement(
            id=f"clusters-grow-with-training/{model}",
            observation=1,
            text=f"The clusters move further apart as {name} goes on",
            paper="section 4, observation 1",
            query=gap,
            against=replace(gap, step="first"),
            smallest_effect=0.1,
            margin=0.1,
            spread=0.15,
            controls=(OTHER,),
            site="mlp_post, last prompt token, mean over layers; last checkpoint minus the first",
        ),
    ]


def _of_activations(model: str, name: str) -> list[Statement]:
    rows = []
    for contrast, (pairs, told) in CONTRASTS.items():
        at_output = _where(set=pairs, site="resid_out")
        rows += [
            Statement(
                id=f"clusters-at-output/{contrast}/{model}",
                observation=1,
                text=f"{name} moves allowed and forbidden prompts apart at the blocks' output: {told}",
                paper="section 4, observation 1, at another site",
                query=Query("tau_gap_relative_change_peak", (model,), at_output),
                smallest_effect=0.2,
                margin=0.2,
                spread=0.16,
                nulls=("label_permutation",),
                site=f"resid_out, last prompt token; {PEAK}",
            ),
            Statement(
                id=f"separates-later/{contrast}/{model}",
                observation=1,
                text=f"{name} separates them in a later layer than its controls do: {told}",
                paper="ours",
                query=Query("tau_gap_relative_change_peak_layer", (model,), at_output),
                smallest_effect=0.15,
                margin=0.15,
                spread=0.15,
                only_controls=True,
                site="resid_out; the chosen layer, 0 the first and 1 the last",
            ),
            Statement(
                id=f"gain-at-base-inputs/{contrast}/{model}",
                observation=3,
                text=f"{name}'s update would act more on forbidden prompts as the base model reads them: {told}",
                paper="ours: says whether the update or the input makes the difference",
                query=Query("gain_log_ratio_peak", (model,), _where(set=pairs, site="mlp_in")),
                smallest_effect=LOG,
                margin=LOG,
                spread=0.05,
                nulls=("label_permutation",),
                site=f"the base model's inputs, last prompt token; {PEAK}",
            ),
        ]
    site, contrast = "mlp_post", COMBINATION
    return [
        *rows,
        Statement(
            id=f"forbidden-rank-is-low/{model}",
            observation=1,
            text=f"After {name}, forbidden prompts have fewer directions than allowed ones with the same operators",
            paper="section 4: tuned unsafe activations are of low rank",
            query=Query("rank_log_ratio", (model,), _where(set=contrast, site=site)),
            smallest_effect=LOG,
            margin=LOG,
            spread=0.15,
            direction="less",
            nulls=("label_permutation",),
            site="participation ratio of centred activations, mlp_post, last prompt token, mean over layers; log ratio",
        ),
        Statement(
            id=f"row-space/{model}",
            observation=3,
            text=f"The strongest input directions of {name}'s update hold more of forbidden than of allowed prompts",
            paper="section 4, observation 3",
            query=Query("row_energy_difference", (model,), _where(set=contrast, site="mlp_in")),
            smallest_effect=0.05,
            margin=0.05,
            spread=0.03,
            shape="m_matched_centred",
            nulls=("m_matched", "m_matched_centred"),
            site="the base model's inputs, last prompt token, mean over layers; top 8 right singular vectors",
        ),
    ]


def _of_weights(model: str, name: str) -> list[Statement]:
    pairs = f"{COMBINATION}/forbidden"
    return [
        Statement(
            id=f"update-is-small/{model}",
            observation=2,
            text=f"{name}'s update is smaller than a tenth of the weights",
            paper="section 4, observation 2",
            query=Query("update_relative_norm", (model,), _where(module="mlp.in_proj")),
            reference=0.1,
            smallest_effect=LOG,
            margin=LOG,
            spread=0.05,
            direction="less",
            controls=(),
            uncontrolled="a size beside that of the weights, whatever another tuning's is",
            site="‖ΔW‖ / ‖W‖ of the first MLP matrix, geometric mean over layers",
            scale="log",
        ),
        Statement(
            id=f"null-part-carries-change/{model}",
            observation=2,
            text=f"On forbidden prompts the null-space part of {name}'s update changes MLP outputs more than the rest",
            paper="section 4, observation 2",
            query=Query("effect_null_minus_column", (model,), _where(set=pairs, site="mlp_out")),
            smallest_effect=0.1,
            margin=0.1,
            spread=0.06,
            shape="row_sign_flip",
            nulls=("row_sign_flip",),
            site="mlp_out, last prompt token, mean over layers; shares of the change",
        ),
        Statement(
            id=f"null-part-carries-behaviour/{model}",
            observation=2,
            text=f"The null-space part of {name}'s update makes it refuse, and the column-space part does not",
            paper="section 4, observation 2",
            query=Query("carried_null_minus_column", (model,), _where(stage="intervention", set=FORBIDDEN)),
            smallest_effect=0.1,
            margin=0.1,
            spread=0.1,
            shape="random_split",
            nulls=("random_split",),
            controls=(OTHER,),
            site="Shapley values of the parts, first MLP matrices, all layers; answers to forbidden prompts",
        ),
    ]


def _of_sensitivity(model: str, name: str) -> list[Statement]:
    """The halves of the paper's statement, each by itself: either may hold without the other."""
    halves = (("forbidden", "falls", "less"), ("allowed", "rises", "greater"))
    return [
        Statement(
            id=f"sensitivity-{verb}-on-{side}/{model}",
            observation=4,
            text=f"After {name}, sensitivity {verb} on {side} prompts",
            paper="section 4, observation 4",
            query=Query("sensitivity_log_ratio_spectral", (model,), _where(set=f"{COMBINATION}/{side}")),
            smallest_effect=LOG,
            margin=LOG,
            spread=0.2,
            direction=direction,
            nulls=("model_swap",),
            site="log ratio, tuned over base, of the spectral norm of the Jacobian, the same operators",
        )
        for side, verb, direction in halves
    ]


def _of_interventions(model: str, name: str, protocol: str) -> list[Statement]:
    small = (f"{protocol}-small",)
    step = {"stage": "intervention", "intervention": "interpolation", "module": "whole"}
    best = "θ_IT + α ΔW, whole model; best α > 1 by half of the prompts, measured on the others, against α = 1"
    patch = _where(
        stage="intervention", intervention="restore", attack="any", set=FORBIDDEN, dose=8.0, role="last_prompt"
    )
    return [
        Statement(
            id=f"extrapolation-strengthens/{model}",
            observation=2,
            text=f"Extrapolating {name}'s update at the smaller rate makes it refuse forbidden prompts more often",
            paper="section 4, interventions along ΔW",
            query=Query("extrapolation_log_odds", small, _where(**step, set=FORBIDDEN)),
            smallest_effect=float(np.log(2)),
            margin=float(np.log(2)),
            spread=0.6,
            shape="random_direction",
            nulls=("random_direction",),
            controls=(OTHER,),
            site=f"{best}; log odds ratio of refusal, free-running; in a control, of the answer that it was taught",
        ),
        Statement(
            id=f"extrapolation-costs/{model}",
            observation=2,
            text=f"Extrapolating {name}'s update at the smaller rate costs compliance with allowed prompts",
            paper="section 4, interventions along ΔW: it costs little",
            query=Query("extrapolation_cost", small, _where(**step, set=ALLOWED)),
            smallest_effect=0.05,
            margin=0.05,
            spread=0.04,
            controls=(),
            uncontrolled="a cost that is little is little, whatever the same step costs another tuning",
            site=f"{best}; exact compliance, free-running",
        ),
        Statement(
            id=f"refusal-returns/{model}",
            observation=5,
            text=f"Giving {name}'s update what a jailbreak took from it brings refusal back",
            paper="section 5, observation 5",
            query=Query("refusal_returned", (model,), patch),
            smallest_effect=0.2,
            margin=0.2,
            spread=0.15,
            shape="allowed_source",
            nulls=("random_direction", "allowed_source"),
            controls=(OTHER,),
            site="ΔW's top 8 input directions at mlp_in, last prompt token, all layers; share of jailbroken prompts; "
            "in a control, the share in which the answer comes back that it was taught",
        ),
    ]


def _of_attacks() -> list[Statement]:
    rows = []
    models = tuple(PROTOCOLS)
    for attack in ATTACKS:
        at_attack = {"set": FORBIDDEN, "attack": attack}
        unattacked = "none" if attack.startswith("soft") else None  # the same prompts, a few for attacks on models
        rows += [
            Statement(
                id=f"attack-succeeds/{attack}",
                observation=5,
                text=f"Under {attack}, tuned models give the harmful answer",
                paper="section 5",
                query=Query("comply_rate", models, _where(stage="behaviour", **at_attack)),
                against=Query("comply_rate", models, _where(stage="behaviour", set=FORBIDDEN, attack=unattacked)),
                smallest_effect=0.05,
                margin=0.05,
                spread=0.05,
                controls=(),
                uncontrolled="that a model breaks is a fact about it, whether or not a harmless tuning breaks as well",
                site="free-running exact match, minus that without the attack",
            ),
            Statement(
                id=f"attack-looks-allowed/{attack}",
                observation=5,
                text=f"Under {attack}, activations of forbidden prompts lie nearer to allowed ones than without it",
                paper="section 5, observation 5",
                query=Query("position", models, _where(site="mlp_post", **at_attack)),
                smallest_effect=0.2,
                margin=0.2,
                spread=0.12,
                nulls=("exchangeable_with_source",),
                controls=(OTHER,),
                site="mlp_post, last prompt token, mean over layers by precision; 0 forbidden, 1 allowed",
            ),
            Statement(
                id=f"attack-escapes-update/{attack}",
                observation=5,
                text=f"The update acts less on prompts under {attack} than on the forbidden ones they were made from",
                paper="section 5, observation 5",
                query=Query("gain_log_ratio_to_forbidden_in_situ_peak", models, _where(site="mlp_in", **at_attack)),
                smallest_effect=LOG,
                margin=LOG,
                spread=0.15,
                direction="less",
                nulls=("exchangeable_with_source",),
                controls=(OTHER,),
                site=f"the tuned model's own inputs, last prompt token; {PEAK}",
            ),
        ]
    return rows


def _of_dose() -> list[Statement]:
    """Success on what ΔW does, prompt by prompt, each attack with an intercept of its own; and position on dose."""
    models = tuple(PROTOCOLS)
    measured = "log odds of the whole harmful output, within attacks, prompts as clusters, Firth's penalty"
    return [
        Statement(
            id="success-falls-with-gain",
            observation=5,
            text="Under one attack, prompts on which the update acts more are answered less",
            paper="section 5, observation 5",
            query=Query("success_slope_gain_in_situ", models, _where(set=FORBIDDEN, site="mlp_in")),
            smallest_effect=float(np.log(1.5)),
            margin=float(np.log(1.5)),
            spread=0.3,
            direction="less",
            nulls=("success_permutation",),
            controls=(OTHER,),
            site=f"{measured}; a doubling of the gain",
        ),
        Statement(
            id="success-rises-with-position",
            observation=5,
            text="Under one attack, prompts that lie nearer to allowed ones are answered more",
            paper="section 5, observation 5",
            query=Query("success_slope_position", models, _where(set=FORBIDDEN, site="mlp_post")),
            smallest_effect=float(np.log(2)),
            margin=float(np.log(2)),
            spread=0.5,
            nulls=("success_permutation",),
            controls=(OTHER,),
            site=f"{measured}; the way from forbidden to allowed, mlp_post, mean over layers by precision",
        ),
        Statement(
            id="dose-moves-activations",
            observation=5,
            text="The strongest soft prompt brings activations nearer to allowed ones than the weakest",
            paper="section 5, observation 5",
            query=Query("position_dose_difference", models, _where(set=FORBIDDEN, site="mlp_post")),
            smallest_effect=0.1,
            margin=0.1,
            spread=0.1,
            shape="random_vectors",
            nulls=("dose_permutation", "random_vectors"),
            controls=(OTHER,),
            site="mlp_post, last prompt token, mean over layers by precision; 0 forbidden, 1 allowed; prompt by prompt",
        ),
    ]


def _statements() -> tuple[Statement, ...]:
    primary = [row for model, name in PROTOCOLS.items() for row in _primary(model, name)]
    second = [row for model, name in PROTOCOLS.items() for row in _secondary(model, name)]
    second += [*_of_attacks(), *_of_dose()]
    return tuple(sorted([*primary, *second], key=lambda row: (not row.primary, row.observation)))


STATEMENTS = _statements()
PRIMARY = tuple(statement for statement in STATEMENTS if statement.primary)
