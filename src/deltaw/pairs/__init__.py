"""Two real checkpoints of one architecture: their weights, streamed from files, and, with transformers, what they do.

compare    compare(base, tuned, out): streamed, bounded by the largest matrix, resumable
measure    what is measured of one matrix: size, rounding floor, spectrum, null-space energy with its nulls
summary    means over layers, and the study's claims about weights
layouts    FAMILIES: which tensors are matrices of MLPs and attention, and how they are stored
lora       LoRA adapters as exact low-rank updates
weights    safetensors checkpoints as names, shapes and single tensors

With a model in memory (extra `hf`):

prompted   compare_prompts(base, tuned, out, prompts): behaviour and activations, added to the measurements
prompts    matched pairs from operators × operands, JSONL files        jailbreaks   attacks on a request
judge      refusal_judge, replaceable, with its error                 language     load, answer, activations, embeddings
tuning     safety_tune(model, out, config): ssft, dpo, unlearn and controls, all weights or LoRA
requests   AdvBench and others, read from installed packages          smollm2      a real model from a package
"""

from deltaw.pairs.asking import Effort
from deltaw.pairs.compare import Progress, compare
from deltaw.pairs.jailbreaks import ATTACKS
from deltaw.pairs.judge import Judge, Verdict, refusal_judge
from deltaw.pairs.language import Chat, load_chat
from deltaw.pairs.layouts import FAMILIES, MODEL_TYPES, Module, find_modules
from deltaw.pairs.measure import Found, measure
from deltaw.pairs.prompted import compare_prompts, read_control
from deltaw.pairs.prompts import Prompt, builtin_prompts, read_prompts
from deltaw.pairs.tuning import SafetyTuning, safety_tune
from deltaw.pairs.weights import Checkpoint, open_checkpoint

__all__ = [
    "ATTACKS",
    "FAMILIES",
    "MODEL_TYPES",
    "Chat",
    "Checkpoint",
    "Effort",
    "Found",
    "Judge",
    "Module",
    "Progress",
    "Prompt",
    "SafetyTuning",
    "Verdict",
    "builtin_prompts",
    "compare",
    "compare_prompts",
    "find_modules",
    "load_chat",
    "measure",
    "open_checkpoint",
    "read_control",
    "read_prompts",
    "refusal_judge",
    "safety_tune",
]
