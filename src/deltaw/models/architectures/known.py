"""Which architectures are known: deltaw's own, those of installed packages, and one that is given for a while."""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from deltaw.errors import DeltawError
from deltaw.models.architectures.architecture import Architecture
from deltaw.models.architectures.families import FAMILIES, IN_MULTIMODAL, MIXTURES
from deltaw.models.architectures.tensor_names import text_config, without_wrapper
from deltaw.plugins import plugins, resolve

_GIVEN: ContextVar[Architecture | None] = ContextVar("architecture", default=None)


@contextmanager
def reading_by(architecture: Architecture | None) -> Iterator[None]:
    """Within this context every checkpoint and model is read by this architecture; None changes nothing.

    DeltawError if it claims what config.json calls an architecture of deltaw's own.
    """
    if architecture is not None and FAMILIES.get(architecture.name) != architecture:
        _check_types(architecture, _types((*FAMILIES.values(), *MIXTURES)))
    token = _GIVEN.set(architecture or _GIVEN.get())
    try:
        yield
    finally:
        _GIVEN.reset(token)


def given_architecture() -> Architecture | None:
    """The one that everything is read by, within `reading_by`."""
    return _GIVEN.get()


def model_types() -> Mapping[str, Architecture]:
    """What config.json calls the architectures that are known, and the family of each.

    DeltawError if an installed one claims what another has.
    """
    known = _types((*FAMILIES.values(), *MIXTURES))
    for architecture in _installed():
        _check_types(architecture, known)
        known |= _types([architecture])
    return known


def family_of_config(config: Mapping[str, Any], model_type: str, names: Iterable[str] = ()) -> Architecture | None:
    """The one that is given, or the family of the text decoder of a configuration; None if it is unknown.

    names: tensors of the decoder, which decide where a multimodal configuration does not name a known one.
    """
    given = _GIVEN.get()
    if given is not None:
        return given
    inner = text_config(config)
    types = [model_type] if inner is config else [str(inner.get("model_type", "")), model_type]
    types = [name for full in types for name in dict.fromkeys((full, re.sub(r"_text(_model)?$", "", full)))]
    own = _types((*FAMILIES.values(), *MIXTURES))
    for name in types:
        if name in own or name in IN_MULTIMODAL:
            return own[IN_MULTIMODAL.get(name, name)]
    installed = model_types()
    for name in types:
        if name in installed:
            return installed[name]
    listed = list(names) if inner is not config else []
    return next((family for family in FAMILIES.values() if _has_all_maps(family, listed)), None)


def _has_all_maps(family: Architecture, names: Sequence[str]) -> bool:
    return all(any(pattern.match(name) for name in names) for pattern in family.patterns())


def family_of(names: Iterable[str]) -> Architecture:
    """The one that is given, or the family whose MLP input matrix is among these parameter names.

    DeltawError, listing families, if none is.
    """
    names = [without_wrapper(name) for name in names]
    given = _GIVEN.get()
    if given is None and any(".experts." in name for name in names):
        for family in MIXTURES:
            if family.experts and family.layers_of(names):
                return family
        raise DeltawError(
            "this model is a mixture of experts with blocks of unknown names; deltaw compares it by its weights only, "
            "so leave out --prompts"
        )
    for family in FAMILIES.values() if given is None else (given,):
        if family.layers_of(names):
            return family
    if given is not None:
        raise DeltawError(
            f"this model has no parameter {given.in_proj}.weight, which the architecture {given.name} says it has"
        )
    installed = _installed()
    for family in installed:  # not imported where a family of deltaw's own will do
        if family.layers_of(names):
            return family
    listed = ", ".join([*FAMILIES, *(family.name for family in installed)])
    raise DeltawError(f"this model belongs to none of the known families: {listed}")


def _installed() -> list[Architecture]:
    return [
        resolve("architecture", plugin.name)
        for plugin in plugins()
        if plugin.kind == "architecture" and plugin.name not in FAMILIES
    ]


def _types(families: Iterable[Architecture]) -> dict[str, Architecture]:
    return {name: family for family in families for name in (family.name, *family.model_types)}


def _check_types(architecture: Architecture, known: Mapping[str, Architecture]) -> None:
    taken = next((name for name in (architecture.name, *architecture.model_types) if name in known), None)
    if taken is not None:
        raise DeltawError(
            f"the architecture {architecture.name} claims the model type {taken!r}, which {known[taken].name} has; "
            f"take it out of {type(architecture).__module__}"
        )
