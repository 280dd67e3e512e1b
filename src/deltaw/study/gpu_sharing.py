"""How many stages of a study one card takes at a time: each worker is a process with a context and a model of its own.

A small model's training leaves a card idle while its data are drawn and its kernels are launched, and another process
fills the gaps. So a study has as many workers as there are cores, if the card holds the largest stage that often.
"""

import torch

from deltaw.recipes.config import Recipe
from deltaw.study.dry_run.plan import pair_length, training_bytes
from deltaw.training.pretraining import model_config
from deltaw.world import World

CONTEXT_BYTES = 1.0e9  # of a process on a card: CUDA itself, cuBLAS's workspaces, kernels
RECORDED = 2.0  # times the activations of a batch: a recorded update has memory of its own
FREE_SHARE = 0.9


def stage_bytes(recipe: Recipe) -> float:
    """Memory on the card of the recipe's largest stage: a tuning on pairs, or pre-training."""
    world, pretraining = World(recipe.world), recipe.pretraining
    shape = model_config(world, pretraining)
    compute_bytes = 2 if pretraining.compute_dtype == "bfloat16" else 4
    needed = [training_bytes(shape, pretraining.batch, world.sequence_length, compute_bytes)]
    pairs = [tuned.config for tuned in recipe.tunings if tuned.config.protocol.responses == 2]
    if pairs:
        config = max(pairs, key=lambda tuning: tuning.batch)
        length = pair_length(world, config, recipe.seeds[0])
        needed.append(training_bytes(shape, config.batch, length, compute_bytes))
    return CONTEXT_BYTES + RECORDED * max(needed)


def workers_on(recipe: Recipe, cores: int, free_bytes: int | None = None) -> int:
    """How many workers a study on this machine gets, at least one. free_bytes: of the card; None: asked of it."""
    device = torch.device(recipe.pretraining.device)
    if device.type != "cuda" and free_bytes is None:
        return cores
    free = torch.cuda.mem_get_info(device)[0] if free_bytes is None else free_bytes
    return max(1, min(cores, int(FREE_SHARE * free / stage_bytes(recipe))))
