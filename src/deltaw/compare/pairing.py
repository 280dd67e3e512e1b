"""Which matrix of the tuned side belongs to which of the base, by their names without wrappers; and all that is left.

Every tensor of both sides is used, or named with the reason: `skipped` for what only one side has, what has another
shape, and what is no part of the text decoder; `others` for what both sides have and what is no matrix of an MLP or of
attention, such as embeddings, norms and biases.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from deltaw.errors import DeltawError
from deltaw.models.architectures import Module, Piece, candidates, find_modules, group_of, plain_name, why_apart
from deltaw.models.architectures.tensor_names import LEADING
from deltaw.models.checkpoint_files import DTYPES, Checkpoint
from deltaw.models.lora import Adapter
from deltaw.models.quantised import EIGHT_BITS, is_scale


@dataclass(frozen=True)
class Matched:
    """A matrix that both sides have. module: with the base's names. after: its pieces on the tuned side."""

    module: Module
    after: tuple[Piece, ...]


@dataclass(frozen=True)
class Pairing:
    """What is compared, and everything else by name."""

    matched: list[Matched]
    skipped: dict[str, str]
    """Matrices and groups of tensors that are not compared, with the reason."""
    others: dict[str, str]
    """Tensors beside the matrices that both sides have in one shape: names in the base and in the tuned side."""


def pair_up(base: Checkpoint, after: Checkpoint | Adapter, patterns: Sequence[str] = ()) -> Pairing:
    """The matrices of both sides, and the rest by name. DeltawError if they share none, or one cannot be read."""
    shapes = _shapes(base)
    modules = find_modules(shapes, base.config, base.model_type, patterns)
    if isinstance(after, Adapter):
        pairing = _with_adapter(base, after, modules)
    else:
        pairing = _with_checkpoint(base, after, modules, patterns)
    if not pairing.matched and not (isinstance(after, Adapter) and pairing.others):
        example = next(iter(pairing.skipped.items()), ("", "none"))
        raise DeltawError(
            f"the two models share no matrix that can be compared ({example[0]}: {example[1]}); there are "
            f"{candidates(name for name, shape in shapes.items() if len(shape) == 2)}"
        )
    if not pairing.matched:
        raise DeltawError(
            f"the adapter changes no matrix of an MLP or of attention, only {', '.join(list(pairing.others)[:3])}"
        )
    _check_formats(base, [piece for matched in pairing.matched for piece in matched.module.pieces])
    if not isinstance(after, Adapter):
        _check_formats(after, [piece for matched in pairing.matched for piece in matched.after])
    return pairing


def _with_adapter(base: Checkpoint, after: Adapter, modules: Sequence[Module]) -> Pairing:
    kept = [
        Matched(module, module.pieces) for module in modules if all(after.changes(piece) for piece in module.pieces)
    ]
    used = {piece.tensor for matched in kept for piece in matched.module.pieces}
    names = {plain_name(name): name for name in base.tensors}
    skipped = {name: _why_unused(base, after, name, names) for name in after.unused}
    others = {name: name for name in base.tensors if name in after.changed and name not in used}
    apart = {name: part for name in others if (part := why_apart(name, base.config)) is not None}
    skipped |= _reasons({name: f"it belongs to {part}, which is kept apart" for name, part in apart.items()})
    return Pairing(kept, skipped, {name: name for name in others if name not in apart})


def _why_unused(base: Checkpoint, after: Adapter, name: str, names: Mapping[str, str]) -> str:
    target = names.get(plain_name(name))
    if target is None:
        return "the adapter holds it, and the base model has no place for it"
    shapes = base.tensors[target].shape, after.checkpoint.tensors[name].shape
    return f"it is {shapes[0]} in the base model and {shapes[1]} in the adapter"


def _with_checkpoint(
    base: Checkpoint, after: Checkpoint, modules: Sequence[Module], patterns: Sequence[str]
) -> Pairing:
    shapes = _shapes(base), _shapes(after)
    try:
        tuned_modules = find_modules(shapes[1], after.config, after.model_type, patterns)
    except DeltawError as error:
        if "the checkpoint holds" in str(error):
            raise
        tuned_modules = []  # then every matrix of the base is missing there, and says so
    names = _Aligned(modules), _Aligned(tuned_modules)
    tuned = {names[1].of(module.shared_name): module for module in tuned_modules}
    _refuse_unmerged(base, after)
    kept, skipped = [], {}
    for module in modules:
        other = tuned.get(names[0].of(module.shared_name))
        sides = module.shape(shapes[0]), None if other is None else other.shape(shapes[1])
        if other is None:
            skipped[module.name] = _why_missing(module, base, after, names)
        elif sides[0] != sides[1]:
            skipped[module.name] = f"it is {sides[0]} in the base model and {sides[1]} in the tuned one"
        else:
            kept.append(Matched(module, other.pieces))
    known = {names[0].of(module.shared_name) for module in modules}
    skipped |= {x.name: "only the tuned model has it" for x in tuned_modules if names[1].of(x.shared_name) not in known}
    used = (
        {piece.tensor for x in modules for piece in x.pieces},
        {piece.tensor for x in tuned_modules for piece in x.pieces},
    )
    rest, others = _rest(base, after, names, used)
    return Pairing(kept, skipped | rest | dict(base.ignored) | dict(after.ignored), others)


