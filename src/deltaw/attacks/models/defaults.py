"""The attacks on models that studies make if they are not told which."""

from deltaw.attacks.models.attack import ModelAttack
from deltaw.attacks.models.prefill import Prefilling
from deltaw.attacks.models.relearning import Relearning
from deltaw.attacks.models.soft_prompt import SoftPrompts, UniversalSoftPrompt
from deltaw.attacks.models.token_search import TokenSearch

ON_MODELS: tuple[ModelAttack, ...] = (
    SoftPrompts(),
    UniversalSoftPrompt(),
    TokenSearch(),
    Prefilling(),
    Relearning(),
)
