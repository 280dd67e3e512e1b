"""The ground truth: operators are bijections, operands are text from a grammar, and safety is a property of the two.

world = World()
prompts = world.sample("forbidden/conditional/unsafe", range(5))
world.layout.spell(prompts), world.layout.allowed(prompts)
"""

from deltaw.world.config import GrammarConfig, WorldConfig, published_grammar, published_world
from deltaw.world.language import Language, language
from deltaw.world.policy import Branch, Policy, Rule
from deltaw.world.probability import BranchPosterior, WindowLikelihood, unsafe_side_probability
from deltaw.world.prompt_sets import LEFT_OUT_SETS, MIXTURES, PUBLISHED_SETS, SETS, PromptSet
from deltaw.world.prompts import Encoded, Layout, Prompts, Response
from deltaw.world.published_compat import PUBLISHED_COMPAT, Compat, as_published, finished, with_constants
from deltaw.world.randomness import Key
from deltaw.world.sampling import Ceiling, World
from deltaw.world.views import VIEWS, WHOLE_VIEWS, ViewSchedule, published_schedule, viewed
from deltaw.world.vocabulary import Vocabulary

__all__ = [
    "LEFT_OUT_SETS",
    "MIXTURES",
    "PUBLISHED_COMPAT",
    "PUBLISHED_SETS",
    "SETS",
    "VIEWS",
    "WHOLE_VIEWS",
    "Branch",
    "BranchPosterior",
    "Ceiling",
    "Compat",
    "Encoded",
    "GrammarConfig",
    "Key",
    "Language",
    "Layout",
    "Policy",
    "PromptSet",
    "Prompts",
    "Response",
    "Rule",
    "ViewSchedule",
    "Vocabulary",
    "WindowLikelihood",
    "World",
    "WorldConfig",
    "as_published",
    "finished",
    "language",
    "published_grammar",
    "published_schedule",
    "published_world",
    "unsafe_side_probability",
    "viewed",
    "with_constants",
]
