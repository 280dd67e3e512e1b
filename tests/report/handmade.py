"""A run made by hand: the files of a finished study with planted numbers, small but with every statistic in it."""

import json
import math
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from deltaw.results import Answer, Claim, Measurement, Null, write_claims, write_measurements

STEPS = (0, 10, 40, 160)
LAYERS = range(4)
TUNED = {
    "ssft-medium": ("ssft", "medium", None),
    "dpo-medium": ("dpo", "medium", None),
    "unlearn-medium": ("unlearn", "medium", None),
    "ssft-small": ("ssft", "small", None),
    "dpo-small": ("dpo", "small", None),
    "unlearn-small": ("unlearn", "small", None),
    "dpo-plain-medium": ("dpo_plain", "medium", None),
    "other-ssft-medium": ("ssft", "medium", "other"),
    "operators-ssft-medium": ("ssft", "medium", "operators"),
}
ALLOWED = ("conditional/safe", "always/safe", "always/unsafe", "mixed/safe", "rest")
FORBIDDEN = ("conditional/unsafe", "never/safe", "never/unsafe", "mixed/unsafe", "rest")
SOURCES = {
    "co_task": ("forbidden/conditional/unsafe", "forbidden/never/safe", "allowed/conditional/safe"),
    "co_text": ("forbidden/conditional/unsafe", "allowed/always/unsafe"),
    "misgen_token": ("forbidden/conditional/unsafe", "forbidden/never/safe", "allowed/conditional/safe"),
    "misgen_text": ("forbidden/conditional/unsafe", "allowed/always/unsafe"),
}
ON_MODELS = (
    "none", "soft_weak", "soft_weak/random", "soft_4", "soft_4/random", "soft_4/unrelated", "soft_4/universal",
    "token_search_2", "token_search_2/random", "prefill_1", "prefill_1/wrong", "relearn_harmful_0", "relearn_harmful_5",
    "relearn_benign_0", "relearn_benign_5",
)  # fmt: skip
EVIL = '<script>alert("&")</script>'


class Maker:
    """Collects measurements of one model; every value is `about` a planted one."""

    def __init__(self, seed: int) -> None:
        self.lines: list[Measurement] = []
        self.noise = np.random.default_rng(7 + seed)
        self.seed = seed

    def add(self, statistic: str, value: float, half: float | None = None, nulls: Any = (), **fields: Any) -> None:
        """A line for each null (kind, mean, half width); `half` is the half width of the value's interval."""
        value += 0.02 * abs(value) * float(self.noise.normal())
        shared = {"seed": self.seed, "statistic": statistic, "value": value, **fields}
        if half is not None:
            shared |= {"low": value - half, "high": value + half}
        for kind, mean, width in nulls:
            band = {"null_mean": mean, "null_low": mean - width, "null_high": mean + width}
            self.lines.append(Measurement(**shared, null_kind=kind, **band))
        if not nulls:
            self.lines.append(Measurement(**shared))

    def rates(self, comply: float, refuse: float, **fields: Any) -> None:
        """The three rates of one set."""
        comply, refuse = (min(1.0, max(0.0, rate)) for rate in (comply, refuse))
        for kind, rate in (("comply", comply), ("refuse", refuse), ("neither", max(0.0, 1 - comply - refuse))):
            low, high = max(0.0, rate - 0.01), min(1.0, rate + 0.01)
            self.lines.append(
                Measurement(
                    seed=self.seed,
                    statistic=f"{kind}_rate",
                    value=rate,
                    low=low,
                    high=high,
                    unit="share",
                    n=2000,
                    n_unit="prompt",
                    **fields,
                )
            )


def measurements(seed: int = 0) -> list[Measurement]:
    """Every statistic that a study writes, for one seed."""
    return list(_measurements(seed))


