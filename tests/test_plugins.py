"""What a name on the command line becomes, and what is said of one that becomes nothing."""

import subprocess
import sys
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path

import pytest

from deltaw import plugins as registry
from deltaw.errors import DeltawError
from deltaw.pipeline.artifacts import plain
from deltaw.plugins import plugins, resolve
from deltaw.protocols.npo import Npo
from deltaw.recipes import recipe
from deltaw.recipes.choose import with_controls, with_interventions, with_protocols
from deltaw.study.all_interventions import recipe_of
from deltaw.study.graph import stages
from deltaw.study.stages.tuned_models import tuned_fields
from deltaw.training.controls.operators import Operators

MINE = '''"""A protocol of one's own."""
from dataclasses import dataclass
from deltaw.protocols import Loss, Protocol, TuningBatch

@dataclass(frozen=True)
class Mine(Protocol):
    """Half of the loss of supervised fine-tuning."""
    name = "mine"
    label = "My own"
    factor: float = 0.5
    def loss(self, model, batch):
        from deltaw.protocols import responses_of
        preferred, _ = responses_of(model, batch.pair)
        return Loss.of(self.factor * preferred.nll())
'''


pytestmark = pytest.mark.usefixtures("path_as_before")


def test_every_protocol_is_listed_with_its_sentence_and_options() -> None:
    listed = {plugin.name: plugin for plugin in plugins() if plugin.kind == "protocol"}
    names = {"ssft", "dpo", "unlearn", "npo", "dpo-published", "unlearn-published", "circuit-breakers"}
    assert names <= listed.keys()
    for name in names:
        made = resolve("protocol", name)
        assert (made.name, listed[name].origin) == (name, "deltaw")
        assert [option.partition(" = ")[0] for option in listed[name].options] == [part.name for part in fields(made)]
        assert listed[name].sentence.endswith(".")
    assert resolve("protocol", "circuit_breakers").name == "circuit-breakers"


def test_a_list_needs_no_torch() -> None:
    package = f"module.__path__ = [{str(Path(registry.__file__).parent)!r}]"  # without what `import deltaw` loads
    script = f"import sys, types; module = sys.modules['deltaw'] = types.ModuleType('deltaw'); {package}; "
    script += "from deltaw.plugins import plugins; plugins(); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0


def test_a_file_is_a_plugin(tmp_path: Path) -> None:
    (tmp_path / "my_own_protocol.py").write_text(MINE)
    made = resolve("protocol", f"{tmp_path / 'my_own_protocol.py'}:Mine")
    assert (made.name, made.factor) == ("mine", 0.5)
    graph = {stage.name: stage for stage in stages(with_protocols(recipe("smoke"), [made, Npo()]))}
    assert graph["tune-mine-medium-s0"].config.tuned.config.protocol == made
    assert graph["tune-other-mine-medium-s0"].config.tuned.control == "other"
    assert graph["tune-npo-medium-s0"].inputs["reference"] == "reference-s0"
    assert not any("ssft" in name for name in graph)


CONTROL = '''"""A control of one's own."""
from dataclasses import dataclass
import numpy as np
from deltaw.training.controls import Control
from deltaw.world import Response

@dataclass(frozen=True)
class Shout(Control):
    """Repeat the text of every prompt whose number is even."""
    name = "shout"
    label = "even prompts repeated"
    instead = Response.ECHO
    def wanted(self, world, prompts, seed):
        return np.where(prompts.index % 2 == 0, Response.ECHO, Response.COMPLY)
'''


def test_a_file_is_a_control(tmp_path: Path) -> None:
    (tmp_path / "my_own_control.py").write_text(CONTROL)
    shout = resolve("control", f"{tmp_path / 'my_own_control.py'}:Shout")
    chosen = with_controls(recipe("smoke"), [shout, resolve("control", "constant")])
    names = {tuned.name for tuned in chosen.tunings if tuned.control}
    assert names == {f"{c}-{p}-medium" for c in ("shout", "constant") for p in ("ssft", "dpo", "unlearn")}
    assert {"shout-ssft-medium", "constant-dpo-medium"} <= set(chosen.model_attacks.controls)
    assert "other-ssft-medium" not in chosen.model_attacks.controls
    graph = {stage.name: stage for stage in stages(chosen)}
    assert graph["tune-shout-dpo-medium-s0"].inputs["reference"] == "reference-shout-s0"
    fields = tuned_fields(graph["tune-shout-dpo-medium-s0"].config.tuned, 0)
    assert (fields["model"], fields["control"]) == ("shout-dpo-medium", "shout")