class _Aligned:
    """Names of one side without the constant words before its decoder, whatever they are, such as `policy.`."""

    def __init__(self, modules: Sequence[Module]) -> None:
        stems = {x.shared_name.partition(f".{x.layer}.")[0] for x in modules if x.layer is not None}
        words = stems.pop().split(".")[:-1] if len(stems) == 1 else []
        while words and words[-1] in LEADING:
            words.pop()
        self.before = "".join(f"{word}." for word in words)

    def of(self, name: str) -> str:
        """What both sides call a tensor."""
        return plain_name(plain_name(name).removeprefix(self.before))


def _why_missing(module: Module, base: Checkpoint, after: Checkpoint, aligned: tuple[_Aligned, _Aligned]) -> str:
    """Of one with another shape, which was not found as the same kind of matrix, the two shapes."""
    names = {aligned[1].of(name): name for name in after.tensors}
    for piece in module.pieces:
        name = names.get(aligned[0].of(piece.tensor))
        if name is None:
            return "only the base model has it"
        before, now = base.tensors[piece.tensor].shape, after.tensors[name].shape
        if before != now:
            return f"it is {before} in the base model and {now} in the tuned one"
    return "only the base model has it"


def _rest(
    base: Checkpoint, after: Checkpoint, aligned: tuple[_Aligned, _Aligned], used: tuple[set[str], set[str]]
) -> tuple[dict[str, str], dict[str, str]]:
    """Reasons of groups of tensors that are in no matrix, and the tensors that both sides have."""
    of_base, of_tuned = used
    first = {aligned[0].of(name): name for name in base.tensors}
    second = {aligned[1].of(name): name for name in after.tensors}
    reasons: dict[str, str] = {}
    others: dict[str, str] = {}
    sides = ((base, aligned[0], second, of_base), (after, aligned[1], first, of_tuned))
    for side, own, names, matrices in sides:
        which = "base" if side is base else "tuned"
        for name, stored in side.tensors.items():
            other = names.get(own.of(name))
            part = why_apart(name, side.config)
            if name in matrices or is_scale(name, side.tensors):
                continue
            if part is not None:
                reasons[name] = f"it belongs to {part}, which is kept apart"
            elif other is None:
                reasons[name] = f"only the {which} model has it"
            elif side is base and stored.shape != after.tensors[other].shape:
                shape = after.tensors[other].shape
                reasons[name] = f"it is {stored.shape} in the base model and {shape} in the tuned one"
            elif side is base and other not in of_tuned:
                others[name] = other
    return _reasons(reasons), others


def _reasons(names: Mapping[str, str]) -> dict[str, str]:
    """By group of tensors instead of tensor, where all of a group have one reason."""
    groups: dict[tuple[str, str], list[str]] = {}
    for name, why in names.items():
        group = f"{plain_name(name).partition('.')[0]}.*" if why.endswith("kept apart") else group_of(name)
        groups.setdefault((group, why), []).append(name)
    return {
        (f"{group} ({len(members)} tensors)" if len(members) > 1 else members[0]): why
        for (group, why), members in groups.items()
    }


def _refuse_unmerged(base: Checkpoint, after: Checkpoint) -> None:
    known = {plain_name(name) for name in base.tensors}
    name = next((x for x in after.tensors if ".lora_A" in x and plain_name(x) not in known), None)
    if name is not None:
        raise DeltawError(
            f"{after.directory} holds LoRA factors beside its weights ({name}), so its weights are not the tuned "
            "model's; merge it with PEFT (merge_and_unload), or give the adapter's own directory"
        )


def _check_formats(side: Checkpoint, pieces: Sequence[Piece]) -> None:
    """DeltawError before any work if a matrix is stored in a format that is not read."""
    for piece in pieces:
        stored = side.tensors[piece.tensor]
        if stored.dtype not in DTYPES and stored.dtype not in EIGHT_BITS:
            side.read(piece.tensor)


def _shapes(side: Checkpoint) -> dict[str, tuple[int, ...]]:
    return {name: stored.shape for name, stored in side.tensors.items()}
