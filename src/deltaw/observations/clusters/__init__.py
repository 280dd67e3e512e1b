"""Observation 1: do allowed and forbidden prompts form two clusters?"""
