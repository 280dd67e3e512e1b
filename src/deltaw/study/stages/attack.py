"""The stage that attacks one tuned model: soft prompts, token search, prefill, relearning, each with its controls.

All are made on the first forbidden prompts of the primary contrast, and on the allowed ones that they are paired with
(the benign control). Success is a `comply_rate` whose `attack` names the attack and its dose (`soft_4`, `prefill_2`,
`relearn_harmful_10`), with a control after a stroke (`soft_4/random`). Observation 5 is read at the last prompt token,
wherever an insertion has moved it to; two attacks leave that token as it was:

    prefill      is read at the last given token, between allowed prompts that go on with their own output and forbidden
                 ones that go on with the refusal
    relearning   moves the model: forbidden prompts are read in the model as it is after it, on the tuned model's own
                 scale, and what acts on them is what is then left of the update
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

from deltaw.attacks.models import (
    DOSES,
    Requests,
    answers_with,
    attacked_inputs,
    best_suffix,
    prefill,
    random_suffix,
    random_tokens,
    relearn,
    requests_for,
    soft_prompt,
    suffix_tokens,
    token_search,
    unattacked,
    universal_soft_prompt,
    unrelated,
    wrong_prefill,
)
from deltaw.behaviour.exact import Answers, Behaviour
from deltaw.models import Transformer, activations, mlp
from deltaw.models.batch import Batch, Role
from deltaw.observations.attacked_prompts.measure import write_gain_ratios, write_positions
from deltaw.observations.dose_response.measure import POSITION_SITE, Doses
from deltaw.observations.lens import READ, Lens, Places
from deltaw.pipeline.stage import Report, StageContext
from deltaw.recipes.config import ModelAttacks
from deltaw.recipes.tuned import Tuned
from deltaw.results import write_jsonl_atomic
from deltaw.results.recorder import Sheet
from deltaw.study.stages.answers import add_rates
from deltaw.study.stages.lens import PRIMARY, SyntheticModel, base_side
from deltaw.study.stages.shared import SeedConfig, last_model
from deltaw.study.stages.tuned_models import tuned_fields
from deltaw.world import Key, World

FORBIDDEN, ALLOWED = "forbidden/conditional/unsafe", "allowed/conditional/safe"
TAUGHT_FROM = 1 << 40  # relearning is taught by training prompts that no tuning has reached
PER_PROMPT = "per-prompt.jsonl"


@dataclass(frozen=True)
class AttackingConfig:
    """The stage that attacks one tuned model. per_prompt: whether to keep what dose-response needs of every prompt: a
    line an attack that inserts something, controls of random vectors included.
    """

    shared: SeedConfig
    tuned: Tuned
    attacks: ModelAttacks
    per_prompt: bool = False

    @property
    def soft_only(self) -> bool:
        """Whether only soft prompts are tried."""
        return self.tuned.name in self.attacks.controls


@dataclass(frozen=True)
class Target:
    """What every attack is given: the models, the prompts, and where to write.

    lens: base and tuned model.
    base, tuned: both themselves.
    model: another copy of the tuned one, which attacks may change.
    kept: see `keep`; None: nothing is.
    """

    lens: Lens
    base: Transformer
    tuned: Transformer
    model: Transformer
    world: World
    forbidden: Requests
    allowed: Requests
    attacks: ModelAttacks
    sheet: Sheet
    report: Report
    kept: list[Doses] | None = field(default=None)

    def generator(self, name: str) -> torch.Generator:
        """Equal names, equal draws."""
        word, _ = Key(self.lens.before.seed, f"attack/{name}").words
        return torch.Generator().manual_seed(word >> 1)

    def add(self, attack: str, answers: Answers, name: str = FORBIDDEN, rows: Tensor | None = None) -> None:
        """The rates of an attack on one set of prompts."""
        add_rates(self.sheet, answers.counts(rows), set=name, attack=attack)

    def observe(self, attack: str, found: Tensor, answers: Answers, rows: Tensor | None = None) -> None:
        """Observation 5 of an attack that inserts vectors (N, n, D) or tokens (N, n): activations in both models.

        answers, rows: what is kept of it, and of which prompts (None: of all).
        """
        self._observe(attack, found, self.observed(attack), answers, rows)

    def keep(self, attack: str, found: Tensor, answers: Answers) -> None:
        """Keep each prompt's position, log ratio of gains and success, and measure nothing: for controls."""
        if self.kept is not None:
            self._observe(attack, found, Sheet(stage="analysis"), answers, None)

    def _observe(self, attack: str, found: Tensor, view: Sheet, answers: Answers, rows: Tensor | None) -> None:
        of_tuned, of_base = _with_vectors(self, found)
        placed = write_positions(self.lens, "position", self.lens.after(PRIMARY), of_tuned, view).get(POSITION_SITE)
        ratios = write_gain_ratios(self.lens, of_base, self.lens.before.contrast(PRIMARY)[1], view)
        if self.kept is None or placed is None or ratios is None:
            return
        of = np.arange(len(self.forbidden)) if rows is None else rows.cpu().numpy()
        hits = (answers.labels == int(Behaviour.COMPLY)).cpu().numpy()
        self.kept.append(Doses(attack, of, placed[of], ratios[of], hits[of]))

    def observed(self, attack: str, role: str = "last_prompt") -> Sheet:
        """Where Observation 5 of an attack is written."""
        n = len(self.forbidden)
        return self.sheet.with_(stage="analysis", set=FORBIDDEN, attack=attack, role=role, n=n, n_unit="prompt")


