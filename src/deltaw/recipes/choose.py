"""A recipe with other protocols, controls, attacks, observations or interventions than its own."""

from collections.abc import Iterator, Sequence
from dataclasses import replace

from deltaw.attacks.models.attack import ModelAttack
from deltaw.attacks.prompts.attack import PromptAttack
from deltaw.attacks.prompts.defaults import ON_PROMPTS
from deltaw.component import Component
from deltaw.errors import DeltawError
from deltaw.interventions.intervention import Intervention
from deltaw.interventions.sweep import Sweep
from deltaw.observations.observation import Observation, names_of
from deltaw.plugins import resolve
from deltaw.protocols.protocol import Protocol
from deltaw.recipes.common import controlled
from deltaw.recipes.config import Recipe
from deltaw.recipes.tuned import Tuned
from deltaw.training.controls import Control
from deltaw.world import SETS


def with_protocols(recipe: Recipe, protocols: Sequence[Protocol]) -> Recipe:
    """The study with tunings by these protocols, and no others.

    A protocol that the recipe has by that name stays as the recipe configures it, with its controls. Another is tuned
    at the recipe's rates, with its own control wherever the recipe has an `other`. DeltawError for a grid, and for a
    protocol that is named twice.
    """
    if recipe.cells:
        raise DeltawError(f"the recipe {recipe.name} is a grid of one protocol; give --protocols with another recipe")
    _check_once("protocols", protocols)
    return _with_tunings(recipe, tuple(tuned for protocol in protocols for tuned in _tunings(recipe, protocol)))


def with_controls(recipe: Recipe, controls: Sequence[Control]) -> Recipe:
    """The study with these controls of each protocol that it tunes at the medium rate, and no other controls.

    DeltawError for a grid, for a control that is named twice, and for one that is none of a protocol.
    """
    if recipe.cells:
        raise DeltawError(f"the recipe {recipe.name} is a grid without controls; give --controls with another recipe")
    _check_once("controls", controls)
    plain = [tuned for tuned in recipe.tunings if tuned.control is None]
    followed = [t for t in plain if t.strength == "medium" and not t.curve_only and not t.config.first_row]
    own = [controlled(tuned, control) for tuned in followed for control in controls]
    return _with_tunings(recipe, (*plain, *own))


def _check_once(what: str, chosen: Sequence[Component]) -> None:
    names = [plugin.name for plugin in chosen]
    if len(set(names)) < len(names):
        raise DeltawError(f"the {what} are {', '.join(names)}; give each once")


def _with_tunings(recipe: Recipe, tunings: tuple[Tuned, ...]) -> Recipe:
    """The study with these tunings, and of everything else what still has a model; new ones join what follows all."""
    there = {tuned.name for tuned in tunings}
    new = there - {tuned.name for tuned in recipe.tunings}
    medium = [tuned for tuned in tunings if tuned.strength == "medium" and tuned.name in new]

    def kept(chosen: tuple[str, ...], added: tuple[str, ...]) -> tuple[str, ...]:
        return (*(name for name in chosen if name in there), *added)

    attacks, subspaces = recipe.model_attacks, recipe.subspaces
    plain = tuple(tuned.name for tuned in medium if tuned.control is None)
    own = tuple(tuned.name for tuned in medium if tuned.control is not None)
    if subspaces is not None:
        ranked, dosed = (
            None if chosen is None else kept(chosen, (*plain, *own)) for chosen in (subspaces.ranked, subspaces.dosed)
        )
        subspaces = replace(subspaces, ranked=ranked, dosed=dosed)
    left_out = recipe.left_out if recipe.left_out is not None and recipe.left_out.compared in there else None
    return replace(
        recipe,
        tunings=tunings,
        model_attacks=replace(
            attacks,
            models=kept(attacks.models, plain),
            controls=kept(attacks.controls, own if attacks.controls else ()),
        ),
        subspaces=subspaces,
        left_out=left_out,
        interventions=tuple(
            (name, sweep if sweep.partner in there else replace(sweep, partner=None))
            for name, sweep in recipe.interventions
            if name in there
        ),
    )


def with_observations(recipe: Recipe, observations: Sequence[Observation]) -> Recipe:
    """The study with these observations, and no others.

    One that the recipe has by that name stays as the recipe configures it, in its place. Any other gets a stage of its
    own for each tuned model, so that adding one makes nothing else again. DeltawError for a grid, and for an
    observation that is named twice.
    """
    if recipe.cells:
        raise DeltawError(f"the recipe {recipe.name} is a grid, which has no observations; give another recipe")
    _check_once("observations", observations)
    names = set(names_of(observations))

    def kept(own: Sequence[Observation]) -> tuple[Observation, ...]:
        return tuple(observation for observation in own if observation.name in names)

    subspaces, there = recipe.subspaces, set(names_of(recipe.observations))
    if subspaces is not None:
        beside = [own for own in (subspaces.overlap, subspaces.dose_response) if own is not None]
        there |= set(names_of((*subspaces.observations, *beside)))
        subspaces = replace(
            subspaces,
            observations=kept(subspaces.observations),
            overlap=next(iter(kept([own for own in beside if own is subspaces.overlap])), None),
            dose_response=next(iter(kept([own for own in beside if own is subspaces.dose_response])), None),
        )
    return replace(
        recipe,
        observations=kept(recipe.observations),
        subspaces=subspaces,
        added=tuple(observation for observation in observations if observation.name not in there),
    )


