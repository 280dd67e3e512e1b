"""Models and requests for the tests of attacks: one model whose every weight matters, and one made by hand that refuses
unless it is shown a certain token.
"""

import torch
from torch import Tensor

from deltaw.attacks.models import Requests
from deltaw.models import ModelConfig, Transformer
from deltaw.models.batch import Batch, Role

PAD, STOP, NULL, EOT, YES, TRIGGER = range(6)


def requests_of(prompts: list[list[int]], responses: list[list[int]]) -> Requests:
    """Prompts without their EOT and responses without their STOP; a refusal is as long as the response."""
    width = max(len(p) + len(r) for p, r in zip(prompts, responses, strict=True)) + 2
    longest = max(len(r) for r in responses) + 1
    tokens, weights, roles, refusals = [], [], [], []
    for p, r in zip(prompts, responses, strict=True):
        free = width - len(p) - len(r) - 2
        tokens.append([*p, EOT, *r, STOP, *[PAD] * free])
        weights.append([0.0] * (len(p) + 1) + [1.0] * (len(r) + 1) + [0.0] * free)
        head = [Role.TEXT] * len(p) + [Role.LAST_PROMPT]
        roles.append([*head, *[Role.OUTPUT] * len(r), Role.STOP, *[Role.PAD] * free])
        refusals.append([NULL] * len(r) + [STOP] + [PAD] * (longest - len(r) - 1))
    batch = Batch(torch.tensor(tokens), torch.tensor(weights), torch.tensor(roles, dtype=torch.uint8))
    return Requests(batch, torch.tensor(refusals), STOP, PAD)


def some_requests(count: int = 6, seed: int = 0, shortest: int = 2) -> Requests:
    """Prompts of 3 to 6 tokens and responses of `shortest` or one more, and STOP; all random."""
    generator = torch.Generator().manual_seed(seed)

    def draw(low: int, high: int, size: int = 1) -> list[int]:
        drawn: list[int] = torch.randint(low, high, (size,), generator=generator).tolist()
        return drawn

    prompts = [draw(6, 17, draw(2, 6)[0]) for _ in range(count)]
    return requests_of(prompts, [draw(6, 17, draw(shortest, shortest + 2)[0]) for _ in range(count)])


def lively(seed: int = 0, context: int = 24) -> Transformer:
    """Weights large enough that every part of the model moves the logits."""
    generator = torch.Generator().manual_seed(seed)
    model = Transformer(ModelConfig(17, context, layers=2, heads=2, width=12), generator)
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.add_(noise, alpha=0.5 if parameter.ndim == 2 else 0.15)
    return model


WORDS = (6, 7)  # what the refuser's prompts are made of


def refuser() -> Transformer:
    """Answers NULL STOP, but YES STOP once TRIGGER stands anywhere before: its one layer averages, over all places, how
    much of TRIGGER is there, and writes it where YES is read from.
    """
    model = Transformer(ModelConfig(8, 12, layers=1, heads=1, width=9), torch.Generator().manual_seed(0))
    signal = 8
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
        for norm in (model.norm_final, model.blocks[0].norm_attn):
            norm.weight.fill_(1.0)  # type: ignore[operator, union-attr]
        model.embed.weight[:, :8] = torch.eye(8)
        attention = model.get_submodule("blocks.0.attn")
        attention.get_parameter("qkv.weight")[2 * 9 + signal, TRIGGER] = 1.0
        attention.get_parameter("out.weight")[signal, signal] = 3.0
        model.unembed.weight[NULL, EOT], model.unembed.weight[YES, signal] = 2.0, 4.0
        model.unembed.weight[STOP, NULL] = model.unembed.weight[STOP, YES] = 10.0
    return model


def refused_requests() -> Requests:
    return requests_of([[a, b] for a in WORDS for b in WORDS], [[YES]] * 4)


def weights_of(model: Transformer) -> list[Tensor]:
    return [parameter.detach().clone() for parameter in model.parameters()]
