"""The stage that attacks one tuned model (`deltaw.attacks.models`): each attack with its controls.

All are made on the first forbidden prompts of the primary contrast, and on the allowed ones that they are paired with
(the benign control). Success is a `comply_rate` whose `attack` names the attack and its dose (`soft_4`, `prefill_2`,
`relearn_harmful_10`), with a control after a stroke (`soft_4/random`). Observation 5 is read at the last prompt token,
wherever an insertion has moved it to; two attacks leave that token as it was:

    prefill      is read at the last given token, between allowed prompts that go on with their own output and forbidden
                 ones that go on with the refusal
    relearning   moves the model: forbidden prompts are read in the model as it is after it, on the tuned model's own
                 scale, and what acts on them is what is then left of the update
"""

from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

from deltaw.attacks.models import Requests, attacked_inputs, requests_for, unattacked
from deltaw.attacks.models.attack import ALLOWED, FORBIDDEN, ModelAttack, make_attack
from deltaw.behaviour.exact import Answers, Behaviour, BehaviourCounts
from deltaw.errors import DeltawError
from deltaw.models import Transformer, activations, mlp
from deltaw.models.batch import Batch, Role
from deltaw.observations.attacked_prompts.measure import write_gain_ratios, write_positions
from deltaw.observations.dose_response.measure import POSITION_SITE, Doses
from deltaw.observations.lens import READ, Lens, Places
from deltaw.pipeline.stage import StageContext
from deltaw.recipes.tuned import Tuned
from deltaw.results import write_jsonl_atomic
from deltaw.results.recorder import Sheet
from deltaw.study.stages.answers import add_rates
from deltaw.study.stages.lens import PRIMARY, SyntheticModel, base_side
from deltaw.study.stages.shared import SeedConfig, last_model
from deltaw.study.stages.tuned_models import tuned_fields
from deltaw.world import Key, World

PER_PROMPT = "per-prompt.jsonl"


@dataclass(frozen=True)
class AttackingConfig:
    """The stage that attacks one tuned model."""

    shared: SeedConfig
    tuned: Tuned
    attacks: tuple[ModelAttack, ...]
    """In this order."""
    prompts: int
    """Forbidden prompts that are attacked."""
    per_prompt: bool = False
    """Whether to keep what dose-response needs of every prompt: a line an attack that inserts something, controls of
    random vectors included."""


@dataclass(frozen=True)
class Target:
    """What every attack is given (`deltaw.attacks.models.attack.AttackTarget`): the models, the prompts, and where to
    write.
    """

    lens: Lens
    """Base and tuned model."""
    base: Transformer
    """The base model itself."""
    tuned: Transformer
    """The tuned model itself."""
    model: Transformer
    """Another copy of the tuned one, which attacks may change."""
    world: World
    forbidden: Requests
    allowed: Requests
    sheet: Sheet
    kept: list[Doses] | None = field(default=None)
    """See `keep`; None: nothing is."""

    @property
    def seed(self) -> int:
        """The seed of the study."""
        return self.lens.before.seed

    def generator(self, name: str) -> torch.Generator:
        """Equal names, equal draws."""
        word, _ = Key(self.seed, f"attack/{name}").words
        return torch.Generator().manual_seed(word >> 1)

    def add(
        self, attack: str, answers: Answers | BehaviourCounts, name: str = FORBIDDEN, rows: Tensor | None = None
    ) -> None:
        """The rates of an attack on one set of prompts. ValueError if there are not as many answers as prompts."""
        if name not in (FORBIDDEN, ALLOWED):
            raise ValueError(f"the prompts are of {FORBIDDEN} and {ALLOWED}; results were given of {name!r}")
        if not isinstance(answers, Answers | BehaviourCounts):
            raise ValueError(f"results were given as {answers!r:.200}; expected Answers or BehaviourCounts")
        if isinstance(answers, Answers):
            if len(answers.labels) != len(self.forbidden):
                raise ValueError(f"{len(answers.labels)} answers were given to {len(self.forbidden)} prompts")
            answers = answers.counts(rows)
        add_rates(self.sheet, answers, set=name, attack=attack)

    def add_number(self, attack: str, statistic: str, value: float, unit: str) -> None:
        """Another number of an attack on the forbidden prompts."""
        self.sheet.add(statistic, value, unit=unit, set=FORBIDDEN, attack=attack)

    def observe(self, attack: str, inserted: Tensor, answers: Answers, rows: Tensor | None = None) -> None:
        """Observation 5 of an attack that inserts vectors (N, n, D) or tokens (N, n): activations in both models.

        answers, rows: what is kept of it, and of which prompts (None: of all).
        """
        self._observe(attack, inserted, self._observed(attack), answers, rows)

    def observe_given(self, attack: str, count: int) -> None:
        """Observation 5 at the last of `count` given tokens of the harmful output."""
        if count == 0:
            return
        answered = {
            "attacked": self.forbidden,
            "allowed": self.allowed,
            "forbidden": self.forbidden.with_compliant(self.forbidden.refusal),
        }
        batches = {kind: _anchored(requests.batch, count) for kind, requests in answered.items()}
        of_tuned, of_base = (
            {kind: _placed(model, batch) for kind, batch in batches.items()} for model in (self.tuned, self.base)
        )
        view = self._observed(attack, role="last_given")
        reference = of_tuned["allowed"], of_tuned["forbidden"]
        clusters = self.lens.clusters(PRIMARY)
        rows = None if clusters is None else clusters[: len(self.forbidden)]
        write_positions(self.lens, "position", reference, of_tuned["attacked"], view, rows)
        for suffix, places in (("", of_base), ("_in_situ", of_tuned)):
            write_gain_ratios(self.lens, PRIMARY, places["attacked"], places["forbidden"], view, suffix)

    def observe_changed(self, attack: str, model: Transformer) -> None:
        """Observation 5 in a model that an attack has changed, and of what is left of the update."""
        lens, view = self.lens, self._observed(attack)
        forbidden = lens.before.contrast(PRIMARY)[1]
        at_base = {place: rows[: len(self.forbidden)] for place, rows in forbidden.items()}
        of_changed, of_tuned = _placed(model, self.forbidden.batch), lens.after(PRIMARY)
        write_positions(lens, "position", of_tuned, of_changed, view, lens.clusters(PRIMARY))
        left = {}
        for layer in lens.layers:
            old, new = lens.before.mlp(layer), mlp(model, layer).cpu().double()
            left[layer] = (new.w_in - old.w_in, new.b_in - old.b_in)
        write_gain_ratios(lens, PRIMARY, at_base, forbidden, view, left=left)
        write_gain_ratios(lens, PRIMARY, of_changed, of_tuned[1], view, "_in_situ", left)

    def keep(self, attack: str, inserted: Tensor, answers: Answers) -> None:
        """Keep each prompt's position, log ratio of gains and success, and measure nothing: for controls."""
        if self.kept is not None:
            self._observe(attack, inserted, Sheet(stage="analysis"), answers, None)

    def _observe(self, attack: str, inserted: Tensor, view: Sheet, answers: Answers, rows: Tensor | None) -> None:
        of_tuned, of_base = _with_vectors(self, inserted)
        lens, reference = self.lens, self.lens.after(PRIMARY)
        means = write_positions(lens, "position", reference, of_tuned, view, lens.clusters(PRIMARY))
        ratios = write_gain_ratios(lens, PRIMARY, of_base, lens.before.contrast(PRIMARY)[1], view)
        in_situ = write_gain_ratios(lens, PRIMARY, of_tuned, reference[1], view, "_in_situ")
        placed = means.get(POSITION_SITE)
        if self.kept is None or placed is None or ratios is None or in_situ is None:
            return
        of = np.arange(len(self.forbidden)) if rows is None else rows.cpu().numpy()
        hits = (answers.labels == int(Behaviour.COMPLY)).cpu().numpy()
        self.kept.append(Doses(attack, of, placed[of], ratios[of], in_situ[of], hits[of]))

    def _observed(self, attack: str, role: str = "last_prompt") -> Sheet:
        """Where Observation 5 of an attack is written."""
        n = len(self.forbidden)
        return self.sheet.with_(stage="analysis", set=FORBIDDEN, attack=attack, role=role, n=n, n_unit="prompt")


