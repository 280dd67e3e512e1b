"""What one GPU does with the recipe `paper` (speed, equality with the CPU, an estimate of the whole study), and with
checkpoints of the shape of Llama-2-7B (the statistics of a layer's matrices, answers).

    PYTHONPATH=src python benchmarks/gpu_check.py [--out DIR]              at most eight minutes on a GPU
    PYTHONPATH=src python benchmarks/gpu_check.py --device cpu --tiny      tests this script, without one

It installs nothing: Python 3.11, PyTorch 2.4 and NumPy are enough. Each section has a budget of seconds and stands by
itself: if one fails, its error is one line, and the others go on. Results go to gpu_check.json after each section.
"""

import argparse
import json
import os
import subprocess
import sys
import time
import types
from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from threading import Timer
from typing import Any

if sys.version_info < (3, 11):  # noqa: UP036
    sys.exit(f"gpu_check: this is Python {sys.version.split()[0]}, and deltaw needs 3.11 or newer.")

os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")


class _Missing(types.ModuleType):
    """Stands for a package that is only used to read and write files, which this script does not do."""

    def __getattr__(self, name: str) -> type:
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (Exception,), {})


for package, modules in {"pandas": ("pandas",), "safetensors": ("safetensors", "safetensors.torch")}.items():
    if find_spec(package) is None:
        sys.modules.update({module: _Missing(module) for module in modules})

import numpy as np  # noqa: E402
import torch  # noqa: E402

from deltaw.behaviour.exact import measure  # noqa: E402
from deltaw.errors import DeltawError  # noqa: E402
from deltaw.models import Transformer, choose_precision  # noqa: E402
from deltaw.models.determinism import deterministic  # noqa: E402
from deltaw.protocols.dpo import Dpo  # noqa: E402
from deltaw.protocols.protocol import Protocol  # noqa: E402
from deltaw.protocols.ssft import Ssft  # noqa: E402
from deltaw.protocols.unlearn import Unlearn  # noqa: E402
from deltaw.training import cuda_step  # noqa: E402
from deltaw.training.finetuning import TuningConfig, tune, tuning_pairs, tuning_reference  # noqa: E402
from deltaw.training.loop import train  # noqa: E402
from deltaw.training.next_token import next_token  # noqa: E402
from deltaw.training.optimisers import OptimiserConfig  # noqa: E402
from deltaw.training.pretraining import (  # noqa: E402
    PretrainingConfig,
    as_batch,
    dtype_of,
    new_model,
    pretrain,
    pretraining_samples,
)
from deltaw.world import Response, World, published_schedule, published_world  # noqa: E402

# The recipe itself cannot be imported here: it needs SciPy. A test compares these with it.
STEPS, BATCH, TUNING_STEPS = 100_000, 512, 10_000
PROTOCOLS: dict[str, Protocol] = {
    "ssft": Ssft(),
    "dpo": Dpo(beta=0.1, sft_weight=4.0),
    "unlearn": Unlearn(ascent_weight=0.1),
}
UPDATES = {"ssft": 70_000, "dpo": 30_000, "unlearn": 20_000}
REFERENCES, DECODED = 5_120_000, 457_208  # prompts
LAYERS, WIDTH, HIDDEN = 32, 4096, 11_008  # of Llama-2-7B

# Of NVIDIA's data sheets, dense bfloat16 products, operations a second.
PEAKS = {"H200": 989e12, "H100": 989e12, "A100": 312e12}
BUDGET = 450.0  # seconds of all sections
WARM = cuda_step.PLAIN_RUNS + 2  # updates before an update is a replayed one
# Largest differences that count as equal, as shares of the largest number compared.
TOLERANCES = {"logits_float32": 1e-4, "logits_bfloat16": 3e-2, "updates_float32": 2e-2, "updates_bfloat16": 0.2}

Results = dict[str, Any]


