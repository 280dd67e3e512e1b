"""How fast are texts and training samples, beside a plain sampler and beside training? `make benchmark`.

Everything runs on one thread, and what is compared runs alternately within one run; the figures are medians of the
rounds, the ratios medians of theirs. Times are processor time, so that other work on the machine weighs less.
"""

import argparse
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
from numpy_choice_sampler import NumpyChoiceSampler
from recursive_sampler import RecursiveSampler

from deltaw.recipes.quick import quick
from deltaw.training.loop import train
from deltaw.training.next_token import next_token
from deltaw.training.pretraining import as_batch, dtype_of, new_model
from deltaw.world import Response, World
from deltaw.world.language import published, published_subgrammars
from deltaw.world.probability import Posterior, WindowLikelihood
from deltaw.world.randomness import Key
from deltaw.world.windows import WindowSampler

LETTERS = 20


def seconds(work: Callable[[], object]) -> float:
    """Processor time of one call."""
    start = time.process_time()
    work()
    return time.process_time() - start


def windows(rounds: int) -> None:
    """Letters returned in windows, ours against plain recursive samplers."""
    print("\n| grammar | ours, letters/s | recursion with `random.random` | recursion with `Generator.choice` |")
    print("|---|---|---|---|")
    full = published(1)
    for name, grammar in {"full": full, **published_subgrammars(full)}.items():
        ours, key = WindowSampler(grammar, LETTERS), Key(0, name)
        plain, choice = RecursiveSampler(grammar, LETTERS, 0), NumpyChoiceSampler(grammar, LETTERS, 0)
        ours.sample(key, np.arange(10))
        rates = []
        for number in range(rounds):
            index = np.arange(number * 40_960, (number + 1) * 40_960)
            a = len(index) / seconds(lambda: [ours.sample(key, part) for part in np.split(index, 20)])  # noqa: B023
            b = 1000 / seconds(lambda: [plain.window() for _ in range(1000)])  # noqa: B023
            c = 60 / seconds(lambda: [choice.window() for _ in range(60)])  # noqa: B023
            rates.append((a, b, c))
        a, b, c = (LETTERS * statistics.median(column) for column in zip(*rates, strict=True))
        over_b, over_c = (statistics.median(row[0] / row[k] for row in rates) for k in (1, 2))
        print(f"| {name} | {a:,.0f} | {b:,.0f} (ours x {over_b:.0f}) | {c:,.0f} (ours x {over_c:.0f}) |")


def training(rounds: int) -> None:
    """Whole encoded samples of pre-training, against what training the base model of `quick` consumes."""
    recipe = quick()
    world, config = World(recipe.world), recipe.pretraining
    model = new_model(world, config, 0)
    chunk = 16 * config.batch

    def sample(first: int) -> object:
        prompts = world.sample("pretrain", range(first, first + chunk), "train", 0)
        return as_batch(world.layout.encode(prompts, np.full(chunk, Response.COMPLY), text_weight=1.0))

    ready = sample(0)
    steps = 10

    def step() -> object:
        optimiser = replace(config.optimiser, steps=steps, warmup=1, decay_end=steps)
        return train(
            model,
            lambda k: ready[k * config.batch : (k + 1) * config.batch],  # type: ignore[index]
            next_token,
            optimiser,
            compute_dtype=dtype_of(config.compute_dtype),
        )

    step()
    rates = []
    for number in range(rounds):
        made = 8 * chunk / seconds(lambda: [sample((8 * number + k) * chunk) for k in range(8)])  # noqa: B023
        rates.append((made, steps * config.batch / seconds(step)))
    made, used = (statistics.median(column) for column in zip(*rates, strict=True))
    ratio = statistics.median(a / b for a, b in rates)
    print(f"\nsamples made: {made:,.0f}/s; training of `quick`'s base model uses {used:,.0f}/s; ratio {ratio:.0f}")


def memory() -> None:
    """Peak resident size of making 10^5 and 10^6 samples in chunks, each in a process of its own."""
    for count in (100_000, 1_000_000):
        done = subprocess.run(
            [sys.executable, __file__, "--peak", str(count)], capture_output=True, text=True, check=True
        )
        print(f"peak memory of {count:,} encoded samples: {done.stdout.strip()} MiB")


def peak(count: int) -> None:
    """Make samples in chunks, then print this process's peak resident size in MiB."""
    world = World()
    for first in range(0, count, 1024):
        prompts = world.sample("pretrain", range(first, min(first + 1024, count)), "train", 0)
        world.layout.encode(prompts, np.full(len(prompts), Response.COMPLY))
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)


def probabilities(rounds: int) -> None:
    """Time a window of exact probabilities, in batches of 512."""
    full = published(1)
    kinds = {"full": full, **published_subgrammars(full)}
    several = Posterior(
        {
            number: {text: published_subgrammars(published(number))[text] for text in ("safe", "unsafe")}
            for number in range(1, 5)
        }
    )
    print("\n| exact probability | letters | ms a window |\n|---|---|---|")
    for letters in (20, 35):
        jobs: dict[str, Callable[[np.ndarray], object]] = {n: WindowLikelihood(g) for n, g in kinds.items()}
        jobs |= {
            "full, with its branch": WindowLikelihood(full).branches,
            "posterior over four grammars and branches": several,
        }
        for name, job in jobs.items():
            of = kinds.get(name, full if name.startswith("full") else kinds["safe"])
            if min(of.lengths[of.start]) < letters or (name.startswith("post") and letters > 30):
                continue
            drawn = WindowSampler(of, letters).sample(Key(0, "time"), np.arange(512)).letters
            best = statistics.median(seconds(lambda: job(drawn)) for _ in range(rounds))  # noqa: B023
            print(f"| {name} | {letters} | {1e3 * best / 512:.3f} |")


def main() -> None:
    """Run all of it, or what a child process is asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--peak", type=int, help="only make that many samples, and print the peak memory")
    given = parser.parse_args()
    torch.set_num_threads(1)
    if given.peak:
        return peak(given.peak)
    print(
        f"{platform.machine()}, Python {platform.python_version()}, numpy {np.__version__}, torch {torch.__version__}"
    )
    windows(given.rounds)
    training(given.rounds)
    probabilities(given.rounds)
    return memory()


if __name__ == "__main__":
    main()
