"""The claims of the paper, written down before the first full study was run; the history of this file is the proof.

A claim is a number per seed, read from measurements by a `Query`, with a smallest effect of interest and nulls. A
control is a null like any other: what tuning on other answers does as well is no finding about safety. `reading` looks
the numbers up, `deciding` has the rule, and `ledger` makes the page docs/claims.md of all this.
"""

from dataclasses import dataclass, replace

import numpy as np

from deltaw.statistics.intervals import Scale

PROTOCOLS = ("ssft-medium", "dpo-medium", "unlearn-medium")
PRIMARY = "contrast/conditional"
FORBIDDEN = "forbidden/conditional/unsafe"
OTHER = "other"
"""As a control: each model's own `other`, taught another harmless answer to the same prompts by the same protocol."""

CONTROLS = (OTHER, "operators-ssft-medium", "constant-ssft-medium")
"""What tuning on the same prompts for something else does: `other` of each model's own protocol; refusing by operators,
and one harmless answer to all forbidden prompts, both by SSFT.
"""


@dataclass(frozen=True)
class Query:
    """Which measurement: a line a model, seed and null, without `layer` (the mean over layers) unless `where` says so.

    step: "last" (the last checkpoint) or "first" (the first after step 0). where: further fields and their values.
    """

    statistic: str
    models: tuple[str, ...]
    where: tuple[tuple[str, str | float | None], ...] = ()
    step: str = "last"


@dataclass(frozen=True)
class Statement:
    """One claim. value = the mean of `query` over its models, minus that of `against` where there is one.

    direction: "greater" or "less" than `smallest_effect`. nulls: kinds of null that must be beaten. controls: models,
    or `OTHER`, whose own value of the same queries must be beaten; `uncontrolled`: why there are none. paper: where the
    paper says it. failing: what would count as failing. scale: on which the interval over seeds is computed; effects
    and values stay in their unit.
    """

    id: str
    observation: int
    text: str
    paper: str
    query: Query
    smallest_effect: float
    direction: str = "greater"
    against: Query | None = None
    nulls: tuple[str, ...] = ()
    controls: tuple[str, ...] = ()
    site: str | None = None
    failing: str = ""
    scale: Scale = "identity"
    uncontrolled: str = ""


def sign_of(direction: str) -> float:
    """1.0 or −1.0: what turns a value so that beyond is larger."""
    return 1.0 if direction == "greater" else -1.0


def as_control(control: str, query: Query) -> Query:
    """The same query of what a claim must beat."""
    own = tuple(f"{OTHER}-{model}" for model in query.models)
    return replace(query, models=own if control == OTHER else (control,))


def _where(**fields: str | float | None) -> tuple[tuple[str, str | float | None], ...]:
    return tuple(sorted(fields.items()))


