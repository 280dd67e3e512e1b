"""Calibration: how often the tests of the claims find what is not there, and how often what is."""
