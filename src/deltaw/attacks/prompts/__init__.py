"""Attacks on prompts, one a file: pure functions of a prompt of the synthetic world, or of a plain-English request."""

from deltaw.attacks.prompts.attack import Attacked, PromptAttack, attacked
from deltaw.attacks.prompts.defaults import ON_PROMPTS, ON_REQUESTS
from deltaw.attacks.prompts.requests import under_attack

__all__ = ["ON_PROMPTS", "ON_REQUESTS", "Attacked", "PromptAttack", "attacked", "under_attack"]
