"""Prompts of a world, shown: for a person (`page`), or as one JSON object a line for a program (`records`)."""

from deltaw.cli.sample.page import show
from deltaw.cli.sample.records import records, to_json
from deltaw.cli.sample.samples import Samples, Split, samples, split_named, split_names

__all__ = ["Samples", "Split", "records", "samples", "show", "split_named", "split_names", "to_json"]
