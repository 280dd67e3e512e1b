"""What does ΔW read and write?

Reads: the strongest input directions of ΔW, of the MLP's first matrix, as detectors of forbidden prompts, by the cosine
of the tuned model's activations with them (after Zhong and Raghunathan, 2025).

    detector_auroc      held out: signs, and the best direction, are fitted on the other half of the pairs. `set` names
                        the contrast and the detector: `vector=1`, `best` (of all), or `difference_in_means`, fitted on
                        the same half; with `attack`, forbidden prompts under it against the same allowed ones; of a
                        second contrast, all of it is read by what was fitted on the first

Writes: the strongest output directions of the second matrix through the unembedding, with the sign that forbidden
prompts give them.

    written_logit       the largest logit along the direction; `set` has the tokens with the largest ones
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from deltaw.analysis import pooled_root
from deltaw.analysis.detectors import Pairs, cosines, held_out
from deltaw.analysis.inputs import array, normals
from deltaw.analysis.peak import Halves
from deltaw.analysis.safety_subspaces import Modes, modes
from deltaw.errors import DeltawError
from deltaw.observations.lens import Lens, Places
from deltaw.observations.observation import Observation, Statistic
from deltaw.observations.prompts import Clusters
from deltaw.results.recorder import Sheet
from deltaw.statistics import FloatArray, Null, from_draws

SITE = "mlp_in"
RANDOM_TOKENS = 40
"""Random directions behind the null of a logit."""
MOST_DRAWS = 50
"""Of the null of a detector, each of as many random directions as it was chosen from."""
Rows = tuple[FloatArray, FloatArray]
"""(allowed, forbidden) activations (N, n)."""


@dataclass(frozen=True)
class UpdateDirections(Observation):
    """What does ΔW read and write: do its directions detect forbidden prompts, and which tokens do they promote?"""

    name = "update-directions"
    label = "directions of the update"
    every_checkpoint = False
    statistics = (
        Statistic("detector_auroc", "auroc", "How well a direction tells forbidden prompts from allowed ones."),
        Statistic("written_logit", "logit", "The largest logit along an output direction of unit length."),
    )
    figures = "deltaw.observations.update_directions.figures:update_directions"

    directions: int = 8
    """Of ΔW, the strongest."""
    tokens: int = 5
    """Named for each output direction."""

    def measure(self, lens: Lens, sheet: Sheet) -> None:
        """Detectors and tokens, by layer."""
        for layer in lens.layers:
            old, new = lens.mlps(layer)
            read = lens.present(modes(new.w_in - old.w_in), f"detector_auroc, layer {layer}")
            if read is not None and lens.primary:
                self._detect(lens, layer, read, sheet.with_(layer=layer, site=SITE))
            written = lens.present(modes(new.w_out - old.w_out), f"written_logit, layer {layer}")
            if written is not None and lens.primary:
                module = f"blocks.{layer}.mlp.out_proj"
                self._spell(lens, layer, written, sheet.with_(layer=layer, module=module, role=None))

    def _detect(self, lens: Lens, layer: int, read: Modes, sheet: Sheet) -> None:
        """Lines of the primary contrast, of the others, and of the attacks."""
        k = min(self.directions, read.right.shape[1])
        fitting = _Fitting(lens, layer, array(read.right[:, :k]))
        module = f"blocks.{layer}.mlp.in_proj"
        view = sheet.with_(module=module, unit="auroc", n_unit="pair")
        plain = fitting.rows
        fitting.write(view, lens.primary, plain, fitting.halves, lens.clusters(lens.primary), whole=True)
        for name in lens.names:
            if name != lens.primary:
                fitting.write(view, name, _rows(lens.after(name), layer), None, lens.clusters(name))
        for attack_prompts in lens.before.attacked:
            if attack_prompts.contrast == lens.primary:
                places = lens.activations((attack_prompts.contrast, attack_prompts.attack), attack_prompts.prompts)
                forbidden = array(places[(layer, SITE)].double())
                count, clusters = len(forbidden), lens.clusters(lens.primary)
                ids = None if clusters is None else clusters[:count]
                attacked = (plain[0][:count], forbidden)
                under_attack = view.with_(attack=attack_prompts.attack)
                fitting.write(under_attack, lens.primary, attacked, fitting.halves[:count], ids)

    def _spell(self, lens: Lens, layer: int, written: Modes, sheet: Sheet) -> None:
        k = min(self.directions, written.left.shape[1])
        forbidden = lens.after(lens.primary)[1][(layer, "mlp_post")].double()
        signs = torch.where((forbidden @ written.right[:, :k]).mean(0) >= 0, 1.0, -1.0)
        noise = normals(
            lens.generator("update-directions, tokens", layer), len(written.left), RANDOM_TOKENS, like=signs
        )
        try:
            largest = lens.tuned.top_tokens(noise / noise.norm(dim=0), 1)
            lists = lens.tuned.top_tokens(written.left[:, :k] * signs, self.tokens)
        except DeltawError as error:
            lens.absent["written_logit"] = str(error)
            return
        null = from_draws("random_direction", [column[0][1] for column in largest])
        for number, column in enumerate(lists, start=1):
            words = " ".join(_shown(token) for token, _ in column)
            sheet.add("written_logit", column[0][1], nulls=[null], unit="logit", set=f"vector={number}: {words}")


class _Fitting:
    """The detectors of a layer, fitted on the primary contrast."""

    def __init__(self, lens: Lens, layer: int, vectors: FloatArray) -> None:
        self.lens, self.layer, self.vectors = lens, layer, vectors
        self.rows, self.halves = _rows(lens.after(lens.primary), layer), lens.halves(lens.primary)
        draws, (n, k) = min(lens.draws, MOST_DRAWS), vectors.shape
        pools: tuple[Tensor, Tensor] = (torch.from_numpy(self.rows[1]), torch.from_numpy(self.rows[0]))
        root = array(pooled_root(pools, centred=True))
        uniform, matched = (
            lens.generator(f"update-directions, {kind}", layer).standard_normal((side, draws * k))
            for kind, side in (("uniform", n), ("matched", root.shape[1]))
        )
        self.random = {"random_direction": uniform, "m_matched_centred": root @ matched}

    def write(
        self, sheet: Sheet, name: str, rows: Rows, halves: Halves | None, clusters: Clusters, whole: bool = False
    ) -> None:
        """Lines of the best direction and the difference in means on these rows. whole: of every direction too."""
        if halves is not None and not (halves.any() and not halves.all()):
            self.lens.absent[f"detector_auroc, {name}"] = "too few prompts to fit on one half and read on the other"
            return
        view, k = sheet.with_(n=len(rows[0])), self.vectors.shape[1]
        singles = [(1, [f"vector={number + 1}" for number in range(k)])] if whole else []
        for group, names in ((k, ["best"]), *singles):
            nulls = self._nulls(rows, halves, group)
            read = held_out(*self._scored(self.vectors, rows), self.halves, group, halves)
            for number, detector in enumerate(names):
                interval = read.interval(number, self._generator(detector), clusters, self.lens.bootstrap)
                auroc = float(read.auroc[number])
                view.add("detector_auroc", auroc, interval, nulls, set=f"{name}/{detector}")
        fitted, scores = self._by_means(rows, halves)
        read = held_out(fitted, scores, self.halves, 1, halves)
        interval = read.interval(0, self._generator("means"), clusters, self.lens.bootstrap)
        view.add("detector_auroc", float(read.auroc[0]), interval, set=f"{name}/difference_in_means")

    def _generator(self, detector: str) -> np.random.Generator:
        return self.lens.generator(f"update-directions, {detector}", self.layer)

    def _scored(self, directions: FloatArray, rows: Rows) -> tuple[Pairs, Pairs]:
        (a, f), (allowed, forbidden) = self.rows, rows
        return (
            Pairs(cosines(f, directions), cosines(a, directions)),
            Pairs(cosines(forbidden, directions), cosines(allowed, directions)),
        )

    def _nulls(self, rows: Rows, halves: Halves | None, group: int) -> list[Null]:
        count = min(self.lens.draws, MOST_DRAWS) * group
        return [
            from_draws(kind, held_out(*self._scored(vectors[:, :count], rows), self.halves, group, halves).auroc)
            for kind, vectors in self.random.items()
        ]

    def _by_means(self, rows: Rows, halves: Halves | None) -> tuple[Pairs, Pairs]:
        """Scores of the differences in means: what the first half fits is read on the second, and in turn; on rows that
        belong to no pair, what all pairs fit.
        """
        allowed, forbidden = self.rows
        parts = (self.halves, ~self.halves, np.ones(len(self.halves), dtype=np.bool_))
        fitted, read = self._scored(
            np.stack([forbidden[half].mean(0) - allowed[half].mean(0) for half in parts], 1), rows
        )
        column: NDArray[np.int64] = np.full(len(rows[0]), 2, np.int64) if halves is None else halves.astype(np.int64)
        own = (~self.halves).astype(np.int64)  # the difference of a row's own half fits it
        return _columns(fitted, own), _columns(read, column)


def _columns(pairs: Pairs, chosen: NDArray[np.int64]) -> Pairs:
    """One column: in each row, the chosen one."""
    rows = np.arange(len(chosen))
    return Pairs(pairs.forbidden[rows, chosen][:, None], pairs.allowed[rows, chosen][:, None])


def _rows(places: tuple[Places, Places], layer: int) -> Rows:
    allowed, forbidden = (array(by_place[(layer, SITE)].double()) for by_place in places)
    return allowed, forbidden


def _shown(token: str) -> str:
    """A token on one line, at most 20 characters."""
    bare = token.strip()
    return (bare if bare.isprintable() else bare.encode("unicode_escape").decode("ascii"))[:20] or "␣"
