"""The registry of architectures: one entry a family, and what is read through it.

families    FAMILIES: module paths, tensor names, gated or not, transposed or not, as data
family      Family and Map, of which an entry is made, and how fused tensors are cut
matrices    the matrices of a checkpoint's files, by their tensors' names
blocks      the parts of a loaded model's blocks
"""

from deltaw.models.architectures.blocks import MlpWeights, check_layers, family_of, layer_count, mlp
from deltaw.models.architectures.families import FAMILIES, family_of_type, model_types
from deltaw.models.architectures.family import Family, Map
from deltaw.models.architectures.matrices import Module, Piece, candidates, find_modules, given_maps

__all__ = [
    "FAMILIES",
    "Family",
    "Map",
    "MlpWeights",
    "Module",
    "Piece",
    "candidates",
    "check_layers",
    "family_of",
    "family_of_type",
    "find_modules",
    "given_maps",
    "layer_count",
    "mlp",
    "model_types",
]