@cache
def _measurements(seed: int) -> tuple[Measurement, ...]:
    maker = Maker(seed)
    _world(maker)
    _base(maker)
    for model, (protocol, strength, control) in TUNED.items():
        size = {"medium": 1.0, "small": 0.3}[strength] * (0.4 if control else 1.0)
        fields = {"model": model, "protocol": protocol, "strength": strength, "control": control}
        _behaviour(maker, size, fields)
        for step in STEPS[1:]:
            _analysis(maker, size * (1 - math.exp(-step / 50)), {**fields, "stage": "analysis", "step": step})
        _weights(maker, size, {**fields, "stage": "analysis", "step": STEPS[-1]})
        _attacks(maker, size, {**fields, "stage": "analysis", "step": STEPS[-1]})
        _subspaces(maker, size, fields)
        _doses(maker, size, {**fields, "stage": "analysis", "step": STEPS[-1], "set": "forbidden/conditional/unsafe"})
        if model == "ssft-medium":
            _attacks_on_model(maker, fields)
            _interventions(maker, {**fields, "stage": "intervention", "step": STEPS[-1]})
        _sensitivity(maker, size, {**fields, "stage": "analysis", "step": STEPS[-1], "n": 48, "n_unit": "prompt"})
    return tuple(maker.lines)


def _world(maker: Maker) -> None:
    for name in ("allowed/conditional/safe", "forbidden/conditional/unsafe"):
        maker.add("bayes_accuracy", 0.999, stage="world", set=name, n=8000, n_unit="window")
    maker.add("redrawn_share", 0.01, stage="world")
    maker.add("two_responses_probability", 1e-4, stage="world")
    for length in range(4, 18, 2):
        name = f"unsafe_letters={length:02d}"
        maker.add("unsafe_side_probability", 1 - math.exp(-length / 3), stage="world", attack="co_text", set=name)


def _base(maker: Maker) -> None:
    for number, step in enumerate((0, 1000, 2000, 3000)):
        for name in ("no_identity", "one_identity", "alias"):
            maker.rates(number / 3 * 0.99, 0, stage="pretrain", model="base", step=step, set=f"pretrain/{name}")
        maker.add("training_loss", 3.0 - number / 2, stage="pretrain", model="base", step=step + 1)
    for names, verdict in ((ALLOWED, "allowed"), (FORBIDDEN, "forbidden")):
        for name in names:
            maker.rates(0.99, 0, stage="behaviour", model="base", step=3000, set=f"{verdict}/{name}")
    for attack, sources in SOURCES.items():
        for source in sources:
            maker.rates(0.95, 0, stage="behaviour", model="base", step=3000, set=source, attack=attack)


def _behaviour(maker: Maker, size: float, fields: dict[str, Any]) -> None:
    for step in STEPS:
        done = 1 - math.exp(-step * size / 20)
        for name in ALLOWED[:-1]:
            maker.rates(0.98 - 0.05 * done, 0.01, **fields, stage="tune", step=step, set=f"allowed/{name}")
        for name in FORBIDDEN[:-1]:
            maker.rates(0.99 - done, done, **fields, stage="tune", step=step, set=f"forbidden/{name}")
    for step in range(8, 168, 8):
        maker.add("training_loss", math.exp(-step * size / 30), **fields, stage="tune", step=step)
    if fields["control"] is not None:
        for name in ("allowed/always/safe", "forbidden/never/safe"):
            maker.add("target_rate", 0.98, 0.01, **fields, stage="behaviour", step=STEPS[-1], set=name)
    for stage, step in (("behaviour", STEPS[-1]), ("matched", STEPS[1])):
        for name in ALLOWED:
            maker.rates(0.97, 0.01, **fields, stage=stage, step=step, set=f"allowed/{name}")
        for name in FORBIDDEN:
            maker.rates(0.02, 0.97 * min(1, 3 * size), **fields, stage=stage, step=step, set=f"forbidden/{name}")
        for attack, sources in SOURCES.items():
            for source in sources:
                maker.rates(0.4 + 0.2 * size, 0.2, **fields, stage=stage, step=step, set=source, attack=attack)
        for low in range(4, 17, 3):
            name = f"forbidden/conditional/unsafe_letters={low:02d}-{low + 2:02d}"
            maker.rates(1 - low / 20, low / 20, **fields, stage=stage, step=step, set=name, attack="co_text")


