"""What an attack is after: prompts, the response that would be its success, and the refusal that stands in its way.

An attack succeeds on a prompt if the model's own free-running answer is the whole compliant response to the prompt as
it was before the attack, and nothing less.
"""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from deltaw.behaviour.exact import Answers, judge, stops_of
from deltaw.errors import DeltawError
from deltaw.models import Transformer, greedy_by_length
from deltaw.models.batch import Batch, Role
from deltaw.training.pretraining import as_batch
from deltaw.world import Prompts, Response, World


@dataclass(frozen=True)
class Requests:
    """batch: N prompts, each followed by its compliant response, which alone carries loss (weights not 0). refusal:
    (N, S) int64, ended by `stop_id` and right-padded with `pad_id`.

    On forbidden prompts the compliant response is the harmful output. On allowed ones the same object serves as the
    benign control: what does the attack do where there was nothing to break?
    """

    batch: Batch
    refusal: Tensor
    stop_id: int
    pad_id: int

    def __len__(self) -> int:
        return len(self.batch)

    def __getitem__(self, rows: slice | Tensor) -> "Requests":
        """The requests of the rows selected by a slice, an index tensor or a boolean tensor."""
        return replace(self, batch=self.batch[rows], refusal=self.refusal[rows])

    def to(self, device: torch.device | str) -> "Requests":
        """The requests on `device`."""
        return replace(self, batch=self.batch.to(device), refusal=self.refusal.to(device))

    @property
    def lengths(self) -> Tensor:
        """(N,) tokens of each prompt, the last one included."""
        return self.batch.position_of(Role.LAST_PROMPT) + 1

    @property
    def compliant(self) -> Tensor:
        """(N, S) the compliant responses, right-padded with `pad_id`."""
        lengths, whole = self.lengths[:, None], self.batch.tokens.shape[1]
        width = whole - int(lengths.min())
        places = lengths + torch.arange(width, device=lengths.device)
        inside = places.clamp(max=whole - 1)
        carried = (self.batch.weights.gather(1, inside) != 0) & (places < whole)
        longest = int(carried.sum(1).max())
        return self.batch.tokens.gather(1, inside).where(carried, self.pad_id)[:, :longest]

    def with_compliant(self, responses: Tensor) -> "Requests":
        """The same prompts and refusals, with other responses (N, S), right-padded, in the place of their own."""
        lengths, width = self.lengths[:, None], responses.shape[1]
        longest = int(lengths.max())
        tokens, roles = (
            F.pad(tensor[:, :longest], (0, longest + width - min(longest, tensor.shape[1])), value=filler)
            for tensor, filler in ((self.batch.tokens, self.pad_id), (self.batch.roles, int(Role.PAD)))
        )
        places = lengths + torch.arange(width, device=lengths.device)
        after = torch.arange(longest + width, device=lengths.device) >= lengths
        stops, pads = responses == self.stop_id, responses == self.pad_id
        what = torch.where(stops, int(Role.STOP), torch.where(pads, int(Role.PAD), int(Role.OUTPUT)))
        tokens = tokens.masked_fill(after, self.pad_id).scatter(1, places, responses)
        roles = roles.masked_fill(after, int(Role.PAD)).scatter(1, places, what.to(roles.dtype))
        weights = torch.zeros(tokens.shape, device=tokens.device).scatter(1, places, (~pads).float())
        return replace(self, batch=Batch(tokens, weights, roles))

    def judge(self, outputs: Tensor) -> Answers:
        """What each of a model's answers (N, S) is."""
        return judge(outputs, self.compliant, self.refusal, self.pad_id)

    @property
    def steps(self) -> int:
        """Tokens of the longest answer that could be either."""
        return max(self.compliant.shape[1], self.refusal.shape[1])

    @property
    def decoding(self) -> dict[str, Any]:
        """How an answer ends, as the keywords of `deltaw.models.greedy`."""
        stops = stops_of(self.compliant, self.refusal, self.stop_id)
        return {"stop_id": self.stop_id, "pad_id": self.pad_id, "stops": stops}


def requests_for(world: World, prompts: Prompts, device: torch.device | str = "cpu") -> Requests:
    """Prompts of a world with the responses that would break its policy, or keep it where they are allowed."""
    layout = world.layout
    comply, refuse = (np.full(len(prompts), response) for response in (Response.COMPLY, Response.REFUSE))
    refusal = torch.from_numpy(layout.response_tokens(prompts, refuse))
    vocabulary = world.vocabulary
    return Requests(as_batch(layout.encode(prompts, comply)), refusal, vocabulary.stop, vocabulary.pad).to(device)


def unattacked(model: Transformer, requests: Requests, batch_size: int = 512) -> Answers:
    """The model's answers to the prompts as they are."""
    how = {**requests.decoding, "batch_size": batch_size}
    return requests.judge(greedy_by_length(model, requests.batch.tokens, requests.lengths, requests.steps, **how))


def unrelated(requests: Requests, generator: torch.Generator, first: int | None = None) -> Requests:
    """The same prompts, each with the compliant response to another: a control's target.

    The other prompt is drawn among those whose response differs in its `first` tokens (None: anywhere). DeltawError
    if there is none.
    """
    responses = requests.compliant
    head = responses[:, :first]
    differ = torch.stack([(head != row).any(1) for row in head]).cpu()
    if not bool(differ.any(1).all()):
        raise DeltawError("an unrelated target needs another prompt with a different response; give more prompts")
    chosen = torch.multinomial(differ.float(), 1, generator=generator).squeeze(1)
    return requests.with_compliant(responses[chosen.to(responses.device)])


def check(problems: dict[str, bool]) -> None:
    """DeltawError with the first message whose condition holds: how configurations say what is wrong with them."""
    for message, wrong in problems.items():
        if wrong:
            raise DeltawError(message)