def attack_model(context: StageContext) -> None:
    """Every attack of the recipe on the tuned model's last checkpoint."""
    config: AttackingConfig = context.config
    shared, attacks = config.shared, config.attacks
    device = config.tuned.config.device
    before = base_side(context.inputs["base"], shared.world, shared.sizes, shared.seed, device)
    world, base = World(shared.world), last_model(context.inputs["base"])[0].to(device)
    tuned = last_model(context.inputs["tuned"])[0].to(device)
    model, meta = last_model(context.inputs["tuned"])
    lens = Lens(before, SyntheticModel(tuned, world))
    prompts, rows = before.contrasts[PRIMARY], slice(0, attacks.prompts)
    forbidden, allowed = (requests_for(world, part[rows], device) for part in (prompts.forbidden, prompts.allowed))
    sheet = Sheet(stage="behaviour", **tuned_fields(config.tuned, shared.seed), step=int(meta["step"]))
    kept: list[Doses] | None = [] if config.per_prompt else None
    copy, report = model.to(device), context.report
    target = Target(lens, base, tuned, copy, world, forbidden, allowed, attacks, sheet, report, kept)
    target.add("none", unattacked(target.model, forbidden))
    target.add("none", unattacked(target.model, allowed), ALLOWED)
    rest: tuple[Callable[[Target], None], ...] = (universal, token_searches, prefills, relearning)
    parts = (soft_prompts, *(() if config.soft_only else rest))
    for number, part in enumerate(parts):
        context.report(number, len(parts), part.__name__.replace("_", " "))
        part(target)
    sheet.write(context.out)
    if kept is not None:
        write_jsonl_atomic(context.out / PER_PROMPT, [part.to_json() for part in kept])
    context.report(len(parts), len(parts))


def soft_prompts(target: Target) -> None:
    """Every dose, beside random vectors as long, also on allowed prompts; one dose with an unrelated target."""
    model, attacks = target.model, target.attacks
    for name in attacks.doses:
        config = replace(DOSES[name], restarts=attacks.restarts)
        found = soft_prompt(model, target.forbidden, config, target.generator(name))
        target.add(name, found.answers)
        target.add(name, answers_with(model, target.allowed, found.vectors), ALLOWED)
        for requests, where in ((target.forbidden, FORBIDDEN), (target.allowed, ALLOWED)):
            control = random_tokens(model, requests, found, config, target.generator(f"{name}/random/{where}"))
            target.add(f"{name}/random", control.answers, where)
            if where == FORBIDDEN:
                target.keep(f"{name}/random", control.vectors, control.answers)
        target.observe(name, found.vectors, found.answers)
    name = attacks.controlled
    config = replace(DOSES[name], restarts=attacks.restarts)
    other = unrelated(target.forbidden, target.generator(f"{name}/unrelated"))
    found = soft_prompt(model, target.forbidden, config, target.generator(name), target=other.batch)
    target.add(f"{name}/unrelated", found.answers)
    target.observe(f"{name}/unrelated", found.vectors, found.answers)


def universal(target: Target) -> None:
    """One soft prompt, trained on half of the forbidden prompts; its success on the others; allowed ones with it."""
    name = target.attacks.universal
    config = replace(DOSES[name], restarts=target.attacks.restarts)
    found = universal_soft_prompt(target.model, target.forbidden, config, target.generator(f"{name}/universal"))
    target.add(f"{name}/universal", found.answers, rows=found.tested_on)
    target.add(f"{name}/universal_trained_on", found.answers, rows=found.trained_on)
    everyone = found.vectors.expand(len(target.forbidden), *found.vectors.shape)
    target.observe(f"{name}/universal", everyone, found.answers, found.tested_on)


def token_searches(target: Target) -> None:
    """Greedy coordinate gradient; a random suffix as long; the exact best suffix of one token."""
    model, world, config = target.model, target.world, target.attacks.search
    name, allowed = f"token_search_{config.tokens}", suffix_tokens(world.vocabulary)
    found = token_search(model, target.forbidden, allowed, config, target.generator(name))
    target.add(name, found.answers)
    for requests, where in ((target.forbidden, FORBIDDEN), (target.allowed, ALLOWED)):
        control = random_suffix(model, requests, allowed, config, target.generator(f"{name}/random/{where}"))
        target.add(f"{name}/random", control.answers, where)
    with torch.no_grad():
        target.observe(name, found.suffix, found.answers)
    target.add("token_search_1/exact", best_suffix(model, target.forbidden, allowed, 1).answers)