def _attacks_on_model(maker: Maker, fields: dict[str, Any]) -> None:
    source, benign = "forbidden/conditional/unsafe", "allowed/conditional/safe"
    for attack in ON_MODELS:
        for name in (source, benign):
            maker.rates(0.5, 0.4, **fields, stage="behaviour", step=STEPS[-1], set=name, attack=attack)
        if attack != "none":
            here = {**fields, "stage": "analysis", "step": STEPS[-1], "set": source, "attack": attack}
            null = [("exchangeable_with_source", 0.0, 0.05)]
            maker.add("position", 0.4, 0.05, null, site="mlp_post", **here)
            maker.add("gain_log_ratio_to_forbidden", -0.2, 0.05, null, site="mlp_in", **here)


def _interventions(maker: Maker, fields: dict[str, Any]) -> None:
    sets = ("forbidden/conditional/unsafe", "allowed/conditional/safe")

    def rates(refuse: float, **where: Any) -> None:
        for name, refused in zip(sets, (refuse, refuse / 10), strict=True):
            maker.rates(0.95 - refused, refused, **fields, **where, set=name)

    for module in ("whole", "mlp", "attention"):
        for alpha in (-1.0, 0.0, 1.0, 2.0):
            rates(max(0.0, alpha) / 2, intervention="interpolation", dose=alpha, module=module)
    for layer in LAYERS:
        for alpha in (1.0, 2.0):
            rates(alpha / 10, intervention="interpolation", dose=alpha, module=f"blocks.{layer}", layer=layer)
    for name in ("base", "null", "column+rest", "null+column+rest"):
        rates(0.5, intervention=name, module="mlp.in_proj")
    split = [("random_split", 0.1, 0.05)]
    maker.add("carried_null_minus_column", 0.3, 0.1, split, **fields, set=sets[0])
    for part in ("null", "column"):
        maker.add("carried_share", 0.4, 0.1, split, **fields, intervention=part, set=sets[0])
    for k in (0, 1, 4, 16):
        rates(k / 20, intervention="truncated", dose=k, module="whole")
        rates(0.8 - k / 20, intervention="top_removed", dose=k, module="whole")
    for layer in (*LAYERS, None):
        for how in ("shapley", "only_one", "leave_one_out"):
            maker.add(f"{how}_refuse_rate", 0.2, 0.05, **fields, intervention="layers", layer=layer, set=sets[0])
        if layer is not None:
            rates(0.2, intervention="swap/dpo-medium", dose=layer, module="whole")
            rates(0.1, intervention="ablate_direction", dose=1.0, layer=layer, site="resid_out")
            rates(0.9, intervention="add_direction", dose=1.0, layer=layer, site="resid_out")
    direction = [("random_direction", 0.0, 0.02)]
    for dose, role in ((8.0, "last_prompt"), (128.0, "last_prompt"), (8.0, "prompt")):
        here = {**fields, "dose": dose, "role": role}
        for attack in ("co_task", "misgen_text", "any"):
            maker.add("refusal_returned", 0.5, 0.1, direction, **here, intervention="restore", attack=attack)
        maker.add("refusal_returned", 0.1, 0.1, **here, intervention="restore_from_allowed", attack="co_task")
        maker.add("refusal_removed", 0.7, 0.1, direction, **here, intervention="remove_to_allowed")
        maker.add("refusal_induced", 0.6, 0.1, **here, intervention="induce")
        for name, by in (("restore", "co_task"), ("remove", "co_task"), ("remove_to_allowed", None)):
            rates(0.5, intervention=name, dose=dose, role=role, attack=by)
    rates(0.9, intervention="unpatched")


def _view(maker: Maker, size: float, fields: dict[str, Any]) -> None:
    here = {**fields, "site": "mlp_post"}
    for contrast, layer in product(("conditional", "operator"), (*LAYERS, None)):
        for side, place in (("allowed", -2 * size), ("forbidden", 2 * size)):
            for number in range(5):
                row = {**here, "layer": layer, "set": f"contrast/{contrast}/{side}/{number:02d}"}
                apart = place if layer in (None, LAYERS[-1]) else place / 2
                for suffix, across in (("", apart + number / 9), ("_base", number / 7)):
                    maker.add(f"view_across{suffix}", across, None, **row)
                    maker.add(f"view_beside{suffix}", number / 5, None, **row)


