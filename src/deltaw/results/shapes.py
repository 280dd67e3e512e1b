"""What the manifest and the prompts of a run must look like where the page and the commands read them.

A shape is a type, a list with the shape of its items, a dictionary with the shapes of the fields that are read (others
may hold anything, and all but those of `REQUIRED` may be absent or null), or `Named` with the shape of every value.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from deltaw.results.schema import MODEL_FIELDS

Number = (int, float)


@dataclass(frozen=True)
class Named:
    """An object whose keys are names. values: the shape of its values."""

    values: Any


_TEXTS = Named(str)
_STAGE = {"name": str, "path": str, "digest": str, "seconds": Number, "peak_bytes": Number, "reused": bool}
_GRAMMAR = {"always": [int], "aliases": [int]}
_CELL = {
    "name": str,
    "axis": str,
    "attack": str,
    "base": str,
    "world": {"alias_rate": Number, "n_operators": int, "grammars": [_GRAMMAR]},
}
_TUNING = {
    "name": str,
    "protocol": str,
    "strength": str,
    "control": str,
    "config": {
        "options": Named(Number),
        "protocol": {"name": str, "label": str, "sft_weight": Number},
        "optimiser": {"peak_lr": Number},
    },
}
_RUN = {"path": str, "finished": str, "code": str, "seeds": [int], "seconds": {"all_stages": Number}}
_TUNED = {"name": str, "path": str, "control": bool, "kept": str}
MANIFEST = {
    "recipe": str,
    "exploratory": bool,
    "seeds": [int],
    "config": {"cells": [_CELL], "tunings": [_TUNING], "pretraining": {"device": str}},
    "parameters": int,
    "finished": str,
    "versions": _TEXTS,
    "processor": {"name": str, "cores": Number},
    "engine": {"name": str, "workers": (int, str)},
    "seconds": {"this_call": Number, "all_stages": Number},
    "peak_bytes": Number,
    "stages": [_STAGE],
    "models": [dict.fromkeys(MODEL_FIELDS, object)],
    "pooled": [_RUN],
    # of a comparison
    "adapter": bool,
    "names": [str],
    "model_type": str,
    "comparison": {"version": str},
    "matrices": int,
    "skipped": _TEXTS,
    "absent": Named(_TEXTS),
    "prompts": {"control": str, "absent": _TEXTS},
    # of several tuned models
    "several": {"version": str, "base": str, "asked": bool, "directions": [int], "models": [_TUNED]},
}
_COMPARISON = ("names", "matrices", "skipped", "absent", "finished")
PROMPT = {
    "letters": str,
    "letter_branch": str,
    "allowed": bool,
    "branch": str,
    "attack": str,
    "expected": str,
    "compliant": str,
    "derivation": str,
    "operators": [str],
    "rules": [str],
    "answers": Named({"behaviour": str, "text": str}),
}


def check_manifest(manifest: object) -> dict[str, Any]:
    """The manifest itself. ValueError naming the field that is missing or of the wrong kind."""
    fields: dict[str, Any] = _object(manifest, "a manifest")
    _check(fields, MANIFEST, "")
    if "comparison" in fields:
        _require(fields, ("comparison", *_COMPARISON), "")
        _require(fields["comparison"], ("version",), "comparison")
        if len(fields["names"]) != 2:
            raise ValueError(f"names has {len(fields['names'])} entries; expected those of the two sides")
    if "several" in fields:
        _require(fields, ("several", "skipped", "finished"), "")
        _require(fields["several"], ("version", "base", "asked", "directions", "models"), "several")
        for place, model in enumerate(fields["several"]["models"]):
            _require(model, tuple(_TUNED), f"several.models.{place}")
    for place, cell in enumerate((fields.get("config") or {}).get("cells") or ()):
        _require_items(cell, place)
    if (fields.get("config") or {}).get("cells"):
        _require(fields["config"], ("tunings",), "config")
        for place, tuned in enumerate(fields["config"].get("tunings") or ()):
            _require(tuned, ("name",), f"config.tunings.{place}")
    return fields


def check_prompt(prompt: object) -> dict[str, Any]:
    """The prompt itself. ValueError as of `check_manifest`."""
    fields: dict[str, Any] = _object(prompt, "a prompt")
    _check(fields, PROMPT, "")
    for model, answer in (fields.get("answers") or {}).items():
        _require(answer, ("behaviour", "text"), f"answers.{model}")
    return fields


def _require_items(cell: Mapping[str, Any], place: int) -> None:
    where = f"config.cells.{place}"
    _require(cell, ("name", "world"), where)
    _require(cell["world"], ("n_operators", "grammars"), f"{where}.world")
    missing = [name for name in ("axis", "attack", "base") if name not in cell]
    missing += [f"world.{name}" for name in ("alias_rate",) if name not in cell["world"]]
    for number, grammar in enumerate(cell["world"]["grammars"]):
        missing += [f"world.grammars.{number}.{name}" for name in ("always", "aliases") if name not in grammar]
        _require(grammar, ("always",), f"{where}.world.grammars.{number}")
    if missing:
        raise ValueError(f"{where} has no {missing[0]}")


def _require(fields: Mapping[str, Any], names: tuple[str, ...], where: str) -> None:
    for name in names:
        if fields.get(name) is None:
            raise ValueError(f"{where or 'it'} has no {name}")


def _object(value: object, what: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError(f"{what} is a JSON object, got {_kind(value)}")
    return value


def _check(value: Any, shape: Any, where: str) -> None:
    if isinstance(shape, dict):
        _expect(value, dict, where)
        for name, inner in shape.items():
            if value.get(name) is not None:
                _check(value[name], inner, f"{where}.{name}" if where else name)
    elif isinstance(shape, Named):
        _expect(value, dict, where)
        for name, item in value.items():
            _check(item, shape.values, f"{where}.{name}")
    elif isinstance(shape, list):
        _expect(value, list, where)
        for place, item in enumerate(value):
            _check(item, shape[0], f"{where}.{place}")
    else:
        _expect(value, shape, where)


def _expect(value: object, kind: Any, where: str) -> None:
    whole = isinstance(value, bool) and kind in (int, Number)  # true is an int to Python, and never meant
    if whole or not isinstance(value, kind):
        names = " or ".join(_NAMES[accepted] for accepted in (kind if isinstance(kind, tuple) else (kind,)))
        raise ValueError(f"{where or 'it'} is {_kind(value)}; expected {names}")


_NAMES: Mapping[Any, str] = {
    dict: "an object",
    list: "a list",
    str: "a string",
    bool: "true or false",
    int: "a whole number",
    float: "a number",
}


def _kind(value: object) -> str:
    return "null" if value is None else _NAMES.get(type(value), type(value).__name__)
