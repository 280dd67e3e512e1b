"""What `compare` of several models knows of each of them, and of two."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from deltaw.compare.model_list import ListedModel
from deltaw.compare.pairing import Matched, Pairing
from deltaw.compare.prompted import OBSERVED
from deltaw.compare.questions import attack_key, questions_of
from deltaw.compare.two_models import asking_files
from deltaw.compare.weights import Sources
from deltaw.prompts.matched import Prompt
from deltaw.results.journal import Journal


@dataclass(frozen=True)
class Asking:
    """What every model is asked."""

    prompts: Sequence[Prompt]
    options: Mapping[str, Any]
    """Of `compare_prompts`: judge, effort, loading, attacks, and observations and interventions if they are given."""

    def key(self, sources: Sources, control: str | None) -> str:
        """What names the questions, how they are asked, and what is looked at."""
        options = self.options
        return key_of(
            questions_of(self.prompts, options["judge"], options["effort"]),
            [attack_key(attack) for attack in options["attacks"]],
            asking_files(sources, options["loading"]),
            [observation.recorded() for observation in options.get("observations", OBSERVED)],
            [intervention.recorded() for intervention in options.get("interventions", ())],
            control,
        )


@dataclass(frozen=True)
class Tuned:
    """A tuned model, opened: headers only."""

    listed: ListedModel
    sources: Sources
    pairing: Pairing
    key: str
    """Of its own comparison."""
    directory: Path
    """Where that is kept."""
    matched: Mapping[str, Matched] = field(default_factory=dict)
    """Its matrices by name."""

    @property
    def name(self) -> str:
        """What the report calls it."""
        return self.listed.name


@dataclass(frozen=True)
class Pair:
    """Two of the models, and what is finished of them."""

    first: Tuned
    second: Tuned
    journal: Journal

    @property
    def name(self) -> str:
        """For messages and the manifest."""
        return f"{self.first.name} and {self.second.name}"


def key_of(*parts: object) -> str:
    """A hash of JSON values."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()[:16]
