"""A model's answers to prompts of its world, and the rates that come of them."""

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from deltaw.behaviour.exact import BehaviourCounts, measure
from deltaw.models import Transformer
from deltaw.results.recorder import Sheet
from deltaw.statistics import wilson
from deltaw.world import Prompts, Response, World


def answers_to(
    model: Transformer, world: World, prompts: Prompts, unwelcome: Response = Response.REFUSE
) -> tuple[torch.Tensor, torch.Tensor]:
    """(labels (N,), answers (N, S)) of free-running greedy decoding on the model's device, on the CPU. `unwelcome` is
    what counts as not complying.
    """
    layout, n, vocabulary = world.layout, len(prompts), world.vocabulary
    compliant, unwelcome_tokens = (
        torch.from_numpy(layout.response_tokens(prompts, np.full(n, kind))) for kind in (Response.COMPLY, unwelcome)
    )
    answers = measure(
        model,
        torch.from_numpy(layout.prompt_tokens(prompts)),
        compliant,
        unwelcome_tokens,
        stop_id=vocabulary.stop,
        pad_id=vocabulary.pad,
        lengths=torch.from_numpy(layout.prompt_lengths(prompts)),
        batch_size=1000,
    )
    return answers.labels, answers.outputs


def answers_to_each(
    model: Transformer, world: World, sets: Sequence[Prompts]
) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """`answers_to` of each set, decoded together: for few rows a step costs as much as for many."""
    if not sets:
        return []
    labels, outputs = answers_to(model, world, Prompts.concatenate(sets))
    ends = np.cumsum([len(prompts) for prompts in sets]).tolist()
    rows = [slice(end - len(prompts), end) for prompts, end in zip(sets, ends, strict=True)]
    return [(labels[own], outputs[own]) for own in rows]


def add_rates(sheet: Sheet, counts: BehaviourCounts, **fields: Any) -> None:
    """The three rates of behaviour, with Wilson intervals."""
    for name, count in (("comply", counts.comply), ("refuse", counts.refuse), ("neither", counts.neither)):
        add_share(sheet, f"{name}_rate", count, counts.n, **fields)


def add_share(sheet: Sheet, statistic: str, count: int, n: int, **fields: Any) -> None:
    """The share of `n` prompts that `count` are, with Wilson's interval."""
    sheet.add(statistic, count / n, wilson(count, n), unit="share", n=n, n_unit="prompt", **fields)


def add_by_grammar(sheet: Sheet, world: World, prompts: Prompts, labels: torch.Tensor, **fields: Any) -> None:
    """The three rates in each grammar of a world of several: of the set `SET/grammar-N`."""
    if len(world.numbers) == 1:
        return
    for number in world.numbers:
        rows = torch.from_numpy(prompts.grammar == number)
        if bool(rows.any()):
            add_rates(sheet, BehaviourCounts.of(labels[rows]), **{**fields, "set": f"{fields['set']}/grammar-{number}"})


def add_pooled(sheet: Sheet) -> None:
    """Rates over the sets of the view's stage that share a verdict, apart from the conditional ones."""
    stage, step = sheet.shared["stage"], sheet.shared["step"]
    plain = [line for line in sheet.lines if (line.stage, line.step, line.attack) == (stage, step, None)]
    for verdict in ("allowed", "forbidden"):
        rest = [
            line
            for line in plain
            if line.set and line.set.startswith(f"{verdict}/") and not re.search("/conditional/|/rest", line.set)
        ]
        for statistic in ("comply_rate", "refuse_rate", "neither_rate"):
            lines = [line for line in rest if line.statistic == statistic]
            n = sum(line.n or 0 for line in lines)
            count = round(sum(line.value * (line.n or 0) for line in lines))
            add_share(sheet, statistic, count, n, set=f"{verdict}/rest")
