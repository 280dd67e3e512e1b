"""What a card would run: recorded updates, data drawn ahead, and passes that never ask for a number."""

# mypy: disable-error-code="no-untyped-call"
# (Dispatch modes have no annotations.)

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from deltaw.models import Transformer, likelihood, transformer
from deltaw.models.batch import Batch
from deltaw.models.determinism import deterministic
from deltaw.protocols import Loss, Pair, Protocol, ReferenceLogProbs, TuningBatch
from deltaw.protocols.dpo import Dpo
from deltaw.protocols.dpo_published import DpoPublished
from deltaw.protocols.forks import fork, fork_size
from deltaw.protocols.npo import Npo
from deltaw.protocols.ssft import Ssft
from deltaw.protocols.unlearn import Unlearn
from deltaw.protocols.unlearn_published import UnlearnPublished
from deltaw.training import next_token
from deltaw.training.cuda_step import MOST_GRAPHS, PLAIN_RUNS, Outputs, gradients
from deltaw.training.finetuning import TuningConfig, TuningData, tune, tuning_pairs
from deltaw.training.optimisers import OptimiserConfig, adamw, optimisers
from deltaw.training.prefetch import Prefetch
from deltaw.training.pretraining import CHUNK, PretrainingConfig, as_batch, new_model, pretrain, pretraining_samples
from deltaw.training.snapshots import LogTable, Snapshots
from deltaw.world import World

ROWS, STEPS = 8, PLAIN_RUNS + 3
WORLD = World()
CONFIG = PretrainingConfig(layers=2, heads=2, width=16, batch=ROWS)
REFERENCE = ReferenceLogProbs(-torch.ones(ROWS), -torch.ones(ROWS))
PROTOCOLS: dict[str, Protocol] = {
    protocol.name: protocol for protocol in (Ssft(), Dpo(), Unlearn(), Npo(), DpoPublished(), UnlearnPublished())
}


