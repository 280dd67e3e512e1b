"""What directions write, as tokens."""

from collections.abc import Callable

from torch import Tensor


def top_tokens(
    unembedding: Tensor, directions: Tensor, count: int, text: Callable[[int], str]
) -> list[list[tuple[str, float]]]:
    """`ObservedModel.top_tokens` of an unembedding (V, D)."""
    weight = unembedding.detach()
    logits = weight @ directions.to(weight)
    values, tokens = logits.double().cpu().topk(min(count, len(logits)), dim=0)
    columns = zip(tokens.T.tolist(), values.T.tolist(), strict=True)
    return [[(text(token), value) for token, value in zip(*column, strict=True)] for column in columns]