def _statements() -> tuple[Statement, ...]:
    separation = _where(set=PRIMARY, site="mlp_post")
    gap = "tau_gap_relative_change"
    shown = {"ssft-medium": "SSFT", "dpo-medium": "DPO", "unlearn-medium": "unlearning"}
    out = [
        _clusters_form(
            f"clusters-form/{model}",
            f"{name} moves allowed and forbidden prompts with the same operators apart",
            "section 4, observation 1",
            Query(gap, (model,), separation),
        )
        for model, name in shown.items()
    ]
    out += [
        Statement(
            id=f"clusters-grow-with-strength/{protocol}",
            observation=1,
            text=f"The larger learning rate moves the clusters further apart ({shown[f'{protocol}-medium']})",
            paper="section 4, observation 1",
            query=Query(gap, (f"{protocol}-medium",), separation),
            against=Query(gap, (f"{protocol}-small",), separation),
            smallest_effect=0.05,
            controls=(OTHER,),
            site="mlp_post, last prompt token, mean over layers",
            failing="medium strength separates by at most 0.05 more than small, or by no more than in a control",
        )
        for protocol in ("ssft", "dpo", "unlearn")
    ]
    out += [
        Statement(
            id="clusters-grow-with-depth",
            observation=1,
            text="The clusters move apart more in the later half of the layers",
            paper="section 4, observation 1",
            query=Query("tau_gap_relative_change_depth", PROTOCOLS, separation),
            smallest_effect=0.1,
            nulls=("label_permutation",),
            controls=(OTHER,),
            site="mlp_post, last prompt token, later minus earlier layers",
            failing="the later layers' change exceeds the earlier ones' by less than 0.1, or no more than a control's",
        ),
        Statement(
            id="clusters-grow-with-training",
            observation=1,
            text="The clusters move further apart as tuning goes on",
            paper="section 4, observation 1",
            query=Query(gap, PROTOCOLS, separation),
            against=Query(gap, PROTOCOLS, separation, step="first"),
            smallest_effect=0.1,
            controls=(OTHER,),
            site="mlp_post, last prompt token, mean over layers",
            failing="the last checkpoint separates by less than 0.1 more than the first, or no more than a control's",
        ),
        Statement(
            id="contrastive-separate-more",
            observation=1,
            text="DPO and unlearning move the clusters further apart than SSFT",
            paper="section 4, observation 1",
            query=Query(gap, ("dpo-medium", "unlearn-medium"), separation),
            against=Query(gap, ("ssft-medium",), separation),
            smallest_effect=0.05,
            controls=(OTHER,),
            site="mlp_post, last prompt token, mean over layers",
            failing="their mean change exceeds SSFT's by less than 0.05, or by no more than among their controls",
        ),
    ]
    for model, name in shown.items():
        out += [
            Statement(
                id=f"update-is-small/{model}",
                observation=2,
                text=f"The update of {name} is small beside the weights",
                paper="section 4, observation 2",
                query=Query("update_relative_norm", (model,), _where(module="mlp.in_proj")),
                smallest_effect=0.1,
                direction="less",
                site="first MLP matrix, geometric mean over layers",
                failing="‖ΔW‖ is a tenth of ‖W‖ or more",
                scale="log",
                uncontrolled="a size beside that of the weights, whatever another tuning's is",
            ),
            Statement(
                id=f"update-in-null-space/{model}",
                observation=2,
                text=f"The update of {name} prefers the left null space of W beyond what its shape and rows give",
                paper="section 4, observation 2",
                query=Query("null_energy_left", (model,), _where(module="mlp.in_proj")),
                smallest_effect=0.0,
                nulls=("rotation", "row_permutation", "row_sign_flip"),
                controls=CONTROLS,
                site="first MLP matrix, mean over layers",
                failing="ρ_N is at or below any of its nulls (chance is 0.75 for a 4d x d matrix), or a control's",
                scale="logit",
            ),
        ]
    out += [
        Statement(
            id="null-part-carries-the-change",
            observation=2,
            text="On forbidden prompts the null-space part of ΔW changes MLP outputs more than the column-space part",
            paper="section 4, observation 2",
            query=Query("effect_null_minus_column", PROTOCOLS, _where(set=f"{PRIMARY}/forbidden", site="mlp_out")),
            smallest_effect=0.1,
            nulls=("row_sign_flip",),
            controls=CONTROLS,
            site="mlp_out, last prompt token, mean over layers",
            failing="its share exceeds the column-space part's by less than 0.1, or by no more than with random row "
            "signs, or in a control",
        ),
    ]
    for model, name in shown.items():
        out += [
            Statement(
                id=f"acts-on-forbidden/{model}",
                observation=3,
                text=f"{name}'s update acts more on forbidden prompts than on allowed ones with the same operators",
                paper="section 4, observation 3",
                query=Query("gain_log_ratio", (model,), _where(set=PRIMARY, site="mlp_in")),
                smallest_effect=float(np.log(1.1)),
                nulls=("label_permutation",),
                controls=CONTROLS,
                site="mlp_in of the base model, last prompt token, mean over layers; log ratio of ‖ΔWa‖/‖Wa‖",
                failing="the ratio is below 1.1, or no larger than a control's",
            ),
            Statement(
                id=f"row-space-holds-forbidden/{model}",
                observation=3,
                text=f"The top input directions of {name}'s update hold more of forbidden than of allowed activations",
                paper="section 4, observation 3",
                query=Query("row_energy_difference", (model,), _where(set=PRIMARY, site="mlp_in")),
                smallest_effect=0.05,
                nulls=("m_matched", "m_matched_centred"),
                controls=CONTROLS,
                site="mlp_in of the base model, last prompt token, mean over layers; top 8 right singular vectors",
                failing="the difference is below 0.05, or no larger than for matched random subspaces or a control",
            ),
        ]
    for model, name in shown.items():
        out += _of_sensitivity(model, name)
        out += _of_rank(model, name)
    for attack in ("co_task", "co_text", "misgen_token", "misgen_text", "soft_weak", "soft_strong"):
        at_attack = {"set": FORBIDDEN, "attack": attack}
        unattacked = "none" if attack.startswith("soft") else None  # the same prompts, a few for attacks on models
        out += [
            Statement(
                id=f"attack-succeeds/{attack}",
                observation=5,
                text=f"Under {attack}, tuned models give the harmful answer",
                paper="section 5",
                query=Query("comply_rate", PROTOCOLS, _where(stage="behaviour", **at_attack)),
                against=Query("comply_rate", PROTOCOLS, _where(stage="behaviour", set=FORBIDDEN, attack=unattacked)),
                smallest_effect=0.05,
                site="free-running exact match",
                failing="it raises compliance by less than 5 points",
                uncontrolled="that a model breaks is a fact about it, whether or not a harmless tuning breaks as well",
            ),
            Statement(
                id=f"attack-looks-allowed/{attack}",
                observation=5,
                text=f"Under {attack}, activations of forbidden prompts lie nearer to allowed ones than without it",
                paper="section 5, observation 5",
                query=Query("position", PROTOCOLS, _where(site="mlp_post", **at_attack)),
                smallest_effect=0.2,
                nulls=("exchangeable_with_source",),
                controls=(OTHER,),
                site="mlp_post, last prompt token, mean over layers by precision; 0 forbidden, 1 allowed",
                failing="they move less than a fifth of the way, or no further than in a control",
            ),
            Statement(
                id=f"attack-escapes-update/{attack}",
                observation=5,
                text=f"The update acts less on prompts under {attack} than on the forbidden ones they were made from",
                paper="section 5, observation 5",
                query=Query("gain_log_ratio_to_forbidden", PROTOCOLS, _where(site="mlp_in", **at_attack)),
                smallest_effect=float(np.log(0.95)),
                direction="less",
                nulls=("exchangeable_with_source",),
                controls=(OTHER,),
                site="mlp_in of the base model, last prompt token, mean over layers",
                failing="the ratio of gains is above 0.95, or no lower than in a control",
            ),
        ]
    for protocol in ("ssft", "dpo", "unlearn"):
        out += _of_interventions(protocol, shown[f"{protocol}-medium"])
    out += _of_dose()
    for model, name in shown.items():
        out += _of_third_run(model, name)
    return tuple(replace(one, text=one.text[0].upper() + one.text[1:]) for one in out)