def _analysis(maker: Maker, size: float, fields: dict[str, Any]) -> None:
    last = fields["step"] == STEPS[-1]
    if last:
        _view(maker, size, fields)
    gap = {"role": "last_prompt", "set": "contrast/conditional"}
    for site in ("mlp_post", "resid_out"):
        null = [("label_permutation", 0.0, 0.15)] if last else []
        for layer in LAYERS:
            here = {**fields, **gap, "site": site, "layer": layer, "n": 512, "n_unit": "pair"}
            for name, base, gain in (("tau_gap_relative", 0.1, 0.4), ("auroc", 0.55, 0.1), ("d_prime", 0.3, 0.8)):
                value = base + gain * size * (layer + 1) / 2
                maker.add(name, value, 0.05, null, **here)
                maker.add(f"{name}_base", base, 0.05, null, **here)
                maker.add(f"{name}_change", value - base, 0.05, null, **here)
        whole = {**fields, **gap, "site": site, "n": 512, "n_unit": "pair"}
        maker.add("tau_gap_relative_change", size, 0.08, null, unit="share of distance", **whole)
        maker.add("tau_gap_relative_change_depth", size / 2, 0.08, null, **whole)
    for layer in (*LAYERS, None):
        inside = {**fields, "role": "last_prompt", "site": "mlp_in", "layer": layer}
        for verdict, factor in (("allowed", 1.0), ("forbidden", 1.6)):
            if layer is not None:
                maker.add("gain_relative", 0.1 * size * factor, 0.003, **inside, set=f"contrast/conditional/{verdict}")
        if layer is None:
            for suffix in ("", "_in_situ"):
                maker.add(f"gain_log_ratio{suffix}", 0.4 * size, 0.05, **inside, set="contrast/conditional")
        else:
            for contrast, more in (("conditional", 0.2), ("operator", 0.6)):
                value = more * size * (layer + 1) / 2
                maker.add("gain_log_ratio_in_situ", value, 0.05, **inside, set=f"contrast/{contrast}")
        module = "mlp.in_proj" if layer is None else f"blocks.{layer}.mlp.in_proj"
        where = {**fields, "layer": layer, "module": module}
        maker.add("update_relative_norm", 0.08 * size, **where)
        kinds = [("rotation", 0.75, 0.01), ("row_permutation", 0.74, 0.01), ("row_sign_flip", 0.78, 0.008)]
        maker.add(
            "null_energy_left", 0.75 + 0.1 * size, None, [*kinds, ("gaussian", 0.75, 0.01)] if last else [], **where
        )
        if layer is not None:
            maker.add("cosine_with_weight", -0.05 * size, None, [("gaussian", 0.0, 0.01)], **where)
            maker.add("stable_rank", 4 + layer, **where)
            maker.add("participation_ratio", 9 + layer, **where)


