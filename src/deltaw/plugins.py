"""Plug-ins: what there is, where each comes from, and how a name on the command line becomes one.

A plug-in is a class in deltaw, in any installed package that names it in the entry-point group `deltaw.plugins`, or in
a file, given as `path/to/file.py:Name`. Names, sentences and options are read from the sources without running them, so
that a list needs no torch; only what is asked for is imported. Stages never ask here: a recipe holds the object.
"""

import ast
import importlib
import importlib.util
import inspect
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass, is_dataclass
from functools import cache
from importlib.metadata import EntryPoint, PackageNotFoundError, entry_points, version
from pathlib import Path
from typing import Any

from deltaw.errors import DeltawError

GROUP = "deltaw.plugins"
_HERE = Path(__file__).parent


@dataclass(frozen=True)
class Kind:
    """A kind of plug-in."""

    base: str
    """The name of its base class."""
    module: str
    """Where that class is."""
    files: str
    """Deltaw's own plug-ins of the kind: a glob in this package."""


KINDS = {
    "protocol": Kind("Protocol", "deltaw.protocols.protocol", "protocols/*.py"),
    "control": Kind("Control", "deltaw.training.controls.control", "training/controls/*.py"),
    "judge": Kind("Judge", "deltaw.behaviour.judge", "behaviour/judges/*.py"),
    "architecture": Kind(
        "Architecture", "deltaw.models.architectures.architecture", "models/architectures/families.py"
    ),
    "observation": Kind("Observation", "deltaw.observations.observation", "observations/*/measure.py"),
    "prompt-attack": Kind("PromptAttack", "deltaw.attacks.prompts.attack", "attacks/prompts/*.py"),
    "model-attack": Kind("ModelAttack", "deltaw.attacks.models.attack", "attacks/models/*.py"),
    "intervention": Kind("Intervention", "deltaw.interventions.intervention", "interventions/*.py"),
}


@dataclass(frozen=True)
class Plugin:
    """What is known of a plug-in before it is imported."""

    kind: str
    """A key of `KINDS`."""
    name: str
    """What it is called."""
    sentence: str
    """The first line of its docstring."""
    options: tuple[str, ...]
    """Its options with their defaults, such as `beta = 0.1`."""
    origin: str
    """deltaw, the name of a package, or a file."""
    module: str
    """The module that it is in."""
    attribute: str
    """The name of its class."""


def plugins() -> tuple[Plugin, ...]:
    """All plug-ins of deltaw and of installed packages. DeltawError for a name that two have."""
    return _found()[0]


def broken() -> tuple[str, ...]:
    """What is wrong with entry points of installed packages that lead to no plug-in, a sentence each."""
    return _found()[1]


@cache
def _found() -> tuple[tuple[Plugin, ...], tuple[str, ...]]:
    known = [
        plugin
        for name, kind in KINDS.items()
        for path in sorted(_HERE.glob(kind.files))
        for plugin in read(path, _module_of(path), "deltaw")
        if plugin.kind == name
    ]
    problems = []
    for entry in entry_points(group=GROUP):
        try:
            known += _of_entry(entry)
        except DeltawError as error:  # only who asks for it is told
            problems.append(str(error))
    for plugin in known:
        _check_free(plugin, known)
    return tuple(known), tuple(problems)


def _of_entry(entry: EntryPoint) -> list[Plugin]:
    """The plug-in of an entry point. DeltawError if there is none."""
    origin = entry.dist.name if entry.dist else entry.module
    path = _source(entry.module)
    if path is None:
        raise DeltawError(
            f"the package {origin} names the plug-in {entry.value!r}, but has no module {entry.module} (each folder of "
            f"it needs an __init__.py); mend the entry point {entry.name!r} in its pyproject.toml and install it again"
        )
    told = [plugin for plugin in read(path, entry.module, origin) if plugin.attribute == entry.attr]
    if not told:
        raise DeltawError(f"{path} of {origin} has no plug-in {entry.attr!r}; {_expected()}")
    return told


def kind_of(component: object) -> str | None:
    """The kind of a plug-in; None for any other object."""
    bases = {(base.__module__, base.__name__) for base in type(component).__mro__}
    return next((name for name, kind in KINDS.items() if (kind.module, kind.base) in bases), None)


def origin_of(component: object) -> str:
    """Where a plug-in comes from: `deltaw`, a package with its version, or a file."""
    made = type(component)
    if made.__module__.startswith("deltaw."):
        return "deltaw"
    for plugin in plugins():
        if (plugin.module, plugin.attribute) == (made.__module__, made.__qualname__):
            try:
                return f"{plugin.origin} {version(plugin.origin)}"
            except PackageNotFoundError:
                return plugin.origin
    return f"{made.__module__}.py"


def _module_of(path: Path) -> str:
    return ".".join(["deltaw", *path.relative_to(_HERE).with_suffix("").parts])


def resolve(kind: str | tuple[str, ...], name: str) -> Any:
    """The plug-in of that name, or of a file as `file.py:Name`, with its default options.

    kind: a key of `KINDS`, or several, of which it may have any.
    DeltawError for an unknown name (all are listed), a file that is no Python, a failing import, a name that is taken,
    or a class that lacks something.
    """
    kinds = (kind,) if isinstance(kind, str) else kind
    if ".py:" in name:
        return _made(_of_file(kinds, name))
    known = [plugin for plugin in plugins() if plugin.kind in kinds]
    chosen = [plugin for plugin in known if plugin.name.replace("_", "-") == name.replace("_", "-")]
    if not chosen:
        listed = ", ".join(plugin.name for plugin in known)
        beside = "".join(f"; {problem}" for problem in broken())
        raise DeltawError(
            f"there is no {' or '.join(kinds)} {name!r}; there are {listed}, and any file.py:Name{beside}"
        )
    if len({plugin.kind for plugin in chosen}) > 1:
        both = " and ".join(f"a {plugin.kind} of {plugin.origin}" for plugin in chosen)
        raise DeltawError(f"{name!r} is the name of {both}; give the one that you mean as file.py:Name")
    return _made(chosen[0])