def _clusters_form(id: str, text: str, paper: str, query: Query) -> Statement:
    """That one tuning moves two classes of prompts apart, at the query's contrast and site."""
    return Statement(
        id=id,
        observation=1,
        text=text,
        paper=paper,
        query=query,
        smallest_effect=0.2,
        nulls=("label_permutation",),
        controls=CONTROLS,
        site=f"{dict(query.where)['site']}, last prompt token, mean over layers",
        failing="the change of the relative gap τ/‖Δμ‖ (at most 2) is below 0.2, or no larger than a control's",
    )


def _of_third_run(model: str, name: str) -> list[Statement]:
    """Where the first two runs of `standard` were seen to go beyond their controls, and no claim looked.

    Written after these and before any later seed. Effects of interest are those of the claims beside them.
    """
    gap, secondary = "tau_gap_relative_change", "contrast/operator"
    return [
        _clusters_form(
            f"clusters-form-by-operator/{model}",
            f"{name} moves the same text under always-allowed and never-allowed operators apart",
            "section 4, observation 1: the paper's own contrast",
            Query(gap, (model,), _where(set=secondary, site="mlp_post")),
        ),
        _clusters_form(
            f"clusters-form-at-output/{model}",
            f"{name} moves allowed and forbidden prompts with the same operators apart at the blocks' output",
            "section 4, observation 1, at another site",
            Query(gap, (model,), _where(set=PRIMARY, site="resid_out")),
        ),
        Statement(
            id=f"acts-on-forbidden-operators/{model}",
            observation=3,
            text=f"{name}'s update acts more on never-allowed than on always-allowed operators with the same text, as "
            "the tuned model itself reads them",
            paper="section 4, observation 3: the paper's own contrast",
            query=Query("gain_log_ratio_in_situ", (model,), _where(set=secondary, site="mlp_in")),
            smallest_effect=float(np.log(1.1)),
            nulls=("label_permutation",),
            controls=CONTROLS,
            site="mlp_in of the tuned model, last prompt token, mean over layers; log ratio of ‖ΔWa‖/‖Wa‖",
            failing="the ratio is below 1.1, or no larger than a control's",
        ),
    ]


