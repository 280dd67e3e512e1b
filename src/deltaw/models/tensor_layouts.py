"""Which tensors of a checkpoint are matrices of MLPs and of attention, and how each family stores them.

A family lists its maps. A map is a pattern of tensor names (`{layer}` is the layer's number, any prefix may stand
before it), whether it is stored (in, out), as by GPT-2's Conv1D, and how a fused tensor is cut. Everything after this
file sees matrices (out, in) with a name: the tensor's without `.weight`, and `:part` for a part of a fused one.
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from deltaw.errors import DeltawError

MOST_STARS = 4
"""In a pattern: more of them, and a long name can take hours not to match."""

Cut = Callable[[int, Mapping[str, Any]], dict[str, Tensor | slice]]
"""(number of outputs, config) -> rows of each part of a fused map."""


@dataclass(frozen=True)
class Map:
    """One linear map of a layer. kind: mlp or attention. cut: parts of a fused map; whole: it is a map itself, too."""

    pattern: str
    kind: str
    transposed: bool = False
    cut: Cut | None = None
    whole: bool = True


@dataclass(frozen=True)
class Piece:
    """Rows of a stored tensor, seen as (out, in). rows: None for all."""

    tensor: str
    transposed: bool
    rows: slice | Tensor | None = None

    def view(self, stored: Tensor) -> Tensor:
        """The piece (out, in) of the stored tensor; a copy only where its rows are scattered."""
        matrix = stored.T if self.transposed else stored
        return matrix if self.rows is None else matrix[self.rows]

    def count(self, outputs: int) -> int:
        """How many of a tensor's outputs it has."""
        if self.rows is None:
            return outputs
        return len(range(outputs)[self.rows]) if isinstance(self.rows, slice) else len(self.rows)


@dataclass(frozen=True)
class Module:
    """One matrix to compare: pieces stacked on each other."""

    name: str
    kind: str
    layer: int | None
    pieces: tuple[Piece, ...]

    def shape(self, shapes: Mapping[str, tuple[int, ...]]) -> tuple[int, int]:
        """(outputs, inputs), from the shapes of the stored tensors."""
        sides = [shapes[piece.tensor][::-1] if piece.transposed else shapes[piece.tensor] for piece in self.pieces]
        rows = [piece.count(side[0]) for piece, side in zip(self.pieces, sides, strict=True)]
        return sum(rows), sides[0][1]


def _thirds(outputs: int, config: Mapping[str, Any]) -> dict[str, Tensor | slice]:
    size = outputs // 3
    return {part: slice(i * size, (i + 1) * size) for i, part in enumerate("qkv")}