def read(path: Path, module: str, origin: str) -> list[Plugin]:
    """The plug-ins that a source file defines. DeltawError if it cannot be read, or is no Python."""
    try:
        tree = ast.parse(path.read_bytes(), filename=str(path))
    except OSError as error:
        raise DeltawError(f"{path} cannot be read ({error.strerror}); give a Python file") from error
    except (SyntaxError, ValueError) as error:
        where = f" (line {error.lineno}: {error.msg})" if isinstance(error, SyntaxError) else f" ({error})"
        raise DeltawError(f"{path} is no Python{where}; mend it, or give another file") from error
    return [plugin for node in tree.body if isinstance(node, ast.ClassDef) for plugin in _told(node, module, origin)]


def _told(node: ast.ClassDef, module: str, origin: str) -> Iterator[Plugin]:
    bases = {base.id if isinstance(base, ast.Name) else getattr(base, "attr", "") for base in node.bases}
    values = {
        target.id: part.value
        for part in node.body
        if isinstance(part, ast.Assign)
        for target in part.targets
        if isinstance(target, ast.Name)
    }
    name = values.get("name")
    for kind, definition in KINDS.items():
        if definition.base in bases and isinstance(name, ast.Constant) and isinstance(name.value, str):
            options = tuple(
                f"{part.target.id} = {ast.unparse(part.value)}"
                for part in node.body
                if isinstance(part, ast.AnnAssign) and isinstance(part.target, ast.Name) and part.value is not None
            )
            sentence = (ast.get_docstring(node) or "").partition("\n")[0]
            if not re.fullmatch(r"[a-z0-9]+([-_][a-z0-9]+)*", name.value):
                raise DeltawError(
                    f"the {kind} {node.name} of {origin} is named {name.value!r}; expected lower-case letters and "
                    "digits, words joined by - or _"
                )
            yield Plugin(kind, name.value, sentence, options, origin, module, node.name)


def _of_file(kinds: tuple[str, ...], text: str) -> Plugin:
    file, _, attribute = text.rpartition(":")
    path = Path(file).absolute()
    told = {plugin.attribute: plugin for plugin in read(path, path.stem, file) if plugin.kind in kinds}
    if attribute not in told:
        listed = ", ".join(told) or "none"
        raise DeltawError(f"{file} has no {' or '.join(kinds)} {attribute!r}; it has {listed}; {_expected()}")
    _check_free(told[attribute], plugins())
    try:
        spec = importlib.util.find_spec(path.stem)
    except (ImportError, ValueError):
        spec = None
    if not path.stem.isidentifier() or (spec is not None and spec.origin != str(path)):
        raise DeltawError(f"{file} cannot be imported as {path.stem!r}, which is no free name of a module; rename it")
    if str(path.parent) not in sys.path:
        # At the end, so that no other file beside it hides a module. Workers start with the same path.
        sys.path.append(str(path.parent))
    return told[attribute]


def _made(plugin: Plugin) -> Any:
    what = f"the {plugin.kind} {plugin.name} of {plugin.origin}"
    try:
        defined = getattr(importlib.import_module(plugin.module), plugin.attribute)
    except Exception as error:
        raise DeltawError(
            f"{what} cannot be imported: {type(error).__name__}: {error}; mend {plugin.module}"
        ) from error
    kind = KINDS[plugin.kind]
    base = getattr(importlib.import_module(kind.module), kind.base)
    if not (inspect.isclass(defined) and issubclass(defined, base) and is_dataclass(defined)):
        raise DeltawError(f"{what} is no frozen dataclass that is a {base.__name__}; {_expected()}")
    missing = [
        *sorted(getattr(defined, "__abstractmethods__", ())),
        *(part for part in _declared(base) if not hasattr(defined, part)),
    ]
    if missing:
        raise DeltawError(f"{what} lacks {', '.join(missing)}; add it to {plugin.module}")
    try:
        made = defined()
        hash(made)
    except TypeError as error:
        raise DeltawError(f"{what} cannot be made without options ({error}); give each a default, frozen") from error
    return made


def _declared(base: type) -> Iterator[str]:
    """The class variables that a base class declares, its own bases' first."""
    for kind in reversed(base.__mro__):
        for part, annotation in inspect.get_annotations(kind).items():
            if "ClassVar" in str(annotation):
                yield part


def _check_free(plugin: Plugin, known: Any) -> None:
    for other in known:
        same = (other.kind, other.name) == (plugin.kind, plugin.name)
        if same and (other.module, other.attribute) != (plugin.module, plugin.attribute):
            raise DeltawError(
                f"the {plugin.kind} {plugin.name!r} of {plugin.origin} has a name that is taken by {other.origin}'s; "
                "rename one of the two"
            )


def _expected() -> str:
    bases = ", ".join(kind.base for kind in KINDS.values())
    return f'expected a class of that name whose base is one of {bases}, with name = "..."'


def _source(module: str) -> Path | None:
    """The file of a module, found without importing it."""
    top, *rest = module.split(".")
    spec = importlib.util.find_spec(top)
    if spec is None or spec.origin is None:
        return None
    if not rest:
        return Path(spec.origin)
    base = Path(spec.origin).parent.joinpath(*rest)
    candidates = (base / "__init__.py", base.with_name(f"{base.name}.py"))
    return next((path for path in candidates if path.is_file()), None)
