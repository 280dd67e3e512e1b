"""A checkpoint read by an architecture from a file, or of an installed package."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from checkpoints import write
from tiny_chat import write_model

from deltaw.cli.compare import Compare
from deltaw.compare import load_chat
from deltaw.errors import DeltawError
from deltaw.models import layer_count, tap
from deltaw.models.architectures import FAMILIES, family_of, known, model_types, reading_by
from deltaw.plugins import resolve
from deltaw.results import read_measurements

MINE = '''"""An architecture of one's own."""
from dataclasses import dataclass
from deltaw.models.architectures import Architecture, Map

@dataclass(frozen=True)
class Mine(Architecture):
    """A plain MLP under names of my own."""
    name = "mine"
    label = "Mine"
    block = "net.{layer}"
    mlp_in = (Map("ffn.w1"),)
    mlp_out = Map("ffn.w2")
    model_types = ("mystery",)
'''
GATED = MINE.replace('"net.{layer}"', '"model.layers.{layer}"').replace('("mystery",)', "()")
GATED = GATED.replace('(Map("ffn.w1"),)', '(Map("mlp.gate_proj"), Map("mlp.up_proj"))')
GATED = GATED.replace("ffn.w2", "mlp.down_proj")


pytestmark = pytest.mark.usefixtures("path_as_before")


@pytest.fixture(autouse=True)
def nothing_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("deltaw.report.write_report", lambda directory: directory)  # drawing is not looked at here


def file(tmp_path: Path, text: str, name: str) -> str:
    (tmp_path / f"{name}_architecture.py").write_text(text)
    return f"{tmp_path / f'{name}_architecture.py'}:Mine"


def pair(tmp_path: Path, model_type: str) -> tuple[Path, Path]:
    generator = torch.Generator().manual_seed(0)
    sizes = {"w1": (12, 6), "w2": (6, 12)}
    base = {
        f"net.{i}.ffn.{name}.weight": torch.randn(*size, generator=generator)
        for i in range(2)
        for name, size in sizes.items()
    }
    base["net.0.mix.weight"] = torch.randn(6, 6, generator=generator)
    after = {name: x + 0.1 * torch.randn(x.shape, generator=generator) for name, x in base.items()}
    settings = {"model_type": model_type}
    return write(tmp_path / "base", base, settings), write(tmp_path / "tuned", after, settings)


def modules_of(out: Path) -> set[str]:
    return {line.module for line in read_measurements(out / "measurements.jsonl") if line.module and line.layer == 1}


@pytest.mark.parametrize("model_type", ["mystery", "something else", "gpt2"])
def test_a_given_architecture_reads_whatever_config_json_says(tmp_path: Path, model_type: str) -> None:
    base, tuned = pair(tmp_path, model_type)
    out = tmp_path / "out"
    with pytest.raises(DeltawError):
        Compare(str(base), (str(tuned),), out=out).run()
    given = file(tmp_path, MINE, "mine")
    Compare(str(base), (str(tuned),), out=out, architecture=given).run()
    assert modules_of(out) == {"net.1.ffn.w1", "net.1.ffn.w2"}
    assert not (out / "manifest.json").read_text().count("net.0.mix")
    with pytest.raises(DeltawError, match="give one of them"):
        Compare(str(base), (str(tuned),), out=out, architecture=given, modules=("w1",)).run()
    with pytest.raises(DeltawError, match="no tensor has the name that the architecture llama gives"):
        Compare(str(base), (str(tuned),), out=tmp_path / "other", architecture="llama").run()
    with pytest.raises(DeltawError, match=r"there is no architecture 'mamba'; there are deltaw, llama, .*"):
        Compare(str(base), (str(tuned),), architecture="mamba").run()


def test_a_loaded_model_is_read_by_it_and_only_within_the_context(tmp_path: Path) -> None:
    chat = load_chat(write_model(tmp_path / "base"))
    names = [name for name, _ in chat.model.named_parameters()]
    assert family_of(names) == FAMILIES["llama"]
    given = resolve("architecture", file(tmp_path, GATED, "gated"))
    with reading_by(given):
        assert family_of(names) is given
        assert layer_count(chat.model) == 3
        with torch.no_grad(), tap(chat.model, ("mlp_out",), [1]) as seen:
            chat.model(torch.tensor([[1, 2, 3]]))
        assert seen[1, "mlp_out"].shape[-1] == 24
        with pytest.raises(DeltawError, match=r"no parameter model.layers.\{layer\}.mlp.gate_proj.weight"):
            family_of(["transformer.h.0.mlp.c_fc.weight"])
    assert family_of(names) == FAMILIES["llama"]


def test_what_lacks_something_or_claims_what_another_has_is_said(tmp_path: Path) -> None:
    with pytest.raises(DeltawError, match=r"lacks mlp_out"):
        resolve("architecture", file(tmp_path, MINE.replace('    mlp_out = Map("ffn.w2")\n', ""), "poor"))
    greedy = resolve("architecture", file(tmp_path, MINE.replace('"mystery"', '"qwen2"'), "greedy"))
    with pytest.raises(DeltawError, match="claims the model type 'qwen2', which llama has"), reading_by(greedy):
        pass


def test_an_installed_architecture_is_known(
    tmp_path: Path, install: Callable[[str, str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    base, tuned = pair(tmp_path, "mystery")
    (tmp_path / "their_architecture.py").write_text(MINE)
    install("theirs", "their_architecture:Mine")
    assert {"mine", "mystery", "llama", "qwen2"} <= model_types().keys()
    Compare(str(base), (str(tuned),), out=tmp_path / "out").run()
    assert modules_of(tmp_path / "out") == {"net.1.ffn.w1", "net.1.ffn.w2"}
    assert json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert family_of(["net.0.ffn.w1.weight"]).name == "mine"
    known_already = ["blocks.0.mlp.in_proj.weight"]
    monkeypatch.setattr(known, "resolve", None)  # nothing of another package is imported for deltaw's own models
    assert family_of(known_already).name == "deltaw"


def test_an_installed_architecture_that_claims_anothers_type_is_said(
    tmp_path: Path, install: Callable[[str, str], None]
) -> None:
    (tmp_path / "their_architecture.py").write_text(MINE.replace('"mystery"', '"glm4"'))
    install("theirs", "their_architecture:Mine")
    with pytest.raises(DeltawError, match="architecture mine claims the model type 'glm4', which glm has"):
        model_types()
