"""What every plug-in is: a frozen dataclass with a name, a label, a docstring and options as its fields."""

from abc import ABC
from dataclasses import fields, is_dataclass
from typing import Any, ClassVar


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

    def described(self) -> dict[str, Any]:
        """Its name and its options, for a record."""
        options: list[str] = [part.name for part in fields(self)] if is_dataclass(self) else []
        return {"name": self.name, **{option: getattr(self, option) for option in options}}
