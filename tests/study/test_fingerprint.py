"""Which changes of code count, on a small package written for the purpose."""

import importlib
import itertools
from collections.abc import Callable
from pathlib import Path

import pytest
import toy_stages

from deltaw.pipeline.code_hash import Sources
from deltaw.pipeline.scheduler import execute
from deltaw.pipeline.stage import Stage
from deltaw.study.stages.finetune import make_tuned
from deltaw.study.stages.pretrain import make_base
from deltaw.study.stages.world import make_world

FILES = {
    "__init__.py": ('"""A page."""\nfrom PKG.used import helper\nfrom PKG.unused import other\n__all__ = ["helper"]\n'),
    "stages.py": (
        "from PKG import helper\n"
        "from PKG.lonely import alone\n"
        "from PKG.later import later\n"
        "import PKG.sub.deep as deep\n"
        "FACTOR = 2\n"
        "def run(context):\n    return inner(context)\n"
        "def inner(context):\n"
        "    from .lazy import late\n"
        '    (context.out / "x.txt").write_text(str(helper() * FACTOR + deep.value() + late() + later()))\n'
        "def another(context):\n    alone()\n"
    ),
    "used.py": "def helper():\n    # a comment\n    return 1\n",
    "unused.py": "def other():\n    return 1\n",
    "lonely.py": "def alone():\n    return 1\n",
    "lazy.py": "def late():\n    return 1\n",
    "sub/__init__.py": '"""Not a page."""\nSETTING = 1\n"""What is set."""\n',
    "later/__init__.py": (
        "from typing import TYPE_CHECKING\n"
        "if TYPE_CHECKING:\n    from PKG.first_used import later\n    from PKG.unused import other\n"
        '__all__ = ["later", "other"]\n'
        "def __getattr__(name):\n"
        "    from importlib import import_module\n"
        '    return getattr(import_module("PKG.first_used" if name == "later" else "PKG.unused"), name)\n'
    ),
    "first_used.py": "def later():\n    return 1\n",
    "sub/deep.py": (
        'class Config:\n    """A config."""\n    size: int = 1\n    """Of it."""\n'
        'def value():\n    """Doc."""\n    return 1\n'
    ),
}
_numbers = itertools.count()


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], tuple[Path, object]]:
    name = f"toy_package_{next(_numbers)}"
    folder = tmp_path / name
    for file, text in FILES.items():
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / file).write_text(text.replace("PKG", name))
    monkeypatch.syspath_prepend(tmp_path)
    return lambda: (folder, importlib.import_module(f"{name}.stages").run)


@pytest.mark.parametrize(
    ("file", "old", "new", "counts"),
    [
        ("used.py", "return 1", "return 2", True),
        ("used.py", "a comment", "another comment", False),
        ("sub/deep.py", "return 1", "return 2", True),
        ("sub/deep.py", "Doc.", "Another docstring.", False),
        ("sub/deep.py", "Of it.", "Another text below a field.", False),
        ("sub/deep.py", "size: int = 1", "size: int = 2", True),
        ("sub/__init__.py", "What is set.", "Another text below a constant.", False),
        ("sub/__init__.py", "SETTING = 1", "SETTING = 2", True),
        ("lazy.py", "return 1", "return 2", True),
        ("first_used.py", "return 1", "return 2", True),
        ("later/__init__.py", "    return getattr", "    assert name\n    return getattr", False),
        ("stages.py", "FACTOR = 2", "FACTOR = 3", True),
        ("stages.py", "helper() *", "2 * helper() *", True),
        ("stages.py", "    alone()", "    alone() + 1", False),
        ("unused.py", "return 1", "return 2", False),
        ("lonely.py", "return 1", "return 2", False),
        ("__init__.py", '["helper"]', '["helper", "other"]', False),
    ],
)
def test_what_the_stage_reaches_counts_and_nothing_else(
    package: Callable[[], tuple[Path, object]], file: str, old: str, new: str, counts: bool
) -> None:
    folder, run = package()
    before = Sources().fingerprint(run)
    text = (folder / file).read_text()
    assert old in text
    (folder / file).write_text(text.replace(old, new))
    assert (Sources().fingerprint(run) != before) is counts


def test_a_change_of_code_rebuilds_the_stage(package: Callable[[], tuple[Path, object]], tmp_path: Path) -> None:
    folder, run = package()
    stages = [Stage("a", run)]  # type: ignore[arg-type]
    execute(stages, tmp_path / "run", "inline")
    assert execute(stages, tmp_path / "run", "inline")[0].reused
    (folder / "used.py").write_text("def helper():\n    return 10\n")
    assert not execute(stages, tmp_path / "run", "inline")[0].reused


def test_only_top_level_functions_have_a_fingerprint() -> None:
    def inside() -> None: ...

    with pytest.raises(ValueError, match="top level"):
        Sources().fingerprint(inside)


def test_the_engine_does_not_count() -> None:
    sources = Sources()
    sources.fingerprint(toy_stages.source)
    read = {name for name, module in sources._modules.items() if module is not None}
    assert "deltaw.pipeline.stage" in read
    assert "deltaw.pipeline.scheduler" not in read
    assert "deltaw.pipeline.worker" not in read


def test_models_are_not_made_anew_for_how_runs_are_read_judged_or_shown() -> None:
    sources = Sources()
    sources.fingerprint(make_base, make_tuned)
    read = {name for name, module in sources._modules.items() if module is not None}
    assert "deltaw.results.records" in read
    assert not read & {
        "deltaw.results.store",
        "deltaw.claims.decision",
        "deltaw.claims.statements",
        "deltaw.report.render",
    }


def test_a_changed_grammar_file_rebuilds_what_samples_from_it(monkeypatch: pytest.MonkeyPatch) -> None:
    before = Sources().fingerprint(make_world)
    read = Path.read_bytes

    def edited(path: Path) -> bytes:
        return read(path) + (b"; edited" if path.name == "published-1.grammar" else b"")

    monkeypatch.setattr(Path, "read_bytes", edited)
    assert Sources().fingerprint(make_world) != before