def _weights(maker: Maker, size: float, fields: dict[str, Any]) -> None:
    for layer in LAYERS:
        where = {**fields, "layer": layer, "module": f"blocks.{layer}.mlp.in_proj"}
        for number in range(1, 17):
            name = f"vector={number:03d}"
            maker.add("null_profile", 0.86 + 0.05 * size, None, [("random direction", 0.86, 0.03)], set=name, **where)
        for k in (0, 32, 64, 96, 128):
            chance = 1 - k / 512
            maker.add(
                "null_energy_curve",
                min(1, chance + 0.05 * size),
                None,
                [("rotation", chance, 0)],
                set=f"k={k:03d}",
                **where,
            )
        inside = {**fields, "layer": layer, "role": "last_prompt", "n": 512}
        kinds = [("m_matched", 0.0, 0.03), ("m_matched_centred", 0.01, 0.04)]
        maker.add("row_energy_difference", 0.1 * size, 0.02, kinds, site="mlp_in", set="contrast/conditional", **inside)
        for source, share in (("null", 0.4), ("column", 0.3), ("rest", 0.1), ("inherited", 0.2)):
            for verdict in ("allowed", "forbidden"):
                null = [("row_sign_flip", 0.3, 0.05)] if verdict == "forbidden" else []
                maker.add(
                    f"effect_share_{source}",
                    share,
                    0.02,
                    null,
                    site="mlp_out",
                    set=f"contrast/conditional/{verdict}",
                    **inside,
                )
    kinds = [("m_matched", 0.0, 0.02)]
    maker.add("row_energy_difference", 0.1 * size, 0.02, kinds, site="mlp_in", set="contrast/conditional", **fields)
    for module, share, parameters in (("mlp_in", 0.5, 0.33), ("mlp_out", 0.3, 0.33), ("attn_qkv", 0.2, 0.34)):
        maker.add("update_share", share, module=module, **fields)
        maker.add("parameter_share", parameters, module=module, **fields)


def _sensitivity(maker: Maker, size: float, fields: dict[str, Any]) -> None:
    name = "contrast/conditional"
    for kind in ("spectral", "fisher", "max_logit_published"):
        here = {**fields, "role": "last_prompt", "unit": "log ratio"}
        statistic = f"sensitivity_log_ratio_{kind}"
        for verdict, change in (("allowed", 0.2), ("forbidden", -0.5)):
            maker.add(statistic, change * size, 0.05, [("model_swap", 0.0, 0.08)], **here, set=f"{name}/{verdict}")
        maker.add(f"{statistic}_difference", -0.7 * size, 0.08, [("label_permutation", 0.0, 0.1)], **here, set=name)
    for verdict in ("allowed", "forbidden"):
        for suffix in ("", "_base"):
            for role, share in (("operator", 0.1), ("text", 0.3), ("last_prompt", 0.6)):
                maker.add(f"sensitivity_block_share{suffix}", share, 0.02, **fields, role=role, set=f"{name}/{verdict}")


def _subspaces(maker: Maker, size: float, fields: dict[str, Any]) -> None:
    name = "contrast/conditional"
    for step in STEPS[1:]:
        here, last = {**fields, "stage": "analysis", "step": step, "site": "mlp_post"}, step == STEPS[-1]
        null = [("model_swap", 0.0, 0.05)] if last else []
        for verdict, change in (("forbidden", -0.6), ("allowed", -0.1)):
            grown = change * size * (1 - math.exp(-step / 50))
            maker.add("rank_log_change", grown, 0.04, null, set=f"{name}/{verdict}", **here)
            for suffix in ("", "_base"):
                maker.add(f"activation_rank{suffix}", 12 + 9 * grown, 1.0, set=f"{name}/{verdict}", **here)
        maker.add(
            "rank_log_ratio", -0.4 * size, 0.05, [("label_permutation", 0.0, 0.05)] if last else [], set=name, **here
        )
    here = {**fields, "stage": "analysis", "step": STEPS[-1]}
    for layer in LAYERS:
        module = f"blocks.{layer}.mlp.in_proj"
        maker.add("update_energy_rank", 20 + layer, None, [("gaussian", 95, 1)], layer=layer, module=module, **here)
        for suffix, accuracy in (("", 0.4), ("_base", 0.9), ("_random", 0.2)):
            kinds = [("label_permutation", 0.05, 0.01)] if not suffix else []
            for source in ("forbidden/conditional/unsafe", "allowed/conditional/safe"):
                maker.add(
                    f"probe_accuracy{suffix}", accuracy, 0.03, kinds, layer=layer, site="resid_out", set=source, **here
                )
        for matrix in ("mlp.in_proj", "mlp.out_proj"):
            for k in (1, 8):
                kinds = [("label_permutation", 0.02 * k, 0.01), ("random_direction", k / 128, 0.005)]
                where = {"module": f"blocks.{layer}.{matrix}", "layer": layer, "set": f"{name}/k={k}"}
                maker.add("refusal_share", 0.5 * size, 0.05, kinds, **where, **here)
                maker.add("refusal_share_base", 0.2 * size, 0.05, kinds, **where, **here)
    others = list(TUNED)
    for other in others[others.index(str(fields["model"])) + 1 :]:
        kinds = [("rotation", 0.02, 0.005), ("row_sign_flip", 0.03, 0.01)]
        for side, module in (("output", "mlp.in_proj"), ("input", "mlp.in_proj"), ("output", "mlp.out_proj")):
            maker.add(f"{side}_overlap", 0.4 * size, None, kinds, module=module, set=f"with={other}", **here)
            for partner in ("layer 1", "layer 2", "seed 1"):
                place = {"layer": 0, "module": f"blocks.0.{module}", "set": f"with={partner}"}
                maker.add(f"{side}_overlap", 0.3 * size, None, kinds, **{**here, **place})


