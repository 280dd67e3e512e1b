"""The gradient of one update: as it is on a CPU, and by a replayed CUDA graph on a card.

A small model's update is hundreds of kernels of a few microseconds each, and launching them one by one takes longer
than they do. A CUDA graph launches all at once: forward and backward pass are recorded for one shape of data and
replayed on others. Clipping and optimiser are not part of it, so any optimiser will do.

Nothing in a recorded pass may depend on the numbers in the data, as a copy to the CPU would: shapes of a pair are
therefore worked out on the CPU beforehand (`Pair.measured`). Shapes that come once or twice are not worth a recording.
"""

from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, nn

from deltaw.models import Transformer
from deltaw.protocols.loss import Loss
from deltaw.training.leaves import leaves, mapped

Model = TypeVar("Model", bound=Any)
Data = TypeVar("Data")
Outputs = list[Tensor]
Reached = tuple[bool, ...]
"""Of each parameter, whether the loss depends on it."""
Recorder = Callable[[Callable[[], Outputs]], tuple[Outputs, Callable[[], None]]]
"""Records a function once: (its outputs, what computes them anew into the same memory from the same inputs)."""

PLAIN_RUNS = 3  # of a shape, before it is recorded
MOST_GRAPHS = 4  # each keeps the activations of a batch


def gradients(
    model: Model, loss: Callable[[Model, Data], Loss], compute_dtype: torch.dtype, record: Recorder | None = None
) -> Callable[[Data], Loss]:
    """A function that sets every parameter's gradient to that of the loss on the data, and returns the loss.

    compute_dtype: of the model's matrix products. record: how passes are recorded; None: by CUDA graphs where `model`
    is a `Transformer` on a card without a masked token, else not at all. The data may lie on the CPU all the same.
    """
    if record is None and _can_record(model):
        record = _record_graph
    if record is not None:
        return _Recorded(model, loss, compute_dtype, record)
    device = next(model.parameters()).device

    def plain(data: Data) -> Loss:
        if device.type != "cpu":
            data = mapped(data, lambda tensor: tensor.to(device, non_blocking=True))
        with model.computing_in(compute_dtype):
            batch_loss = loss(model, data)
        for parameter in model.parameters():
            parameter.grad = None
        batch_loss.value.backward()  # type: ignore[no-untyped-call]
        return batch_loss

    return plain


def _can_record(model: Any) -> bool:
    return isinstance(model, Transformer) and model.config.masked_token is None and model.embed.weight.is_cuda


@dataclass
class _Recording(Generic[Data]):
    """One shape's pass. inputs: the memory it reads."""

    inputs: Data
    outputs: Outputs
    names: tuple[str, ...]
    reached: Reached
    replay: Callable[[], None]


class _Recorded(Generic[Model, Data]):
    def __init__(
        self, model: Model, loss: Callable[[Model, Data], Loss], compute_dtype: torch.dtype, record: Recorder
    ) -> None:
        self.model, self.loss, self.compute_dtype, self.record = model, loss, compute_dtype, record
        self.parameters: list[nn.Parameter] = [p for p in model.parameters() if p.requires_grad]
        self.device = next(model.parameters()).device
        self.runs: dict[Hashable, int] = {}
        self.recordings: dict[Hashable, _Recording[Data]] = {}

    def __call__(self, data: Data) -> Loss:
        shape = tuple((tuple(leaf.shape), leaf.dtype) if isinstance(leaf, Tensor) else leaf for leaf in leaves(data))
        recording = self.recordings.get(shape)
        if recording is None:
            count = self.runs[shape] = self.runs.get(shape, 0) + 1
            if count <= PLAIN_RUNS or len(self.recordings) == MOST_GRAPHS:
                return self._keep(*self._pass(self._moved(data)))
            recording = self.recordings[shape] = self._recorded(data)
        else:
            for held, new in zip(leaves(recording.inputs), leaves(data), strict=True):
                if isinstance(held, Tensor):
                    held.copy_(new, non_blocking=True)
        recording.replay()
        return self._keep(recording.outputs, recording.names, recording.reached)

    def _moved(self, data: Data) -> Data:
        return mapped(data, lambda tensor: tensor.to(self.device, non_blocking=True))

    def _recorded(self, data: Data) -> _Recording[Data]:
        inputs = mapped(data, lambda tensor: tensor.to(self.device, copy=True))
        seen: list[tuple[tuple[str, ...], Reached]] = []

        def run() -> Outputs:
            outputs, names, reached = self._pass(inputs)
            seen.append((names, reached))
            return outputs

        outputs, replay = self.record(run)
        return _Recording(inputs, outputs, *seen[-1], replay)

    def _pass(self, data: Data) -> tuple[Outputs, tuple[str, ...], Reached]:
        """(loss, its parts, gradients of the parameters that it reaches); the names of the parts; which it reaches."""
        with self.model.computing_in(self.compute_dtype):
            batch_loss = self.loss(self.model, data)
        reached = torch.autograd.grad(batch_loss.value, self.parameters, allow_unused=True)
        slopes = [slope for slope in reached if slope is not None]
        outputs = [batch_loss.value.detach(), *batch_loss.parts.values(), *slopes]
        return outputs, tuple(batch_loss.parts), tuple(slope is not None for slope in reached)

    def _keep(self, outputs: Outputs, names: tuple[str, ...], reached: Reached) -> Loss:
        """Gradients where an optimiser looks for them. A replay writes to the same memory: read it before the next."""
        value, parts, slopes = outputs[0], outputs[1 : 1 + len(names)], iter(outputs[1 + len(names) :])
        for parameter, depends in zip(self.parameters, reached, strict=True):
            parameter.grad = next(slopes) if depends else None
        return Loss(value, dict(zip(names, parts, strict=True)))


def _record_graph(run: Callable[[], Outputs]) -> tuple[Outputs, Callable[[], None]]:
    """`run` as a CUDA graph. It is run once before, apart from the main stream, as graphs ask for."""
    aside = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    aside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(aside):
        run()
    torch.cuda.current_stream().wait_stream(aside)
    graph = torch.cuda.CUDAGraph()
    # thread_local: another thread may meanwhile take pinned memory for the data to come.
    with torch.cuda.graph(graph, capture_error_mode="thread_local"):
        outputs = run()
    return outputs, graph.replay
