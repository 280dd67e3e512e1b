"""Models: a decoder, its checkpoints, its weights and activations by name, likelihoods and answers."""

from deltaw.models.architectures import MlpWeights, layer_count, mlp
from deltaw.models.checkpoint import load, save
from deltaw.models.decoding import greedy, greedy_by_length
from deltaw.models.export import export_gpt2
from deltaw.models.likelihood import (
    LanguageModel,
    mean_nll,
    packed_mean,
    packed_nll,
    response_log_probs,
    response_weights,
    token_mean,
    token_nll,
)
from deltaw.models.precision import Precision, choose_precision
from deltaw.models.taps import SITES, activations, module_at, tap
from deltaw.models.transformer import BlockStyle, ModelConfig, Positions, Transformer

__all__ = [
    "SITES",
    "BlockStyle",
    "LanguageModel",
    "MlpWeights",
    "ModelConfig",
    "Positions",
    "Precision",
    "Transformer",
    "activations",
    "choose_precision",
    "export_gpt2",
    "greedy",
    "greedy_by_length",
    "layer_count",
    "load",
    "mean_nll",
    "mlp",
    "module_at",
    "packed_mean",
    "packed_nll",
    "response_log_probs",
    "response_weights",
    "save",
    "tap",
    "token_mean",
    "token_nll",
]
