"""The registry of architectures, and what is read through it.

architecture  Architecture and Map, of which one is made, and how fused tensors are cut
families      deltaw's own, one class a family: module paths, tensor names, gated or not, transposed or not
known         those and the plug-ins, by what config.json calls them or by a model's parameters
tensor_names  names without wrappers, and what is no part of the text decoder
pieces        a matrix, and the parts of tensors that it is made of
mixtures      the matrices of experts, one by one or fused
matrices      the matrices of a checkpoint's files, by their tensors' names
blocks        the parts of a loaded model's blocks
"""

from deltaw.models.architectures.architecture import Architecture, Map
from deltaw.models.architectures.blocks import MlpWeights, check_layers, layer_count, mlp
from deltaw.models.architectures.families import FAMILIES
from deltaw.models.architectures.known import family_of, family_of_config, given_architecture, model_types, reading_by
from deltaw.models.architectures.matrices import candidates, find_modules, given_maps
from deltaw.models.architectures.pieces import Module, Piece
from deltaw.models.architectures.tensor_names import decoder_type, group_of, plain_name, text_config, why_apart

__all__ = [
    "FAMILIES",
    "Architecture",
    "Map",
    "MlpWeights",
    "Module",
    "Piece",
    "candidates",
    "check_layers",
    "decoder_type",
    "family_of",
    "family_of_config",
    "find_modules",
    "given_architecture",
    "given_maps",
    "group_of",
    "layer_count",
    "mlp",
    "model_types",
    "plain_name",
    "reading_by",
    "text_config",
    "why_apart",
]