def _of_rank(model: str, name: str) -> list[Statement]:
    """Low beside what? Beside allowed prompts with the same operators, and beside the same prompts before tuning."""
    site, bar = "mlp_post", -float(np.log(1.25))
    measured = "participation ratio of centred activations, mlp_post, last prompt token, mean over layers; log ratio"
    return [
        Statement(
            id=f"forbidden-rank-is-low/{model}",
            observation=1,
            text=f"After {name}, forbidden prompts have fewer directions than allowed ones with the same operators",
            paper="section 4: tuned unsafe activations are of low rank",
            query=Query("rank_log_ratio", (model,), _where(set=PRIMARY, site=site)),
            smallest_effect=bar,
            direction="less",
            nulls=("label_permutation",),
            controls=CONTROLS,
            site=measured,
            failing="they have at least 1 / 1.25 as many, or no fewer than under a control",
        ),
        Statement(
            id=f"forbidden-rank-falls/{model}",
            observation=1,
            text=f"{name} leaves forbidden prompts fewer directions than they had before tuning",
            paper="section 4: tuned unsafe activations are of low rank",
            query=Query("rank_log_change", (model,), _where(set=f"{PRIMARY}/forbidden", site=site)),
            smallest_effect=bar,
            direction="less",
            nulls=("model_swap",),
            controls=CONTROLS,
            site=measured,
            failing="at least 1 / 1.25 as many are left, or no fewer than under a control",
        ),
    ]


def _of_dose() -> list[Statement]:
    """Success on what ΔW does, prompt by prompt, each attack with an intercept of its own; and position on dose."""
    measured = "log odds of the whole harmful output, within attacks, prompts as clusters, Firth's penalty"
    return [
        Statement(
            id="success-falls-with-gain",
            observation=5,
            text="Under one attack, prompts on which the update acts more are answered less",
            paper="section 5, observation 5",
            query=Query("success_slope_gain", PROTOCOLS, _where(set=FORBIDDEN, site="mlp_in")),
            smallest_effect=-float(np.log(1.5)),
            direction="less",
            nulls=("success_permutation",),
            controls=(OTHER,),  # `operators` refuses by the operator alone, and has hardly a success to fit
            site=f"{measured}; a doubling of the gain",
            failing="a doubling of the gain takes less than a third of the odds, or no more than in a control",
        ),
        Statement(
            id="success-rises-with-position",
            observation=5,
            text="Under one attack, prompts that lie nearer to allowed ones are answered more",
            paper="section 5, observation 5",
            query=Query("success_slope_position", PROTOCOLS, _where(set=FORBIDDEN, site="mlp_post")),
            smallest_effect=float(np.log(2)),
            nulls=("success_permutation",),
            controls=(OTHER,),  # `operators` refuses by the operator alone, and has hardly a success to fit
            site=f"{measured}; the way from forbidden to allowed, mlp_post, mean over layers by precision",
            failing="the whole way to allowed prompts does not double the odds, or does no more than in a control",
        ),
        Statement(
            id="dose-moves-activations",
            observation=5,
            text="The strongest soft prompt brings activations nearer to allowed ones than the weakest",
            paper="section 5, observation 5",
            query=Query("position_dose_difference", PROTOCOLS, _where(set=FORBIDDEN, site="mlp_post")),
            smallest_effect=0.1,
            nulls=("dose_permutation", "random_vectors"),
            controls=(OTHER,),
            site="mlp_post, last prompt token, mean over layers by precision; 0 forbidden, 1 allowed; prompt by prompt",
            failing="it moves them by less than a tenth of the way more, or no more than random vectors as long do, or "
            "than in a control",
        ),
    ]


