"""deltaw: how does safety fine-tuning change a language model, and how do jailbreaks get past the change?

results = deltaw.load("runs/quick")     a finished run: measurements, claims, models
world = deltaw.World()                  the synthetic world: prompts, policy, attacks, exact probabilities
model, meta = deltaw.load_model(path)   a checkpoint of a study, and what it says about itself
W = deltaw.mlp(model, layer).w_in       the weights of one MLP; deltaw.activations reads activations
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from deltaw.errors import DeltawError
    from deltaw.models import activations, mlp
    from deltaw.models import load as load_model
    from deltaw.results import Results, load
    from deltaw.world import World, WorldConfig

__all__ = ["DeltawError", "Results", "World", "WorldConfig", "activations", "load", "load_model", "mlp"]


def __getattr__(name: str) -> object:
    """Import a public name when it is first used: torch and pandas take seconds, and `deltaw --help` needs neither."""
    from importlib import import_module

    sources = {
        "DeltawError": ("deltaw.errors", "DeltawError"),
        "Results": ("deltaw.results", "Results"),
        "World": ("deltaw.world", "World"),
        "WorldConfig": ("deltaw.world", "WorldConfig"),
        "activations": ("deltaw.models", "activations"),
        "load": ("deltaw.results", "load"),
        "load_model": ("deltaw.models", "load"),
        "mlp": ("deltaw.models", "mlp"),
    }
    if name not in sources:
        raise AttributeError(f"module 'deltaw' has no attribute '{name}'; its names are {', '.join(__all__)}")
    module, attribute = sources[name]
    value: object = getattr(import_module(module), attribute)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
