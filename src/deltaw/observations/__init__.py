"""Observations: what is measured of a base and a tuned model, each in a folder of its own, all through one `Lens`."""