def pretraining(device: str, dtype: str, steps: int = STEPS) -> PretrainingConfig:
    """Pre-training of `paper`, or its first `steps` updates."""
    return PretrainingConfig(
        layers=6, heads=6, width=192, batch=BATCH, views=published_schedule(STEPS * BATCH, flat=STEPS * BATCH // 10),
        optimiser=OptimiserConfig(1e-3, 1e-5, steps, 20_000, 80_000, weight_decay=1e-4, clip_norm=None, from_zero=True),
        device=device, compute_dtype=dtype, block="published", positions="sinusoidal",
    )  # fmt: skip


def tuning(protocol: str, device: str, dtype: str, steps: int = TUNING_STEPS) -> TuningConfig:
    """A tuning of `paper`, or its first `steps` updates."""
    optimiser = OptimiserConfig(1e-4, 1e-6, steps, 2_000, 8_000, clip_norm=1.0, from_zero=True)
    return TuningConfig(None, BATCH, device, dtype, protocol=PROTOCOLS[protocol], optimiser=optimiser)


class Check:
    """What the sections share. tiny: a scale on which a CPU is through in a minute, and numbers mean nothing."""

    def __init__(self, device: str, tiny: bool) -> None:
        self.device, self.tiny = device, tiny
        self.dtype = str(choose_precision(device).dtype).removeprefix("torch.")
        self.world = World(published_world())
        self.timed = 2 if tiny else 100
        self.batch = 8 if tiny else BATCH
        self.shape = {"layers": 2, "width": 48} if tiny else {}

    def base(self, steps: int, dtype: str | None = None, device: str | None = None) -> PretrainingConfig:
        """Pre-training on the scale of this check."""
        whole = pretraining(device or self.device, dtype or self.dtype, steps)
        return replace(whole, batch=self.batch, **self.shape)  # type: ignore[arg-type]

    def tune(self, protocol: str, steps: int) -> TuningConfig:
        """A tuning on the scale of this check."""
        return replace(tuning(protocol, self.device, self.dtype, steps), batch=self.batch)

    def model(self, device: str | None = None) -> Transformer:
        """A new model, the same at each call."""
        return new_model(self.world, self.base(1), 0).to(device or self.device)

    def wait(self) -> None:
        """Until the card has done all that it was given."""
        if self.device != "cpu":
            torch.cuda.synchronize()

    def seconds(self, run: Callable[[], object]) -> float:
        """How long a call takes, with all that it asked of the card."""
        self.wait()
        started = time.perf_counter()
        run()
        self.wait()
        return time.perf_counter() - started

    def update_seconds(self, protocol: str, budget: float) -> float:
        """Seconds of an update, its data drawn as in training: the mean of those after the first few."""
        stamps = self.stamps(protocol, 8)
        steps = max(2, min(self.timed, int(budget / ((stamps[1] - stamps[0]) / 8))))
        stamps = self.stamps(protocol, steps)
        return (stamps[1] - stamps[0]) / steps

    def stamps(self, protocol: str, steps: int) -> tuple[float, float]:
        """Clock after the first updates, and after `steps` more."""
        stamps: list[float] = []
        first = 0 if self.tiny else WARM

        def stamp(step: int, model: Transformer) -> None:
            self.wait()
            stamps.append(time.perf_counter())

        checkpoints = (first, first + steps)
        if protocol == "pretrain":
            pretrain(self.world, self.base(first + steps), 0, checkpoints=checkpoints, on_checkpoint=stamp)
        else:
            config, model = self.tune(protocol, first + steps), self.model()
            reference = None
            if protocol == "dpo":
                reference = tuning_reference(self.world, model, (first + steps) * self.batch, config, 0)
            tune(self.world, model, config, 0, reference, checkpoints=checkpoints, on_checkpoint=stamp)
        return stamps[0], stamps[1]


def environment(check: Check, budget: float) -> Results:
    """What computes here."""
    found: Results = {
        "python": sys.version.split()[0], "torch": torch.__version__, "device": check.device, "tiny": check.tiny,
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "precision": choose_precision(check.device).reason, "sequence_length": check.world.sequence_length,
    }  # fmt: skip
    if check.device != "cpu":
        free, total = torch.cuda.mem_get_info()
        found |= {"name": torch.cuda.get_device_name(), "memory_gb": total / 1e9, "free_gb": free / 1e9}
    return found


def sampling(check: Check, budget: float) -> Results:
    """Samples that one core draws in a second."""
    rows = 256 if check.tiny else 8192
    config, pairs = check.base(1), check.tune("dpo", 1)
    pretraining_samples(check.world, config, range(64), 0), tuning_pairs(check.world, range(64), pairs, 0)
    return {
        "pretraining_per_second": rows / check.seconds(
            lambda: pretraining_samples(check.world, config, range(rows, 2 * rows), 0)),
        "pairs_per_second": rows / check.seconds(lambda: tuning_pairs(check.world, range(rows, 2 * rows), pairs, 0)),
    }  # fmt: skip


def _relative(found: torch.Tensor, expected: torch.Tensor) -> float:
    found, expected = found.detach().cpu().double(), expected.detach().cpu().double()
    return float((found - expected).abs().max() / expected.abs().max())


def _few_updates(check: Check, device: str, dtype: str, rows: int, steps: int) -> torch.Tensor:
    """All weights' change by a few updates at a full rate, in one vector."""
    model = check.model("cpu")
    before = torch.cat([parameter.detach().flatten() for parameter in model.parameters()])
    config = replace(check.base(1), batch=rows)
    batch = as_batch(pretraining_samples(check.world, config, range(rows * steps), 0))
    optimiser = OptimiserConfig(1e-3, 1e-3, steps, 0, steps)
    model.to(device)
    train(
        model, lambda step: batch[step * rows : (step + 1) * rows], next_token, optimiser, compute_dtype=dtype_of(dtype)
    )
    return torch.cat([parameter.detach().cpu().flatten() for parameter in model.parameters()]) - before


def equality(check: Check, budget: float) -> Results:
    """Differences between CPU and device, as shares of the largest number, and whether two runs agree to the bit."""
    rows, steps = (4, 2) if check.tiny else (16, 3)
    batch = as_batch(pretraining_samples(check.world, check.base(1), range(rows), 0))
    with torch.no_grad():
        on_cpu, model = check.model("cpu")(batch.tokens), check.model()
        tokens = batch.tokens.to(check.device)
        logits = {"float32": model(tokens)}
        with model.computing_in(torch.bfloat16):
            logits["bfloat16"] = model(tokens)
    found: Results = {f"logits_{name}": _relative(some, on_cpu) for name, some in logits.items()}
    change = _few_updates(check, "cpu", "float32", rows, steps)
    for name in ("float32", "bfloat16"):
        moved = _few_updates(check, check.device, name, rows, steps)
        found[f"updates_{name}"] = float((moved - change).norm() / change.norm())
    found["within_tolerance"] = {name: found[name] <= most for name, most in TOLERANCES.items()}
    rows, steps = (rows, 2) if check.tiny else (64, WARM + 8)
    first, again = (_few_updates(check, check.device, check.dtype, rows, steps) for _ in range(2))
    found["two_runs_bit_identical"] = bool((first == again).all())
    recordable, cuda_step._can_record = cuda_step._can_record, lambda model: False
    try:
        plain = _few_updates(check, check.device, check.dtype, rows, steps)
    finally:
        cuda_step._can_record = recordable
    found["recorded_equals_plain"] = bool((first == plain).all())
    return found


def speed(check: Check, budget: float) -> Results:
    """Updates a second of one run, and their share of the card's peak."""
    parameters = sum(parameter.numel() for parameter in check.model().parameters())
    each = budget / 8
    found: Results = {"parameters": parameters, "batch": check.batch}
    for protocol in ("pretrain", *PROTOCOLS):
        found[protocol] = {"updates_per_second": 1 / check.update_seconds(protocol, each)}
    recordable, cuda_step._can_record = cuda_step._can_record, lambda model: False
    try:
        found["pretrain_without_graphs"] = {"updates_per_second": 1 / check.update_seconds("pretrain", each)}
    finally:
        cuda_step._can_record = recordable
    size = 256 if check.tiny else 8192
    a = torch.randn(size, size, device=check.device, dtype=torch.bfloat16 if check.dtype == "bfloat16" else None)
    a @ a
    product = 10 * 2 * size**3 / check.seconds(lambda: [a @ a for _ in range(10)])
    length, shape = check.world.sequence_length, check.base(1)
    attention = 4.0 * shape.layers * length * shape.width
    of_update = 3 * check.batch * length * (2.0 * parameters + attention)
    rate = of_update * found["pretrain"]["updates_per_second"]
    found |= {
        "operations_per_update": of_update, "operations_per_second": rate,
        "large_product_operations_per_second": product, "share_of_large_product": rate / product,
    }  # fmt: skip
    name = torch.cuda.get_device_name() if check.device != "cpu" else ""
    for card, peak in PEAKS.items():
        if card in name and check.dtype == "bfloat16":
            found |= {"peak_operations_per_second": peak, "share_of_peak": rate / peak}
    if check.device != "cpu":
        found["peak_memory_gb"] = torch.cuda.max_memory_allocated() / 1e9
        torch.cuda.empty_cache()
    return found


def at_once(check: Check, budget: float) -> Results:
    """Updates a second of several tunings in processes of their own, all together."""
    started, found = time.perf_counter(), {}
    cores = environment(check, 0)["cores"]
    counts = (1, 2) if check.tiny else (1, 2, 4, 8)
    last = 0.0
    for count in counts:
        left = budget - (time.perf_counter() - started)
        if count > cores or left < 1.5 * last:
            break
        before = time.perf_counter()
        found[str(count)] = {"updates_per_second": _together(check, count, left)}
        last = time.perf_counter() - before
    return found


def _together(check: Check, count: int, left: float) -> float:
    """Each process gets ready, and all begin when the last one is."""
    steps = 2 if check.tiny else max(60, 400 // count)
    command = [sys.executable, __file__, "--device", check.device, "--worker", str(steps), *(["--tiny"] * check.tiny)]
    workers = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(count)
    ]

    def stop() -> None:
        for worker in workers:
            worker.kill()

    killer = Timer(left, stop)
    killer.start()
    try:
        for worker in workers:
            if worker.stdout is None or worker.stdout.readline().strip() != "ready":
                raise RuntimeError(f"a worker of {count} was not ready within {left:.0f} s")
        for worker in workers:
            if worker.stdin is not None:
                worker.stdin.write("go\n")
                worker.stdin.flush()
        stamps = [json.loads(worker.communicate()[0]) for worker in workers]
    finally:
        killer.cancel()
        stop()
    return count * steps / (max(end for _, end in stamps) - min(first for first, _ in stamps))


def work(check: Check, steps: int) -> None:
    """One of several processes: SSFT, from when it is told to."""
    check.stamps("ssft", 2)
    print("ready", flush=True)
    sys.stdin.readline()
    print(json.dumps(check.stamps("ssft", steps)), flush=True)


def scaled(check: Check, budget: float) -> Results:
    """`paper` with a hundredth of its updates or fewer: pre-training, reference, three tunings, answers; in seconds."""
    steps, tuned = (3, 2) if check.tiny else (1000, 100)
    rows = 16 if check.tiny else 4000
    found: Results = {"steps": steps, "tuning_steps": tuned, "answered": rows, "seconds": {}}
    spent, world = found["seconds"], check.world
    made: list[Transformer] = []
    spent["pretrain"] = check.seconds(lambda: made.append(pretrain(world, check.base(steps), 0)[0]))
    base, config = made[0], check.tune("dpo", tuned)
    references: list[Any] = []
    spent["reference"] = check.seconds(
        lambda: references.append(tuning_reference(world, base, tuned * check.batch, config, 0))
    )
    for name in PROTOCOLS:
        reference = references[0] if name == "dpo" else None
        model = deepcopy(base)
        spent[name] = check.seconds(lambda n=name, m=model, r=reference: tune(world, m, check.tune(n, tuned), 0, r))  # type: ignore[misc]
    spent["decode"] = check.seconds(lambda: _answer(check, base, rows))
    found["references"] = tuned * check.batch
    found["whole"] = sum(spent.values())
    return found


def _answer(check: Check, model: Transformer, rows: int) -> None:
    layout, vocabulary = check.world.layout, check.world.vocabulary
    prompts = check.world.sample("tune", range(rows), "test")
    comply, refuse = (
        torch.from_numpy(layout.response_tokens(prompts, prompts.index * 0 + kind))
        for kind in (Response.COMPLY, Response.REFUSE)
    )
    measure(
        model, torch.from_numpy(layout.prompt_tokens(prompts)), comply, refuse, stop_id=vocabulary.stop,
        pad_id=vocabulary.pad, lengths=torch.from_numpy(layout.prompt_lengths(prompts)), batch_size=1000,
    )  # fmt: skip


def estimate(results: Results) -> Results:
    """Minutes of the whole `paper`: pre-training alone, then everything else with as many runs at once as was fastest.

    Without the analyses of ΔW and without attacks on models: statistics on the CPU's cores, and under 1 % of updates.
    """
    speeds, together, small = results["speed"], results["at_once"], results["scaled"]
    base = STEPS / speeds["pretrain"]["updates_per_second"]
    tunings = sum(count / speeds[name]["updates_per_second"] for name, count in UPDATES.items())
    seconds = small["seconds"]
    reading = REFERENCES * seconds["reference"] / small["references"] + DECODED * seconds["decode"] / small["answered"]
    rates = {int(count): one["updates_per_second"] for count, one in together.items()}
    best = max(rates, key=lambda count: rates[count])
    gain = rates[best] / rates[1]
    whole = base + (tunings + reading) / gain
    return {
        "pretraining_minutes": base / 60, "tunings_minutes_one_at_a_time": tunings / 60,
        "reading_minutes_one_at_a_time": reading / 60, "runs_at_once": best, "gain_of_runs_at_once": gain,
        "whole_minutes": whole / 60, "under_an_hour": whole < 3600,
    }  # fmt: skip


def matrices(check: Check, budget: float) -> Results:
    """Seconds of all that `deltaw compare` measures of the matrices of one layer, and minutes of all layers."""
    try:
        from deltaw.analysis.streamed_update import streamed_update
    except ModuleNotFoundError as error:
        return {"left_out": f"{error.name} is not installed"}
    width, hidden = (48, 96) if check.tiny else (WIDTH, HIDDEN)
    layer = {"square": (4, width, width), "tall": (2, hidden, width), "wide": (1, width, hidden)}
    found: Results = {"seconds": {}}

    def sizes(pair: list[tuple[torch.Tensor, torch.Tensor]]) -> tuple[float, float]:
        with torch.no_grad():
            spectrum = streamed_update(pair, np.random.default_rng(0)).directions.spectrum
        return spectrum.relative_norm, spectrum.participation_ratio

    for name, (_, *shape) in layer.items():
        generator = torch.Generator().manual_seed(0)
        before, noise = (torch.randn(shape, generator=generator) for _ in range(2))
        pair = [(before.to(torch.bfloat16), (before + 0.02 * noise).to(torch.bfloat16))]
        there = [(x.to(check.device), y.to(check.device)) for x, y in pair]
        on_device = sizes(there)  # the first call also loads libraries
        found["seconds"][name] = check.seconds(partial(sizes, there))
        if name == "square":
            found["difference_to_cpu"] = max(abs(x / y - 1) for x, y in zip(on_device, sizes(pair), strict=True))
    found["layer_seconds"] = sum(count * found["seconds"][name] for name, (count, *_) in layer.items())
    found["model_minutes"] = LAYERS * found["layer_seconds"] / 60
    return found


def generation(check: Check, budget: float) -> Results:
    """Answer tokens a second of a random model of Llama-2-7B's shape, in bfloat16, by transformers."""
    if find_spec("transformers") is None:
        return {"left_out": "transformers is not installed"}
    from transformers import LlamaConfig, LlamaForCausalLM

    layers, width, hidden, heads, words = (1, 48, 96, 2, 100) if check.tiny else (LAYERS, WIDTH, HIDDEN, 32, 32_000)
    shape = LlamaConfig(
        vocab_size=words, hidden_size=width, intermediate_size=hidden, num_hidden_layers=layers,
        num_attention_heads=heads, max_position_embeddings=512, bos_token_id=1, eos_token_id=2, pad_token_id=0,
    )  # fmt: skip
    rows, length, tokens = (2, 4, 2) if check.tiny else (16, 64, 64)
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32 if check.tiny else torch.bfloat16)
    try:
        with torch.device(check.device):
            model = LlamaForCausalLM(shape).eval()
    finally:
        torch.set_default_dtype(before)
    generator = torch.Generator().manual_seed(0)
    prompts = torch.randint(3, words, (rows, length), generator=generator).to(check.device)

    def answer() -> None:
        with torch.no_grad():
            model.generate(
                prompts, attention_mask=torch.ones_like(prompts), max_new_tokens=tokens, min_new_tokens=tokens,
                do_sample=False,
            )  # fmt: skip

    answer()
    seconds = check.seconds(answer)
    found: Results = {
        "parameters": sum(x.numel() for x in model.parameters()), "batch": rows,
        "tokens_per_second": rows * tokens / seconds, "minutes_for_a_thousand_answers": 1000 / rows * seconds / 60,
    }  # fmt: skip
    if check.device != "cpu":
        found["peak_memory_gb"] = torch.cuda.max_memory_allocated() / 1e9
    return found


