"""What an update costs: the published model in the paper's world, by the obvious float32 code and by ours; tunings.

What is compared runs alternately within one run, each round on new prompts; the figures are medians of the rounds, the
ratios medians of theirs. Times are processor time of one thread, so that other work on the machine weighs less.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from deltaw.models import ModelConfig, Transformer
from deltaw.models.batch import Batch
from deltaw.models.layers import sinusoidal_table
from deltaw.protocols import TuningBatch
from deltaw.recipes.paper import paper, paper_compat
from deltaw.training.finetuning import TuningConfig, tuning_pairs, tuning_reference
from deltaw.training.loop import OptimiserConfig, adamw
from deltaw.training.next_token import next_token
from deltaw.training.pretraining import PretrainingConfig, as_batch, new_model, pretraining_samples
from deltaw.world import ViewSchedule, World

WARM_UP = 2  # rounds that are not counted


class ObviousBlock(nn.Module):
    """The published block as most would write it."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads, self.norm = heads, nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU("tanh"), nn.Linear(4 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, D) to the same."""
        x = self.norm(x)
        q, k, v = (part.unflatten(2, (self.heads, -1)).transpose(1, 2) for part in self.qkv(x).chunk(3, 2))
        x = x + self.out(F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2))
        return x + self.mlp(x)  # type: ignore[no-any-return]


class Obvious(nn.Module):
    """The published model in float32, padding and all."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.embed = nn.Embedding(config.vocabulary_size, config.width)
        self.register_buffer("positions", sinusoidal_table(config.context, config.width))
        self.blocks = nn.Sequential(*(ObviousBlock(config.width, config.heads) for _ in range(config.layers)))
        self.norm = nn.LayerNorm(config.width)
        self.unembed = nn.Linear(config.width, config.vocabulary_size, bias=False)

    def forward(self, batch: Batch) -> Tensor:
        """The loss."""
        x = self.embed(batch.tokens) + self.positions[: batch.tokens.shape[1]]
        logits = self.unembed(self.norm(self.blocks(x)))[:, :-1]
        nll = F.cross_entropy(logits.flatten(0, 1), batch.tokens[:, 1:].flatten(), reduction="none")
        weights = batch.weights[:, 1:].flatten()
        return (nll * weights).sum() / weights.sum()


def obvious_of(model: Transformer) -> Obvious:
    """The same weights."""
    obvious = Obvious(model.config)
    own = dict(model.named_parameters())
    with torch.no_grad():
        for name, parameter in obvious.named_parameters():
            name = name.replace("mlp.0.", "mlp.in_proj.").replace("mlp.2.", "mlp.out_proj.")
            name = name.replace(".qkv.", ".attn.qkv.").replace(".out.", ".attn.out.")
            parameter.copy_(own["norm_final" + name[4:] if name.startswith("norm.") else name])
    return obvious


def table(title: str, rounds: int, rows: int, kinds: dict[str, Callable[[int], None]]) -> None:
    """Print one: each kind is an update, of the round's number. The first kind is what the others are compared with."""
    seconds: dict[str, list[float]] = {name: [] for name in kinds}
    for number in range(rounds + WARM_UP):
        for name, run in kinds.items():
            start = time.process_time()
            run(number)
            if number >= WARM_UP:
                seconds[name].append(time.process_time() - start)
    print(f"\n| {title} | ms | sequences a second | ratio |\n|---|---|---|---|")
    first = next(iter(seconds.values()))
    for name, times in seconds.items():
        ratio = statistics.median(a / b for a, b in zip(first, times, strict=True))
        middle = statistics.median(times)
        print(f"| {name} | {1000 * middle:.0f} | {rows / middle:.0f} | {ratio:.2f} |", flush=True)


def padded(model: Transformer, loss: Callable[[], Tensor]) -> Tensor:
    """The loss by the pass that analyses use, in which all rows are as long as the longest."""
    model.packs = lambda tokens: False  # type: ignore[method-assign]
    try:
        return loss()
    finally:
        del model.packs


class Updates:
    """Updates of one model, its obvious twin, and how long they take."""

    def __init__(self, model: Transformer, optimiser: OptimiserConfig, rounds: int, rows: int) -> None:
        self.model, self.obvious, self.rounds, self.rows = model, obvious_of(model), rounds, rows
        self.optimisers = {
            True: torch.optim.AdamW(self.obvious.parameters(), lr=optimiser.peak_lr),
            False: adamw(model, optimiser),
        }

    def update(self, loss: Callable[[], Tensor], obvious: bool = False) -> None:
        """One, with bfloat16 products but for the obvious model."""
        with self.model.computing_in(torch.bfloat16):
            value = loss()
        self.optimisers[obvious].zero_grad()
        value.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_((self.obvious if obvious else self.model).parameters(), 1.0)
        self.optimisers[obvious].step()

    def pretraining(self, title: str, world: World, config: PretrainingConfig) -> None:
        """Print the table of pre-training."""
        text = as_batch(pretraining_samples(world, config, range((self.rounds + WARM_UP) * self.rows), 0))

        def loss(k: int) -> Tensor:
            return next_token(self.model, self.part(text, k)).value

        kinds = {
            "obvious float32": lambda k: self.update(lambda: self.obvious(self.part(text, k)), obvious=True),
            "ours, rows padded": lambda k: self.update(lambda: padded(self.model, lambda: loss(k))),
            "ours, as trained": lambda k: self.update(lambda: loss(k)),
        }
        table(title, self.rounds, self.rows, kinds)

    def tuning(self, title: str, world: World, config: TuningConfig) -> None:
        """Print the table of a tuning."""
        rows = (self.rounds + WARM_UP) * self.rows
        pairs = tuning_pairs(world, range(rows), config, 0)
        reference = tuning_reference(world, self.model, rows, config, 0)

        def loss(k: int) -> Tensor:
            rows_of = slice(k * self.rows, (k + 1) * self.rows)
            return config.protocol.loss(self.model, TuningBatch(pairs[rows_of], reference[rows_of])).value

        kinds = {
            "ours, rows padded": lambda k: self.update(lambda: padded(self.model, lambda: loss(k))),
            "ours, as trained": lambda k: self.update(lambda: loss(k)),
        }
        table(title, self.rounds, self.rows, kinds)

    def part(self, text: Batch, k: int) -> Batch:
        """The batch of round k."""
        return text[k * self.rows : (k + 1) * self.rows]


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--only", default="", help="tables whose title holds this")
    arguments = parser.parse_args()
    rounds, rows = arguments.rounds, arguments.batch
    torch.set_num_threads(1)
    for recipe in (paper(), paper_compat()):
        world = World(recipe.world)
        updates = Updates(new_model(world, recipe.pretraining, 0), recipe.pretraining.optimiser, rounds, rows)
        for views, schedule in (("full view", ViewSchedule()), ("published views", recipe.pretraining.views)):
            title = f"pre-training of {recipe.name}, {views}"
            if arguments.only in title:
                updates.pretraining(title, world, replace(recipe.pretraining, views=schedule))
        for name in ("ssft", "dpo") if recipe.name == "paper" else ():
            config = next(tuning.config for tuning in recipe.tunings if tuning.config.protocol.name == name)
            if arguments.only in f"{name} of paper":
                updates.tuning(f"{name} of paper", world, config)


if __name__ == "__main__":
    main()
