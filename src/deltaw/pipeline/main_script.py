"""A script without `if __name__ == "__main__"`: its workers must not run it once more.

Processes that are spawned import the script that started them. One that starts a study at its top level would start it
again in each of them.
"""

import ast
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def not_run_again() -> Iterator[None]:
    """Within this context, spawned processes do not import the running script, unless it guards what it starts."""
    main = sys.modules.get("__main__")
    file = getattr(main, "__file__", None)
    if main is None or file is None or getattr(main, "__spec__", None) is not None or is_guarded(Path(file)):
        yield
        return
    del main.__file__
    try:
        yield
    finally:
        main.__file__ = file


def is_guarded(script: Path) -> bool:
    """Whether a script has `if __name__ == …` at its top level; an unreadable one counts as guarded."""
    try:
        tree = ast.parse(script.read_text(encoding="utf-8"))
    except (OSError, ValueError, SyntaxError):
        return True
    return any(
        isinstance(statement, ast.If)
        and any(isinstance(part, ast.Name) and part.id == "__name__" for part in ast.walk(statement.test))
        for statement in tree.body
    )
