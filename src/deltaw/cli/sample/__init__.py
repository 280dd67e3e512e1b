"""Prompts of a world, shown to a person (`page`) or written as one JSON object a line for a program (`records`)."""
