"""How unlikely a response is after inserted vectors, as a function of the vectors.

Nothing inserted reaches what stands before it. So the keys and values of what stands before are computed once, without
gradient, and serve every step, restart and candidate of a search: with 20 letters of text this nearly halves its cost.

Shapes: C copies (restarts or candidates), N rows, n vectors a row, D width.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from deltaw.attacks.models.insertion import Positions, position_ids, slots, spliced
from deltaw.models import Transformer, response_weights, token_nll
from deltaw.models.batch import Batch, Role


class ResponseLosses:
    """(C, N, n, D) vectors, inserted before each row's LAST_PROMPT, to (C, N) losses: the token mean of the NLL of the
    row's response, Σ weights · NLL / Σ weights, in nats. Only the response may carry loss.

    The model must stay as it is for as long as this is used.
    """

    def __init__(self, model: Transformer, batch: Batch, count: int, positions: Positions = "reused") -> None:
        self.model = model
        inserted, starts = slots(batch, count), batch.position_of(Role.LAST_PROMPT)
        at = position_ids(inserted, positions)
        groups = [(start, (starts == start).nonzero(as_tuple=True)[0]) for start in sorted(set(starts.tolist()))]
        self.groups = [_Group.of(model, inserted[rows], at[rows[0]], start, rows) for start, rows in groups]
        self.order = torch.cat([rows for _, rows in groups]).argsort()

    def __call__(self, vectors: Tensor) -> Tensor:
        """(C, N, n, D) to (C, N)."""
        return torch.cat([group.losses(self.model, vectors[:, group.rows]) for group in self.groups], 1)[:, self.order]


@dataclass(frozen=True)
class _Group:
    """Rows whose prompts are of one length. before: keys and values (N, H, start, E) of each layer, of what stands
    before the insertion. rest: the batch from there on, and the positions of its places.
    """

    rows: Tensor
    before: list[tuple[Tensor, Tensor]]
    rest: Batch
    positions: Tensor

    @staticmethod
    @torch.no_grad()
    def of(model: Transformer, batch: Batch, positions: Tensor, start: int, rows: Tensor) -> "_Group":
        cache = model.new_cache(len(batch), start)
        if start:
            model(batch.tokens[:, :start], positions=positions[:start], cache=cache)
        rest = Batch(batch.tokens[:, start:], batch.weights[:, start:], batch.roles[:, start:])
        return _Group(rows, [(layer.keys, layer.values) for layer in cache], rest, positions[start:])

    def losses(self, model: Transformer, vectors: Tensor) -> Tensor:
        copies, rows = vectors.shape[:2]
        rest = self.rest[torch.arange(rows, device=vectors.device).repeat(copies)]
        start, length = self.before[0][0].shape[2], rest.tokens.shape[1]
        cache = model.new_cache(copies * rows, start + length)
        for layer, before in zip(cache, self.before, strict=True):
            layer.extend(*(tensor.repeat(copies, 1, 1, 1) for tensor in before))
        inputs = spliced(model, rest, vectors.flatten(0, 1))[:, :-1]  # nothing is predicted from the last token
        logits = model(embeddings=inputs, positions=self.positions[:-1], cache=cache)
        nll = token_nll(F.pad(logits, (0, 0, 0, 1)), rest)
        return ((nll * rest.weights).sum(1) / response_weights(rest)).view(copies, rows)


def response_losses(model: Transformer, batch: Batch, vectors: Tensor, positions: Positions = "reused") -> Tensor:
    """(N,) `ResponseLosses` of one set of vectors (N, n, D)."""
    return ResponseLosses(model, batch, vectors.shape[1], positions)(vectors[None])[0]
