"""A study: a graph of stages, the engine that runs it, and the directory that it owns."""
