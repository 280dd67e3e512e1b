"""The one exception for a user's mistake: the command line prints its message as a sentence and exits with status 2."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager

LONGEST = 2_000
"""Letters of a message at most; of a longer one the middle is left out."""


class DeltawError(Exception):
    """A mistake that the user can mend. The message says what was found, what was expected and what to do.

    It is one line that any terminal shows as it is: control characters, which it may quote from a file, are escaped.
    """

    def __init__(self, message: object) -> None:
        super().__init__(one_line(str(message)))


class NotANumber(DeltawError):
    """A measured value that is no finite number. what: of which statistic, and the value."""

    def __init__(self, message: object, what: str = "") -> None:
        super().__init__(message)
        self.what = what


class PluginError(DeltawError):
    """A plug-in that others wrote failed: it raised an error, or gave what it must not."""


def one_line(text: str) -> str:
    """The text with everything that does not print, such as ends of lines, escaped, and shortened to `LONGEST`."""
    if not text.isprintable():
        text = "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in text)
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 400]} … {text[-390:]}"


@contextmanager
def mistakes_said() -> Iterator[None]:
    """Within this context a user's mistake ends the process as the command line does: for what only `make` runs."""
    try:
        yield
    except DeltawError as mistake:
        print(f"deltaw: {mistake}", file=sys.stderr)  # noqa: T201
        sys.exit(2)
