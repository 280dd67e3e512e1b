"""A fingerprint of the code that makes an artifact, so that a change of code rebuilds what depends on it and
no more.

Read from the sources by their syntax trees, not from what happens to be loaded. Three rules keep it narrow
enough to be useful and wide enough to be safe:
- of the stage's own module (and of its configuration's) only the definitions that the stage reaches count, with every
  module-level statement that is not a definition or an import;
- every other module counts whole, and so do all modules of the project that it imports, anywhere in it;
- a package's `__init__` that only re-exports, by imports or by a `__getattr__` whose names are imported under
  `if TYPE_CHECKING`, is looked through: what counts is the module that a name comes from.
Comments, docstrings, texts below fields and constants, and layout do not count. What code finds by a computed name
(importlib, getattr on a module) is not seen.
"""

import ast
import importlib.util
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache, cached_property
from hashlib import sha256
from pathlib import Path

_DEFINITIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
_OWN_PACKAGE = __name__.partition(".")[0]


@dataclass(frozen=True)
class _Import:
    """`from module import name as bound`; `import module` has no name."""

    module: str
    name: str | None
    bound: str


@dataclass(frozen=True, eq=False)
class _Module:
    name: str
    path: Path
    tree: ast.Module

    @property
    def is_package(self) -> bool:
        return self.path.name == "__init__.py"

    @cached_property
    def digest(self) -> str:
        return _digest([self.tree])

    @cached_property
    def imports(self) -> list[_Import]:
        return list(_imports([self.tree], self))

    @cached_property
    def is_page(self) -> bool:
        """Whether it is a package's `__init__` that does nothing but re-export."""
        return self.is_package and all(
            isinstance(node, ast.Import | ast.ImportFrom | ast.Pass) or _is_plain(node) or _is_lazy(node)
            for node in self.tree.body
        )


class Sources:
    """The project's sources as they are when first asked for: those of deltaw and of the packages of the functions
    asked about.
    """

    def __init__(self) -> None:
        self._modules: dict[str, _Module | None] = {}
        self._data: dict[Path, str] = {}
        # A study of a hundred seeds asks ten thousand times about the same thirty sets of definitions.
        self._fingerprints: dict[frozenset[object], str] = {}
        self._followed: dict[tuple[str, str | None], tuple[dict[str, str], list[tuple[str, str | None]]]] = {}

    def fingerprint(self, *definitions: object) -> str:
        """sha256 (hex) of the code that the module-level functions and classes `definitions` reach.

        ValueError if one has no source file or is not defined at the top level of a module.
        """
        asked = frozenset(definitions)
        if asked not in self._fingerprints:
            self._fingerprints[asked] = self._fingerprint(definitions)
        return self._fingerprints[asked]

    def _fingerprint(self, definitions: tuple[object, ...]) -> str:
        packages = {_OWN_PACKAGE} | {_module_name(item).partition(".")[0] for item in definitions}
        parts: dict[str, str] = {}
        wanted: list[tuple[str, str | None]] = []
        for item in definitions:
            module, name = _module_name(item), str(getattr(item, "__qualname__", ""))
            source = self._find(module)
            if source is None:
                raise ValueError(f"the source of {module} cannot be found, so {name} cannot be a stage's function")
            digest, imports = _reached(source, name)
            parts[f"{module}:{name}"] = digest
            wanted += _demands(imports)
            wanted += [(parent, None) for parent in _parents(module) if not self._is_page(parent)]
        seen: set[tuple[str, str | None]] = set()
        while wanted:
            demand = wanted.pop()
            if demand in seen or demand[0].partition(".")[0] not in packages:
                continue
            seen.add(demand)
            if demand not in self._followed:
                noted: dict[str, str] = {}
                self._followed[demand] = noted, list(self._follow(*demand, noted))
            noted, needed = self._followed[demand]
            parts |= noted
            wanted += needed
        return sha256("\n".join(f"{name} {parts[name]}" for name in sorted(parts)).encode()).hexdigest()

    def _follow(self, module: str, name: str | None, parts: dict[str, str]) -> Iterator[tuple[str, str | None]]:
        """Notes what `from module import name` brings in, and yields what that needs in turn."""
        source = self._find(module)
        if source is None:
            return
        yield from ((parent, None) for parent in _parents(module) if not self._is_page(parent))
        if name is not None and name != "*":
            if source.is_package and self._find(f"{module}.{name}") is not None:
                yield (f"{module}.{name}", None)
            entries = [entry for entry in source.imports if entry.bound == name]
            if source.is_page and entries:
                yield from _demands(entries)
                return
            if source.is_page and self._find(f"{module}.{name}") is not None:
                return
        if not source.is_page:
            parts[module] = source.digest + self._data_beside(source)
        yield from _demands(source.imports)

    def _is_page(self, module: str) -> bool:
        source = self._find(module)
        return source is None or source.is_page

    def _find(self, name: str) -> _Module | None:
        if name not in self._modules:
            path = _locate(name)
            self._modules[name] = None if path is None else _read(name, path)
        return self._modules[name]

    def _data_beside(self, module: _Module) -> str:
        """Names and digests of data files in the folders beside a module that hold no modules."""
        place = module.path.parent
        if module.name.partition(".")[0] != _OWN_PACKAGE:  # a user's folder may hold anything, runs of studies too
            return ""
        if place not in self._data:
            self._data[place] = "".join(
                f" {folder.name}/{file.name} {sha256(file.read_bytes()).hexdigest()}"
                for folder in sorted(place.iterdir())
                if folder.is_dir() and not (folder / "__init__.py").exists()
                for file in sorted(folder.glob("*"))
                if file.is_file() and file.suffix not in (".py", ".pyc")
            )
        return self._data[place]