@pytest.fixture(autouse=True)
def nothing_is_packed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Packed passes are of CPUs alone: their shapes are what numbers decide."""
    monkeypatch.setattr(Transformer, "packs", lambda self, tokens: False)


def model() -> Transformer:
    return new_model(WORLD, CONFIG, 0)


def batch(step: int, rows: int = ROWS) -> Batch:
    return as_batch(pretraining_samples(WORLD, CONFIG, range(step * rows, (step + 1) * rows), 0))


def pair(step: int) -> Pair:
    return tuning_pairs(WORLD, range(step * ROWS, (step + 1) * ROWS), TuningData(), 0).measured()


class Recorder:
    """Plays a CUDA graph on a CPU: a replay writes to the memory of the first run what the inputs now give."""

    def __init__(self) -> None:
        self.recorded = self.replayed = 0

    def __call__(self, run: Callable[[], Outputs]) -> tuple[Outputs, Callable[[], None]]:
        self.recorded += 1
        outputs = [torch.full_like(output, torch.nan) for output in run()]  # a graph that is recorded has not run

        def replay() -> None:
            self.replayed += 1
            for held, new in zip(outputs, run(), strict=True):
                held.copy_(new)

        return outputs, replay


def trained(
    loss: Callable[[Transformer, Any], Loss], data: list[Any], record: Recorder | None
) -> tuple[list[float], list[Tensor]]:
    learner = model()
    differentiate = gradients(learner, loss, torch.float32, record)
    adam = adamw(learner, OptimiserConfig(1e-2, 1e-2, len(data), 0, len(data)))
    losses = []
    for some in data:
        losses.append(float(differentiate(some).value.detach()))
        adam.step()
    return losses, list(learner.parameters())


@pytest.mark.parametrize("name", ["pretrain", "dpo", "unlearn"])
def test_recorded_updates_are_the_same_updates(name: str) -> None:
    """Replays read the data of their own step, set all gradients, and follow the weights."""
    data: list[Any] = [batch(step) if name == "pretrain" else pair(step) for step in range(STEPS)]
    if name != "pretrain":  # of one shape, as large batches are
        width = max(part.sizes.forked[1] for part in data)
        kept = max(part.sizes.forked[0] for part in data)
        since = min(min(part.sizes.since) for part in data)
        data = [replace(one, sizes=replace(one.sizes, since=(since, since), forked=(kept, width))) for one in data]

    def loss(learner: Transformer, some: Any) -> Loss:
        if name == "pretrain":
            return next_token(learner, some)
        return PROTOCOLS[name].loss(learner, TuningBatch(some, REFERENCE))

    record = Recorder()
    losses, weights = trained(loss, data, record)
    expected, plain = trained(loss, data, None)
    assert (record.recorded, record.replayed) == (1, STEPS - PLAIN_RUNS)
    assert losses == expected
    assert all(torch.equal(one, other) for one, other in zip(weights, plain, strict=True))


def test_rare_and_many_shapes_are_not_recorded() -> None:
    """A shape is recorded after its first runs, and no more shapes than memory has room for."""
    record = Recorder()
    rows = [2, 3, 4, 5, 6, 7]
    data = [batch(step, count) for count in rows for step in range(PLAIN_RUNS)]
    losses, _ = trained(next_token, data, record)
    assert record.recorded == 0
    more = [batch(step, count) for count in rows for step in range(PLAIN_RUNS + 2)]
    losses, weights = trained(next_token, more, record)
    expected, plain = trained(next_token, more, None)
    assert record.recorded == MOST_GRAPHS < len(rows)
    assert losses == expected
    assert all(torch.equal(one, other) for one, other in zip(weights, plain, strict=True))


def test_a_recorded_update_follows_what_a_snapshot_restores(tmp_path: Path) -> None:
    """Even one that was recorded before: restoring writes to the memory of the parameters that the graph reads."""
    learner, record = model(), Recorder()
    differentiate = gradients(learner, next_token, torch.float32, record)
    movers = optimisers(learner, OptimiserConfig(1e-2, 1e-2, STEPS, 0, STEPS, method="muon"))
    snapshots = Snapshots(tmp_path, every=0.0)

    def update(step: int) -> float:
        value = float(differentiate(batch(step)).value.detach())
        for mover in movers:
            mover.step()
        return value

    for step in range(STEPS):
        update(step)
    snapshots.write(STEPS, learner, movers, LogTable((), torch.zeros(0, 3, dtype=torch.float64)))
    expected = [update(step) for step in range(2)]
    weights = [parameter.detach().clone() for parameter in learner.parameters()]
    assert snapshots.restore(learner, movers)[0] == STEPS
    assert [update(step) for step in range(2)] == expected
    assert all(torch.equal(one, other) for one, other in zip(weights, learner.parameters(), strict=True))
    assert record.recorded == 1


@pytest.mark.parametrize("died", [0, CHUNK - 1, CHUNK, CHUNK + 1])
def test_data_drawn_ahead_are_the_same_after_an_interruption(
    died: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Chunks begin at the same updates wherever training goes on, also where the next one is drawn in a thread."""
    steps = 2 * CHUNK + 2
    optimiser = OptimiserConfig(1e-2, 1e-2, steps, 0, steps)
    pretraining = replace(CONFIG, batch=2, optimiser=optimiser)
    tuning = TuningConfig(protocol=Dpo(), batch=2, optimiser=optimiser)
    starts: list[int] = []

    class Ahead(Prefetch[Any]):
        def __init__(self, make: Callable[[int], Any], stride: int, end: int, device: str) -> None:
            super().__init__(make, stride, end, device)
            self._ahead = True

        def __call__(self, first: int) -> Any:
            starts.append(first)
            return super().__call__(first)

    def run(method: str, snapshots: Snapshots | None, on_checkpoint: Callable[[int, Transformer], None]) -> Transformer:
        if method == "pretrain":
            return pretrain(
                WORLD, pretraining, 0, checkpoints=[died + 1], on_checkpoint=on_checkpoint, snapshots=snapshots
            )[0]
        learner = model()
        known = ReferenceLogProbs(-torch.ones(2 * steps), -torch.ones(2 * steps))
        tune(
            WORLD, learner, tuning, 0, known,
            checkpoints=[died + 1], on_checkpoint=on_checkpoint, snapshots=snapshots,
        )  # fmt: skip
        return learner

    def nothing(step: int, learner: Transformer) -> None:
        """Go on."""

    def die(step: int, learner: Transformer) -> None:
        raise InterruptedError

    for method in ("pretrain", "tune"):
        whole = run(method, None, nothing)
        with monkeypatch.context() as patch:
            patch.setattr(f"deltaw.training.{'pretraining' if method == 'pretrain' else 'finetuning'}.Prefetch", Ahead)
            snapshots = Snapshots(tmp_path / method, every=0.0)
            with pytest.raises(InterruptedError):
                run(method, snapshots, die)
            starts.clear()
            again = run(method, snapshots, nothing)
        assert starts == [start for start in range(0, steps, CHUNK) if start + CHUNK > died]
        assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), again.parameters(), strict=True))


