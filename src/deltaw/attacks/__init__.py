"""Attacks: on prompts (`attacks.prompts`), and on models (`attacks.models`)."""
