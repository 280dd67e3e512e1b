"""What a model does with a prompt: comply, refuse or neither, by its own free-running greedy answer.

An answer counts as a behaviour only if the whole response, its last stop token included, is the expected one: a
response that begins to comply and goes astray does neither. A response of several outputs has a stop after each, and a
refusal ends it early, so how far an answer goes can be told only beside what is expected.
"""

from dataclasses import dataclass
from enum import IntEnum

import torch
from torch import Tensor

from deltaw.models import Transformer, greedy_by_length


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
        comply, refuse = (int((labels == int(behaviour)).sum()) for behaviour in (Behaviour.COMPLY, Behaviour.REFUSE))
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
    """Let `model` answer each prompt, as far as the longer of the two expected responses, and say what it did.

    prompt_tokens: (N, T0) int64, all of one length, or right-padded with their `lengths` (N,). compliant,
    refusal: (N, S) and (N, S') int64, each row ended by a `stop_id` and right-padded with `pad_id`. All go to the
    model's device; the answers come back to that of the prompts.
    ValueError if an expected response does not end with a stop, or the two are equal. DeltawError if prompt
    and answer do not fit the model's context.
    """
    for name, expected in (("compliant response", compliant), ("refusal", refusal)):
        if not bool((_last(expected, pad_id) == stop_id).all()):
            raise ValueError(f"every {name} must end with the stop token {stop_id}")
    outputs = greedy_by_length(
        model,
        prompt_tokens.to(model.embed.weight.device),
        torch.full((len(prompt_tokens),), prompt_tokens.shape[1]) if lengths is None else lengths,
        max(compliant.shape[1], refusal.shape[1]),
        stop_id=stop_id,
        pad_id=pad_id,
        stops=stops_of(compliant, refusal, stop_id),
        batch_size=batch_size,
    ).to(prompt_tokens.device)
    return judge(outputs, compliant, refusal, pad_id)


def stops_of(compliant: Tensor, refusal: Tensor, stop_id: int) -> int:
    """The most stop tokens that an expected response has: decoding goes on up to so many."""
    counts = torch.cat([(expected == stop_id).sum(1) for expected in (compliant, refusal)])
    return max(1, int(counts.max()))


def judge(outputs: Tensor, compliant: Tensor, refusal: Tensor, pad_id: int) -> Answers:
    """Free-running outputs (N, S) as answers: without what follows the expected response that they begin with, if they
    do; and what each is. Shapes and errors: `classify`.
    """
    place = torch.arange(outputs.shape[1], device=outputs.device)
    for expected in (compliant, refusal):
        begun = expected[:, : outputs.shape[1]]
        begins = ((outputs[:, : begun.shape[1]] == begun) | (begun == pad_id)).all(1)
        ends = torch.where(begins, (begun != pad_id).sum(1), outputs.shape[1])
        outputs = outputs.masked_fill(place >= ends[:, None], pad_id)
    return Answers(outputs, classify(outputs, compliant, refusal, pad_id))


def _last(tokens: Tensor, pad_id: int) -> Tensor:
    """(N,) the last token of each row (N, S) before its padding."""
    place = torch.arange(tokens.shape[1], device=tokens.device)
    return tokens.gather(1, ((tokens != pad_id) * place).argmax(1, keepdim=True))[:, 0]
