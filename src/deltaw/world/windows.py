"""Windows of text, sampled by table look-ups.

A derivation is drawn from the top, all samples at once, down to symbols small enough (some thousand yields) to be
tabulated; then the window's start is drawn uniformly and its letters are read out of the tables. The law is that of
expanding the whole derivation and cutting a window from it. Of the tabulated symbols only those are drawn that the
window touches or whose length is not known: draws are numbered, so those left out change nothing.
"""

from dataclasses import dataclass
from functools import cached_property
from itertools import chain, islice

import numpy as np
from numpy.typing import NDArray

from deltaw.errors import DeltawError
from deltaw.world.grammar import Grammar, Tree
from deltaw.world.policy import Branch
from deltaw.world.randomness import Key

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

LARGEST_TABLE = 20_000  # yields of one symbol
TREE_DRAW = 16  # draws 16.. of a window's key belong to its derivation, one a round; 0..15 to who calls
CHUNK = 2048  # samples at a time, so that what is in work stays within the cache


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
    rounds: int  # of expansion, until only tabulated symbols are left
    edges: Floats  # (symbols, most alternatives - 1) symbol number + cumulative probability; inf beyond its own
    first_production: Ints  # (symbols,); a tabulated symbol has one production: itself
    first_child: Ints  # (productions + 1,)
    children: Ints
    yield_letters: NDArray[np.int8]  # all yields, letter after letter
    yield_starts: Ints  # (yields,) into yield_letters
    yield_lengths: Ints
    yield_edges: Floats
    first_yield: Ints  # (n_tabulated + 1,)
    fixed_length: Ints  # (n_tabulated,) of all yields of a symbol, -1 if they differ
    branch: NDArray[np.int8]  # (n_tabulated,)


@dataclass(frozen=True)
class _Blocks:
    """Tabulated symbols side by side, the derivations of N samples one after the other. All but `first`: (blocks,).

    first: (N + 1,) where each sample's blocks begin. start: a block's first position in its derivation. yields: -1
    where no window looks. offset: (N,) of the window.
    """

    first: Ints
    node: Ints
    start: Ints
    yields: Ints
    touched: Bools
    offset: Ints


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
        counter = index if attempt is None else index + (attempt << 40)
        windows = np.full(len(index), self.length) if lengths is None else lengths
        letters = np.empty((len(index), self.length), dtype=np.int64)
        branch = np.empty((len(index), self.length), dtype=np.int8)
        for start in range(0, len(index), CHUNK):
            rows = slice(start, start + CHUNK)
            self._read(self._derive(key, counter[rows], windows[rows]), letters[rows], branch[rows])
        if lengths is not None:
            beyond = np.arange(self.length) >= lengths[:, None]
            letters[beyond] = branch[beyond] = -1
        return Windows(letters, branch)

    def _read(self, blocks: _Blocks, letters: Ints, branch: NDArray[np.int8]) -> None:
        """Fill in the letters (N, length) of windows and their branch, block after touched block."""
        tables, n = self._tables, len(blocks.offset)
        touched = np.flatnonzero(blocks.touched)
        row = np.repeat(np.arange(n), np.diff(blocks.first))[touched]
        # where letter 0 of the derivation would lie in the yield table, if it went on from this block's yield
        origin = tables.yield_starts[blocks.yields[touched]] - blocks.start[touched]
        of_row = np.searchsorted(row, np.arange(n))
        place = np.arange(self.length, dtype=np.int32)
        pointer = (place + (origin[of_row] + blocks.offset)[:, None]).astype(np.int32)
        branch[:] = tables.branch[blocks.node[touched[of_row]]][:, None]
        rank = np.arange(len(touched)) - of_row[row]
        for later in range(1, int(rank.max(initial=0)) + 1):
            which = np.flatnonzero(rank == later)
            rows = row[which]
            inside = place >= (blocks.start[touched[which]] - blocks.offset[rows])[:, None]
            jump = (origin[which] - origin[which - 1])[:, None].astype(np.int32)
            pointer[rows] += inside * jump
            branch[rows] = np.where(inside, tables.branch[blocks.node[touched[which]]][:, None], branch[rows])
        letters[:] = tables.yield_letters.take(pointer, mode="clip")  # clipped: what lies beyond a short window's end

    def derivation(self, key: Key, index: int, attempt: int = 0, length: int | None = None) -> tuple[Tree, int]:
        """The part of a sample's derivation that its window touches, and how many of its letters come before it."""
        tables = self._tables
        rounds: list[tuple[Ints, Ints]] = []
        length = self.length if length is None else length
        blocks = self._derive(key, np.array([index + (attempt << 40)]), np.array([length]), rounds)
        trees: list[Tree | None] = [
            self.grammar.tree(tables.names[o], int(y - tables.first_yield[o])) if hit else None
            for o, y, hit in zip(blocks.node, blocks.yields, blocks.touched, strict=True)
        ]
        for nodes, productions in reversed(rounds):  # fold the children of each round into their parents
            children = iter(trees)
            folded: list[Tree | None] = []
            for node, production in zip(nodes, productions, strict=True):
                count = tables.first_child[production + 1] - tables.first_child[production]
                parts = tuple(child for child in islice(children, int(count)) if child is not None)
                wrapped = parts[:1] if node < tables.n_tabulated else (Tree(tables.names[node], parts),)
                folded.append(wrapped[0] if parts else None)
            trees = folded
        whole = trees[0]
        if whole is None:
            raise ValueError("a window without letters touches no derivation")
        return whole, int(blocks.offset[0] - blocks.start[np.argmax(blocks.touched)])

    def _derive(self, key: Key, counter: Ints, window: Ints, rounds: list[tuple[Ints, Ints]] | None = None) -> _Blocks:
        """The blocks of each sample (N,) down to what its window of `window` (N,) letters needs."""
        tables = self._tables
        n = len(counter)
        first = np.arange(n + 1)
        nodes = np.full(n, len(tables.names) - 1)
        owner, column = counter, np.zeros(n, dtype=np.int64)  # of each node: its sample's number, its place there
        for level in range(tables.rounds):
            x = nodes + key.uniform_at(owner, TREE_DRAW + level, column)
            production = tables.first_production[nodes]
            for edge in tables.edges.T:
                production += x >= edge[nodes]
            if rounds is not None:
                rounds.append((nodes, production))
            begin = tables.first_child[production]
            count = tables.first_child[production + 1] - begin
            ends = count.cumsum()
            nodes = tables.children[np.arange(ends[-1] if n else 0) + np.repeat(begin - ends + count, count)]
            first = np.concatenate([[0], ends])[first]
            counts = np.diff(first)
            owner = np.repeat(counter, counts)
            column = np.arange(len(nodes)) - np.repeat(first[:-1], counts)
        last = TREE_DRAW + tables.rounds

        def draw(chosen: Ints) -> Ints:
            u = key.uniform_at(owner[chosen], last, column[chosen] + 1)
            return np.searchsorted(tables.yield_edges, nodes[chosen] + u, side="right")

        yields = np.full(len(nodes), -1)
        lengths = tables.fixed_length[nodes]
        varying = np.flatnonzero(lengths < 0)
        yields[varying] = draw(varying)
        lengths[varying] = tables.yield_lengths[yields[varying]]
        ends = np.concatenate([[0], lengths.cumsum()])
        before = ends[first]
        u = key.uniform_at(counter, last, np.zeros(n, dtype=np.int64))
        offset = np.floor(u * (np.diff(before) - window + 1)).astype(np.int64)
        start = ends[:-1] - np.repeat(before[:-1], counts)
        relative = start - np.repeat(offset, counts)
        touched = (relative < np.repeat(window, counts)) & (relative + lengths > 0)
        missing = np.flatnonzero(touched & (yields < 0))
        yields[missing] = draw(missing)
        return _Blocks(first, nodes, start, yields, touched, offset)