def test_controls_that_do_not_fit_are_said() -> None:
    smoke, other = recipe("smoke"), resolve("control", "other")
    with pytest.raises(DeltawError, match="give each once"):
        with_controls(smoke, [other, other])
    with pytest.raises(DeltawError, match="is a grid"):
        with_controls(recipe("grid"), [other])
    with pytest.raises(DeltawError, match="teaches the same as no control; use operators"):
        with_controls(with_protocols(smoke, [resolve("protocol", "circuit-breakers")]), [other])
    with pytest.raises(DeltawError, match="no control 'sugar'; there are benign, constant, noise, operators, other"):
        resolve("control", "sugar")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("def", "is no Python .line 1"),
        ("\0", "is no Python"),
        ("x = 1", "has no protocol 'Mine'; it has none"),
        (MINE.replace('name = "mine"', 'name = "npo"'), "'npo' of .* has a name that is taken by deltaw's"),
        (MINE.replace('name = "mine"', 'name = "../Mine"'), "is named '../Mine'; expected lower-case"),
        (MINE.replace("def loss", "def lose"), "lacks loss"),
        (MINE.replace('label = "My own"', ""), "lacks label"),
        (MINE.replace("from dataclasses", "import nowhere_at_all\nfrom dataclasses"), "ModuleNotFoundError"),
        (MINE.replace("factor: float = 0.5", "factor: float"), "give each a default"),
    ],
)
def test_a_bad_file_is_one_sentence(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "bad_protocol_file.py").write_text(text)
    with pytest.raises(DeltawError, match=said):
        resolve("protocol", f"{tmp_path / 'bad_protocol_file.py'}:Mine")


def test_unknown_names_and_files_are_said(tmp_path: Path) -> None:
    with pytest.raises(DeltawError, match=r"no protocol 'ppo'; there are circuit-breakers, dpo, .*ssft"):
        resolve("protocol", "ppo")
    with pytest.raises(DeltawError, match="cannot be read"):
        resolve("protocol", f"{tmp_path}/absent.py:Mine")
    (tmp_path / "json.py").write_text(MINE)
    with pytest.raises(DeltawError, match="rename it"):
        resolve("protocol", f"{tmp_path}/json.py:Mine")
    with pytest.raises(DeltawError, match="give each once"):
        with_protocols(recipe("smoke"), [Npo(), Npo()])
    with pytest.raises(DeltawError, match="is a grid"):
        with_protocols(recipe("grid"), [Npo()])


def test_a_recipe_keeps_its_own_configuration_and_controls() -> None:
    smoke = recipe("smoke")
    chosen = with_protocols(smoke, [resolve("protocol", name) for name in ("dpo", "circuit-breakers")])
    by_name = {tuned.name: tuned for tuned in chosen.tunings}
    assert by_name["dpo-medium"] == next(tuned for tuned in smoke.tunings if tuned.name == "dpo-medium")
    assert by_name["operators-circuit-breakers-medium"].config.control == Operators()
    assert "circuit-breakers-medium" in chosen.model_attacks.models
    assert chosen.left_out is None
    assert with_protocols(smoke, [resolve("protocol", "ssft")]).left_out is not None


def test_an_installed_package_adds_plugins(tmp_path: Path, install: Callable[[str, str], None]) -> None:
    (tmp_path / "their_protocols.py").write_text(MINE)
    install("theirs", "their_protocols:Mine")
    assert [plugin.origin for plugin in plugins() if plugin.name == "mine"] == ["theirs"]
    assert resolve("protocol", "mine").label == "My own"


def test_a_broken_package_is_told_to_who_asks_for_it(install: Callable[[str, str], None]) -> None:
    install("broken", "no_such_module:Mine")
    assert resolve("protocol", "ssft").name == "ssft"
    with pytest.raises(DeltawError, match=r"no protocol 'mine'.*broken names .*has no module no_such_module"):
        resolve("protocol", "mine")
    (problem,) = registry.broken()
    assert problem.endswith("install it again")


def test_interventions_have_the_same_sizes_on_every_tuning() -> None:
    chosen = with_interventions(
        with_protocols(recipe("smoke"), [resolve("protocol", "ssft"), Npo()]), [resolve("intervention", "alpha")]
    )
    sweeps = dict(chosen.interventions)
    assert sweeps.keys() == {"ssft-medium", "npo-medium"}
    assert len({replace(sweep, partner=None) for sweep in sweeps.values()}) == 1
    assert sweeps["npo-medium"].prompts == dict(recipe("smoke").interventions)["ssft-medium"].prompts
    assert (sweeps["npo-medium"].partner, sweeps["ssft-medium"].partner) == ("ssft-medium", "npo-medium")


def test_the_protocols_of_a_finished_run_are_found_again() -> None:
    chosen = with_protocols(recipe("smoke"), [resolve("protocol", "ssft"), Npo()])
    manifest = {"recipe": "smoke", "config": plain(chosen), "seeds": [0]}
    assert recipe_of(manifest).tunings == chosen.tunings
    tuning = manifest["config"]["tunings"][-1]
    tuning["protocol"] = "nowhere"
    with pytest.raises(DeltawError, match=r"was made with the protocols .*nowhere.*install what has them"):
        recipe_of(manifest)
