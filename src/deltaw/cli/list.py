"""`deltaw list`: the plug-ins there are, by kind, and where each comes from."""

import shutil
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import tyro

from deltaw.cli.console import say
from deltaw.errors import DeltawError

if TYPE_CHECKING:
    from deltaw.plugins import Plugin


@dataclass(frozen=True)
class List:
    """List the plug-ins, by kind: the name of each, what it is, its options with their defaults.

    Those of other packages are listed with the package's name. docs/plugins.md says how to write one.
    """

    kind: Annotated[str | None, tyro.conf.arg(metavar="KIND")] = None
    """List only this kind, such as protocol or judge."""

    def run(self) -> int:
        """Print them."""
        from deltaw.plugins import KINDS, broken, plugins

        if self.kind is not None and self.kind not in KINDS:
            raise DeltawError(f"there is no kind of plug-in {self.kind!r}; there are {', '.join(KINDS)}")
        columns = max(60, shutil.get_terminal_size((100, 24)).columns)
        blocks = []
        for kind in KINDS if self.kind is None else (self.kind,):
            listed = [plugin for plugin in plugins() if plugin.kind == kind]
            blocks.append("\n".join([f"{kind.replace('-', ' ')}s".capitalize(), *_lines(listed, columns)]))
        say("\n\n".join(blocks))
        if broken():
            raise DeltawError("; ".join(broken()))
        return 0

    def resume_hint(self) -> str:
        """There is nothing to continue."""
        return ""


def _lines(plugins: Sequence["Plugin"], columns: int) -> Iterator[str]:
    """Names in one column; beside them sentences, options and origins, wrapped."""
    width = max((len(plugin.name) for plugin in plugins), default=0) + 2
    for plugin in plugins:
        texts = [
            plugin.sentence,
            *([f"Options: {', '.join(plugin.options)}"] if plugin.options else []),
            *([] if plugin.origin == "deltaw" else [f"From {plugin.origin}"]),
        ]
        indent = " " * (2 + width)
        for place, text in enumerate(texts):
            head = f"  {plugin.name:{width}}" if place == 0 else indent
            yield textwrap.fill(text, columns, initial_indent=head, subsequent_indent=indent) or head