def _halves(outputs: int, config: Mapping[str, Any]) -> dict[str, Tensor | slice]:
    return {"gate": slice(0, outputs // 2), "up": slice(outputs // 2, outputs)}


def _grouped(outputs: int, config: Mapping[str, Any]) -> dict[str, Tensor | slice]:
    heads = _number(config, "num_attention_heads")
    groups = _number(config, "num_key_value_heads") if config.get("num_key_value_heads") else heads
    size, rest = divmod(outputs, heads + 2 * groups)
    if rest:
        raise DeltawError(
            f"{outputs} outputs do not hold {heads} query and {groups} key and value heads; check config.json"
        )
    q, kv = heads * size, groups * size
    return {"q": slice(0, q), "k": slice(q, q + kv), "v": slice(q + kv, outputs)}


def _interleaved(outputs: int, config: Mapping[str, Any]) -> dict[str, Tensor | slice]:
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


_SPLIT_ATTENTION = tuple(Map(f"layers.{{layer}}.self_attn.{x}_proj.weight", "attention") for x in "qkv")
_LLAMA = (
    *_SPLIT_ATTENTION,
    Map("layers.{layer}.self_attn.o_proj.weight", "attention"),
    *(Map(f"layers.{{layer}}.mlp.{x}_proj.weight", "mlp") for x in ("gate", "up", "down")),
)
FAMILIES: Mapping[str, tuple[Map, ...]] = {
    "llama": _LLAMA,
    "phi3": (
        Map("layers.{layer}.self_attn.qkv_proj.weight", "attention", cut=_grouped, whole=False),
        Map("layers.{layer}.self_attn.o_proj.weight", "attention"),
        Map("layers.{layer}.mlp.gate_up_proj.weight", "mlp", cut=_halves),
        Map("layers.{layer}.mlp.down_proj.weight", "mlp"),
    ),
    "glm": (
        *_SPLIT_ATTENTION,
        Map("layers.{layer}.self_attn.o_proj.weight", "attention"),
        Map("layers.{layer}.mlp.gate_up_proj.weight", "mlp", cut=_halves),
        Map("layers.{layer}.mlp.down_proj.weight", "mlp"),
    ),
    "phi": (
        *_SPLIT_ATTENTION,
        Map("layers.{layer}.self_attn.dense.weight", "attention"),
        Map("layers.{layer}.mlp.fc1.weight", "mlp"),
        Map("layers.{layer}.mlp.fc2.weight", "mlp"),
    ),
    "gpt2": (
        Map("h.{layer}.attn.c_attn.weight", "attention", transposed=True, cut=_thirds, whole=False),
        Map("h.{layer}.attn.c_proj.weight", "attention", transposed=True),
        Map("h.{layer}.mlp.c_fc.weight", "mlp", transposed=True),
        Map("h.{layer}.mlp.c_proj.weight", "mlp", transposed=True),
    ),
    "gpt_neox": (
        Map("layers.{layer}.attention.query_key_value.weight", "attention", cut=_interleaved, whole=False),
        Map("layers.{layer}.attention.dense.weight", "attention"),
        Map("layers.{layer}.mlp.dense_h_to_4h.weight", "mlp"),
        Map("layers.{layer}.mlp.dense_4h_to_h.weight", "mlp"),
    ),
    "opt": (
        *_SPLIT_ATTENTION,
        Map("layers.{layer}.self_attn.out_proj.weight", "attention"),
        Map("layers.{layer}.fc1.weight", "mlp"),
        Map("layers.{layer}.fc2.weight", "mlp"),
    ),
    "deltaw": (
        Map("blocks.{layer}.attn.qkv.weight", "attention", cut=_thirds, whole=False),
        Map("blocks.{layer}.attn.out.weight", "attention"),
        Map("blocks.{layer}.mlp.in_proj.weight", "mlp"),
        Map("blocks.{layer}.mlp.out_proj.weight", "mlp"),
    ),
}
MODEL_TYPES: Mapping[str, str] = {
    **{name: name for name in FAMILIES},
    **dict.fromkeys(
        (
            "mistral", "ministral", "qwen2", "qwen3", "gemma", "gemma2", "gemma3", "gemma3_text", "smollm3", "olmo",
            "olmo2", "olmo3", "granite", "stablelm", "cohere", "cohere2", "exaone4", "helium", "seed_oss", "arcee",
            "nemotron", "apertus",
        ),
        "llama",
    ),
    "glm4": "glm",
}  # fmt: skip
"""config.json's model_type -> family. A test checks each against the model that transformers builds."""


def given_maps(patterns: Sequence[str]) -> tuple[Map, ...]:
    """Maps from patterns of the command line: tensor names with `{layer}` and `*`; `:transposed` for (in, out)."""
    found = []
    for pattern in patterns:
        name, _, how = pattern.partition(":")
        if how not in ("", "transposed"):
            raise DeltawError(f"the pattern {pattern!r} ends in {how!r}; only ':transposed' may follow a name")
        if name.count("*") > MOST_STARS:
            raise DeltawError(f"the pattern {pattern!r} has more than {MOST_STARS} '*'; name the matrices more closely")
        kind = "attention" if re.search(r"attn|attention", name) else "mlp"
        found.append(Map(name if name.endswith(".weight") else f"{name}.weight", kind, how == "transposed"))
    return tuple(found)


def find_modules(
    shapes: Mapping[str, tuple[int, ...]], config: Mapping[str, Any], model_type: str, patterns: Sequence[str] = ()
) -> list[Module]:
    """The matrices to compare, layer by layer. shapes: of all tensors. patterns: instead of the family's own.

    Gate and up of one MLP are also stacked as one map, `gate_up`. DeltawError, with the candidates, if there are none.
    """
    matrices = [name for name, shape in shapes.items() if len(shape) == 2 and all(shape)]
    if patterns:
        maps = given_maps(patterns)
        for pattern, one in zip(patterns, maps, strict=True):
            if not any(_match(one, name) for name in matrices):
                raise DeltawError(f"no matrix is named like {pattern!r}; there are {candidates(matrices)}")
    elif model_type in MODEL_TYPES:
        maps = FAMILIES[MODEL_TYPES[model_type]]
    else:
        raise DeltawError(
            f"the model type {model_type!r} is not among {', '.join(sorted(MODEL_TYPES))}; name its matrices with "
            f"--modules, from {candidates(matrices)}"
        )
    found = [
        module for name in matrices for one in maps if (match := _match(one, name)) for module in
        _modules(one, name, _layer(match), shapes[name], config)
    ]  # fmt: skip
    if not found:
        raise DeltawError(
            f"no tensor has the name that {model_type!r} models give to their matrices; name them with --modules, from "
            f"{candidates(matrices)}"
        )
    found += _stacked(found)
    return sorted(found, key=lambda module: (-1 if module.layer is None else module.layer, module.name))


def candidates(names: Iterable[str]) -> str:
    """Names of matrices for a message, with layers' numbers as {layer}."""
    general = list(dict.fromkeys(re.sub(r"(?<=\.)\d+(?=\.)", "{layer}", name, count=1) for name in names))
    return (
        ", ".join(general[:30]) + (f" and {len(general) - 30} more" if len(general) > 30 else "")
        or "no matrices at all"
    )


def _match(one: Map, name: str) -> re.Match[str] | None:
    pattern = re.escape(one.pattern).replace(r"\{layer\}", r"(?P<layer>[0-9]{1,6})", 1).replace(r"\*", ".*")
    return re.fullmatch(rf"(?:.*\.)?{pattern}", name)


def _layer(match: re.Match[str]) -> int | None:
    return int(match["layer"]) if "layer" in match.groupdict() else None


def _modules(
    one: Map, tensor: str, layer: int | None, shape: tuple[int, ...], config: Mapping[str, Any]
) -> Iterable[Module]:
    name = tensor.removesuffix(".weight")
    if one.whole:
        yield Module(name, one.kind, layer, (Piece(tensor, one.transposed),))
    if one.cut is not None:
        for part, rows in one.cut(shape[1] if one.transposed else shape[0], config).items():
            yield Module(f"{name}:{part}", one.kind, layer, (Piece(tensor, one.transposed, rows),))


def _stacked(modules: Sequence[Module]) -> list[Module]:
    by_name = {module.name: module for module in modules}
    found = []
    for name, gate in by_name.items():
        up = by_name.get(name.replace("gate_proj", "up_proj"))
        if name.endswith("gate_proj") and up is not None:
            both = (*gate.pieces, *up.pieces)
            found.append(Module(f"{name.removesuffix('gate_proj')}gate_up", gate.kind, gate.layer, both))
    return found
