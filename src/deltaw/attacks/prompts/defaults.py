"""The attacks on prompts that studies and comparisons make if they are not told which."""

from deltaw.attacks.prompts.attack import PromptAttack
from deltaw.attacks.prompts.co_prefix import CoPrefix
from deltaw.attacks.prompts.co_suppression import CoSuppression
from deltaw.attacks.prompts.co_task import CoTask
from deltaw.attacks.prompts.co_text import CoText
from deltaw.attacks.prompts.misgen_base64 import MisgenBase64
from deltaw.attacks.prompts.misgen_leetspeak import MisgenLeetspeak
from deltaw.attacks.prompts.misgen_script import MisgenScript
from deltaw.attacks.prompts.misgen_text import MisgenText
from deltaw.attacks.prompts.misgen_token import MisgenToken
from deltaw.attacks.prompts.prefill import Prefill

ON_PROMPTS: tuple[PromptAttack, ...] = (CoTask(), CoText(), MisgenToken(), MisgenText())
"""On prompts of the synthetic world, which studies make."""

ON_REQUESTS: tuple[PromptAttack, ...] = (
    CoPrefix(),
    CoSuppression(),
    CoTask(),
    MisgenBase64(),
    MisgenLeetspeak(),
    MisgenScript(),
    Prefill(),
)
"""On plain-English requests, which comparisons of real models make."""
