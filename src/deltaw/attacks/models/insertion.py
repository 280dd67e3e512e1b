"""Putting something before a prompt's last token: everything after it moves, and roles move along.

A model with learned positions has never seen the response further to the right than its training put it, and finds a
letter of the text by how far back it stands. So there are two ways to insert n vectors at place p, the last token's:

    reused    the vectors get position p, all n of them, and the last token and the response keep the positions that
              they had. Every position was trained, distances stay, and no context is needed beyond the prompt's own.
    shifted   each gets its place in the sequence, as in the published attack. The context must hold n more positions,
              and unless pre-training left gaps of 0 to n positions there, random vectors already break compliance:
              what such an attack changes is then not safety alone.

`reused` is the default.
"""

from typing import Literal

import torch
from torch import Tensor

from deltaw.attacks.models.targets import Requests
from deltaw.behaviour.exact import Answers
from deltaw.errors import DeltawError
from deltaw.models import Transformer, greedy
from deltaw.models.batch import Batch, Role

Positions = Literal["reused", "shifted"]


def insert(batch: Batch, tokens: Tensor) -> Batch:
    """The batch (N, T + n) with `tokens` (N, n) right before each row's LAST_PROMPT, as role INSERTED, without loss.

    Where vectors stand for the tokens (see `spliced`), any token will do. ValueError if a row has not exactly one
    LAST_PROMPT.
    """
    count = tokens.shape[1]
    start = batch.position_of(Role.LAST_PROMPT)[:, None]
    place = torch.arange(batch.tokens.shape[1] + count, device=start.device)
    slot = (place >= start) & (place < start + count)
    source = torch.where(place < start, place, (place - count).clamp(min=0))

    def moved(tensor: Tensor) -> Tensor:
        return tensor.gather(1, source)

    return Batch(
        moved(batch.tokens).masked_scatter(slot, tokens),
        moved(batch.weights).masked_fill(slot, 0.0),
        moved(batch.roles).masked_fill(slot, int(Role.INSERTED)),
    )


def slots(batch: Batch, count: int) -> Batch:
    """The batch with `count` INSERTED places that wait for vectors."""
    return insert(batch, batch.tokens.new_zeros(len(batch), count))


def attacked_inputs(
    model: Transformer, batch: Batch, vectors: Tensor, positions: Positions = "reused"
) -> tuple[Batch, Tensor, Tensor]:
    """What `activations` needs to read a batch with `vectors` (N, n, D), or (n, D) for all, at the same roles as the
    batch without: the batch with its INSERTED places, the embeddings (N, T + n, D), and learned positions (N, T + n).
    """
    vectors = vectors.expand(len(batch), *vectors.shape[-2:])
    inserted = slots(batch, vectors.shape[1])
    return inserted, spliced(model, inserted, vectors).detach(), position_ids(inserted, positions)


def spliced(model: Transformer, batch: Batch, vectors: Tensor) -> Tensor:
    """(N, T, D) the embeddings of an inserted batch's tokens, with `vectors` (N, n, D) at its INSERTED places.

    Gradients flow to the vectors, and not to the embeddings.
    """
    slot = (batch.roles == int(Role.INSERTED))[:, :, None]
    embedded: Tensor = model.embed(batch.tokens)
    return embedded.detach().masked_scatter(slot, vectors)


def position_ids(batch: Batch, positions: Positions = "reused") -> Tensor:
    """(N, T) int64, the learned position of each place of an inserted batch."""
    slot = batch.roles == int(Role.INSERTED)
    if positions == "shifted":
        return torch.arange(slot.shape[1], device=slot.device).expand(slot.shape)
    return (~slot).cumsum(1) - 1 + slot.long()


def require_room(model: Transformer, requests: Requests, count: int, positions: Positions) -> None:
    """DeltawError if the model's context cannot hold prompt, `count` insertions and the longest answer."""
    inserted = count if positions == "shifted" else 0
    # The last token of an answer is not fed back.
    needed, context = int(requests.lengths.max()) + inserted + requests.steps - 1, model.config.context
    if needed > context:
        raise DeltawError(
            f"prompt, {inserted} inserted tokens and answer need {needed} positions, but the model's context has "
            f"{context}; insert fewer, take positions 'reused', or pre-train a model with a longer context"
        )


@torch.no_grad()
def answers_with(
    model: Transformer, requests: Requests, vectors: Tensor, positions: Positions = "reused", batch_size: int = 512
) -> Answers:
    """The model's greedy answers with `vectors` (N, n, D), or (n, D) for all, before the end of each prompt.

    DeltawError if the context does not hold the insertion.
    """
    count = vectors.shape[-2]
    require_room(model, requests, count, positions)
    batch, inputs, at = attacked_inputs(model, requests.batch, vectors, positions)
    lengths = requests.lengths + count
    outputs = torch.full((len(batch), requests.steps), requests.pad_id, device=lengths.device)
    how = {**requests.decoding, "batch_size": batch_size}
    for length in sorted(set(lengths.tolist())):
        (rows,) = (lengths == length).nonzero(as_tuple=True)
        prompts, positions_of_all = inputs[rows, :length], at[rows[0], :length]
        outputs[rows] = greedy(model, prompts, requests.steps, positions=positions_of_all, **how)
    return requests.judge(outputs)
