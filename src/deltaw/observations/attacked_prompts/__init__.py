"""Observation 5: do attacked prompts look allowed, and does ΔW act on them less?"""
