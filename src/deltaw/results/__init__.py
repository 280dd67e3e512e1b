"""The results of a study: measurements, claims and models, versioned and validated, and `load` to read them."""

from deltaw.results.claim import Answer, Claim, Null
from deltaw.results.files import (
    check_writable,
    whole_directory,
    write_json_atomic,
    write_jsonl_atomic,
    write_text_atomic,
)
from deltaw.results.markdown import markdown_table
from deltaw.results.records import read_claims, read_measurements, write_claims, write_measurements
from deltaw.results.schema import SCHEMA_VERSION, Measurement, ModelEntry
from deltaw.results.store import Results, load

__all__ = [
    "SCHEMA_VERSION",
    "Answer",
    "Claim",
    "Measurement",
    "ModelEntry",
    "Null",
    "Results",
    "check_writable",
    "load",
    "markdown_table",
    "read_claims",
    "read_measurements",
    "whole_directory",
    "write_claims",
    "write_json_atomic",
    "write_jsonl_atomic",
    "write_measurements",
    "write_text_atomic",
]
