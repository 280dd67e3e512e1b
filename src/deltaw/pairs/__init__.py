"""Two real checkpoints of one architecture, compared matrix by matrix from their files; no model is instantiated.

compare    compare(base, tuned, out): streamed, bounded by the largest matrix, resumable
measure    what is measured of one matrix: size, rounding floor, spectrum, null-space energy with its nulls
summary    means over layers, and the study's claims about weights
layouts    FAMILIES: which tensors are matrices of MLPs and attention, and how they are stored
lora       LoRA adapters as exact low-rank updates
weights    safetensors checkpoints as names, shapes and single tensors
"""

from deltaw.pairs.compare import Progress, compare
from deltaw.pairs.layouts import FAMILIES, MODEL_TYPES, Module, find_modules
from deltaw.pairs.measure import Found, measure
from deltaw.pairs.weights import Checkpoint, open_checkpoint

__all__ = [
    "FAMILIES",
    "MODEL_TYPES",
    "Checkpoint",
    "Found",
    "Module",
    "Progress",
    "compare",
    "find_modules",
    "measure",
    "open_checkpoint",
]
