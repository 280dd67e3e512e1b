"""Adapters as PEFT merges them: LoRA factors (Hu et al., 2021) as exact low-rank updates, and tensors trained whole.

The directory has `adapter_config.json` and `adapter_model.safetensors`. What an adapter can hold:

    lora_A, lora_B                      ΔW = scale · B A, of a linear map
    lora_embedding_A, lora_embedding_B  ΔW = scale · (B A)ᵀ, of an embedding
    the same of a module of experts     (`target_parameters`) one pair of factors for a tensor of three axes
    lora_B.bias                         scale · b, added to the map's bias
    anything under a tensor's own name  the tensor itself, trained whole: `modules_to_save`, biases, embeddings
    trainable_tokens_delta              rows of an embedding
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from deltaw.analysis.large_matrices import LowRank
from deltaw.errors import DeltawError
from deltaw.models.adapter_config import CONFIG, WEIGHTS, check_rank, refuse_other_kinds, scale
from deltaw.models.architectures import Piece, plain_name
from deltaw.models.checkpoint_directory import INDEX, SINGLE, read_json_object, refuse_unreadable
from deltaw.models.checkpoint_files import Checkpoint, Stored, tensors_of

_FACTOR = re.compile(
    r"(?:base_model\.model\.)?(?P<module>.+)\.(?P<kind>lora|lora_embedding)_(?P<factor>[AB])"
    r"(?:\.(?!weight$|bias$)\w+)?(?P<what>\.weight|\.bias)?"
)
_TOKENS = re.compile(r"(?:base_model\.model\.)?(?P<module>.+)\.token_adapter\.trainable_tokens_delta(?:\.\w+)?")


@dataclass(frozen=True)
class Factors:
    """Names of the two factors of one update. module: as PEFT calls it."""

    a: str
    b: str
    module: str
    embedding: bool = False


@dataclass(frozen=True)
class OfExperts:
    """Factors of a tensor of three axes (experts, first, second)."""

    factors: Factors
    experts: int
    outputs_first: bool
    """Whether the second axis is the outputs."""


@dataclass(frozen=True)
class Adapter:
    """An adapter, by the base model's tensors that it changes."""

    checkpoint: Checkpoint
    factors: Mapping[str, Factors]
    """Of tensors that get a low-rank update."""
    unused: tuple[str, ...]
    """What the adapter holds and the base model has no place for."""
    experts: Mapping[str, OfExperts] = field(default_factory=dict)
    """Of tensors of three axes; for a base that has experts one by one, of the tensor that they would be."""
    whole: Mapping[str, str] = field(default_factory=dict)
    """Of tensors that were trained whole: the adapter's tensor."""
    biases: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    """Of biases that are added to: the adapter's tensor and the module's name in PEFT."""
    rows: Mapping[str, tuple[str, tuple[int, ...]]] = field(default_factory=dict)
    """Of embeddings of which some rows were trained: the adapter's tensor and the rows."""

    @property
    def changed(self) -> set[str]:
        """Every tensor of the base model that the adapter changes; experts under their fused name."""
        return {*self.factors, *self.experts, *self.whole, *self.biases, *self.rows}

    def update(self, tensor: str) -> LowRank:
        """The update (out, in) of a map; of an embedding (tokens, width)."""
        factors = self.factors[tensor]
        a, b, factor = self._read(factors)
        if factors.embedding:
            return LowRank(a.T, b * factor)
        return LowRank(b * factor, a.T)

    def changes(self, piece: Piece) -> bool:
        """Whether a low-rank update of the piece, or a tensor trained whole, is there."""
        return piece.tensor in self.factors or piece.tensor in self.whole or self._of_experts(piece) is not None

    def update_of(self, piece: Piece) -> LowRank:
        """The update of a piece of a matrix, seen as (out, in)."""
        expert_part = self._of_experts(piece)
        if expert_part is None:
            update = self.update(piece.tensor)
            return update if piece.rows is None else LowRank(update.left[piece.rows], update.right)
        fused, expert, rows, transposed = expert_part
        update = self.expert_update(fused, expert)
        update = update.T if transposed else update
        return update if rows is None else LowRank(update.left[rows], update.right)

    def expert_update(self, fused: str, expert: int) -> LowRank:
        """The update of one expert's matrix, as the fused tensor stores it."""
        of_experts = self.experts[fused]
        a, b, factor = self._read(of_experts.factors, of_experts.experts)
        a_e = a.reshape(of_experts.experts, -1, a.shape[-1])[expert]
        b_e = b.reshape(b.shape[0], -1, of_experts.experts)[:, :, expert] * factor
        return LowRank(b_e, a_e.T) if of_experts.outputs_first else LowRank(a_e.T, b_e)

    def after(self, name: str, before: Tensor, transposed: bool, alpha: float = 1.0) -> Tensor:
        """A tensor of the base model with alpha times the adapter's change, in float64.

        before: as stored. transposed: whether the module stores its matrix as (in, out). DeltawError if shapes differ.
        """
        start = before.double()
        result = start.clone()
        if name in self.whole:
            result = self._whole(name, start)
        if name in self.rows:
            stored, indices = self.rows[name]
            result[list(indices)] = self.checkpoint.read(stored).double()
        if name in self.biases:
            stored, module = self.biases[name]
            result = result + self.checkpoint.read(stored).double() * self._scale(module, self._rank_of(module))
        if name in self.factors:
            update = self.update(name)
            dense = update.left @ update.right.T
            dense = dense.T if transposed and not self.factors[name].embedding else dense
            _check_shape(self.checkpoint.directory, name, tuple(dense.shape), tuple(start.shape))
            result = result + dense
        if name in self.experts:
            updates = (self.expert_update(name, expert) for expert in range(self.experts[name].experts))
            result = result + torch.stack([update.left @ update.right.T for update in updates])
        return start + alpha * (result - start)

    def _whole(self, name: str, start: Tensor) -> Tensor:
        trained = self.checkpoint.read(self.whole[name]).double()
        _check_shape(self.checkpoint.directory, name, tuple(trained.shape), tuple(start.shape))
        return trained

    def _read(self, factors: Factors, experts: int = 1) -> tuple[Tensor, Tensor, float]:
        a, b = self.checkpoint.read(factors.a).double(), self.checkpoint.read(factors.b).double()
        if a.ndim != 2 or b.ndim != 2 or a.shape[0] != b.shape[1] or not a.shape[0] or a.shape[0] % experts:
            raise DeltawError(
                f"{self.checkpoint.directory}: the factors of {factors.module} are {tuple(b.shape)} and "
                f"{tuple(a.shape)}; expected (outputs, rank) and (rank, inputs)"
            )
        return a, b, self._scale(factors.module, a.shape[0] // experts)

    def _scale(self, module: str, rank: int) -> float:
        check_rank(self.checkpoint.config, module, rank)
        return scale(self.checkpoint.config, module, rank)

    def _rank_of(self, module: str) -> int:
        factors = next(x for x in self.factors.values() if x.module == module)
        return self.checkpoint.tensors[factors.a].shape[0]

    def _of_experts(self, piece: Piece) -> tuple[str, int, slice | Tensor | None, bool] | None:
        """The fused tensor, expert, rows and orientation of a piece of an expert's matrix."""
        if piece.expert is not None:
            known = piece.tensor in self.experts
            return (piece.tensor, piece.expert, piece.rows, piece.transposed) if known else None
        match = _ONE_EXPERT.fullmatch(piece.tensor)
        if match is None:
            return None
        part = _PARTS[match["map"]]
        fused = f"{match['stem']}.{'down_proj' if part == 'down' else 'gate_up_proj'}"
        if fused not in self.experts:
            return None
        if part == "down":
            return fused, int(match["expert"]), None, False
        half = self.checkpoint.tensors[self.experts[fused].factors.b].shape[0] // 2
        return fused, int(match["expert"]), slice(0, half) if part == "gate" else slice(half, 2 * half), False


_ONE_EXPERT = re.compile(r"(?P<stem>.+\.experts)\.(?P<expert>\d{1,5})\.(?P<map>\w+)\.weight")
_PARTS = {"gate_proj": "gate", "w1": "gate", "up_proj": "up", "w3": "up", "down_proj": "down", "w2": "down"}


def is_adapter(directory: Path) -> bool:
    """Whether a directory holds an adapter and not a whole checkpoint."""
    return (directory / CONFIG).is_file() and not any((directory / name).is_file() for name in (SINGLE, INDEX))


def open_adapter(directory: Path, base: Mapping[str, Stored]) -> Adapter:
    """The adapter in a directory, for a base model's tensors. DeltawError if it is of another kind, or damaged."""
    config = read_json_object(directory / CONFIG)
    refuse_other_kinds(directory, config)
    if not (directory / WEIGHTS).is_file():
        refuse_unreadable(directory)
        raise DeltawError(f"{directory} has no {WEIGHTS}; restore it beside {CONFIG}")
    tensors = tensors_of({directory / WEIGHTS: None})
    if any("lora_magnitude_vector" in name for name in tensors):
        refuse_other_kinds(directory, {**config, "use_dora": True})
    names = _Names(base)
    halves: dict[tuple[str, bool], dict[str, str]] = {}
    biases: dict[str, tuple[str, str]] = {}
    whole: dict[str, str] = {}
    rows: dict[str, tuple[str, tuple[int, ...]]] = {}
    unused: list[str] = []
    for name in tensors:
        match, tokens = _FACTOR.fullmatch(name), _TOKENS.fullmatch(name)
        if match is not None and match["what"] == ".bias":
            target = names.of(f"{_bare(match['module'])}.bias")
            biases |= {} if target is None or match["factor"] == "A" else {target: (name, match["module"])}
            unused += [name] if target is None or match["factor"] == "A" else []
        elif match is not None:
            halves.setdefault((match["module"], match["kind"] == "lora_embedding"), {})[match["factor"]] = name
        elif tokens is not None and (target := names.of(f"{tokens['module']}.weight")) is not None:
            rows[target] = name, _token_rows(config, tokens["module"], directory)
        elif (target := names.of(_trained_name(name))) is not None and tensors[name].shape == base[target].shape:
            whole[target] = name
        else:
            unused.append(name)
    factors, experts = _factors(directory, halves, names, config, tensors, unused)
    if not (factors or experts or whole or rows):
        raise DeltawError(
            f"{directory / WEIGHTS} changes no tensor of the base model (it has {', '.join(unused[:3]) or 'none'}); "
            "give the base model that the adapter was made for"
        )
    return Adapter(Checkpoint(directory, tensors, config), factors, tuple(unused), experts, whole, biases, rows)


class _Names:
    """The base's tensors by what adapters call them."""

    def __init__(self, base: Mapping[str, Stored]) -> None:
        self.base = base
        self.plain: dict[str, list[str]] = {}
        for name in base:
            self.plain.setdefault(plain_name(name), []).append(name)

    def of(self, name: str) -> str | None:
        """The base tensor of this name, or of one that differs in a prefix only."""
        if name in self.base:
            return name
        close = self.plain.get(plain_name(name)) or [x for x in self.base if x.endswith(f".{name}")]
        return close[0] if len(close) == 1 else None

    def experts_of(self, module: str) -> dict[str, tuple[int, int, int]]:
        """Shapes of the tensors of three axes under a module; those that experts one by one would make together."""
        stem = _as_mlp(plain_name(f"{module}."))
        fused: dict[str, tuple[int, int, int]] = {}
        single: dict[str, dict[str, tuple[int, ...]]] = {}
        for plain, (name, *_) in self.plain.items():
            shape = self.base[name].shape
            if _as_mlp(plain).startswith(stem) and len(shape) == 3:
                fused[name] = (shape[0], shape[1], shape[2])
            match = _ONE_EXPERT.fullmatch(name)
            if match is not None and match["map"] in _PARTS and _as_mlp(plain_name(f"{match['stem']}.")) == stem:
                single.setdefault(match["stem"], {})[f"{match['expert']}.{_PARTS[match['map']]}"] = shape
        for name, parts in single.items():
            count = 1 + max(int(key.partition(".")[0]) for key in parts)
            gate, down = parts.get("0.gate"), parts.get("0.down")
            if gate is not None and down is not None:
                fused[f"{name}.gate_up_proj"] = (count, 2 * gate[0], gate[1])
                fused[f"{name}.down_proj"] = (count, down[0], down[1])
        return fused


def _factors(
    directory: Path,
    halves: Mapping[tuple[str, bool], Mapping[str, str]],
    names: _Names,
    config: Mapping[str, Any],
    tensors: Mapping[str, Stored],
    unused: list[str],
) -> tuple[dict[str, Factors], dict[str, OfExperts]]:
    factors: dict[str, Factors] = {}
    experts: dict[str, OfExperts] = {}
    for (module, embedding), half in halves.items():
        if len(half) < 2:
            target = names.of(f"{_bare(module)}.weight")
            if target is None:
                unused += half.values()
                continue
            raise DeltawError(
                f"{directory / WEIGHTS} has one factor of {target} and not the other; save the adapter again"
            )
        pair = Factors(half["A"], half["B"], _bare(module), embedding)
        target = names.of(f"{_bare(module)}.weight")
        if target is not None:
            factors[target] = pair
            continue
        fitting = _fitting_experts(directory, module, pair, names, config, tensors)
        if fitting is None:
            unused += half.values()
        else:
            experts[fitting[0]] = fitting[1]
    return factors, experts


def _fitting_experts(
    directory: Path,
    module: str,
    pair: Factors,
    names: _Names,
    config: Mapping[str, Any],
    tensors: Mapping[str, Stored],
) -> tuple[str, OfExperts] | None:
    """The tensor of three axes that factors fit, by its shape; None if none does. DeltawError if several do."""
    (rank, inputs), (outputs, _) = tensors[pair.a].shape[-2:], tensors[pair.b].shape[-2:]
    targets = config.get("target_parameters")
    wanted = [str(x) for x in targets] if isinstance(targets, list) else []
    candidates: list[tuple[str, OfExperts]] = []
    for name, (count, first, second) in names.experts_of(_bare(module)).items():
        if rank % count or (wanted and not any(_as_mlp(f".{name}").endswith(_as_mlp(f".{x}")) for x in wanted)):
            continue
        if (outputs, inputs) == (first, second):
            candidates.append((name, OfExperts(pair, count, outputs_first=True)))
        if (inputs, outputs) == (first, second):
            candidates.append((name, OfExperts(pair, count, outputs_first=False)))
    if len(candidates) > 1:
        raise DeltawError(
            f"{directory}: the factors of {_bare(module)} fit {candidates[0][0]} in more than one way, and the adapter "
            "does not say which; merge it with PEFT (merge_and_unload) into a checkpoint"
        )
    return candidates[0] if candidates else None


def _as_mlp(name: str) -> str:
    """A name in which Mixtral's module of experts is called as transformers now has it."""
    return name.replace("block_sparse_moe.", "mlp.")


def _bare(module: str) -> str:
    """A module's name in the base model: PEFT nests wrappers as base_layer."""
    return re.sub(r"(\.base_layer)+$", "", module).removeprefix("base_model.model.")


def _trained_name(name: str) -> str:
    """The base model's name of a tensor that was trained whole."""
    name = name.removeprefix("base_model.model.")
    name = re.sub(r"\.(modules_to_save|original_module)(\.default)?(?=\.)", "", name)
    return name.replace(".base_layer.", ".")


def _token_rows(config: Mapping[str, Any], module: str, directory: Path) -> tuple[int, ...]:
    given = config.get("trainable_token_indices", config.get("token_indices"))
    if isinstance(given, Mapping):
        given = next((rows for name, rows in given.items() if f".{module}".endswith(f".{name}")), None)
    if not isinstance(given, list) or not all(type(row) is int and row >= 0 for row in given):
        raise DeltawError(f"{directory / CONFIG} does not say which tokens were trained; restore it")
    return tuple(given)


def _check_shape(directory: Path, name: str, update: tuple[int, ...], tensor: tuple[int, ...]) -> None:
    if update != tensor:
        raise DeltawError(
            f"{directory}: the update of {name} is {update}, the tensor {tensor}; give the base model that the adapter "
            "was made for"
        )