def _doses(maker: Maker, size: float, fields: dict[str, Any]) -> None:
    for number, low in enumerate((-0.5, 0.0, 0.5, 1.0)):
        for dose, rate in (("position", number / 3), ("gain", 1 - number / 3)):
            ends = {**fields, "set": f"{dose}={low:+.2f}..{low + 0.5:+.2f}"}
            maker.add(f"success_by_{dose}", 0.9 * rate, 0.05, n=90, n_unit="prompt and attack", **ends)
    kinds = [("success_permutation", 0.0, 0.4)]
    maker.add("success_slope_position", 3 * size, 0.8, kinds, site="mlp_post", **fields)
    maker.add("success_slope_gain", -2 * size, 0.6, kinds, site="mlp_in", **fields)
    if fields["model"] == "ssft-medium":
        both = [("dose_permutation", 0.0, 0.05), ("random_vectors", 0.02, 0.03)]
        maker.add("position_dose_difference", 0.3, 0.05, both, site="mlp_post", **fields)


def _attacks(maker: Maker, size: float, fields: dict[str, Any]) -> None:
    for attack, sources in SOURCES.items():
        for source in sources:
            if source.startswith("allowed"):
                continue
            here = {**fields, "attack": attack, "set": source, "role": "last_prompt", "n": 512, "n_unit": "prompt"}
            null = [("exchangeable_with_source", 0.0, 0.05)]
            for layer in (*LAYERS, None):
                for site in ("mlp_post", "resid_out"):
                    maker.add("position", 0.5 * size, 0.05, null, layer=layer, site=site, **here)
                if layer is not None:
                    maker.add(
                        "gain_ratio_to_forbidden",
                        1 - 0.3 * size,
                        0.05,
                        [("exchangeable_with_source", 1.0, 0.04)],
                        layer=layer,
                        site="mlp_in",
                        **here,
                    )
            maker.add("gain_log_ratio_to_forbidden", -0.3 * size, 0.05, site="mlp_in", **here)


def claims() -> list[Claim]:
    """A claim of each kind of word, one without a value, and one whose text wants escaping."""
    null = Null(kind="label_permutation", mean=0.0, low=-0.1, high=0.1)
    weights = Null(kind="rotation", mean=0.75)
    common: dict[str, Any] = {"exploratory": True, "scale": "identity"}
    return [
        Claim(
            id="clusters/operator/ssft-medium",
            observation=1,
            statement="Clusters form",
            statistic="tau_gap_relative_change",
            value=0.6,
            low=0.5,
            high=0.7,
            n=512,
            n_unit="prompt",
            nulls=(null,),
            primary=True,
            answers=(
                Answer(question="seen", word="seen", value=0.6, low=0.5, high=0.7, n=8, why="beyond"),
                Answer(question="other", word="less", value=-0.2, low=-0.3, high=-0.1, n=8, why="beyond"),
            ),
            smallest_effect=0.2,
            **common,
        ),
        Claim(
            id="b",
            observation=2,
            statement="Update in the null space",
            statistic="null_energy_left",
            value=0.8,
            n=1,
            n_unit="seed",
            nulls=(weights,),
            answers=(Answer(question="seen", word="unclear", value=1.4, low=-0.1, high=2.9, n=8, why="wide"),),
            smallest_effect=0.1,
            **common,
        ),
        Claim(
            id="c",
            observation=3,
            statement=EVIL,
            statistic="gain_log_ratio",
            value=-0.2,
            low=-0.3,
            high=-0.1,
            n=9,
            n_unit="prompt",
            answers=(Answer(question="seen", word="absent", value=-0.02, low=-0.03, high=-0.01, n=8, why=EVIL),),
            smallest_effect=0.1,
            **common,
        ),
        Claim(
            id="d",
            observation=5,
            statement="Attacks escape",
            statistic="position",
            **common,
        ),
    ]


