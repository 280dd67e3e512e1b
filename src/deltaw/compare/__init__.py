"""Two real checkpoints of one architecture: their weights, streamed from files, and, with transformers, what they do.

compare    compare(base, tuned, out): streamed, bounded by the largest matrix, resumable
claims     the study's claims, of weights and of activations
lora       LoRA adapters as exact low-rank updates
weights    safetensors checkpoints as names, shapes and single tensors

With a model in memory (extra `hf`):

prompted   compare_prompts(base, tuned, out, prompts): behaviour and activations, added to the measurements
prompts    matched pairs from operators × operands, JSONL files        jailbreaks   attacks on a request
judge      Judge and Verdict; judges/ has them                        language     load, answer, activations, embeddings
tuning     safety_tune(model, out, config): ssft, dpo, unlearn and controls, all weights or LoRA
requests   AdvBench and others, read from installed packages          smollm2      a real model from a package
"""

from deltaw.attacks.prompts import ON_REQUESTS, Attacked, PromptAttack
from deltaw.behaviour.judge import Judge, Verdict
from deltaw.behaviour.judges.rules import Rules
from deltaw.compare.asking import Effort
from deltaw.compare.prompted import compare_prompts, open_models
from deltaw.compare.questions import read_control
from deltaw.compare.two_models import Loading
from deltaw.compare.weights import Progress, compare
from deltaw.models.architectures import FAMILIES, Module, find_modules, model_types
from deltaw.models.checkpoint_files import Checkpoint, open_checkpoint
from deltaw.models.huggingface import Chat, load_chat
from deltaw.prompts.matched import Prompt, builtin_prompts, read_prompts
from deltaw.training.huggingface import SafetyTuning, safety_tune

__all__ = [
    "FAMILIES",
    "ON_REQUESTS",
    "Attacked",
    "Chat",
    "Checkpoint",
    "Effort",
    "Judge",
    "Loading",
    "Module",
    "Progress",
    "Prompt",
    "PromptAttack",
    "Rules",
    "SafetyTuning",
    "Verdict",
    "builtin_prompts",
    "compare",
    "compare_prompts",
    "find_modules",
    "load_chat",
    "model_types",
    "open_checkpoint",
    "open_models",
    "read_control",
    "read_prompts",
    "safety_tune",
]
