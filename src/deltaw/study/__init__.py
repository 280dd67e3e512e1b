"""A study in the synthetic world: its graph of stages, what the stages do, its dry run, and its results."""
