"""The matrices of a checkpoint's files: which tensors are maps of MLPs and attention, by the family's patterns.

Everything after this file sees matrices (out, in) with a name: the tensor's without `.weight`, and `:part` for a part
of a fused one. Of multimodal checkpoints they are the text decoder's alone.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from deltaw.errors import DeltawError
from deltaw.models.architectures.architecture import Kind, Pattern
from deltaw.models.architectures.known import family_of_config, model_types
from deltaw.models.architectures.mixtures import expert_modules
from deltaw.models.architectures.pieces import Module, Piece
from deltaw.models.architectures.tensor_names import group_of, text_config, unwrapped, why_apart

MOST_STARS = 4
"""In a pattern: more of them, and a long name can take hours not to match."""


def given_maps(patterns: Sequence[str]) -> tuple[Pattern, ...]:
    """Patterns from those of the command line: tensor names with `{layer}` and `*`; `:transposed` for (in, out)."""
    parsed = []
    for pattern in patterns:
        name, _, suffix = pattern.partition(":")
        if suffix not in ("", "transposed"):
            raise DeltawError(f"the pattern {pattern!r} ends in {suffix!r}; only ':transposed' may follow a name")
        if name.count("*") > MOST_STARS:
            raise DeltawError(f"the pattern {pattern!r} has more than {MOST_STARS} '*'; name the matrices more closely")
        kind: Kind = "attention" if re.search(r"attn|attention", name) else "mlp"
        tensor = name if name.endswith(".weight") else f"{name}.weight"
        parsed.append(Pattern(tensor, kind, suffix == "transposed"))
    return tuple(parsed)


def find_modules(
    shapes: Mapping[str, tuple[int, ...]], config: Mapping[str, Any], model_type: str, patterns: Sequence[str] = ()
) -> list[Module]:
    """The matrices to compare, layer by layer. shapes: of all tensors. patterns: instead of the family's own.

    Gate and up of one MLP are also stacked as one map, `gate_up`. DeltawError, with the candidates, if there are none.
    """
    matrices = [name for name, shape in shapes.items() if len(shape) == 2 and all(shape)]
    if patterns:
        maps = given_maps(patterns)
        for pattern, wanted in zip(patterns, maps, strict=True):
            if not any(wanted.match(name) for name in matrices):
                raise DeltawError(f"no matrix is named like {pattern!r}; there are {candidates(matrices)}")
        chosen, family = matrices, None
    else:
        chosen = [name for name in matrices if why_apart(name, config) is None]
        family = family_of_config(config, model_type, chosen)
        if family is None:
            raise DeltawError(
                f"the model type {model_type!r} is not among {', '.join(sorted(model_types()))}; name its matrices "
                f"with --modules, from {candidates(matrices)}"
            )
        maps = tuple(family.patterns())
    modules = [
        module
        for name in chosen
        for pattern in maps
        if (match := pattern.match(unwrapped(name)))
        for module in _modules(pattern, name, _layer(match), shapes[name], text_config(config))
    ]
    if family is not None:
        own = [name for name in shapes if why_apart(name, config) is None]
        modules += expert_modules(shapes, own, config, model_type)
        _check_one_decoder(modules)
    if not modules:
        source = "the patterns give" if family is None else f"the architecture {family.name} gives"
        raise DeltawError(
            f"no tensor has the name that {source} to its matrices; name them with --modules, from "
            f"{candidates(matrices)}"
        )
    modules += _stacked(modules)
    return sorted(modules, key=lambda module: (-1 if module.layer is None else module.layer, module.name))


def candidates(names: Iterable[str]) -> str:
    """Names of matrices for a message, with layers' numbers as {layer}."""
    general = list(dict.fromkeys(group_of(name) for name in names))
    return (
        ", ".join(general[:30]) + (f" and {len(general) - 30} more" if len(general) > 30 else "")
        or "no matrices at all"
    )


def _check_one_decoder(modules: Sequence[Module]) -> None:
    """DeltawError if matrices of several decoders have the family's names."""
    stems = {module.shared_name.partition(f".{module.layer}.")[0] for module in modules if module.layer is not None}
    if len(stems) > 1:
        raise DeltawError(
            f"the checkpoint holds several models of this architecture ({', '.join(sorted(stems))}), and nothing says "
            "which is the text decoder; name its matrices with --modules"
        )
    names: dict[str, str] = {}
    for module in modules:
        twin = names.setdefault(module.shared_name, module.name)
        if twin != module.name:
            raise DeltawError(
                f"the checkpoint holds {twin} and {module.name}, two copies of one matrix; remove the one that is not "
                "the model's"
            )


def _layer(match: re.Match[str]) -> int | None:
    return int(match["layer"]) if "layer" in match.groupdict() else None


def _modules(
    pattern: Pattern, tensor: str, layer: int | None, shape: tuple[int, ...], config: Mapping[str, Any]
) -> Iterable[Module]:
    name = unwrapped(tensor).removesuffix(".weight")
    if pattern.whole:
        yield Module(name, pattern.kind, layer, (Piece(tensor, pattern.transposed),))
    if pattern.cut is not None:
        for part, rows in pattern.cut(shape[1] if pattern.transposed else shape[0], config).items():
            yield Module(f"{name}:{part}", pattern.kind, layer, (Piece(tensor, pattern.transposed, rows),))


def _stacked(modules: Sequence[Module]) -> list[Module]:
    """Gate and up of each gated MLP, and of each expert, as one map."""
    by_key = {module.shared_name: module for module in modules}
    stacked = []
    for key, gate in by_key.items():
        if not key.endswith("gate_proj"):
            continue
        up = by_key.get(f"{key.removesuffix('gate_proj')}up_proj")
        if up is not None:
            stem, own = f"{gate.name.rpartition('.')[0]}.".removeprefix("."), key.removesuffix("gate_proj")
            stacked.append(Module(f"{stem}gate_up", gate.kind, gate.layer, (*gate.pieces, *up.pieces), f"{own}gate_up"))
    return stacked
