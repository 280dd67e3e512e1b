"""Observation 3: does ΔW act more on forbidden prompts?"""
