from typing import Any

import pytest
import torch
from lively_model import lively_model

from deltaw.errors import DeltawError
from deltaw.models import ModelConfig, Transformer, greedy, greedy_by_length

PAD = 99


def reference(model: Transformer, prompt: torch.Tensor, steps: int, stop: int) -> list[int]:
    """Greedy decoding of one prompt with a whole forward pass a token."""
    sequence, answer = prompt[None], []
    for _ in range(steps):
        token = int(model(sequence)[0, -1].argmax())
        answer.append(token)
        if token == stop:
            break
        sequence = torch.cat([sequence, torch.tensor([[token]])], 1)
    return answer + [PAD] * (steps - len(answer))


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("batch_size", [4, 512])
def test_cached_decoding_equals_the_uncached(seed: int, batch_size: int) -> None:
    model = lively_model(seed=seed)
    prompts = torch.randint(0, 17, (30, 6), generator=torch.Generator().manual_seed(seed))
    free = greedy(model, prompts, 10, stop_id=-1, pad_id=PAD, batch_size=batch_size)
    rows_with = torch.stack([(free == token).any(1).sum() for token in range(17)])
    stop = int((rows_with - 15).abs().argmin())
    expected = [reference(model, prompt, 10, stop) for prompt in prompts]
    assert 5 < sum(PAD in answer for answer in expected) < 25, "some rows must stop, and some not"
    assert greedy(model, prompts, 10, stop_id=stop, pad_id=PAD, batch_size=batch_size).tolist() == expected
    assert free.tolist() == [reference(model, prompt, 10, -1) for prompt in prompts]


def test_several_stops() -> None:
    """A row goes on until its second stop; what comes before is what decoding without stops gives."""
    model = lively_model(seed=1)
    prompts = torch.randint(0, 17, (30, 6), generator=torch.Generator().manual_seed(1))
    free = greedy(model, prompts, 10, stop_id=-1, pad_id=PAD)
    stop = int(torch.stack([((free == token).sum(1) >= 2).sum() for token in range(17)]).argmax())
    seen = (free == stop).cumsum(1) - (free == stop).long()
    assert ((free == stop).sum(1) > 2).any()
    found = greedy(model, prompts, 10, stop_id=stop, pad_id=PAD, stops=2)
    assert torch.equal(found, free.masked_fill(seen >= 2, PAD))
    vectors = model.embed(prompts).detach()
    again = greedy(model, vectors, 10, positions=torch.arange(6), stop_id=stop, pad_id=PAD, stops=2)
    assert torch.equal(found, again)


def test_various_lengths_do_not_touch_one_another() -> None:
    model = lively_model(seed=2)
    tokens = torch.randint(0, 17, (20, 7), generator=torch.Generator().manual_seed(5))
    lengths = torch.randint(1, 8, (20,), generator=torch.Generator().manual_seed(6))
    expected = [reference(model, row[:n], 5, 3) for row, n in zip(tokens, lengths.tolist(), strict=True)]
    for row, n in enumerate(lengths.tolist()):
        tokens[row, n:] = PAD  # not a token: reading it would fail
    assert greedy_by_length(model, tokens, lengths, 5, stop_id=3, pad_id=PAD).tolist() == expected


def test_a_batch_ends_when_all_rows_have_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    model = lively_model()
    prompts = torch.tensor([[1, 2, 3]] * 2)
    stop = int(model(prompts)[0, -1].argmax())
    calls = 0

    def count(*_: object) -> None:
        nonlocal calls
        calls += 1

    model.register_forward_hook(count)
    assert greedy(model, prompts, 10, stop_id=stop, pad_id=PAD).tolist() == [[stop] + [PAD] * 9] * 2
    assert calls == 1


def test_the_whole_context_can_be_used_and_no_more() -> None:
    model = lively_model(ModelConfig(vocabulary_size=17, context=8, layers=1, heads=1, width=4))
    prompts = torch.zeros(1, 5, dtype=torch.int64)
    assert greedy(model, prompts, 4, stop_id=-1, pad_id=PAD).shape == (1, 4)
    with pytest.raises(DeltawError, match="context of 8"):
        greedy(model, prompts, 5, stop_id=-1, pad_id=PAD)


def test_wrong_lengths_are_refused() -> None:
    tokens = torch.zeros(2, 3, dtype=torch.int64)
    for lengths in ([1], [0, 2], [1, 4]):
        with pytest.raises(ValueError, match="lengths"):
            greedy_by_length(lively_model(), tokens, torch.tensor(lengths), 2, stop_id=-1, pad_id=PAD)


def test_no_prompts_give_no_answers() -> None:
    empty = torch.zeros(0, 3, dtype=torch.int64)
    assert greedy(lively_model(), empty, 4, stop_id=1, pad_id=PAD).shape == (0, 4)


def test_decoding_from_embeddings_equals_decoding_from_tokens() -> None:
    model = lively_model(seed=3)
    prompts = torch.randint(0, 17, (12, 6), generator=torch.Generator().manual_seed(7))
    how: dict[str, Any] = {"stop_id": 4, "pad_id": PAD, "batch_size": 5}
    found = greedy(model, model.embed(prompts), 9, positions=torch.arange(6), **how)
    assert torch.equal(found, greedy(model, prompts, 9, **how))


def test_an_answer_goes_on_from_the_last_position_given() -> None:
    """Two vectors at one position: the answer's positions are those it has without the second vector."""
    model = lively_model(seed=3)
    prompts = torch.randint(0, 17, (12, 6), generator=torch.Generator().manual_seed(7))
    positions = torch.tensor([0, 1, 2, 3, 3, 4])
    found = greedy(model, model.embed(prompts), 5, positions=positions, stop_id=-1, pad_id=PAD)
    sequence, at = prompts, positions
    for _ in range(5):
        sequence = torch.cat([sequence, model(sequence, positions=at)[:, -1:].argmax(-1)], 1)
        at = torch.cat([at, at[-1:] + 1])
    assert torch.equal(found, sequence[:, 6:])
    assert not torch.equal(found, greedy(model, prompts, 5, stop_id=-1, pad_id=PAD)), "positions must matter"
    with pytest.raises(DeltawError, match="context of 16"):
        greedy(model, model.embed(prompts), 5, positions=positions + 10, stop_id=-1, pad_id=PAD)
