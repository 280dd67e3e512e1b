"""The ground truth: operators are bijections, operands are text from a grammar, and safety is a property of the two.

world = World()
prompts = world.sample("forbidden/conditional/unsafe", range(5))
world.layout.spell(prompts), world.layout.allowed(prompts)
"""

from deltaw.world.jailbreaks import ATTACKS, BENIGN_SOURCES, FORBIDDEN_SOURCES, attacked
from deltaw.world.policy import Branch, Policy, Rule
from deltaw.world.probability import BayesSafety, BranchPosterior, Posterior, WindowLikelihood, unsafe_side_probability
from deltaw.world.prompts import Encoded, Layout, Prompts, Response
from deltaw.world.randomness import Key
from deltaw.world.sampling import MIXTURES, SETS, PromptSet, World, WorldConfig
from deltaw.world.vocabulary import Vocabulary

__all__ = [
    "ATTACKS",
    "BENIGN_SOURCES",
    "FORBIDDEN_SOURCES",
    "MIXTURES",
    "SETS",
    "BayesSafety",
    "Branch",
    "BranchPosterior",
    "Encoded",
    "Key",
    "Layout",
    "Policy",
    "Posterior",
    "PromptSet",
    "Prompts",
    "Response",
    "Rule",
    "Vocabulary",
    "WindowLikelihood",
    "World",
    "WorldConfig",
    "attacked",
    "unsafe_side_probability",
]