def _read(name: str, path: Path) -> _Module:
    state = path.stat()
    return _parse(name, path, state.st_mtime_ns, state.st_size)


@cache
def _parse(name: str, path: Path, changed: int, size: int) -> _Module:
    """A module's source. changed, size: of its file, which is read again when they are others."""
    tree = ast.parse(path.read_text(encoding="utf-8"), filename=str(path))
    for node in (tree, *_statements([tree])):
        if isinstance(node, (*_DEFINITIONS, ast.Module)):
            code = [statement for statement in node.body if not _is_text(statement)]
            node.body = code or [ast.Pass(lineno=1, col_offset=0)]
    return _Module(name, path, tree)


@cache
def _reached(module: _Module, name: str) -> tuple[str, list[_Import]]:
    """Digest of the definitions that `name` reaches inside its module, and the imports that these use."""
    definitions = {node.name: node for node in module.tree.body if isinstance(node, _DEFINITIONS)}
    if name not in definitions:
        raise ValueError(f"{module.name}.{name} must be defined at the top level of its module")
    top_imports = [node for node in module.tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
    rest = [node for node in module.tree.body if not isinstance(node, (*_DEFINITIONS, ast.Import, ast.ImportFrom))]
    reached = {name}
    nodes: list[ast.stmt] = [*rest, definitions[name]]
    names = _names(nodes)
    while new := [other for other in definitions if other in names and other not in reached]:
        reached.update(new)
        nodes += [definitions[other] for other in new]
        names |= _names([definitions[other] for other in new])
    used = [entry for entry in _imports(top_imports, module) if entry.bound in names or entry.name == "*"]
    # The order of the source, not of discovery: adding a call must not look like moving a function.
    nodes.sort(key=lambda node: node.lineno)
    return _digest(nodes), [*used, *_imports(nodes, module)]


def _is_text(statement: ast.stmt) -> bool:
    """Whether a statement is a docstring, or the text below a field or a constant that describes it."""
    return (
        isinstance(statement, ast.Expr)
        and isinstance(statement.value, ast.Constant)
        and isinstance(statement.value.value, str)
    )


def _locate(name: str) -> Path | None:
    """The source file of a module, found without importing it."""
    top, *rest = name.split(".")
    if top == "__main__":
        file = getattr(sys.modules["__main__"], "__file__", None)
        return Path(file) if file and not rest else None
    try:
        spec = importlib.util.find_spec(top)
    except (ImportError, ValueError):
        return None
    if spec is None:
        return None
    if not rest:
        return Path(spec.origin) if spec.origin and spec.origin.endswith(".py") else None
    for folder in spec.submodule_search_locations or ():
        base = Path(folder).joinpath(*rest)
        for candidate in (base / "__init__.py", base.with_name(f"{base.name}.py")):
            if candidate.is_file():
                return candidate
    return None


def _module_name(item: object) -> str:
    return str(getattr(item, "__module__", ""))


def _parents(module: str) -> list[str]:
    pieces = module.split(".")
    return [".".join(pieces[:depth]) for depth in range(1, len(pieces))]


def _statements(nodes: Iterable[ast.AST]) -> Iterator[ast.stmt]:
    """All statements in `nodes`, at any depth, each before those in it; expressions, which hold none, are passed by."""
    for node in nodes:
        if isinstance(node, ast.stmt):
            yield node
        for name in ("body", "orelse", "handlers", "finalbody", "cases"):
            inner = getattr(node, name, None)
            if isinstance(inner, list):  # the body of a lambda is none
                yield from _statements(inner)


def _imports(nodes: Iterable[ast.AST], module: _Module) -> Iterator[_Import]:
    for node in _statements(nodes):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield _Import(alias.name, None, alias.asname or alias.name.partition(".")[0])
        elif isinstance(node, ast.ImportFrom):
            target = _absolute(node, module)
            for alias in node.names:
                yield _Import(target, alias.name, alias.asname or alias.name)


def _absolute(node: ast.ImportFrom, module: _Module) -> str:
    if not node.level:
        return node.module or ""
    package = module.name.split(".") if module.is_package else module.name.split(".")[:-1]
    base = package[: len(package) - (node.level - 1)]
    return ".".join([*base, *([node.module] if node.module else [])])


def _demands(imports: Iterable[_Import]) -> list[tuple[str, str | None]]:
    return [(entry.module, entry.name) for entry in imports]


def _names(nodes: Iterable[ast.AST]) -> set[str]:
    return {inner.id for node in nodes for inner in ast.walk(node) if isinstance(inner, ast.Name)}


def _is_plain(node: ast.stmt) -> bool:
    """Whether a statement only sets `__all__`, `__version__` and the like to constants."""
    return (
        isinstance(node, ast.Assign)
        and all(isinstance(target, ast.Name) and target.id.startswith("__") for target in node.targets)
        and all(isinstance(part, ast.Constant | ast.List | ast.Tuple | ast.Load) for part in ast.walk(node.value))
    )


def _is_lazy(node: ast.stmt) -> bool:
    """Whether a statement belongs to re-exports at first use: imports for type checkers, `__getattr__`, `__dir__`."""
    if isinstance(node, ast.FunctionDef):
        return node.name in ("__getattr__", "__dir__")
    return (
        isinstance(node, ast.If)
        and ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING")
        and all(isinstance(statement, ast.Import | ast.ImportFrom) for statement in (*node.body, *node.orelse))
    )


def _digest(nodes: Iterable[ast.AST]) -> str:
    return sha256("\n".join(ast.dump(node) for node in nodes).encode()).hexdigest()
