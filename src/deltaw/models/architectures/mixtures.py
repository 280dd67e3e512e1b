"""Matrices of mixtures of experts: one by one, or the same map of all experts in one tensor of three axes.

    one by one   mlp.experts.7.gate_proj.weight; Mixtral's block_sparse_moe.experts.7.w1, w3, w2 are gate, up and down
    fused        mlp.experts.gate_up_proj (experts, 2 · inner, hidden), or (experts, hidden, 2 · inner) as by gpt-oss
                 and Llama 4; the tensors' shapes say which
    shared       mlp.shared_expert.gate_proj.weight, which every token passes

All are seen as one by one: `mlp.experts.7.gate_proj`, and gate above up as `gate_up`.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from deltaw.models.architectures.pieces import Module, Piece, Rows
from deltaw.models.architectures.tensor_names import plain_name, text_config, unwrapped

_HOLDER = r"(?P<stem>(?:.*\.)?(?P<layer>[0-9]{1,6})\.)(?P<holder>mlp|block_sparse_moe|feed_forward|ffn|moe)\."
_MAPS = {
    "w1": "gate_proj",
    "w3": "up_proj",
    "w2": "down_proj",
    "input_linear": "gate_up_proj",
    "output_linear": "down_proj",
}
_ONE = re.compile(rf"{_HOLDER}experts\.(?P<expert>[0-9]{{1,5}})\.(?P<map>gate_proj|up_proj|down_proj|w1|w2|w3)\.weight")
_SHARED = re.compile(rf"{_HOLDER}shared_experts?\.(?P<map>gate_proj|up_proj|down_proj)\.weight")
_FUSED = re.compile(
    rf"{_HOLDER}(?:experts\.(?P<map>gate_up_proj|gate_proj|up_proj|down_proj)(?:\.weight)?"
    r"|(?P<granite>input_linear|output_linear)\.weight)"
)


@dataclass(frozen=True)
class Fused:
    """A tensor of all experts' maps."""

    tensor: str
    stem: str
    """What stands before the holder of the experts, the layer's number last."""
    layer: int
    experts: int
    kind: str
    """gate_up_proj, gate_proj, up_proj or down_proj."""
    transposed: bool
    """Whether each expert's matrix is stored (in, out)."""
    interleaved: bool
    """Whether rows of gate and up alternate."""
    outputs: int

    def rows(self, part: str) -> Rows:
        """The outputs of gate or up."""
        half = self.outputs // 2
        gate: Rows = slice(0, self.outputs, 2) if self.interleaved else slice(0, half)
        up: Rows = slice(1, self.outputs, 2) if self.interleaved else slice(half, self.outputs)
        return gate if part == "gate" else up


def expert_modules(
    shapes: Mapping[str, tuple[int, ...]], names: list[str], config: Mapping[str, Any], model_type: str
) -> Iterator[Module]:
    """The matrices of all experts among the names."""
    for name in names:
        clean = unwrapped(name)
        match = _ONE.fullmatch(clean) or _SHARED.fullmatch(clean)
        if match is not None and len(shapes[name]) == 2 and all(shapes[name]):
            kind = _MAPS.get(match["map"], match["map"])
            expert = match.groupdict().get("expert")
            owner = clean.removesuffix(".weight").rpartition(".")[0].rpartition(".")[2] if expert is None else None
            key = f"{plain_name(match['stem'] + 'mlp.')}{'experts.' + expert if expert else owner}.{kind}"
            yield Module(clean.removesuffix(".weight"), "mlp", int(match["layer"]), (Piece(name, False),), key)
    for fused in fused_tensors(shapes, names, config, model_type):
        yield from _of_fused(fused)


def fused_tensors(
    shapes: Mapping[str, tuple[int, ...]], names: list[str], config: Mapping[str, Any], model_type: str
) -> list[Fused]:
    """The tensors of three axes among the names that hold all experts' maps."""
    matches = [
        (name, match) for name in names if len(shapes[name]) == 3 and (match := _FUSED.fullmatch(unwrapped(name)))
    ]
    hidden = text_config(config).get("hidden_size")
    layers: dict[str, list[bool]] = {}
    for name, match in matches:
        known = _transposed(_kind(match), shapes[name], hidden)
        if known is not None:
            layers.setdefault(match["stem"], []).append(known)
    turned = "gpt_oss" in model_type or "llama4" in model_type
    return [
        Fused(
            name,
            match["stem"],
            int(match["layer"]),
            shapes[name][0],
            _kind(match),
            flipped := next(iter(layers.get(match["stem"], [])), turned),
            "gpt_oss" in model_type,
            shapes[name][2 if flipped else 1],
        )
        for name, match in matches
        if all(shapes[name])
    ]


def _kind(match: re.Match[str]) -> str:
    return _MAPS.get(match["granite"], match["map"]) if match["granite"] else str(match["map"])


def _transposed(kind: str, shape: tuple[int, ...], hidden: Any) -> bool | None:
    """Whether the hidden side is where the outputs of (out, in) would be; None if the shape does not say."""
    first, second = shape[1:]
    if first == second or hidden not in (first, second):
        return None
    return bool((first == hidden) != (kind == "down_proj"))


def _of_fused(fused: Fused) -> Iterator[Module]:
    holder = unwrapped(fused.tensor).removeprefix(fused.stem).partition(".")[0]
    name, key = f"{fused.stem}{holder}.experts.", plain_name(f"{fused.stem}mlp.experts.")
    parts: dict[str, Rows] = {fused.kind: None}
    if fused.kind == "gate_up_proj":
        parts = {"gate_proj": fused.rows("gate"), "up_proj": fused.rows("up")}
    for expert in range(fused.experts):
        for kind, rows in parts.items():
            piece = Piece(fused.tensor, fused.transposed, rows, expert)
            yield Module(f"{name}{expert}.{kind}", "mlp", fused.layer, (piece,), f"{key}{expert}.{kind}")
