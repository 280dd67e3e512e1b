"""The one exception for a user's mistake: the command line prints its message as a sentence and exits with status 2."""


class DeltawError(Exception):
    """A mistake that the user can mend. The message says what was found, what was expected and what to do."""
