"""What is loaded by `import deltaw` and by help: nothing that takes long, and nothing of an extra."""

import ast
import importlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

import deltaw

HEAVY = {"torch", "numpy", "pandas", "altair", "distributed", "dask", "cryptography", "scipy", "transformers", "rich"}
COMMANDS = ("study", "sample", "report", "interventions", "pool", "compare", "safety-tune", "screen", "list")


def loaded(*arguments: str) -> set[str]:
    """The top-level packages that a Python process with these arguments loads."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        (sys.executable, "-X", "importtime", *arguments), capture_output=True, text=True, env=environment, check=True
    )
    lines = [line for line in done.stderr.splitlines() if line.startswith("import time:")]
    return {line.rpartition("|")[2].strip().partition(".")[0] for line in lines}


def test_the_list_of_what_is_loaded_sees_what_is_loaded() -> None:
    assert "numpy" in loaded("-c", "import deltaw; deltaw.World")


def test_importing_deltaw_loads_nothing_that_takes_long() -> None:
    packages = loaded("-c", "import deltaw")
    assert "deltaw" in packages
    assert not packages & (HEAVY | {"tyro"})


@pytest.mark.parametrize("command", [(), *((name,) for name in COMMANDS)])
def test_help_loads_nothing_that_takes_long(command: tuple[str, ...]) -> None:
    packages = loaded("-m", "deltaw.cli", *command, "--help")
    assert "tyro" in packages
    assert not packages & HEAVY


def test_a_list_loads_nothing_that_takes_long() -> None:
    assert not loaded("-m", "deltaw.cli", "list") & HEAVY


def test_every_public_name_is_what_type_checkers_are_told() -> None:
    tree = ast.parse(Path(deltaw.__file__).read_text(encoding="utf-8"))
    (block,) = (node for node in tree.body if isinstance(node, ast.If))
    names = set()
    for node in block.body:
        assert isinstance(node, ast.ImportFrom)
        for alias in node.names:
            bound = alias.asname or alias.name
            names.add(bound)
            assert getattr(deltaw, bound) is getattr(importlib.import_module(str(node.module)), alias.name)
    assert names == set(deltaw.__all__)
    assert names <= set(dir(deltaw))


def test_a_name_that_does_not_exist_is_an_error_that_lists_those_that_do() -> None:
    with pytest.raises(AttributeError, match=r"no attribute 'wrld'.*World"):
        _ = deltaw.wrld
