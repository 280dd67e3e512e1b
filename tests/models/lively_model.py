"""A small model whose weights are large enough that every part of it moves the logits."""

import torch

from deltaw.models import ModelConfig, Transformer

CONFIG = ModelConfig(vocabulary_size=17, context=16, layers=3, heads=2, width=12)


def lively_model(config: ModelConfig = CONFIG, seed: int = 0) -> Transformer:
    generator = torch.Generator().manual_seed(seed)
    model = Transformer(config, generator)
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.add_(noise, alpha=0.6 if parameter.ndim == 2 else 0.15)
    return model


def some_tokens() -> torch.Tensor:
    return torch.randint(0, CONFIG.vocabulary_size, (9, 11), generator=torch.Generator().manual_seed(1))
