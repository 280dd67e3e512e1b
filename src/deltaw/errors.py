"""The one exception for a user's mistake: the command line prints its message as a sentence and exits with status 2."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager


class DeltawError(Exception):
    """A mistake that the user can mend. The message says what was found, what was expected and what to do."""


@contextmanager
def mistakes_said() -> Iterator[None]:
    """Within this context a user's mistake ends the process as the command line does: for what only `make` runs."""
    try:
        yield
    except DeltawError as mistake:
        print(f"deltaw: {mistake}", file=sys.stderr)  # noqa: T201
        sys.exit(2)
