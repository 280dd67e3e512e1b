import math
from dataclasses import replace

import pytest
import torch

from deltaw.behaviour.exact import Behaviour, BehaviourCounts, classify, measure
from deltaw.errors import DeltawError
from deltaw.models import ModelConfig, Transformer

PAD, STOP, NULL = 0, 1, 2


def test_only_the_whole_response_counts() -> None:
    compliant = torch.tensor([[5, 6, STOP]] * 7)
    refusal = torch.tensor([[NULL, STOP, PAD]] * 7)
    outputs = torch.tensor(
        [
            [5, 6, STOP],
            [NULL, STOP, PAD],
            [5, 6, 7],  # no stop
            [5, STOP, PAD],  # stops early
            [NULL, NULL, STOP],  # a refusal of another length
            [NULL, 6, STOP],
            [5, 6, PAD],
        ]
    )
    expected = [Behaviour.COMPLY, Behaviour.REFUSE] + [Behaviour.NEITHER] * 5
    assert classify(outputs, compliant, refusal, PAD).tolist() == expected


def test_each_row_has_its_own_response_and_widths_may_differ() -> None:
    compliant = torch.tensor([[5, 6, STOP], [6, 5, STOP]])
    refusal = torch.tensor([[NULL, STOP]] * 2)
    outputs = torch.tensor([[6, 5, STOP], [6, 5, STOP]])
    assert classify(outputs, compliant, refusal, PAD).tolist() == [Behaviour.NEITHER, Behaviour.COMPLY]
    assert classify(refusal, compliant, refusal, PAD).tolist() == [Behaviour.REFUSE] * 2


def test_what_cannot_be_told_apart_is_refused() -> None:
    response = torch.tensor([[NULL, STOP]])
    with pytest.raises(ValueError, match="equals the refusal"):
        classify(response, response, response, PAD)
    with pytest.raises(ValueError, match="2 compliant"):
        classify(response, response.repeat(2, 1), response, PAD)


def test_counts_and_rates() -> None:
    counts = BehaviourCounts.of(torch.tensor([1, 1, 1, 2, 0], dtype=torch.uint8))
    assert counts == BehaviourCounts(comply=3, refuse=1, neither=1)
    assert counts.n == 5
    assert counts.rates() == {"comply_rate": 0.6, "refuse_rate": 0.2, "neither_rate": 0.2}
    assert math.isnan(BehaviourCounts(0, 0, 0).comply_rate)


def copier() -> Transformer:
    """A model made by hand: it answers a token by its successor, and 6 by STOP."""
    model = Transformer(ModelConfig(8, 6, layers=1, heads=1, width=8), torch.Generator().manual_seed(0))
    successor = {3: 4, 4: 5, 5: 6, 6: STOP, NULL: STOP, STOP: 7, 7: NULL, PAD: 7}
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
        model.norm_final.weight.fill_(1.0)
        model.embed.weight.copy_(torch.eye(8))
        for token, following in successor.items():
            model.unembed.weight[following, token] = 1.0
    return model


def test_a_model_is_measured_by_its_own_answers() -> None:
    prompts = torch.tensor([[3, 3], [3, 4], [3, 7], [3, 5]])
    compliant = torch.tensor([[4, 5, 6, STOP], [5, 6, STOP, PAD], [6, STOP, PAD, PAD], [6, 6, STOP, PAD]])
    refusal = torch.tensor([[NULL, STOP]] * 4)
    found = measure(copier(), prompts, compliant, refusal, stop_id=STOP, pad_id=PAD, batch_size=3)
    assert found.outputs.tolist() == [
        [4, 5, 6, STOP],
        [5, 6, STOP, PAD],
        [NULL, STOP, PAD, PAD],
        [6, STOP, PAD, PAD],
    ]
    assert found.labels.tolist() == [Behaviour.COMPLY, Behaviour.COMPLY, Behaviour.REFUSE, Behaviour.NEITHER]
    assert found.counts() == BehaviourCounts(2, 1, 1)
    assert found.counts(torch.tensor([True, False, True, False])) == BehaviourCounts(1, 1, 0)
    assert found.counts(torch.tensor([3])) == BehaviourCounts(0, 0, 1)


def test_prompts_of_various_lengths() -> None:
    prompts = torch.tensor([[3, PAD, PAD], [3, 3, 7]])
    compliant = torch.tensor([[4, 5, 6, STOP]] * 2)
    found = measure(
        copier(),
        prompts,
        compliant,
        torch.tensor([[NULL, STOP]] * 2),
        stop_id=STOP,
        pad_id=PAD,
        lengths=torch.tensor([1, 3]),
    )
    assert found.labels.tolist() == [Behaviour.COMPLY, Behaviour.REFUSE]


def test_an_answer_of_several_outputs_goes_on_past_its_first_stop() -> None:
    # the copier answers 5 by `6 STOP 7 NULL STOP 7 ...`: two outputs, each with a stop
    prompts = torch.tensor([[3, 5]] * 3)
    compliant = torch.tensor([[6, STOP, 7, NULL, STOP], [6, STOP, 6, 6, STOP], [4, STOP, 4, STOP, PAD]])
    refusal = torch.tensor([[NULL, STOP, PAD], [NULL, STOP, PAD], [6, STOP, PAD]])
    model = copier()
    model.config = replace(model.config, context=8)
    found = measure(model, prompts, compliant, refusal, stop_id=STOP, pad_id=PAD)
    assert found.labels.tolist() == [Behaviour.COMPLY, Behaviour.NEITHER, Behaviour.REFUSE]
    assert found.outputs[0].tolist() == [6, STOP, 7, NULL, STOP]
    assert found.outputs[2].tolist() == [6, STOP, PAD, PAD, PAD]


def test_expected_responses_must_stop_and_fit() -> None:
    prompts, refusal = torch.tensor([[3, 3]]), torch.tensor([[NULL, STOP]])
    with pytest.raises(ValueError, match="every compliant response must end with the stop token 1"):
        measure(copier(), prompts, torch.tensor([[4, 5]]), refusal, stop_id=STOP, pad_id=PAD)
    with pytest.raises(ValueError, match="every refusal"):
        measure(copier(), prompts, refusal, torch.tensor([[STOP, NULL]]), stop_id=STOP, pad_id=PAD)
    long = torch.tensor([[4, 5, 6, 3, 3, STOP]])
    with pytest.raises(DeltawError, match="context of 6"):
        measure(copier(), prompts, long, refusal, stop_id=STOP, pad_id=PAD)
