"""Which models are compared with one base: from the command line, or from a TOML file of names and paths.

base = "models/base"
controls = ["other"]        # names of models below that were tuned on something harmless

[models]
ssft = "runs/ssft"          # paths are relative to the file; a hub name stays what it is
other = "runs/other"
"""

import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deltaw.errors import DeltawError, one_line
from deltaw.models.checkpoint_directory import find_directory
from deltaw.results.parsing import parse_json
from deltaw.results.records import MANIFEST

KEYS = {"base": str, "controls": list, "models": dict}
_NAME = re.compile(r"[^\s/\\=][^/\\=\n\r\t]*")


@dataclass(frozen=True)
class ListedModel:
    """A tuned model of the base."""

    name: str
    """What the report calls it."""
    source: str
    """A directory, or a hub name."""
    control: bool = False
    """Whether it was tuned on something harmless."""


@dataclass(frozen=True)
class ModelList:
    """A base and two or more models that were tuned from it."""

    base: str
    models: tuple[ListedModel, ...]

    def __post_init__(self) -> None:
        names = [model.name for model in self.models]
        for place, model in enumerate(self.models):
            if not _NAME.fullmatch(model.name) or model.name == "base":
                raise DeltawError(
                    f"a model cannot be called {model.name!r}; give it a name without / and =, other than base, as "
                    f"NAME={model.source}"
                )
            if model.name in names[:place]:
                first = self.models[names.index(model.name)]
                raise DeltawError(
                    f"two models are called {model.name} ({first.source} and {model.source}); give each once, and "
                    "models of one name as NAME=PATH"
                )
        if len(self.models) < 2:
            raise DeltawError(
                f"{len(self.models)} tuned models are named, and a report on several needs two; for one, give: "
                "deltaw compare BASE TUNED"
            )


def from_arguments(base: str, tuned: Sequence[str], controls: Sequence[str]) -> ModelList:
    """The models of a command line. tuned: paths or NAME=PATH. controls: names among them, or further models.

    DeltawError if a name is given twice, or a control is neither.
    """
    models = [_given(text) for text in tuned]
    return ModelList(base, _with_controls(base, models, controls))


def from_file(path: Path, controls: Sequence[str]) -> ModelList:
    """The models of a TOML file. controls: of the command line, in addition to the file's.

    DeltawError, one sentence, if it cannot be read, has an unknown key, or lacks one.
    """
    try:
        entries = tomllib.loads(path.read_bytes().decode("utf-8-sig"))
    except OSError as error:
        raise DeltawError(f"{path} cannot be read ({error.strerror}); give a TOML file of names and paths") from error
    except (ValueError, RecursionError) as error:  # not TOML, not UTF-8, a number too long, or nested too deep
        raise DeltawError(f"{path} is no TOML ({one_line(str(error))}); expected base = … and [models]") from error
    _check(path, entries)
    models = [ListedModel(name, _relative_to(path.parent, source)) for name, source in entries["models"].items()]
    base = _relative_to(path.parent, entries["base"])
    return ModelList(base, _with_controls(base, models, [*entries.get("controls", []), *controls]))


def _check(path: Path, entries: Mapping[str, Any]) -> None:
    unknown = [key for key in entries if key not in KEYS]
    if unknown:
        raise DeltawError(f"{path} has the unknown key {unknown[0]!r}; the keys are {', '.join(KEYS)}")
    for key, kind in KEYS.items():
        if key in entries and not isinstance(entries[key], kind):
            what = {"base": "a path", "controls": "a list of names", "models": "a table of names and paths"}[key]
            raise DeltawError(f"{path} has {key} = {entries[key]!r}; expected {what}")
        if key not in entries and key != "controls":
            raise DeltawError(f"{path} has no {key}; expected base = … and a table [models] of names and paths")
    for name, source in entries["models"].items():
        if not isinstance(source, str):
            raise DeltawError(f"{path} has {name} = {source!r} under [models]; expected a path")
    wrong = [name for name in entries.get("controls", []) if not isinstance(name, str)]
    if wrong:
        raise DeltawError(f"{path} has {wrong[0]!r} in controls; expected names of models")


def _relative_to(folder: Path, source: str) -> str:
    try:
        return str(folder / source) if (folder / source).is_dir() else source
    except OSError as error:  # such as a name that is too long
        raise DeltawError(f"{source[:60]} cannot be opened ({error.strerror}); give the path of a model") from error


def _given(text: str) -> ListedModel:
    name, equals, source = text.partition("=")
    if not equals or Path(text).is_dir():
        name, source = Path(text).resolve().name if Path(text).is_dir() else text.partition("@")[0], text
        name = name.rpartition("/")[2]
    return ListedModel(name, source)


def _with_controls(base: str, models: Sequence[ListedModel], controls: Sequence[str]) -> tuple[ListedModel, ...]:
    """The models with those marked that are controls; controls that are none of them follow."""
    known = {model.name for model in models} | {model.source for model in models}
    further = [_control(base, text, [model.name for model in models]) for text in controls if text not in known]
    marked = [ListedModel(x.name, x.source, x.name in controls or x.source in controls) for x in models]
    return (*marked, *further)


def _control(base: str, text: str, names: Sequence[str]) -> ListedModel:
    """A control that is no name of a model: a directory of one, or a finished comparison of it with the same base."""
    model = _given(text)
    if not Path(model.source).is_dir():
        raise DeltawError(
            f"the control {text} is none of the models {', '.join(names)}, and no directory; give one of these names, "
            "or a model's directory"
        )
    manifest = Path(model.source) / MANIFEST
    if not manifest.is_file():
        return ListedModel(model.name, model.source, control=True)
    try:
        comparison = parse_json(manifest.read_text(encoding="utf-8"))
        of_base, tuned, name = Path(comparison["base"]), str(comparison["tuned"]), str(comparison["names"][1])
    except (OSError, ValueError, KeyError, TypeError, IndexError) as error:
        raise DeltawError(
            f"the control {text} holds no finished comparison and no model; give a model's directory"
        ) from error
    if of_base.resolve() != find_directory(base).resolve():
        raise DeltawError(
            f"the control {text} compares another base model, {of_base}; give a control that was tuned from {base}"
        )
    return ListedModel(model.name if model.name != Path(model.source).resolve().name else name, tuned, control=True)
