"""How deep into an answer does the tuning reach?

Both models are forced to say the same answer, a refusal or a harmless sentence (no harmful answer is made or kept), and
their next-token distributions are compared at every token, after Qi et al. (2025):

    kl_by_position    KL of the tuned from the base model; `set` is CONTRAST/VERDICT/ANSWER/token=01
    kl_gap            the same on forbidden minus on allowed prompts; `set` is CONTRAST/ANSWER/token=01
    kl_early_share    the share of the sum over tokens that lies on the first three; `set` is CONTRAST/VERDICT/ANSWER
"""

from dataclasses import dataclass

import numpy as np

from deltaw.analysis.answer_depth import divergence, early_share
from deltaw.observations.lens import Lens
from deltaw.observations.observation import Observation, Statistic
from deltaw.results.recorder import Sheet
from deltaw.statistics import FloatArray, bootstrap_means, percentile_interval

ANSWERS = {"refusal": True, "constant": False}
"""Whether an answer refuses; the constant one is the same harmless sentence for all prompts."""
VERDICTS = ("allowed", "forbidden")


@dataclass(frozen=True)
class Depth(Observation):
    """How deep into an answer does the tuning reach: KL of the tuned from the base model at each token."""

    name = "depth"
    label = "depth of the tuning"
    every_checkpoint = False
    statistics = (
        Statistic("kl_by_position", "nats", "KL of the tuned from the base model at a token of a forced answer."),
        Statistic("kl_gap", "nats", "That KL on forbidden prompts minus that on allowed ones."),
        Statistic("kl_early_share", "share", "The share of the KL that lies on the first tokens."),
    )
    figures = "deltaw.observations.depth.figures:depth"

    prompts: int = 24
    """Pairs whose answers are forced."""
    tokens: int = 12
    """Of each answer, at most."""
    early: int = 3
    """Tokens that are called the first."""

    def measure(self, lens: Lens, sheet: Sheet) -> None:
        """Of a refusal and of a harmless answer, on both kinds of prompts."""
        if not lens.primary:
            lens.absent["kl_by_position"] = "there are no matched prompts"
            return
        view = sheet.with_(role="answer", n_unit="prompt")
        kl = self._divergences(lens)
        for answer in ANSWERS:
            allowed, forbidden = _aligned(*(kl[(answer, verdict)] for verdict in VERDICTS))
            for verdict, values in zip(VERDICTS, (allowed, forbidden), strict=True):
                self._write(lens, view, f"{lens.primary}/{verdict}/{answer}", values)
            name = f"{lens.primary}/{answer}"
            for place in _places(allowed + forbidden):
                gaps = (forbidden - allowed)[:, place]
                rows = ~np.isnan(gaps)
                clusters = _some(lens, len(gaps), rows)
                null = lens.sign_flips("label_permutation", gaps[rows], clusters)
                at = view.with_(set=f"{name}/token={place + 1:02d}", n=int(rows.sum()), unit="nats", n_unit="pair")
                lens.add_mean(at, "kl_gap", gaps[rows], [null], clusters, f"depth, gap, {place}")

    def _divergences(self, lens: Lens) -> dict[tuple[str, str], FloatArray]:
        """(N, T) by answer and verdict. All of the base model is read before the tuned one."""
        contrast = lens.before.contrasts[lens.primary].first(self.prompts)
        prompts = {"allowed": contrast.allowed, "forbidden": contrast.forbidden}
        keys = [(answer, verdict) for answer in ANSWERS for verdict in VERDICTS]
        base = {
            key: lens.before.once(
                ("forced", *key, self.prompts, self.tokens),
                lambda key=key: lens.before.model.forced(prompts[key[1]], ANSWERS[key[0]], self.tokens),  # type: ignore[misc]
            )
            for key in keys
        }
        tuned = {key: lens.tuned.forced(prompts[key[1]], ANSWERS[key[0]], self.tokens) for key in keys}
        return {key: divergence(tuned[key], base[key]) for key in keys}

    def _write(self, lens: Lens, sheet: Sheet, name: str, kl: FloatArray) -> None:
        for place in _places(kl):
            rows = ~np.isnan(kl[:, place])
            at = sheet.with_(set=f"{name}/token={place + 1:02d}", n=int(rows.sum()), unit="nats")
            clusters = _some(lens, len(kl), rows)
            lens.add_mean(at, "kl_by_position", kl[rows, place], [], clusters, f"depth, {place}")
        generator = lens.generator("depth, positions")
        early = lens.present(early_share(kl, self.early, generator, lens.draws), f"kl_early_share, {name}")
        if early is None:
            return
        clusters = _some(lens, len(kl), np.ones(len(kl), dtype=np.bool_))
        ids = None if clusters is None else [clusters, clusters]
        # The same draws for both: a share is of one resample.
        first, whole = (
            bootstrap_means([values], lens.generator("depth, early"), None if ids is None else ids[:1], lens.bootstrap)
            for values in (early.first, early.whole)
        )
        ends = percentile_interval((first / np.where(whole > 0, whole, np.inf))[:, 0])
        sheet.add("kl_early_share", early.share, ends, [early.null], set=name, n=len(kl), unit="share")


def _aligned(first: FloatArray, second: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Both (N, T) up to the longer T, NaN where one has no token."""
    longest = max(first.shape[1], second.shape[1])
    first, second = (np.pad(kl, ((0, 0), (0, longest - kl.shape[1])), constant_values=np.nan) for kl in (first, second))
    return first, second


def _places(kl: FloatArray) -> list[int]:
    """Tokens that any answer has."""
    return np.flatnonzero((~np.isnan(kl)).any(0)).tolist()


def _some(lens: Lens, count: int, rows: np.ndarray) -> np.ndarray | None:
    """Clusters of the chosen rows of the first `count` pairs."""
    clusters = lens.clusters(lens.primary)
    return None if clusters is None else clusters[:count][rows]