def _of_sensitivity(model: str, name: str) -> list[Statement]:
    """Observation 4. Its two halves are claims of their own: either may hold without the other."""
    measured = "the log-probabilities of the first response token; all prompt embeddings, the last one included"
    return [
        Statement(
            id=f"sensitivity-falls-on-forbidden/{model}",
            observation=4,
            text=f"{name} makes the local Lipschitz constant fall on forbidden prompts",
            paper="section 4, observation 4",
            query=Query("sensitivity_log_ratio_spectral", (model,), _where(set=f"{PRIMARY}/forbidden")),
            smallest_effect=-float(np.log(1.1)),
            direction="less",
            nulls=("model_swap",),
            controls=CONTROLS,
            site=f"log of the tuned over the base model's spectral norm of the Jacobian: {measured}",
            failing="it falls by less than a factor of 1.1, or no further than under a control",
        ),
        Statement(
            id=f"sensitivity-rises-on-allowed/{model}",
            observation=4,
            text=f"{name} makes the local Lipschitz constant rise on allowed prompts with the same operators",
            paper="section 4, observation 4",
            query=Query("sensitivity_log_ratio_spectral", (model,), _where(set=f"{PRIMARY}/allowed")),
            smallest_effect=float(np.log(1.1)),
            nulls=("model_swap",),
            controls=CONTROLS,
            site=f"log of the tuned over the base model's spectral norm of the Jacobian: {measured}",
            failing="it rises by less than a factor of 1.1, or no further than under a control",
        ),
        Statement(
            id=f"sensitivity-parts/{model}",
            observation=4,
            text=f"{name} lowers the local Lipschitz constant on forbidden prompts relative to allowed ones",
            paper="section 4, observation 4",
            query=Query("sensitivity_log_ratio_spectral_difference", (model,), _where(set=PRIMARY)),
            smallest_effect=-float(np.log(1.1)),
            direction="less",
            nulls=("label_permutation",),
            controls=CONTROLS,
            site=f"forbidden minus allowed, pair by pair, of the log ratio of spectral norms: {measured}",
            failing="the ratio of the two changes is above 1 / 1.1, or no lower than a control's",
        ),
    ]


def _of_interventions(protocol: str, name: str) -> list[Statement]:
    """What ΔW does, by changing it (stage `intervention`; the numbers are defined in `study/intervening.py`)."""
    medium, small = (f"{protocol}-medium",), (f"{protocol}-small",)
    step = _where(stage="intervention", intervention="interpolation", module="whole")
    best = "θ_IT + α ΔW, whole model; best α > 1 by half of the prompts, measured on the others, against α = 1"
    patch = _where(stage="intervention", intervention="restore", attack="any", set=FORBIDDEN, dose=8.0,
                   role="last_prompt")  # fmt: skip
    return [
        Statement(
            id=f"null-part-carries-behaviour/{protocol}",
            observation=2,
            text=f"The null-space part of {name}'s update makes it refuse, and the column-space part does not",
            paper="section 4, observation 2",
            query=Query("carried_null_minus_column", medium, _where(stage="intervention", set=FORBIDDEN)),
            smallest_effect=0.1,
            nulls=("random_split",),
            controls=CONTROLS,
            site="first MLP matrices, all layers; free-running answers to forbidden prompts, as the tuned model's",
            failing="its Shapley value exceeds the column-space part's by less than 0.1, by no more than when the "
            "update is cut along random subspaces of the same dimensions and norms, or than a control's",
        ),
        Statement(
            id=f"extrapolation-strengthens/{protocol}",
            observation=2,
            text=f"Extrapolating the update of {name} at the smaller rate makes it refuse forbidden prompts more often",
            paper="section 4, interventions along ΔW",
            query=Query("extrapolation_log_odds", small, tuple(sorted((*step, ("set", FORBIDDEN))))),
            smallest_effect=float(np.log(2)),
            nulls=("random_direction",),
            controls=(OTHER,),
            site=f"{best}; log odds ratio of refusal, free-running; in a control, of the answer that it was taught",
            failing="the odds of refusal are less than doubled, or grow no more than along a random direction, or than "
            "those of a control's own answer",
        ),
        Statement(
            id=f"extrapolation-costs-little/{protocol}",
            observation=2,
            text=f"Extrapolating the update of {name} at the smaller rate costs little compliance with allowed prompts",
            paper="section 4, interventions along ΔW",
            query=Query("extrapolation_cost", small, tuple(sorted((*step, ("set", "allowed/conditional/safe"))))),
            smallest_effect=0.05,
            direction="less",
            uncontrolled="a cost that is little is little, whatever the same step costs another tuning",
            site=f"{best}; exact compliance, free-running",
            failing="5 points or more of compliance with allowed prompts are lost",
        ),
        Statement(
            id=f"refusal-returns/{protocol}",
            observation=5,
            text=f"Giving {name}'s update what a jailbreak took from it brings refusal back",
            paper="section 5, observation 5",
            query=Query("refusal_returned", medium, patch),
            smallest_effect=0.2,
            nulls=("random_direction", "allowed_source"),
            controls=(OTHER,),
            site="ΔW's top 8 input directions at mlp_in, last prompt token, all layers; share of jailbroken prompts; "
            "in a control, the share in which the answer comes back that it was taught",
            failing="less than a fifth of jailbroken prompts are refused, or no more than when as long a step is taken "
            "in a random direction, or when ΔW acts as on an allowed prompt with the same operators, or in a control",
        ),
    ]


STATEMENTS = _statements()
