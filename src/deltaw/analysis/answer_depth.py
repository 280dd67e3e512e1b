"""How deep into an answer does a tuning reach? Divergence of the tuned from the base model, token by token.

For a forced answer y and a prompt x (Qi et al., ICLR 2025)

    KL_t = KL( tuned(· | x, y_<t) ‖ base(· | x, y_<t) )    in nats, t = 1 … T

The share of Σ_t KL_t that lies on the first few tokens is compared with `position_permutation`: the tokens of each
prompt in random order, mean e/T for e of T tokens. A divergence that is as large at every token has that share.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from deltaw.analysis.inputs import Absent, array
from deltaw.errors import DeltawError
from deltaw.statistics import FloatArray, Null, from_draws


def divergence(tuned: Tensor, base: Tensor) -> FloatArray:
    """(N, T) KL of log-probabilities (N, T, V), tuned from base; NaN where they are: beyond a shorter answer's end.

    DeltawError if the shapes differ.
    """
    if tuned.shape != base.shape:
        raise DeltawError(
            f"the forced answers have the shape {tuple(tuned.shape)} in the tuned and {tuple(base.shape)} in the base "
            "model; their tokenizers read them differently"
        )
    rows = [
        array((new.double().exp() * (new.double() - old.double())).nan_to_num(0.0, posinf=0.0, neginf=0.0).sum(-1))
        for new, old in zip(tuned, base, strict=True)
    ]
    kl = np.stack(rows).clip(min=0)
    kl[array(torch.isnan(tuned).all(-1)) > 0] = np.nan
    return kl


@dataclass(frozen=True, eq=False)
class Early:
    """How much of the divergence lies on the first tokens."""

    share: float
    """Of the sum over all prompts and tokens."""
    first: FloatArray
    """(N,) the sum over the first tokens of each prompt."""
    whole: FloatArray
    """(N,) the sum over all its tokens."""
    null: Null


def early_share(kl: FloatArray, first: int, generator: np.random.Generator, draws: int = 200) -> Early | Absent:
    """The share of kl (N, T) on the `first` tokens. Absent if the models do not differ, or no answer is longer."""
    known = ~np.isnan(kl)
    if not known.sum(1).max() > first:
        return Absent(f"no answer has more than {first} tokens")
    values = np.where(known, kl, 0.0)
    whole = values.sum(1)
    if whole.sum() == 0:
        return Absent("the models give the same next tokens, so there is no divergence to share")
    shuffled = []
    for _ in range(draws):
        keys = np.where(known, generator.random(kl.shape), 2.0)  # what does not exist stays behind
        order = np.argsort(keys, axis=1)[:, :first]
        shuffled.append(np.take_along_axis(values, order, 1).sum() / whole.sum())
    counts = known.sum(1)
    mean = float((whole * np.minimum(first, counts) / np.maximum(counts, 1)).sum() / whole.sum())
    early = values[:, :first].sum(1)
    null = from_draws("position_permutation", np.array(shuffled), mean=mean)
    return Early(float(early.sum() / whole.sum()), early, whole, null)
