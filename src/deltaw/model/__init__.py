"""Models: a decoder, its checkpoints, its weights and activations by name, likelihoods and answers."""

from deltaw.model.adapters import MlpWeights, layer_count, mlp
from deltaw.model.checkpoint import load, save
from deltaw.model.decoding import greedy, greedy_by_length, greedy_from_embeddings
from deltaw.model.export import export_gpt2
from deltaw.model.likelihood import (
    LanguageModel,
    batch_log_probs,
    mean_nll,
    packed_nll,
    response_log_probs,
    response_weights,
    token_mean,
    token_nll,
)
from deltaw.model.precision import Precision, choose_precision
from deltaw.model.taps import SITES, activations, module_at, tap
from deltaw.model.transformer import BlockStyle, ModelConfig, Positions, Transformer

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
    "batch_log_probs",
    "choose_precision",
    "export_gpt2",
    "greedy",
    "greedy_by_length",
    "greedy_from_embeddings",
    "layer_count",
    "load",
    "mean_nll",
    "mlp",
    "module_at",
    "packed_nll",
    "response_log_probs",
    "response_weights",
    "save",
    "tap",
    "token_mean",
    "token_nll",
]
