"""The configuration of a whole study. The other modules of this package are recipes, which fill it in.

It has a module of its own because a stage's key includes the modules of its configuration: a change of one recipe
then re-makes only what it touches.
"""

from dataclasses import dataclass, field, replace

from deltaw.attacks.models.attack import ModelAttack
from deltaw.attacks.models.defaults import ON_MODELS
from deltaw.attacks.models.soft_prompt import SoftPrompts
from deltaw.attacks.prompts.attack import PromptAttack
from deltaw.attacks.prompts.defaults import ON_PROMPTS
from deltaw.errors import DeltawError
from deltaw.interventions.sweep import Sweeps
from deltaw.observations.observation import Observation
from deltaw.recipes.grid_worlds import Cell
from deltaw.recipes.sizes import Sizes
from deltaw.recipes.tuned import Tuned
from deltaw.training.pretraining import PretrainingConfig
from deltaw.world import WorldConfig
from deltaw.world.config import check

NARROW = 64
"""A base model of a smaller width gains nothing from a second thread."""


@dataclass(frozen=True)
class ModelAttacks:
    """The attacks on models, and what is attacked."""

    models: tuple[str, ...] = ("ssft-medium", "dpo-medium", "unlearn-medium")
    """Names of the tunings on which every attack is made."""
    controls: tuple[str, ...] = ()
    """Names of those on which only attacks are made that are for controls too (`ModelAttack.on_controls`)."""
    prompts: int = 32
    """Forbidden prompts behind each."""
    attacks: tuple[ModelAttack, ...] = ON_MODELS
    """In this order."""

    def on(self, name: str) -> tuple[ModelAttack, ...]:
        """The attacks on the tuning of that name."""
        if name in self.controls:
            return tuple(attack for attack in self.attacks if attack.on_controls)
        return self.attacks if name in self.models else ()


def doses_of(attacks: tuple[ModelAttack, ...]) -> tuple[str, ...]:
    """The doses of the soft prompts among the attacks, weakest first; none if there are none."""
    return next((attack.doses for attack in attacks if isinstance(attack, SoftPrompts)), ())


@dataclass(frozen=True)
class Subspaces:
    """Ranks, probes, angles between updates, and dose-response. `recipes.observed.subspaces` fills it in."""

    observations: tuple[Observation, ...] = ()
    """Observations of single tuned models."""
    overlap: Observation | None = None
    """How updates are compared with each other. None: they are not."""
    dose_response: Observation | None = None
    """How success is compared with an attack's effect on a prompt. None: it is not."""
    probed: int = 1024
    """Prompts for a probe."""
    ranked: tuple[str, ...] | None = None
    """Names of the tunings on which `observations` are made. None: all."""
    dosed: tuple[str, ...] | None = None
    """Names of the tunings on which `dose_response` is made. None: all."""


@dataclass(frozen=True)
class LeftOut:
    """Is refusal a concept, or a list of tokens? One more tuning, which never shows some forbidden operators."""

    operators: tuple[int, ...]
    """The operators that it never shows."""
    tuned: Tuned
    """The tuning."""
    compared: str
    """Name of the tuning that differs only in having shown them."""


@dataclass(frozen=True)
class Recipe:
    """A whole study."""

    name: str
    """Its name, as of `--recipe`."""
    world: WorldConfig
    """The world of tunings and analyses."""
    pretraining: PretrainingConfig
    """How base models are trained."""
    tunings: tuple[Tuned, ...]
    """The fine-tuned models, controls included."""
    checkpoints: tuple[int, ...]
    """Updates at which a tuning is measured; the last is its length."""
    base_checkpoints: tuple[int, ...]
    """Updates at which a base model is measured."""
    sizes: Sizes = field(default_factory=Sizes)
    """How many prompts and draws each number takes."""
    prompt_attacks: tuple[PromptAttack, ...] = ON_PROMPTS
    """The attacks on prompts."""
    model_attacks: ModelAttacks = field(default_factory=ModelAttacks)
    """The attacks on models."""
    seeds: tuple[int, ...] = (0,)
    """One base model, with all tunings, for each."""
    exploratory: bool = True
    """Whether it explores and does not decide."""
    refusal_threshold: float = 0.95
    """The *matched* checkpoint is the first that refuses this share of forbidden prompts."""
    left_out: LeftOut | None = None
    """The tuning that never shows some forbidden operators."""
    cells: tuple[Cell, ...] = ()
    """Worlds of a grid. Each has all tunings, and attacks on prompts in place of analyses. Empty: no grid."""
    base_world: WorldConfig | None = None
    """World of pre-training, with the same tokens, if it is not `world`: the published safety data contradict the
    published pre-training data."""
    base_gate: float | None = None
    """Lowest share of exact whole answers that a base model must give in every stratum and grammar before it is used.
    None: no gate."""
    observations: tuple[Observation, ...] = ()
    """Observations of every tuned model, together in one stage."""
    subspaces: Subspaces | None = None
    """Ranks, angles, probes and dose-response. None: not measured."""
    added: tuple[Observation, ...] = ()
    """Observations with a stage of their own each."""
    interventions: Sweeps = ()
    """The sweep of each tuning that has one."""

    @property
    def steps(self) -> int:
        """Updates of every tuning: the last checkpoint."""
        return self.checkpoints[-1]

    @property
    def base_threads(self) -> int:
        """Torch threads of pre-training: two, or one for a narrow model and where several are trained in parallel."""
        return 1 if self.cells or len(self.seeds) > 1 or self.pretraining.width < NARROW else 2

    def in_world(self, world: WorldConfig, name: str) -> "Recipe":
        """The same study in another world, under another name. DeltawError if that world does not fit together.

        `left_out` stays only where that world can spare the same operators and leaves none out itself.
        """
        check(world)
        left_out = self.left_out
        if left_out is not None:
            try:
                check(replace(world, left_out=(*world.left_out, *left_out.operators)))
            except DeltawError:
                left_out = None
        return replace(self, name=name, world=world, base_world=None, left_out=None if world.left_out else left_out)
