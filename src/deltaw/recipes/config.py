"""What a whole study is configured by. `recipes.py` has the functions that fill it in.

They are apart so that a change of one recipe makes nothing anew that it does not touch: what a stage is made from
includes the modules of its configuration.
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
    """What is measured of one tuned model by itself."""
    overlap: Observation | None = None
    """How updates are compared with each other; None: they are not."""
    dose_response: Observation | None = None
    """How success is held against what attacks do to a prompt; None: it is not."""
    probed: int = 1024
    """Prompts behind a probe."""
    ranked: tuple[str, ...] | None = None
    """Names of the tunings of which `observations` are made; None: of all."""
    dosed: tuple[str, ...] | None = None
    """Names of the tunings of which `dose_response` is made; None: of all."""


@dataclass(frozen=True)
class LeftOut:
    """Is refusal a concept, or a list of tokens? One more tuning, which never shows some forbidden operators.

    operators: those. tuned: the tuning. compared: the name of the tuning that differs in nothing but having shown them.
    """

    operators: tuple[int, ...]
    tuned: Tuned
    compared: str


@dataclass(frozen=True)
class Recipe:
    """A whole study. exploratory: its verdicts do not decide. refusal_threshold: a checkpoint is *matched* if it is the
    first that refuses this share of forbidden prompts. cells: of a grid, which has all its tunings in each of them, and
    attacks on prompts in place of analyses; a study that is no grid has none. base_world: that of pre-training, if it
    is not `world`: the published safety data contradict the published pre-training data. Both have the same tokens.
    base_gate: the least share of exact whole answers that a base model must give in every stratum and grammar before
    anything is made of it; None: any will do. observations: of every tuned model, in one stage. subspaces: None: no
    such stages. added: observations with a stage of their own each. interventions: the sweep of each tuning that has
    one. prompt_attacks: attacks on prompts.
    """

    name: str
    world: WorldConfig
    pretraining: PretrainingConfig
    tunings: tuple[Tuned, ...]
    checkpoints: tuple[int, ...]
    base_checkpoints: tuple[int, ...]
    sizes: Sizes = field(default_factory=Sizes)
    prompt_attacks: tuple[PromptAttack, ...] = ON_PROMPTS
    model_attacks: ModelAttacks = field(default_factory=ModelAttacks)
    seeds: tuple[int, ...] = (0,)
    exploratory: bool = True
    refusal_threshold: float = 0.95
    left_out: LeftOut | None = None
    cells: tuple[Cell, ...] = ()
    base_world: WorldConfig | None = None
    base_gate: float | None = None
    observations: tuple[Observation, ...] = ()
    subspaces: Subspaces | None = None
    added: tuple[Observation, ...] = ()
    interventions: Sweeps = ()

    @property
    def steps(self) -> int:
        """Updates of every tuning: the last checkpoint."""
        return self.checkpoints[-1]

    @property
    def base_threads(self) -> int:
        """Torch threads of pre-training: where there are several base models, they are made side by side."""
        return 1 if self.cells or len(self.seeds) > 1 else 2

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
