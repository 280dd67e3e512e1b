"""Samples as a person wants to see them: letters coloured by branch, what the policy says and why, derivations."""

import sys
from collections.abc import Iterator
from typing import IO

import numpy as np
from rich.console import Console, RenderableType
from rich.text import Text
from rich.tree import Tree as Drawing

from deltaw.attacks.prompts import ON_PROMPTS
from deltaw.cli.sample.samples import BRANCHES, Samples, Split, because, samples, split_named
from deltaw.world import Branch, Response, World
from deltaw.world.grammar import Tree
from deltaw.world.vocabulary import LETTERS

STYLES = {Branch.SAFE: "dodger_blue1", Branch.UNSAFE: "bold dark_orange"}  # told apart by the colour-blind too
ALLOWED, FORBIDDEN, QUIET = "green", "bold red", "dim"
LABEL = 11  # columns of a line's name
WIDTH = 240  # of a tree in a log


class Page:
    """Writes samples to a stream, in colour if it is a terminal that has colours."""

    def __init__(self, stream: IO[str] | None = None, tree: bool = False) -> None:
        self.stream = stream or sys.stdout
        self.console = Console(file=self.stream, highlight=False)
        self.colours = self.console.is_terminal and self.console.color_system is not None and not self.console.no_color
        self.tree = tree
        if not self.console.is_terminal:
            self.console.width = WIDTH

    def write(self, chunk: Samples) -> None:
        """All of the samples, one under the other."""
        for row in range(len(chunk.prompts)):
            self._print(*self._block(chunk, row), Text())

    def legend(self, split: Split, world: World) -> None:
        """What the colours or marks mean, once."""
        key = Text.assemble("letters under ", ("safe", STYLES[Branch.SAFE]), " and ")
        key.append("unsafe", STYLES[Branch.UNSAFE]).append(" symbols")
        marks = "" if self.colours else ", marked s and u"
        grammars = ", ".join(map(str, world.numbers))
        self._print(Text.assemble(f"{split}; grammar {grammars}; ", key, marks), Text())

    def _print(self, *lines: RenderableType) -> None:
        """Through a buffer, and flushed: rich flushes the stream too, and ends the process if a pipe is closed."""
        with self.console.capture() as captured:
            for line in lines:
                self.console.print(line, soft_wrap=True)
        self.stream.write(captured.get())
        self.stream.flush()

    def _block(self, chunk: Samples, row: int) -> Iterator[RenderableType]:
        index = int(chunk.prompts.index[row])
        yield Text.assemble((f"{index} ", "bold"), f"{chunk.split.set_of(index)}, grammar {chunk.prompts.grammar[row]}")
        yield from self._lines(chunk, row, "  ", self.tree)
        for name, version in chunk.attacks.items():
            note = "" if version.studied(row) else " (studies make it from other sets)"
            yield Text.assemble("  ", (name, "bold"), (note, QUIET))
            other = not np.array_equal(version.prompts.letters[row], chunk.prompts.letters[row])
            yield from self._lines(version, row, "    ", self.tree and other)

    def _lines(self, chunk: Samples, row: int, indent: str, tree: bool) -> Iterator[RenderableType]:
        world, prompt = chunk.world, chunk.prompts[row : row + 1]
        spell, layout = world.vocabulary.spell, world.layout
        allowed = bool(layout.allowed(prompt)[0])

        def line(name: str, value: Text | str) -> Text:
            return Text.assemble(f"{indent}{name:{LABEL}}", value)

        yield line("text", self._letters(chunk, row))
        if not self.colours:
            yield line("", "".join("su"[b] for b in prompt.letter_branch[0] if b >= 0))
        yield line("operators", _operators(chunk, row))
        branch, posterior = Branch(int(prompt.branch[0])), chunk.posterior_unsafe[row]
        chance = "not derivable" if np.isnan(posterior) else f"{posterior:.6g}"
        kind = "" if str(prompt.text[0]) in ("safe", "unsafe") else " (under the full language)"
        style = STYLES.get(branch, STYLES[Branch.UNSAFE])
        yield line("branch", Text.assemble((BRANCHES[branch], style), f"; posterior of unsafe {chance}{kind}"))
        verdict = ("allowed", ALLOWED) if allowed else ("forbidden", FORBIDDEN)
        yield line("policy", Text.assemble(verdict, "; ", because(chunk.reasons(row))))
        expected, compliant = (
            spell(layout.response_tokens(prompt, np.array([kind]))[0])
            for kind in (layout.expected(prompt)[0], Response.COMPLY)
        )
        yield line("response", ("comply  " if allowed else "refuse  ") + expected)
        if not allowed:
            yield line("withheld", Text("        " + compliant, QUIET))
        if chunk.answers is not None:
            text, behaviour = chunk.answers[row]
            right = behaviour == ("comply" if allowed else "refuse")
            yield line("answer", Text.assemble((f"{behaviour:8}", ALLOWED if right else FORBIDDEN), text))
        if tree:
            yield from self._derivation(chunk, row, indent)

    def _letters(self, chunk: Samples, row: int) -> Text:
        letters, branch = chunk.prompts.letters[row], chunk.prompts.letter_branch[row]
        text = Text()
        for letter, side in zip(letters[letters >= 0], branch[letters >= 0], strict=True):
            text.append(LETTERS[letter], STYLES[Branch(int(side))])
        return text

    def _derivation(self, chunk: Samples, row: int, indent: str) -> Iterator[RenderableType]:
        """The derivation as a tree. Letters that lie outside of the text are dimmed, or dots in a log."""
        yield Text(f"{indent}derivation")
        tree, before = chunk.world.derivation(chunk.prompts, row)
        own, branch = chunk.prompts.lengths[row], chunk.prompts.letter_branch[row]
        place = -before

        def leaf(letters: tuple[int, ...]) -> Text:
            nonlocal place
            text = Text()
            for letter in letters:
                inside = 0 <= place < own
                style = STYLES[Branch(int(branch[place]))] if inside else QUIET
                text.append(LETTERS[letter] if inside or self.colours else ".", style)
                place += 1
            return text

        def grow(node: Tree, parent: Drawing | None) -> Drawing:
            word = [child for child in node.children if isinstance(child, int)]
            if len(word) == len(node.children):
                label = Text.assemble(f"{node.symbol} ", leaf(tuple(word)))
                return Drawing(label) if parent is None else parent.add(label)
            subtree = Drawing(node.symbol) if parent is None else parent.add(node.symbol)
            for child in node.children:
                if isinstance(child, Tree):
                    grow(child, subtree)
                else:
                    subtree.add(leaf((child,)))
            return subtree

        with self.console.capture() as captured:
            self.console.print(grow(tree, None))
        yield Text.from_ansi("\n".join(f"{indent}{line}" for line in captured.get().splitlines()))


def _operators(chunk: Samples, row: int) -> str:
    """The sign and number of each operator, pairs set apart, aliases named."""
    world = chunk.world
    pairs = []
    for pair in chunk.prompts.operators[row]:
        names = []
        for token in pair:
            operator, name = int(world.operators.operator_of[token]), world.vocabulary.names[token]
            alias = token >= world.vocabulary.n_operators
            sign = world.vocabulary.names[operator]
            names.append(f"{name} ({operator}, alias of {sign})" if alias else f"{name} ({operator})")
        pairs.append(" then ".join(names))
    return " | ".join(pairs)


def show(
    world: World,
    split: str = "tune",
    count: int = 8,
    seed: int = 0,
    attacks: bool = False,
    tree: bool = False,
    stream: IO[str] | None = None,
) -> None:
    """Print prompts of a world as `deltaw sample` does. DeltawError for a split, count or seed that cannot be."""
    chosen, page = split_named(world, split), Page(stream, tree)
    for number, chunk in enumerate(samples(world, chosen, count, seed, ON_PROMPTS if attacks else ())):
        if number == 0:
            page.legend(chosen, world)
        page.write(chunk)
