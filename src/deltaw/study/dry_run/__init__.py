"""What a study would cost: `timing` times a few real steps, `plan` counts, `page` prints."""
