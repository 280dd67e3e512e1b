"""Pages and parts of pages beside the figures of a study: tables, a grid, a comparison of checkpoints."""
