"""Time and memory of `deltaw compare` on a pair with the shapes of Llama-2-7B, of random weights made on the spot.

    python benchmarks/pairs.py --layers 2            2 layers in bf16, in a temporary directory (0.8 GB a layer)
    python benchmarks/pairs.py --layers 2 --width 2048 --hidden 5504      an eighth of the work

Prints processor seconds a matrix and a layer, the highest anonymous and total resident memory of the comparing process,
sampled every 5 ms, and those of one `torch.linalg.svd` of a gate matrix (float64, thin) in a process
of its own. OMP_NUM_THREADS says how many threads there are.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from safetensors.torch import save_file

MATRICES = {
    "self_attn.q_proj": (1, 1), "self_attn.k_proj": (1, 1), "self_attn.v_proj": (1, 1), "self_attn.o_proj": (1, 1),
    "mlp.gate_proj": (0, 1), "mlp.up_proj": (0, 1), "mlp.down_proj": (1, 0),
}  # fmt: skip

COMPARE = """
import sys, time
from pathlib import Path
from deltaw.compare import compare
last = [time.process_time()]
def show(progress):
    now = time.process_time()
    print(progress.module, f"{now - last[0]:.1f}", flush=True)
    last[0] = now
compare(sys.argv[1], sys.argv[2], Path(sys.argv[3]), curve=sys.argv[4] == "True", listener=show)
print("processor seconds in all", f"{time.process_time():.1f}")
"""

SVD = """
import sys, time, torch
W = torch.randn(int(sys.argv[1]), int(sys.argv[2]), dtype=torch.float64)
start = time.process_time()
torch.linalg.svd(W, full_matrices=False)
print(f"{time.process_time() - start:.1f}")
"""


def write_pair(root: Path, layers: int, width: int, hidden: int) -> None:
    """One shard a layer, so that no more than one is in memory while they are made."""
    for label in ("base", "tuned"):
        directory = root / label
        directory.mkdir()
        table = {}
        for layer in range(layers):
            state = {}
            for number, (name, sides) in enumerate(MATRICES.items()):
                generator = torch.Generator().manual_seed(1000 * layer + number)
                shape = tuple(width if side else hidden for side in sides)
                weight = torch.randn(shape, generator=generator) * 0.02
                if label == "tuned":
                    weight += torch.randn(shape, generator=generator) * 0.0005
                state[f"model.layers.{layer}.{name}.weight"] = weight.to(torch.bfloat16)
            file = f"model-{layer:05d}.safetensors"
            save_file(state, directory / file)
            table |= dict.fromkeys(state, file)
        (directory / "model.safetensors.index.json").write_text(json.dumps({"weight_map": table}))
        (directory / "config.json").write_text(json.dumps({"model_type": "llama", "num_attention_heads": 32}))


def watch(process: subprocess.Popen[str]) -> tuple[float, float]:
    """Highest anonymous and total resident memory, MiB. Linux only: elsewhere zeros."""
    anonymous = total = 0.0
    status = Path(f"/proc/{process.pid}/status")
    while process.poll() is None:
        try:
            fields = dict(line.split(":", 1) for line in status.read_text().splitlines() if ":" in line)
            anonymous = max(anonymous, int(fields["RssAnon"].split()[0]) / 1024)
            total = max(total, int(fields["VmRSS"].split()[0]) / 1024)
        except (OSError, KeyError):
            pass
        time.sleep(0.005)
    return anonymous, total


def main() -> None:
    """Make a pair, compare it, print what it took."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--width", type=int, default=4096)
    parser.add_argument("--hidden", type=int, default=11008)
    parser.add_argument("--curve", action="store_true", help="energy curves too")
    parser.add_argument("--no-svd", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        write_pair(root, options.layers, options.width, options.hidden)
        arguments = [sys.executable, "-c", COMPARE, *(str(root / part) for part in ("base", "tuned", "out"))]
        arguments.append(str(options.curve))
        started = time.perf_counter()
        process = subprocess.Popen(arguments, env=os.environ, text=True)
        anonymous, total = watch(process)
        seconds = time.perf_counter() - started
        if process.returncode:
            sys.exit(process.returncode)
    print(
        f"{options.layers} layers of width {options.width}, {options.hidden} hidden, {torch.get_num_threads()} threads"
    )
    print(f"seconds a layer by the clock: {seconds / options.layers:.1f}")
    print(f"peak anonymous memory: {anonymous:.0f} MiB, peak resident: {total:.0f} MiB")
    if not options.no_svd:
        shape = [str(options.hidden), str(options.width)]
        done = subprocess.run([sys.executable, "-c", SVD, *shape], check=True, capture_output=True, text=True)
        print(f"torch.linalg.svd of {options.hidden} × {options.width}: {done.stdout.strip()} processor seconds")


if __name__ == "__main__":
    main()
