"""Observation 4: how strongly does the answer react to the prompt?"""
