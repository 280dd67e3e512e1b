"""deltaw: how does safety fine-tuning change a language model, and how do jailbreaks get past the change?

results = deltaw.load("runs/quick")     a finished run: measurements, claims, models
world = deltaw.World()                  the synthetic world: prompts, policy, attacks, exact probabilities
model, meta = deltaw.load_model(path)   a checkpoint
"""

from deltaw.errors import DeltawError
from deltaw.models import activations, mlp
from deltaw.models import load as load_model
from deltaw.results import Results, load
from deltaw.world import World, WorldConfig

__all__ = ["DeltawError", "Results", "World", "WorldConfig", "activations", "load", "load_model", "mlp"]
