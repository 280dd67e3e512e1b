"""Attacks on prompts: pure functions of a prompt. `synthetic`: in the synthetic world; `plain_english`: of requests."""

from deltaw.attacks.prompts.synthetic import ATTACKS, BENIGN_SOURCES, FORBIDDEN_SOURCES, attacked

__all__ = ["ATTACKS", "BENIGN_SOURCES", "FORBIDDEN_SOURCES", "attacked"]