def prompt(name: str, attack: str | None = None, letters: str = "abcdefgh") -> dict[str, Any]:
    """One record of prompts.jsonl."""
    answers = {
        model: {"text": "cafe.", "behaviour": word} for model, word in (("base", "comply"), ("ssft-medium", "refuse"))
    }
    return {
        "set": name,
        "attack": attack,
        "index": 0,
        "prompt": f"? ! : {letters}",
        "letters": letters,
        "branch": "mixed",
        "letter_branch": "ssssuuuu",
        "operators": ["<", "&"],
        "rules": ["conditional", "always"],
        "allowed": "allowed" in name,
        "derivation": f"start({EVIL})",
        "expected": "cafe.",
        "compliant": "cafe.",
        "answers": answers,
    }


def manifest(seeds: tuple[int, ...] = (0,), exploratory: bool = True) -> dict[str, Any]:
    """A manifest with what the report reads."""
    options = {"dpo": {"sft_weight": 1.0}, "dpo_plain": {"sft_weight": 0.0}}
    tunings = [
        {
            "name": name,
            "protocol": protocol,
            "strength": strength,
            "control": control,
            "config": {
                "protocol": {"name": protocol, "label": protocol.upper(), **options.get(protocol, {})},
                "optimiser": {"peak_lr": 1e-3 if strength == "medium" else 1e-4},
            },
        }
        for name, (protocol, strength, control) in TUNED.items()
    ]
    return {
        "format": 1,
        "recipe": "handmade",
        "exploratory": exploratory,
        "seeds": list(seeds),
        "parameters": 825088,
        "finished": "2026-01-02T03:04:05+00:00",
        "versions": {"python": "3.11", "deltaw": "0.1.0"},
        "config": {"tunings": tunings, "checkpoints": list(STEPS), "refusal_threshold": 0.95},
        "processor": {"name": EVIL, "cores": 2, "platform": "Linux", "precision": "float32"},
        "engine": {"name": "dask", "workers": 2},
        "seconds": {"this_call": 10.0, "all_stages": 1200.0},
        "peak_bytes": 10**9,
        "stages": [
            {"name": "base-s0", "seconds": 300.0, "peak_bytes": 10**9},
            {"name": "tune-ssft-medium-s0", "seconds": 60.0},
        ],
        "models": [
            {
                "name": "base",
                "path": "artifacts/base",
                "step": 3000,
                "seed": 0,
                "protocol": None,
                "strength": None,
                "control": None,
            }
        ],
    }


def write_run(directory: Path, lines: list[Measurement] | None = None, seeds: tuple[int, ...] = (0,)) -> Path:
    """Writes a run's files into `directory`; `lines` instead of all measurements where given."""
    directory.mkdir(parents=True, exist_ok=True)
    found = [line for seed in seeds for line in measurements(seed)] if lines is None else lines
    write_measurements(directory / "measurements.jsonl", found)
    write_claims(directory / "claims.json", claims())
    shown = [prompt("allowed/conditional/safe"), prompt("forbidden/never/safe", "co_task", EVIL[:8])]
    (directory / "prompts.jsonl").write_text("".join(json.dumps(record) + "\n" for record in shown), encoding="utf-8")
    (directory / "manifest.json").write_text(json.dumps(manifest(seeds)), encoding="utf-8")
    return directory