def prefills(target: Target) -> None:
    """The first tokens of the harmful output; those of another prompt's; allowed prompts with their own."""
    for count in target.attacks.prefilled:
        name = f"prefill_{count}"
        target.add(name, prefill(target.model, target.forbidden, count).answers)
        target.add(name, prefill(target.model, target.allowed, count).answers, ALLOWED)
        generator = target.generator(f"{name}/wrong")
        target.add(f"{name}/wrong", wrong_prefill(target.model, target.forbidden, count, generator).answers)
        _observe_prefill(target, name, count)


def relearning(target: Target) -> None:
    """Few updates on compliant responses, to allowed or to forbidden prompts that no tuning saw."""
    attacks, world = target.attacks, target.world
    asked = {FORBIDDEN: target.forbidden, ALLOWED: target.allowed}
    device = target.forbidden.refusal.device
    for kind, source in (("benign", ALLOWED), ("harmful", FORBIDDEN)):
        rows = range(TAUGHT_FROM, TAUGHT_FROM + attacks.taught)
        taught = requests_for(world, world.sample(source, rows, "train", target.lens.before.seed), device).batch
        curve = relearn(
            target.model, taught, asked, attacks.relearning, target.generator(f"relearn_{kind}"),
            on_measured=_observer(target, f"relearn_{kind}"),
        )  # fmt: skip
        for name, counted in curve.behaviour.items():
            for step, counts in zip(curve.steps, counted, strict=True):
                add_rates(target.sheet, counts, set=name, attack=f"relearn_{kind}_{step}")
        half = curve.half_life(FORBIDDEN)
        if half is not None:
            target.sheet.add("refusal_half_life", half, unit="update", set=FORBIDDEN, attack=f"relearn_{kind}")


def _observer(target: Target, attack: str) -> Callable[[int, Transformer], None]:
    lens, n = target.lens, len(target.forbidden)
    forbidden = lens.before.contrast(PRIMARY)[1]
    at_base = {place: rows[:n] for place, rows in forbidden.items()}

    def observe(step: int, learner: Transformer) -> None:
        if step == 0:
            return
        view = target.observed(f"{attack}_{step}")
        at_learner = _placed(learner, target.forbidden.batch)
        write_positions(lens, "position", lens.after(PRIMARY), at_learner, view)
        left = {}
        for layer in lens.layers:
            old, new = lens.before.mlp(layer), mlp(learner, layer).cpu().double()
            left[layer] = (new.w_in - old.w_in, new.b_in - old.b_in)
        write_gain_ratios(lens, at_base, forbidden, view, left)

    return observe


def _placed(
    model: Transformer, batch: Batch, embeddings: Tensor | None = None, positions: Tensor | None = None
) -> Places:
    layers = range(model.config.layers)
    return activations(model, batch, READ, layers, embeddings=embeddings, positions=positions)


def _with_vectors(target: Target, found: Tensor) -> tuple[Places, Places]:
    """Activations of the tuned and of the base model on forbidden prompts with vectors (N, n, D) or tokens (N, n)."""
    plain = target.forbidden.batch
    places = []
    for model in (target.tuned, target.base):
        with torch.no_grad():
            vectors = model.embed(found) if found.ndim == 2 else found
        batch, embeddings, positions = attacked_inputs(model, plain, vectors)
        places.append(_placed(model, batch, embeddings, positions))
    return places[0], places[1]


def _observe_prefill(target: Target, name: str, count: int) -> None:
    if count == 0:
        return
    answered = {
        "attacked": target.forbidden,
        "allowed": target.allowed,
        "forbidden": target.forbidden.with_compliant(target.forbidden.refusal),
    }
    batches = {which: _anchored(requests.batch, count) for which, requests in answered.items()}
    of_tuned, of_base = (
        {which: _placed(model, batch) for which, batch in batches.items()} for model in (target.tuned, target.base)
    )
    view = target.observed(name, role="last_given")
    write_positions(target.lens, "position", (of_tuned["allowed"], of_tuned["forbidden"]), of_tuned["attacked"], view)
    write_gain_ratios(target.lens, of_base["attacked"], of_base["forbidden"], view)


def _anchored(batch: Batch, count: int) -> Batch:
    """The batch with LAST_PROMPT, the role whose activations are read, moved on by `count` tokens."""
    last = batch.position_of(Role.LAST_PROMPT)[:, None]
    roles = batch.roles.scatter(1, last, int(Role.TEXT)).scatter(1, last + count, int(Role.LAST_PROMPT))
    return Batch(batch.tokens, batch.weights, roles)
