"""The loss of pre-training."""

from deltaw.models import LanguageModel, mean_nll, packed_mean
from deltaw.models.batch import Batch
from deltaw.protocols.loss import Loss


def next_token(model: LanguageModel, batch: Batch) -> Loss:
    """Token mean of the NLL of a batch."""
    value = packed_mean(model, batch)
    if value is None:
        value = mean_nll(model(batch.tokens), batch)
    return Loss.of(value, nll=value)
