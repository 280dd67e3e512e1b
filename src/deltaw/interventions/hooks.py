"""Writing activations: one context manager that places edits at named sites and removes them.

An edit is a function of the activation x (B, T, width) that returns another of the same shape; x itself is never
written to. It sees every forward pass: in free-running decoding first the prompt (T > 1), then one position a step
(T = 1), so that an edit acts on generated positions as well.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import Tensor, nn

from deltaw.models import module_at

Place = tuple[int, str]
"""(layer, site), of `deltaw.models.SITES`."""

Edit = Callable[[Tensor], Tensor]


@contextmanager
def editing(model: nn.Module, edits: Mapping[Place, Edit]) -> Iterator[None]:
    """Within this context, forward passes go on with the edited activations. Nested contexts edit in turn.

    Hooks are removed when the context ends, however it ends. DeltawError if a site or layer does not exist.
    """
    with ExitStack() as hooks:
        for place, edit in edits.items():
            module, reads_input = module_at(model, place)
            if reads_input:
                hook = module.register_forward_pre_hook(_of_input(edit))
            else:
                hook = module.register_forward_hook(_of_output(edit))
            hooks.callback(hook.remove)
        yield


def _of_input(edit: Edit) -> Callable[[Any, tuple[Any, ...]], tuple[Any, ...]]:
    return lambda _module, inputs: (edit(inputs[0]), *inputs[1:])


def _of_output(edit: Edit) -> Callable[[Any, Any, Any], Any]:
    def edited(_module: Any, _inputs: Any, output: Any) -> Any:
        # Modules of some architectures return tuples, of which the first item is the activation.
        return (edit(output[0]), *output[1:]) if isinstance(output, tuple) else edit(output)

    return edited