def _compile(grammar: Grammar) -> _Tables:
    branching = grammar.above_branches  # a table has one branch
    small = [n for n in grammar.bottom_up if grammar.yield_counts[n] <= LARGEST_TABLE and n not in branching]
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
    depth = dict.fromkeys(tabulated, 0)
    children: list[list[int]] = [[number[name]] for name in tabulated]
    first_production = list(range(len(tabulated)))
    most = max(len(grammar.rules[name]) for name in large)
    edges = np.full((len(names), most - 1), np.inf)
    for name in large:  # bottom up
        productions = grammar.rules[name]
        right_sides = [[s for s in p.symbols if isinstance(s, str)] for p in productions]
        depth[name] = 1 + max(depth[s] for symbols in right_sides for s in symbols)
        first_production.append(len(children))
        children += [[number[s] for s in symbols] for symbols in right_sides]
        edge = float(number[name])
        for k, production in enumerate(productions[:-1]):
            edge += production.probability
            edges[number[name], k] = edge
    texts = {name: list(grammar.yields(name)) for name in tabulated}
    yield_edges = []
    for name, rows in texts.items():
        cumulative = np.cumsum([probability for _, probability in rows])
        cumulative[-1] = 1.0
        yield_edges.append(number[name] + cumulative)
    flat = [letters for rows in texts.values() for letters, _ in rows]
    lengths = np.array([len(letters) for letters in flat])
    known = [set(grammar.lengths[name]) for name in tabulated]
    branch = [Branch.UNSAFE if name in grammar.unsafe else Branch.SAFE for name in tabulated]
    return _Tables(
        names=names,
        n_tabulated=len(tabulated),
        rounds=depth[grammar.start],
        edges=edges,
        first_production=np.array(first_production),
        first_child=np.cumsum([0, *map(len, children)]),
        children=np.array([child for row in children for child in row]),
        yield_letters=np.fromiter(chain.from_iterable(flat), np.int8),
        yield_starts=lengths.cumsum() - lengths,
        yield_lengths=lengths,
        yield_edges=np.concatenate(yield_edges),
        first_yield=np.cumsum([0, *map(len, texts.values())]),
        fixed_length=np.array([min(sizes) if len(sizes) == 1 else -1 for sizes in known]),
        branch=np.array([int(b) for b in branch], dtype=np.int8),
    )
