"""Windows of text, sampled by table look-ups.

A derivation is drawn from the top, all samples at once, down to symbols small enough (some thousand yields) to be
tabulated; then the window's start is drawn uniformly and its letters are read out of the tables. The law is that of
expanding the whole derivation and cutting a window from it.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from deltaw.errors import DeltawError
from deltaw.world.grammar import Grammar
from deltaw.world.policy import Branch
from deltaw.world.randomness import Key

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

LARGEST_TABLE = 20_000  # yields of one symbol
TREE_DRAW = 16  # draws 16.. of a window's key belong to its derivation, one a round; 0..15 to who calls


@dataclass(frozen=True)
class Windows:
    """Windows of text. letters: (N, L) int64; branch: (N, L) int8, the `Branch` (SAFE or UNSAFE) of each letter.

    Where windows differ in length, both are -1 beyond a window's end.
    """

    letters: Ints
    branch: NDArray[np.int8]

    @property
    def unsafe_letters(self) -> Ints:
        """(N,) how many letters of each window lie under an unsafe-dominant symbol."""
        return np.asarray((self.branch == Branch.UNSAFE).sum(1))


@dataclass(frozen=True)
class _Tables:
    """The compiled grammar. Symbols are rows of `names`; the first `n_tabulated` are read from yield tables."""

    names: tuple[str, ...]
    n_tabulated: int
    children: Ints  # (productions, arity), -1 beyond a production's end
    production_edges: Floats  # symbol number + cumulative probability, ascending over all symbols
    yield_letters: Ints  # (yields, longest), -1 beyond a yield's end
    yield_lengths: Ints
    yield_edges: Floats
    first_yield: Ints  # (n_tabulated + 1,)
    branch: NDArray[np.int8]  # (n_tabulated,)


class WindowSampler:
    """Samples windows of at most `length` letters from one grammar. DeltawError if a derivation can be shorter."""

    def __init__(self, grammar: Grammar, length: int) -> None:
        shortest = min(grammar.lengths[grammar.start])
        if shortest < length:
            raise DeltawError(
                f"the grammar can derive {shortest} letters, fewer than a window of {length}; shorten the window"
            )
        self.grammar = grammar
        self.length = length

    @cached_property
    def _tables(self) -> _Tables:
        return _compile(self.grammar)

    def sample(self, key: Key, index: Ints, attempt: Ints | None = None, lengths: Ints | None = None) -> Windows:
        """The windows of samples `index` (N,). `attempt` (N,) numbers the redraws of a sample; 0 is the first.

        lengths: (N,) letters of each window, at most `length`; None: all of them have `length`.
        """
        yields, starts, offset = self._derive(key, index, attempt, lengths)
        tables = self._tables
        place = np.arange(self.length)
        inside = place if lengths is None else np.minimum(place, lengths[:, None] - 1)
        position = offset[:, None] + inside
        node = (starts[:, None, :] <= position[:, :, None]).sum(2) - 1  # the block that holds each position
        chosen = np.take_along_axis(yields, node, 1)
        letters = tables.yield_letters[chosen, position - np.take_along_axis(starts, node, 1)]
        owner = np.searchsorted(tables.first_yield, chosen, side="right") - 1
        branch = tables.branch[owner]
        if lengths is not None:
            beyond = place >= lengths[:, None]
            letters, branch = np.where(beyond, -1, letters), np.where(beyond, np.int8(-1), branch)
        return Windows(letters, branch)

    def derivation(self, key: Key, index: int, attempt: int = 0, length: int | None = None) -> str:
        """The part of a sample's derivation that its window touches, as a line: `10#(n'(...) x'(...))`."""
        tables = self._tables
        rounds: list[tuple[Ints, Ints]] = []
        length = self.length if length is None else length
        yields, starts, offset = self._derive(key, np.array([index]), np.array([attempt]), np.array([length]), rounds)
        ends = np.append(starts[0, 1:], np.iinfo(np.int64).max)
        touched = (ends > offset[0]) & (starts[0] < offset[0] + length) & (yields[0] >= 0)
        owner = np.searchsorted(tables.first_yield, yields[0], side="right") - 1
        lines = [
            self.grammar.tree(tables.names[o], int(y - tables.first_yield[o])) if hit else ""
            for o, y, hit in zip(owner, yields[0], touched, strict=True)
        ]
        for nodes, productions in reversed(rounds):  # fold the children of each round into their parents
            children = iter(lines)
            folded = []
            for node, production in zip(nodes[0], productions[0], strict=True):
                if node < 0:
                    continue
                if node < tables.n_tabulated:
                    folded.append(next(children))
                    continue
                parts = [next(children) for _ in range(int((tables.children[production] >= 0).sum()))]
                inside = " ".join(filter(None, parts))
                folded.append(f"{tables.names[node]}({inside})" if inside else "")
            lines = folded
        return lines[0]

    def _derive(
        self,
        key: Key,
        index: Ints,
        attempt: Ints | None,
        window: Ints | None,
        rounds: list[tuple[Ints, Ints]] | None = None,
    ) -> tuple[Ints, Ints, Ints]:
        """Rows of yields and their first positions, (N, blocks), and the window's offset (N,)."""
        tables = self._tables
        counter = index if attempt is None else index + (attempt << 40)
        nodes = np.full((len(index), 1), len(tables.names) - 1, dtype=np.int64)
        draw = TREE_DRAW
        while (nodes >= tables.n_tabulated).any():
            u = key.uniform(counter, draw, nodes.shape[1])
            production = np.searchsorted(tables.production_edges, np.maximum(nodes, 0) + u, side="right")
            if rounds is not None:
                rounds.append((nodes, production))
            children = tables.children[np.minimum(production, len(tables.children) - 1)]
            keep = np.full_like(children, -1)
            keep[:, :, 0] = nodes
            nodes = _compact(
                np.where((nodes >= tables.n_tabulated)[:, :, None], children, keep).reshape(len(index), -1)
            )
            draw += 1
        u = key.uniform(counter, draw, nodes.shape[1] + 1)
        yields = np.searchsorted(tables.yield_edges, np.maximum(nodes, 0) + u[:, 1:], side="right")
        lengths = np.where(nodes >= 0, tables.yield_lengths[np.minimum(yields, len(tables.yield_lengths) - 1)], 0)
        total = lengths.sum(1)
        starts = np.where(nodes >= 0, lengths.cumsum(1) - lengths, np.iinfo(np.int64).max)
        offset = np.floor(u[:, 0] * (total - (self.length if window is None else window) + 1)).astype(np.int64)
        return np.where(nodes >= 0, yields, -1), starts, offset


