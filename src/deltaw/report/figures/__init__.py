"""Figures of a study, by what they are of."""
