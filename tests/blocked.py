"""A Python process in which some packages cannot be imported: python blocked.py PACKAGE,PACKAGE MODULE ARGUMENT ..."""

import runpy
import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType


class Blocked(MetaPathFinder):
    """Refuses to find some packages, as if they were not installed."""

    def __init__(self, packages: Sequence[str]) -> None:
        self.packages = packages

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        if name.partition(".")[0] in self.packages:
            raise ImportError(f"{name} is blocked")
        return None


if __name__ == "__main__":
    packages, module, *arguments = sys.argv[1:]
    sys.path.remove(sys.path[0])  # this file's folder, which `-m` would not add
    sys.meta_path.insert(0, Blocked(packages.split(",")))
    sys.argv = [module, *arguments]
    runpy.run_module(module, run_name="__main__", alter_sys=True)