def _compact(nodes: Ints) -> Ints:
    """Move the nodes of each row to its left, in order, and drop columns that no row uses."""
    order = np.argsort(nodes < 0, axis=1, kind="stable")
    width = int((nodes >= 0).sum(1).max())
    return np.take_along_axis(nodes, order, 1)[:, :width]


def _compile(grammar: Grammar) -> _Tables:
    small = [name for name in grammar.bottom_up if grammar.yield_counts[name] <= LARGEST_TABLE]
    large = [name for name in grammar.bottom_up if name not in small]
    if not large:  # keep the start symbol out of the tables, so that there is a tree to draw
        small, large = [name for name in small if name != grammar.start], [grammar.start]
    used = {s for name in large for p in grammar.rules[name] for s in p.symbols}
    if any(isinstance(symbol, int) for symbol in used):
        raise DeltawError(
            "a rule with many derivations mixes letters into its right-hand side; move them into rules of their own"
        )
    tabulated = [name for name in small if name in used]
    names = (*tabulated, *large)
    number = {name: k for k, name in enumerate(names)}
    arity = max(len(p.symbols) for name in large for p in grammar.rules[name])
    children, production_edges = [], []
    for name in names:
        productions = grammar.rules[name] if name in large else ()
        edge = float(number[name])
        for production in productions:
            row = [number[s] for s in production.symbols if isinstance(s, str)]
            children.append(row + [-1] * (arity - len(row)))
            edge += production.probability
            production_edges.append(edge)
        if productions:
            production_edges[-1] = number[name] + 1.0
    texts = {name: list(grammar.yields(name)) for name in tabulated}
    longest = max(len(letters) for rows in texts.values() for letters, _ in rows)
    flat = [letters + (-1,) * (longest - len(letters)) for rows in texts.values() for letters, _ in rows]
    edges = []
    for name, rows in texts.items():
        cumulative = np.cumsum([probability for _, probability in rows])
        cumulative[-1] = 1.0
        edges.append(number[name] + cumulative)
    branch = [Branch.UNSAFE if name in grammar.unsafe else Branch.SAFE for name in tabulated]
    return _Tables(
        names=names,
        n_tabulated=len(tabulated),
        children=np.array(children, dtype=np.int64),
        production_edges=np.array(production_edges),
        yield_letters=np.array(flat, dtype=np.int64),
        yield_lengths=np.array([len(letters) for rows in texts.values() for letters, _ in rows], dtype=np.int64),
        yield_edges=np.concatenate(edges),
        first_yield=np.cumsum([0, *(len(rows) for rows in texts.values())]),
        branch=np.array([int(b) for b in branch], dtype=np.int8),
    )
