"""Observation 2: does ΔW write where W could not?"""
