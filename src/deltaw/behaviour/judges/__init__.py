"""Judges: what an answer in plain language is, one file each. `behaviour.judge` says how to write one."""