class NoNumbers(TorchDispatchMode):
    """Refuses what a CUDA graph cannot hold: reading a number, and shapes that numbers decide."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func._schema.name in ("aten::_local_scalar_dense", "aten::nonzero", "aten::masked_select", "aten::equal"):
            raise AssertionError(f"{func} waits for the card")
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("name", ["pretrain", *PROTOCOLS])
def test_a_pass_asks_for_no_number(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a graph is recorded: with it, each protocol's loss and gradients are what they are without."""
    learner = new_model(WORLD, replace(CONFIG, block="published", positions="sinusoidal"), 0)
    data: Any = batch(0) if name == "pretrain" else pair(0)

    def run() -> list[Tensor]:
        with learner.computing_in(torch.bfloat16):
            if name == "pretrain":
                found = next_token(learner, data)
            else:
                found = PROTOCOLS[name].loss(learner, TuningBatch(data, REFERENCE))
        return [found.value.detach(), *torch.autograd.grad(found.value, list(learner.parameters()))]

    expected = run()
    monkeypatch.setattr(likelihood, "_dense", lambda logits: True)
    monkeypatch.setattr(transformer, "_recording", lambda x: True)
    with NoNumbers():
        outputs = run()
    for one, other in zip(outputs, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-7)
    monkeypatch.undo()
    with pytest.raises(AssertionError, match="waits for the card"), NoNumbers():
        run()


def test_a_fork_of_known_size_is_the_same() -> None:
    """`fork_size` gives the very shapes that `fork` finds; larger ones only add columns that nobody reads."""
    some = pair(0)
    assert some.sizes is not None
    size = fork_size(some.preferred, some.dispreferred)
    assert some.sizes.forked == size
    found, given = fork(some.preferred, some.dispreferred), fork(some.preferred, some.dispreferred, size)
    assert found.tokens.shape[1] == sum(size)
    assert torch.equal(found.tokens, given.tokens)
    assert torch.equal(found.visible, given.visible)
    assert some.to("cpu").sizes == some.sizes
    assert some[:4].sizes is None


def test_chunks_drawn_ahead_are_the_chunks_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """In order, from anywhere, also after a jump; nothing beyond the end; an error comes where it is asked for."""
    drawn: list[int] = []

    def make(first: int) -> tuple[Tensor, None]:
        drawn.append(first)
        if first == 12:
            raise ValueError("no more")
        return torch.full((2,), first), None

    on_cpu = Prefetch(make, 4, 12, "cpu")
    assert on_cpu(0)[0].tolist() == [0, 0]
    assert drawn == [0]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    ahead = Prefetch(make, 4, 12, "cuda")
    drawn.clear()
    assert [ahead(first)[0].tolist() for first in (0, 4, 8)] == [[0, 0], [4, 4], [8, 8]]
    assert drawn == [0, 4, 8]
    jumping = Prefetch(make, 4, 16, "cuda")
    assert jumping(3)[0].tolist() == [3, 3]
    assert jumping(8)[0].tolist() == [8, 8]
    with pytest.raises(ValueError, match="no more"):
        jumping(12)


def test_a_cpu_needs_no_setting() -> None:
    """Nothing changes there."""
    before = torch.are_deterministic_algorithms_enabled(), torch.get_float32_matmul_precision()
    with deterministic("cpu"):
        assert (torch.are_deterministic_algorithms_enabled(), torch.get_float32_matmul_precision()) == before


def test_a_card_computes_deterministically(monkeypatch: pytest.MonkeyPatch) -> None:
    """Within the context; as before after it."""
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    matmul = torch.backends.cuda.matmul
    before = torch.are_deterministic_algorithms_enabled(), matmul.allow_bf16_reduced_precision_reduction
    with deterministic("cuda:0"):
        assert torch.are_deterministic_algorithms_enabled()
        assert not torch.is_deterministic_algorithms_warn_only_enabled()
        assert not matmul.allow_bf16_reduced_precision_reduction
        assert torch.get_float32_matmul_precision() == "highest"
    assert (torch.are_deterministic_algorithms_enabled(), matmul.allow_bf16_reduced_precision_reduction) == before
