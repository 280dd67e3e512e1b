"""Pages and parts of pages other than the figures of a study: tables, a grid, a comparison of checkpoints."""
