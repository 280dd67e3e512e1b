"""What reading a prompt once, and bfloat16 attention by plain products, are worth: updates of `quick`, one thread.

What is compared runs alternately within one run; the figures are medians of the rounds, the ratios medians of theirs.
Times are processor time, so that other work on the machine weighs less.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from deltaw.model import transformer
from deltaw.study.recipes import quick
from deltaw.training.objectives import next_token, objective
from deltaw.training.optimisers import adamw
from deltaw.training.pretraining import as_batch, dtype_of, new_model, pretraining_samples
from deltaw.training.tuning import tuning_pairs, tuning_reference
from deltaw.world import World

Update = Callable[[], object]
attend = transformer.attend


def by_library(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    """Attention in float32 by PyTorch's own kernel."""
    q, k, v = (x.float() for x in (q, k, v))
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=mask is None)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=10)
    rounds = parser.parse_args().rounds
    torch.set_num_threads(1)
    recipe = quick()
    world, config = World(recipe.world), next(one for one in recipe.tunings if one.name == "dpo-medium").config
    model, dtype = new_model(world, recipe.pretraining, 0), dtype_of(config.compute_dtype)
    adam, dpo = adamw(model, config.optimiser), objective("dpo")
    options = dpo.options(**config.options)
    text = as_batch(pretraining_samples(world, recipe.pretraining, range(64), 0))
    pair = tuning_pairs(world, range(64), config, 0)
    reference = tuning_reference(world, model, 64, config, 0)

    def update(loss: Callable[[], Tensor], attention: Callable[..., Tensor]) -> Update:
        def run() -> None:
            transformer.attend = attention
            with model.computing_in(dtype):
                value = loss()
            adam.zero_grad()
            value.backward()
            adam.step()

        return run

    def plain(tokens: Tensor) -> Tensor:  # no `Transformer`, so that both responses are read in full
        return model(tokens)

    kinds = {
        "pre-training": update(lambda: next_token(model, text).value, attend),
        "the same, library's attention": update(lambda: next_token(model, text).value, by_library),
        "DPO": update(lambda: dpo.function(model, pair, reference, options).value, attend),
        "the same, prompt read twice": update(lambda: dpo.function(plain, pair, reference, options).value, attend),
        "the same, and library's attention": update(
            lambda: dpo.function(plain, pair, reference, options).value, by_library
        ),
    }
    seconds: dict[str, list[float]] = {name: [] for name in kinds}
    for number in range(rounds + 1):
        for name, run in kinds.items():
            start = time.process_time()
            run()
            if number:  # the first round warms up
                seconds[name].append(time.process_time() - start)
    print("| update of 64 prompts | ms | ratio to the first of its kind |\n|---|---|---|")
    for name, times in seconds.items():
        first = seconds["pre-training" if name in list(kinds)[:2] else "DPO"]
        ratio = statistics.median(a / b for a, b in zip(times, first, strict=True))
        print(f"| {name} | {1000 * statistics.median(times):.0f} | {ratio:.2f} |")


if __name__ == "__main__":
    main()
