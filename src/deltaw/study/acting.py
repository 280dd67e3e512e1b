"""What a tuned model's update does: to the outputs of MLPs (function), and to attacked prompts (Observation 5)."""

import numpy as np
from torch import Tensor

from deltaw.analysis import SOURCES, Mlp, effect_nulls, gain, gain_ratio, mlp_effect, position
from deltaw.statistics import FloatArray, Interval, Null, bootstrap_means, from_draws, percentile_interval
from deltaw.study.comparing import PRIMARY, SITES, Comparison, Places, add_mean, mean_null, read
from deltaw.study.sheet import Sheet, present
from deltaw.world import FORBIDDEN_SOURCES, attacked


def observe_function(at: Comparison, sheet: Sheet) -> None:
    """How the MLPs' outputs change on forbidden prompts, divided among the parts of ΔW and what earlier layers did."""
    for name, after in at.after.items():
        for verdict, old, new in (
            ("allowed", at.before[name][0], after[0]),
            ("forbidden", at.before[name][1], after[1]),
        ):
            differences, nulls = [], []
            for layer in at.layers:
                base, tuned = (Mlp(w.w_in, w.b_in, w.w_out, w.b_out) for w in at.mlps[layer])
                a_base, a_tuned = (places[(layer, "mlp_in")].double() for places in (old, new))
                effect = mlp_effect(base, tuned, a_base, a_tuned)
                primary = name == PRIMARY and verdict == "forbidden"
                found = (
                    effect_nulls(base, tuned, a_base, a_tuned, at.generator(6, layer), min(20, at.sizes.draws))
                    if primary
                    else ()
                )
                view = sheet.with_(set=f"{name}/{verdict}", site="mlp_out", layer=layer, n=len(a_base), n_unit="prompt")
                for number, source in enumerate(SOURCES):
                    interval = _share_interval(at, effect.parts, effect.total, number)
                    view.add(
                        f"effect_share_{source}", effect.pooled_share[number], interval,
                        found[number : number + 1], unit="share of squared change",
                    )  # fmt: skip
                view.add("effect_relative_size", float(effect.total_relative.mean()), unit="share of norm")
                if primary:
                    differences.append(_null_minus_column(at, effect.parts, effect.total))
                    nulls.append(_difference(found[0], found[1]))
            if differences:
                draws = np.mean([d for _, d in differences], axis=0)
                view = sheet.with_(set=f"{name}/{verdict}", site="mlp_out", n=at.sizes.contrast, n_unit="prompt")
                view.add(
                    "effect_null_minus_column", float(np.mean([v for v, _ in differences])), percentile_interval(draws),
                    [mean_null(nulls)], unit="share of squared change",
                )  # fmt: skip


def _along(parts: Tensor, total: Tensor) -> tuple[FloatArray, FloatArray]:
    """(N, 4) inner products of each part with the total change, and (N,) its squared norm."""
    return (parts * total[:, None]).sum(2).numpy(), total.square().sum(1).numpy()


def _share_interval(at: Comparison, parts: Tensor, total: Tensor, number: int) -> Interval:
    along, size = _along(parts, total)
    means = bootstrap_means([along[:, number], size], at.generator(15), [np.arange(len(size))] * 2, at.sizes.bootstrap)
    return percentile_interval(means[:, 0] / means[:, 1])


def _null_minus_column(at: Comparison, parts: Tensor, total: Tensor) -> tuple[float, FloatArray]:
    along, size = _along(parts, total)
    difference = along[:, 0] - along[:, 1]
    means = bootstrap_means([difference, size], at.generator(15), [np.arange(len(size))] * 2, at.sizes.bootstrap)
    return float(difference.sum() / size.sum()), means[:, 0] / means[:, 1]


def _difference(a: Null, b: Null) -> Null:
    if a.draws is None or b.draws is None:
        return Null(a.kind, a.mean - b.mean, a.low - b.high, a.high - b.low)
    return from_draws(a.kind, a.draws - b.draws)


def observe_attacks(at: Comparison, sheet: Sheet) -> None:
    """Observation 5: where attacked prompts lie between forbidden (0) and allowed (1), and how ΔW acts on them."""
    reference = {"forbidden/conditional/unsafe": at.pairs[0], "forbidden/never/safe": at.pairs[1]}
    for attack, sources in FORBIDDEN_SOURCES.items():
        for source in sources:
            contrast = reference[source]
            prompts = attacked(at.world, attack, contrast.forbidden, seed=at.seed)
            of_base, of_tuned = read(at.base, at.world, prompts), read(at.tuned, at.world, prompts)
            view = sheet.with_(set=source, attack=attack, n=len(prompts), n_unit="prompt")
            _positions(at, contrast.name, of_base, of_tuned, view)
            _gain_ratios(at, contrast.name, of_base, view)


def _positions(at: Comparison, name: str, of_base: Places, of_tuned: Places, sheet: Sheet) -> None:
    rows = np.arange(at.sizes.contrast)
    for suffix, attacked_at, (allowed, forbidden) in (
        ("", of_tuned, at.after[name]),
        ("_base", of_base, at.before[name]),
    ):
        for number, site in enumerate(SITES):
            placed: list[FloatArray] = []
            nulls: list[Null] = []
            for layer in at.layers:
                place = (layer, site)
                found = present(
                    position(
                        attacked_at[place], forbidden[place], allowed[place], at.generator(5, number, layer),
                        source=rows, draws=at.sizes.bootstrap,
                    )
                )  # fmt: skip
                if found is None:
                    continue
                placed.append(found.positions)
                nulls.append(found.null)
                sheet.add(
                    f"position{suffix}", found.mean, found.interval, [found.null], site=site, layer=layer,
                    unit="share of the way to allowed",
                )  # fmt: skip
            if placed:
                view = sheet.with_(site=site)
                add_mean(
                    at,
                    view,
                    f"position{suffix}",
                    np.mean(placed, axis=0),
                    [mean_null(nulls)],
                    "share of the way to allowed",
                )


def _gain_ratios(at: Comparison, name: str, of_base: Places, sheet: Sheet) -> None:
    logs: list[FloatArray] = []
    forbidden = at.before[name][1]
    for layer in at.layers:
        old, new = at.mlps[layer]
        delta, shift = new.w_in - old.w_in, new.b_in - old.b_in
        if not bool((delta != 0).any()):
            continue
        place = (layer, "mlp_in")
        on_attacked, on_forbidden = (
            gain(places[place].double(), delta, shift, old.w_in, old.b_in).relative for places in (of_base, forbidden)
        )
        ratio = gain_ratio(
            on_attacked,
            on_forbidden,
            at.generator(7, layer),
            source=np.arange(len(on_forbidden)),
            draws=at.sizes.bootstrap,
        )
        sheet.add(
            "gain_ratio_to_forbidden",
            ratio.value,
            ratio.interval,
            [ratio.null],
            site="mlp_in",
            layer=layer,
            unit="ratio",
        )
        logs.append(np.log(on_attacked) - np.log(on_forbidden))
    if logs:
        add_mean(
            at,
            sheet.with_(site="mlp_in"),
            "gain_log_ratio_to_forbidden",
            np.mean(logs, axis=0),
            [],
            "log ratio",
        )
