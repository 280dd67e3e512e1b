"""Models for the tests of interventions: lively ones, in which every weight matters, and a planted one of which it is
known which part of ΔW makes it refuse.
"""

import torch
from torch import Tensor

from deltaw.attacks.models import Requests
from deltaw.interventions import State, state_of
from deltaw.models import ModelConfig, Transformer
from deltaw.models.batch import Batch, Role

PAD, STOP, NULL, EOT, YES, TRIGGER = range(6)
WORDS = (6, 7)
SIGNAL, GUARD, WIDTH = 8, 9, 10  # dimensions of the stream
IN_COLUMN_SPACE, OUTSIDE = 1, 7  # hidden units that the base's W drives, and that it cannot


def lively(seed: int = 0, layers: int = 2) -> Transformer:
    generator = torch.Generator().manual_seed(seed)
    model = Transformer(ModelConfig(17, 24, layers=layers, heads=2, width=12), generator)
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.add_(noise, alpha=0.4 if parameter.ndim == 2 else 0.15)
    return model


def pair(seed: int = 0, layers: int = 2) -> tuple[State, State, Transformer]:
    """A base and a tuned state, and a model of their shape; the tuned one moves every tensor."""
    base, other = lively(seed, layers), lively(seed + 100, layers)
    tuned = {name: x + 0.3 * other.state_dict()[name] for name, x in base.state_dict().items()}
    return state_of(base), {name: x.detach().clone() for name, x in tuned.items()}, base


def some_tokens(rows: int = 5, length: int = 7) -> Tensor:
    return torch.randint(0, 17, (rows, length), generator=torch.Generator().manual_seed(1))


def guarded(unit: int = OUTSIDE) -> tuple[Transformer, Transformer]:
    """(base, tuned). Both have a stream in which SIGNAL is positive at the end of prompts with TRIGGER, and an MLP one
    of whose units, `unit`, writes GUARD, from which a refusal (NULL STOP) is read; else the answer is YES STOP. In the
    base nothing drives that unit; the update lets SIGNAL drive it. The first five hidden units span C(W). A second row
    of the update, on the other side of C(W), does nothing.
    """
    base = Transformer(ModelConfig(8, 12, layers=2, heads=1, width=WIDTH), torch.Generator().manual_seed(0))
    state = {name: torch.zeros_like(tensor) for name, tensor in base.state_dict().items()}
    for name in state:
        if ".norm" in name or name.startswith("norm"):
            state[name].fill_(1.0 if name.endswith("weight") else 0.0)
    state["embed.weight"][:, :8] = torch.eye(8)
    state["blocks.0.attn.qkv.weight"][2 * WIDTH + SIGNAL, TRIGGER] = 1.0
    state["blocks.0.attn.out.weight"][SIGNAL, SIGNAL] = 3.0
    for layer in range(2):
        state[f"blocks.{layer}.mlp.in_proj.weight"][:5, :5] = torch.eye(5)
    state["blocks.0.mlp.out_proj.weight"][GUARD, unit] = 0.6
    unembed = state["unembed.weight"]
    unembed[YES, EOT], unembed[NULL, GUARD] = 2.0, 2.5
    unembed[STOP, NULL] = unembed[STOP, YES] = 30.0
    base.load_state_dict(state)
    tuned = Transformer(base.config, torch.Generator().manual_seed(0))
    state["blocks.0.mlp.in_proj.weight"][unit, SIGNAL] += 1.0
    idle = IN_COLUMN_SPACE + 1 if unit == OUTSIDE else OUTSIDE + 1
    state["blocks.0.mlp.in_proj.weight"][idle, SIGNAL] += 2.0
    tuned.load_state_dict(state)
    return base, tuned


def asked(trigger: bool) -> Requests:
    """Four prompts of two tokens and EOT, with TRIGGER or without; to comply is YES STOP, to refuse NULL STOP."""
    last = [TRIGGER] * 2 if trigger else list(WORDS)
    tokens = torch.tensor([[first, second, EOT, YES, STOP] for first in WORDS for second in last])
    roles = torch.tensor([[Role.TEXT, Role.TEXT, Role.LAST_PROMPT, Role.OUTPUT, Role.STOP]] * 4, dtype=torch.uint8)
    weights = torch.tensor([[0.0, 0.0, 0.0, 1.0, 1.0]] * 4)
    return Requests(Batch(tokens, weights, roles), torch.tensor([[NULL, STOP]] * 4), STOP, PAD)