def with_attacks(recipe: Recipe, attacks: Sequence[PromptAttack | ModelAttack]) -> Recipe:
    """The study with these attacks, on prompts and on models, and no others.

    An attack that the recipe has by that name stays as the recipe configures it. Attacks on models are made on the
    models that the recipe attacks. DeltawError for a grid, for an attack that is named twice, and for one on prompts
    that cannot attack prompts of the synthetic world.
    """
    if recipe.cells:
        raise DeltawError(f"the recipe {recipe.name} is a grid about its own attacks; give --attacks to another recipe")
    _check_once("attacks", attacks)
    on_prompts = [attack for attack in attacks if isinstance(attack, PromptAttack)]
    for attack in on_prompts:
        _check_prompt_attack(attack)
    own_on_prompts = {attack.name: attack for attack in recipe.prompt_attacks}
    own_on_models = {attack.name: attack for attack in recipe.model_attacks.attacks}
    on_models = [attack for attack in attacks if isinstance(attack, ModelAttack)]
    return replace(
        recipe,
        prompt_attacks=tuple(own_on_prompts.get(attack.name, attack) for attack in on_prompts),
        model_attacks=replace(
            recipe.model_attacks, attacks=tuple(own_on_models.get(attack.name, attack) for attack in on_models)
        ),
    )


def with_interventions(recipe: Recipe, interventions: Sequence[Intervention]) -> Recipe:
    """The study with these interventions on every tuning at the medium rate that is no control, and no others.

    One that the recipe has by that name stays as the recipe configures it. All tunings have the sizes of the recipe's
    first sweep. DeltawError for a grid, and for an intervention that is named twice.
    """
    if recipe.cells:
        raise DeltawError(f"the recipe {recipe.name} is a grid, which has no interventions; give another recipe")
    _check_once("interventions", interventions)
    size = next((sweep for _, sweep in recipe.interventions), Sweep())
    known = {made.name: made for _, sweep in reversed(recipe.interventions) for made in sweep.interventions}
    chosen = tuple(known.get(made.name, made) for made in interventions)
    followed = [t for t in recipe.tunings if t.control is None and t.strength == "medium" and not t.curve_only]

    def sweep_of(tuned: Tuned) -> Sweep:
        others = [other.name for other in followed if other.name != tuned.name]
        return replace(size, partner=others[0] if others else None, interventions=chosen)

    return replace(recipe, interventions=tuple((tuned.name, sweep_of(tuned)) for tuned in followed))


def _check_prompt_attack(attack: PromptAttack) -> None:
    where = f"mend {type(attack).__module__}"
    if not attack.attacks_prompts:
        raise DeltawError(
            f"the attack {attack.name} has no on_prompts: it cannot attack prompts of the synthetic world; give it to "
            f"deltaw compare, or give one that can, such as {ON_PROMPTS[0].name}"
        )
    if not attack.forbidden_sources:
        raise DeltawError(f"the attack {attack.name} has no forbidden_sources, the sets that it attacks; {where}")
    for verdict, names in (("forbidden", attack.forbidden_sources), ("allowed", attack.benign_sources)):
        for name in names:
            if name not in SETS or not name.startswith(f"{verdict}/"):
                known = ", ".join(other for other in SETS if other.startswith(f"{verdict}/"))
                raise DeltawError(
                    f"the attack {attack.name} is made from {name!r}, which is no set of {verdict} prompts; there are "
                    f"{known}; {where}"
                )


def _tunings(recipe: Recipe, protocol: Protocol) -> Iterator[Tuned]:
    own = [tuned for tuned in recipe.tunings if tuned.protocol == protocol.name]
    if own:
        yield from own
        return
    first = recipe.tunings[0].protocol
    for tuned in recipe.tunings:
        if tuned.protocol != first or tuned.control is not None:
            continue
        name, config = f"{protocol.name}-{tuned.strength}", replace(tuned.config, protocol=protocol)
        mine = replace(tuned, name=name, protocol=protocol.name, config=config)
        yield mine
        if f"other-{tuned.name}" in {other.name for other in recipe.tunings}:
            yield controlled(mine, resolve("control", protocol.own_control))
