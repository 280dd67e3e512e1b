"""What recipes share: protocols, controls, rates, and the tunings that follow from them."""

from collections.abc import Mapping
from dataclasses import replace

from deltaw.models import choose_precision
from deltaw.protocols.dpo import Dpo
from deltaw.protocols.dpo_published import DpoPublished
from deltaw.protocols.protocol import Protocol
from deltaw.protocols.ssft import Ssft
from deltaw.protocols.unlearn import Unlearn
from deltaw.protocols.unlearn_published import UnlearnPublished
from deltaw.recipes.tuned import Tuned
from deltaw.training.controls.benign import Benign
from deltaw.training.controls.constant import Constant
from deltaw.training.controls.control import Control
from deltaw.training.controls.noise import Noise
from deltaw.training.controls.operators import Operators
from deltaw.training.controls.other import Other
from deltaw.training.finetuning import TuningConfig
from deltaw.training.optimisers import OptimiserConfig

Protocols = Mapping[str, Protocol]
"""Protocols, by the name that a study gives to their models."""

PROTOCOLS: Protocols = {"ssft": Ssft(), "dpo": Dpo(beta=0.1, sft_weight=4.0), "unlearn": Unlearn(ascent_weight=0.1)}

CONTROLS: tuple[Control, ...] = (Benign(), Operators(), Noise(), Other(), Constant())
"""Every control that some claim is about. Controls from plug-ins are trained only on request."""

PUBLISHED_PROTOCOLS: Protocols = {"ssft": Ssft(), "dpo": DpoPublished(), "unlearn": UnlearnPublished()}


def tunings_of(
    batch: int,
    device: str,
    compute_dtype: str,
    optimisers: dict[str, OptimiserConfig],
    protocols: Protocols = PROTOCOLS,
    controls: tuple[Control, ...] = (Other(), Operators(), Constant()),
    compat: bool = False,
) -> tuple[Tuned, ...]:
    """Three protocols at two strengths, plain DPO, and the controls.

    All have the same steps and rates. All have the same prompts, except with `compat`: there four fifths of SSFT's
    batches are allowed ones, and half of the others'.
    """

    def tuned(called: str, protocol: Protocol, strength: str, control: Control | None = None) -> Tuned:
        name = f"{called}-{strength}" if control is None else f"{control.name}-{called}-{strength}"
        config = TuningConfig(control, batch, device, compute_dtype, protocol=protocol, optimiser=optimisers[strength])
        if compat:
            supervised = protocol.responses == 1
            config = replace(config, allowed_batches=0.8 if supervised else 0.5, borrow_masks=not supervised)
        return Tuned(name.replace("_", "-"), called, strength, config)

    of_strength = [tuned(*protocol, strength) for strength in optimisers for protocol in protocols.items()]
    plain = replace(tuned("dpo_plain", Dpo(beta=0.1), "medium"), curve_only=True)
    return (*of_strength, plain, *(tuned("ssft", Ssft(), "medium", control) for control in controls))


def controlled(tuned: Tuned, control: Control) -> Tuned:
    """The same tuning, teaching what the control teaches."""
    name = f"{control.name}-{tuned.name}".replace("_", "-")
    return replace(tuned, name=name, config=replace(tuned.config, control=control))


def tuned_again(tuned: Tuned) -> Tuned:
    """The same tuning of the same base model on other prompts, to separate the two sources of chance."""
    config = replace(tuned.config, first_row=tuned.config.batch * tuned.config.optimiser.steps)
    return replace(tuned, name=f"{tuned.name}-again", protocol=f"{tuned.protocol}_again", config=config)


def training_dtype(device: str) -> str:
    """The number format of training's matrix products on a device, as configurations name it."""
    return str(choose_precision(device).dtype).removeprefix("torch.")
