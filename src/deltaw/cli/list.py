"""`deltaw list`: the plug-ins there are, by kind, and where each comes from."""

from dataclasses import dataclass

from deltaw.cli.console import say


@dataclass(frozen=True)
class List:
    """List the plug-ins: the name of each, what it is, its options, and where it comes from."""

    def run(self) -> int:
        """Print them."""
        from deltaw.plugins import plugins

        for plugin in plugins():
            say(f"{plugin.kind}  {plugin.name}  ({plugin.origin})\n    {plugin.sentence}")
            if plugin.options:
                say(f"    options: {', '.join(plugin.options)}")
        return 0

    def resume_hint(self) -> str:
        """There is nothing to continue."""
        return ""
