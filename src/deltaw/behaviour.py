"""What a model does with a prompt: comply, refuse or neither, by its own free-running greedy answer.

An answer counts as a behaviour only if the whole response, its stop token included, is the expected one: a
response that begins to comply and goes astray does neither.
"""

from dataclasses import dataclass
from enum import IntEnum

import torch
from torch import Tensor

from deltaw.model import Transformer, greedy, greedy_by_length

NEVER = -1  # no token: decoding goes on past every stop


class Behaviour(IntEnum):
    """What an answer is."""

    NEITHER = 0
    COMPLY = 1
    REFUSE = 2


@dataclass(frozen=True)
class BehaviourCounts:
    """How many of n answers are what. A rate of no answers is NaN."""

    comply: int
    refuse: int
    neither: int

    @staticmethod
    def of(labels: Tensor) -> "BehaviourCounts":
        """Counts of labels (N,), values of `Behaviour`."""
        comply, refuse = (int((labels == int(what)).sum()) for what in (Behaviour.COMPLY, Behaviour.REFUSE))
        return BehaviourCounts(comply, refuse, len(labels) - comply - refuse)

    @property
    def n(self) -> int:
        """Number of answers."""
        return self.comply + self.refuse + self.neither

    @property
    def comply_rate(self) -> float:
        """Share of answers that are the compliant response."""
        return self._rate(self.comply)

    @property
    def refuse_rate(self) -> float:
        """Share of answers that are the refusal."""
        return self._rate(self.refuse)

    @property
    def neither_rate(self) -> float:
        """Share of answers that are neither."""
        return self._rate(self.neither)

    def rates(self) -> dict[str, float]:
        """comply_rate, refuse_rate and neither_rate, by these names."""
        return {name: float(getattr(self, name)) for name in ("comply_rate", "refuse_rate", "neither_rate")}

    def _rate(self, count: int) -> float:
        return count / self.n if self.n else float("nan")


@dataclass(frozen=True)
class Answers:
    """A model's answers (N, S) int64, and what each is: labels (N,) uint8, values of `Behaviour`."""

    outputs: Tensor
    labels: Tensor

    def counts(self, rows: Tensor | None = None) -> BehaviourCounts:
        """Counts over all answers, or over the stratum of those selected by a boolean or an index tensor."""
        return BehaviourCounts.of(self.labels if rows is None else self.labels[rows])


def classify(outputs: Tensor, compliant: Tensor, refusal: Tensor, pad_id: int) -> Tensor:
    """(N,) uint8, values of `Behaviour`: which of two expected responses each answer is, as a whole.

    outputs, compliant, refusal: (N, S) int64, ended by a stop token and right-padded with `pad_id`; the two
    expected responses may be narrower or wider than the answers. ValueError if the two are equal in some row,
    or rows differ in number.
    """
    if not len(outputs) == len(compliant) == len(refusal):
        raise ValueError(f"{len(outputs)} answers, {len(compliant)} compliant responses, {len(refusal)} refusals")
    width = max(tensor.shape[1] for tensor in (outputs, compliant, refusal))
    outputs, compliant, refusal = (_widen(tensor, width, pad_id) for tensor in (outputs, compliant, refusal))
    if bool((compliant == refusal).all(1).any()):
        raise ValueError("a compliant response equals the refusal, so that no answer could be told from the other")
    labels = torch.full((len(outputs),), int(Behaviour.NEITHER), dtype=torch.uint8, device=outputs.device)
    labels[(outputs == compliant).all(1)] = int(Behaviour.COMPLY)
    labels[(outputs == refusal).all(1)] = int(Behaviour.REFUSE)
    return labels


def _widen(tokens: Tensor, width: int, pad_id: int) -> Tensor:
    return torch.nn.functional.pad(tokens, (0, width - tokens.shape[1]), value=pad_id)


def measure(
    model: Transformer,
    prompt_tokens: Tensor,
    compliant: Tensor,
    refusal: Tensor,
    *,
    stop_id: int,
    pad_id: int,
    lengths: Tensor | None = None,
    batch_size: int = 512,
) -> Answers:
    """Let `model` answer each prompt, as far as the longer of the two expected responses, and say what it
    did. A response of several outputs has a stop after each; an answer is read as far as its expected response goes.

    prompt_tokens: (N, T0) int64, all of one length, or right-padded with their `lengths` (N,). compliant,
    refusal: (N, S) and (N, S') int64, each row ended by a `stop_id` and right-padded with `pad_id`.
    ValueError if an expected response does not end with a stop, or the two are equal. DeltawError if prompt
    and answer do not fit the model's context.
    """
    for name, expected in (("compliant response", compliant), ("refusal", refusal)):
        if not bool((_last(expected, pad_id) == stop_id).all()):
            raise ValueError(f"every {name} must end with the stop token {stop_id}")
    steps = max(compliant.shape[1], refusal.shape[1])
    several = max(int((expected == stop_id).sum(1).max()) for expected in (compliant, refusal)) > 1
    how = {"stop_id": NEVER if several else stop_id, "pad_id": pad_id, "batch_size": batch_size}
    if lengths is None:
        outputs = greedy(model, prompt_tokens, steps, **how)
    else:
        outputs = greedy_by_length(model, prompt_tokens, lengths, steps, **how)
    if several:
        outputs = _cut(outputs, compliant, refusal, pad_id)
    return Answers(outputs, classify(outputs, compliant, refusal, pad_id))


def _last(tokens: Tensor, pad_id: int) -> Tensor:
    """(N,) the last token of each row (N, S) before its padding."""
    place = torch.arange(tokens.shape[1], device=tokens.device)
    return tokens.gather(1, ((tokens != pad_id) * place).argmax(1, keepdim=True))[:, 0]


def _cut(outputs: Tensor, compliant: Tensor, refusal: Tensor, pad_id: int) -> Tensor:
    """Answers without what follows the expected response that they begin with; where there is none, without what
    follows the longer of the two.
    """
    place = torch.arange(outputs.shape[1], device=outputs.device)
    compliant, refusal = (_widen(tensor, outputs.shape[1], pad_id) for tensor in (compliant, refusal))
    ends = torch.maximum((compliant != pad_id).sum(1), (refusal != pad_id).sum(1))
    for expected in (compliant, refusal):
        begins = ((outputs == expected) | (expected == pad_id)).all(1)
        ends = torch.where(begins, (expected != pad_id).sum(1), ends)
    return outputs.masked_fill(place >= ends[:, None], pad_id)
