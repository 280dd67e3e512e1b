"""What every plug-in is: a frozen dataclass with a name, a label, a docstring and options as its fields."""

from abc import ABC
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields, is_dataclass
from typing import Any, ClassVar

from deltaw.errors import DeltawError, NotANumber, PluginError


class Component(ABC):
    """A part of a study or comparison that others can replace: the base of the base class of each kind of plug-in.

    The first line of the docstring is the sentence that lists, `--help` and the report show. The fields of the
    dataclass are the options, each with a default. The object itself is the configuration: a recipe holds
    `Dpo(beta=0.2)`, not a name, so that artifacts are named by the file and the options of what made them.
    """

    name: ClassVar[str]
    """What it is called: in recipes, on the command line and in results. Lower case, words joined by `-` or `_`."""
    label: ClassVar[str]
    """What figures and tables call it."""

    @property
    def sentence(self) -> str:
        """The first line of its docstring."""
        return (type(self).__doc__ or "").strip().partition("\n")[0]

    def told(self) -> dict[str, str]:
        """What it is called, and what it is: for manifests and reports."""
        return {"name": self.name, "label": self.label, "sentence": self.sentence}

    def described(self) -> dict[str, Any]:
        """Its name and its options, for a record."""
        options: list[str] = [part.name for part in fields(self)] if is_dataclass(self) else []
        return {"name": self.name, **{option: getattr(self, option) for option in options}}


@contextmanager
def plugin_named(part: Component, kind: str) -> Iterator[None]:
    """Within this context, an error of a plug-in that is not deltaw's own is one sentence that names it and its module.

    A DeltawError stays as it is, but for a value that is no number, which is then not deltaw's fault: PluginError.
    """
    module = type(part).__module__
    try:
        yield
    except Exception as error:
        own = module.startswith("deltaw.")
        if own or (isinstance(error, DeltawError) and not isinstance(error, NotANumber)):
            raise
        if isinstance(error, NotANumber):
            said = f"wrote what is no number: {error.what}"
        else:
            said = f"raised {type(error).__name__}: {error}"
        raise PluginError(f"the {kind} {part.name} {said}; mend {module}") from error