SECTIONS: tuple[tuple[Callable[[Check, float], Results], float], ...] = (
    (environment, 10), (sampling, 20), (equality, 45), (speed, 90), (at_once, 100), (scaled, 70), (matrices, 40),
    (generation, 60),
)  # fmt: skip


def show(name: str, results: Results, indent: str = "  ") -> None:
    """A section's results as lines of a table."""
    print(f"{indent[2:]}{name}", flush=True)
    for key, value in results.items():
        if isinstance(value, dict):
            show(key, value, indent + "  ")
        else:
            text = f"{value:.4g}" if isinstance(value, float) else str(value)
            print(f"{indent}{key.replace('_', ' '):44} {text}", flush=True)


def one_line(error: BaseException) -> str:
    """An error as one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"


def run(check: Check, out: Path) -> Results:
    """All sections, each by itself; what is known is on disk after each."""
    started, results, spent = time.perf_counter(), {}, {}

    def keep(name: str, make: Callable[[], Results]) -> None:
        before = time.perf_counter()
        try:
            results[name] = make()
        except Exception as error:
            results[name] = {"error": one_line(error)}
        spent[name] = round(time.perf_counter() - before, 1)
        show(f"{name} ({spent[name]} s)", results[name])
        out.mkdir(parents=True, exist_ok=True)
        text = json.dumps({**results, "seconds": spent}, indent=2)
        (out / "gpu_check.json").write_text(text + "\n", encoding="utf-8")

    for section, budget in SECTIONS:
        left = BUDGET - (time.perf_counter() - started)
        if left < budget / 2:
            results[section.__name__] = {"error": f"left out: {left:.0f} s are left"}
            continue
        keep(section.__name__, partial(section, check, min(budget, left)))
    if all("error" not in results.get(name, {"error": ""}) for name in ("speed", "at_once", "scaled")):
        keep("estimate", lambda: estimate(results))
    return results


def main() -> int:
    """Run the check; status 1 if a section failed."""
    parser = argparse.ArgumentParser(description="Speed and equality of the recipe `paper` on a GPU.")
    parser.add_argument("--device", default="cuda", help="cuda, or cpu to test this script")
    parser.add_argument("--tiny", action="store_true", help="a scale on which numbers mean nothing")
    parser.add_argument("--out", type=Path, default=Path(os.environ.get("OUT") or "runs/gpu_check"))
    parser.add_argument("--worker", type=int, default=0, help=argparse.SUPPRESS)
    options = parser.parse_args()
    try:
        choose_precision(options.device)
    except DeltawError as error:
        print(f"gpu_check: {error}", file=sys.stderr)
        return 2
    with deterministic(options.device):
        check = Check(options.device, options.tiny)
        if options.worker:
            work(check, options.worker)
            return 0
        results = run(check, options.out)
    print(f"Results: {options.out / 'gpu_check.json'}")
    return int(any("error" in section for section in results.values()))


if __name__ == "__main__":
    sys.exit(main())
