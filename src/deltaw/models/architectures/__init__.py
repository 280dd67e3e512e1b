"""The registry of architectures, and what is read through it.

architecture  Architecture and Map, of which one is made, and how fused tensors are cut
families      deltaw's own, one class a family: module paths, tensor names, gated or not, transposed or not
known         those and the plug-ins, by what config.json calls them or by a model's parameters
matrices      the matrices of a checkpoint's files, by their tensors' names
blocks        the parts of a loaded model's blocks
"""

from deltaw.models.architectures.architecture import Architecture, Map
from deltaw.models.architectures.blocks import MlpWeights, check_layers, layer_count, mlp
from deltaw.models.architectures.families import FAMILIES
from deltaw.models.architectures.known import family_of, family_of_type, given_architecture, model_types, reading_by
from deltaw.models.architectures.matrices import Module, Piece, candidates, find_modules, given_maps

__all__ = [
    "FAMILIES",
    "Architecture",
    "Map",
    "MlpWeights",
    "Module",
    "Piece",
    "candidates",
    "check_layers",
    "family_of",
    "family_of_type",
    "find_modules",
    "given_architecture",
    "given_maps",
    "layer_count",
    "mlp",
    "model_types",
    "reading_by",
]