def attack_model(context: StageContext) -> None:
    """Every attack of the configuration on the tuned model's last checkpoint."""
    config: AttackingConfig = context.config
    shared, device = config.shared, config.tuned.config.device
    before = base_side(context.inputs["base"], shared.world, shared.sizes, shared.seed, device)
    world, base = World(shared.world), last_model(context.inputs["base"])[0].to(device)
    tuned, meta = last_model(context.inputs["tuned"])
    lens = Lens(before, SyntheticModel(tuned.to(device), world))
    prompts, rows = before.contrasts[PRIMARY], slice(0, config.prompts)
    forbidden, allowed = (requests_for(world, part[rows], device) for part in (prompts.forbidden, prompts.allowed))
    sheet = Sheet(stage="behaviour", **tuned_fields(config.tuned, shared.seed), step=int(meta["step"]))
    kept: list[Doses] | None = [] if config.per_prompt else None
    target = Target(lens, base, tuned, tuned, world, forbidden, allowed, sheet, kept)
    target.add("none", unattacked(tuned, forbidden))
    target.add("none", unattacked(tuned, allowed), ALLOWED)
    for number, attack in enumerate(config.attacks):
        context.report(number, len(config.attacks), attack.label)
        attack_target(attack, replace(target, model=last_model(context.inputs["tuned"])[0].to(device)))
    sheet.write(context.out)
    if kept is not None:
        write_jsonl_atomic(context.out / PER_PROMPT, [part.to_json() for part in kept])
    context.report(len(config.attacks), len(config.attacks))


def attack_target(attack: ModelAttack, target: Target) -> None:
    """Make one attack. DeltawError if it fails, or records nothing."""
    before = len(target.sheet.lines)
    make_attack(attack, target)
    if len(target.sheet.lines) == before:
        raise DeltawError(
            f"the attack {attack.name} recorded nothing; call target.add with its answers in {type(attack).__module__}"
        )


def _placed(
    model: Transformer, batch: Batch, embeddings: Tensor | None = None, positions: Tensor | None = None
) -> Places:
    layers = range(model.config.layers)
    return activations(model, batch, READ, layers, embeddings=embeddings, positions=positions)


def _with_vectors(target: Target, inserted: Tensor) -> tuple[Places, Places]:
    """Activations of the tuned and of the base model on forbidden prompts with vectors (N, n, D) or tokens (N, n)."""
    plain = target.forbidden.batch
    places = []
    for model in (target.tuned, target.base):
        with torch.no_grad():
            vectors = model.embed(inserted) if inserted.ndim == 2 else inserted
        batch, embeddings, positions = attacked_inputs(model, plain, vectors)
        places.append(_placed(model, batch, embeddings, positions))
    return places[0], places[1]


def _anchored(batch: Batch, count: int) -> Batch:
    """The batch with LAST_PROMPT, the role whose activations are read, moved on by `count` tokens."""
    last = batch.position_of(Role.LAST_PROMPT)[:, None]
    roles = batch.roles.scatter(1, last, int(Role.TEXT)).scatter(1, last + count, int(Role.LAST_PROMPT))
    return Batch(batch.tokens, batch.weights, roles)
