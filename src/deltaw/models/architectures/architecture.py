"""What an architecture is: where the parts of a block are, and how their matrices are stored. To add one, add a file.

    @dataclass(frozen=True)
    class Mine(Architecture):
        \"\"\"My own layout: blocks with a plain MLP.\"\"\"

        name = "mine"
        label = "Mine"

        block = "net.blocks.{layer}"
        attention = (Map("attn.q"), Map("attn.k"), Map("attn.v"), Map("attn.o"))
        mlp_in = (Map("ffn.w1"),)
        mlp_out = Map("ffn.w2")
        model_types = ("mine-large",)

An architecture is data, without methods of its own. `families` has those that deltaw knows.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Protocol

import torch
from torch import Tensor

from deltaw.component import Component
from deltaw.errors import DeltawError

Cut = Callable[[int, Mapping[str, Any]], dict[str, Tensor | slice]]
"""(number of outputs, config) -> rows of each part of a fused map."""
Kind = Literal["attention", "mlp"]


@dataclass(frozen=True)
class Map:
    """One linear map of a block."""

    path: str
    """Path of its module inside the block, such as mlp.up_proj."""
    cut: Cut | None = None
    """How a fused map is cut into its parts; None for a map of one part."""
    whole: bool = True
    """Whether a fused map is compared as one matrix too."""


@dataclass(frozen=True)
class Pattern:
    """Tensors of files that are one kind of map, layer by layer."""

    tensor: str
    """Name of the tensor with `{layer}` for the layer's number and `*` for anything; any prefix may stand before it."""
    kind: Kind
    transposed: bool = False
    """Whether it is stored (in, out)."""
    cut: Cut | None = None
    whole: bool = True

    def match(self, name: str) -> re.Match[str] | None:
        """The match of a tensor's name, with the group `layer` where the pattern has one."""
        pattern = re.escape(self.tensor).replace(r"\{layer\}", r"(?P<layer>[0-9]{1,6})", 1).replace(r"\*", ".*")
        return re.fullmatch(rf"(?:.*\.)?{pattern}", name)


class Activation(Protocol):
    """An elementwise function. A protocol, since a type of functions would be a method's."""

    def __call__(self, x: Tensor, /) -> Tensor:
        """Of every element."""


@dataclass(frozen=True)
class Architecture(Component):
    """What the models of a family have in common. Weights are read as they are, never folded or rewritten."""

    block: ClassVar[str]
    """Path of a block in a loaded model; `{layer}` stands for its number."""
    attention: ClassVar[tuple[Map, ...]] = ()
    """The maps of attention."""
    mlp_in: ClassVar[tuple[Map, ...]]
    """The input maps of the MLP: the one before the activation first, then, of a gated MLP that keeps it apart, the
    one that is multiplied with the activation."""
    mlp_out: ClassVar[Map]
    """The output map of the MLP."""
    gated: ClassVar[bool] = False
    """Whether the MLP is x ↦ out(activation(gate(x)) · up(x)), and not x ↦ out(activation(in(x)))."""
    transposed: ClassVar[bool] = False
    """Whether matrices are stored (in, out), as by GPT-2's Conv1D, and not (out, in)."""
    experts: ClassVar[bool] = False
    """Whether its MLPs are mixtures of experts, whose blocks have no two maps; a loaded one is read at their output."""
    activation: ClassVar[Activation | None] = None
    """The MLP's activation, as a `staticmethod`; None where the configuration chooses it."""
    model_types: ClassVar[tuple[str, ...]] = ()
    """What config.json calls architectures of the family, beside the family's own name."""

    @property
    def in_proj(self) -> str:
        """Path of the MLP's first input map in a loaded model."""
        return f"{self.block}.{self.mlp_in[0].path}"

    @property
    def out_proj(self) -> str:
        """Path of the MLP's output map in a loaded model."""
        return f"{self.block}.{self.mlp_out.path}"

    def patterns(self) -> Iterator[Pattern]:
        """The tensors of files that are its maps; what stands before the last two parts of `block` may differ."""
        stem = ".".join(self.block.split(".")[-2:])
        groups: tuple[tuple[Kind, tuple[Map, ...]], ...] = (
            ("attention", self.attention),
            ("mlp", (*self.mlp_in, self.mlp_out)),
        )
        for kind, maps in groups:
            for linear in maps:
                yield Pattern(f"{stem}.{linear.path}.weight", kind, self.transposed, linear.cut, linear.whole)

    def layers_of(self, names: Iterable[str]) -> set[int]:
        """Numbers of the layers whose first MLP map is among the parameters of a loaded model; of a mixture of experts,
        of all layers.
        """
        sought = f"{self.block}." if self.experts else f"{self.in_proj}.weight"
        pattern = re.compile(re.escape(sought).replace(re.escape("{layer}"), r"(\d+)") + (".*" if self.experts else ""))
        return {int(match[1]) for name in names if (match := pattern.fullmatch(name))}


def thirds(outputs: int, config: Mapping[str, Any]) -> dict[str, Tensor | slice]:
    """Queries, keys and values of equal size, one after another."""
    size = outputs // 3
    return {part: slice(i * size, (i + 1) * size) for i, part in enumerate("qkv")}


def halves(outputs: int, config: Mapping[str, Any]) -> dict[str, Tensor | slice]:
    """Gate and up of one MLP."""
    return {"gate": slice(0, outputs // 2), "up": slice(outputs // 2, outputs)}


def grouped(outputs: int, config: Mapping[str, Any]) -> dict[str, Tensor | slice]:
    """Queries of all heads, then keys and values of the groups that share them."""
    heads = _number(config, "num_attention_heads")
    groups = _number(config, "num_key_value_heads") if config.get("num_key_value_heads") else heads
    size, rest = divmod(outputs, heads + 2 * groups)
    if rest:
        raise DeltawError(
            f"{outputs} outputs do not hold {heads} query and {groups} key and value heads; check config.json"
        )
    q, kv = heads * size, groups * size
    return {"q": slice(0, q), "k": slice(q, q + kv), "v": slice(q + kv, outputs)}


def interleaved(outputs: int, config: Mapping[str, Any]) -> dict[str, Tensor | slice]:
    """Queries, keys and values of each head side by side, as by GPT-NeoX."""
    heads = _number(config, "num_attention_heads")
    if outputs % (3 * heads):
        raise DeltawError(f"{outputs} outputs do not hold queries, keys and values of {heads} heads; check config.json")
    index = torch.arange(outputs).view(heads, 3, -1)
    return {part: index[:, i].flatten() for i, part in enumerate("qkv")}


def _number(config: Mapping[str, Any], key: str) -> int:
    value = config.get(key)
    if type(value) is not int or value < 1:
        raise DeltawError(
            f"config.json has {key} = {value!r}; expected a whole number of at least 1, to cut a fused tensor"
        )
    return value
