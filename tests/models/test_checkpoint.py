import json
from pathlib import Path

import pytest
import torch
from lively_model import lively_model, some_tokens
from safetensors.torch import load_file, save_file

from deltaw.errors import DeltawError
from deltaw.models import Transformer, checkpoint, load, save
from deltaw.models.checkpoint import META, WEIGHTS


@pytest.fixture
def model() -> Transformer:
    return lively_model()


@pytest.fixture
def tokens() -> torch.Tensor:
    return some_tokens()


@pytest.fixture
def saved(model: Transformer, tmp_path: Path) -> Path:
    save(model, tmp_path / "base", {"protocol": "dpo", "strength": "small", "seed": 7, "step": 800})
    return tmp_path / "base"


def edit_meta(directory: Path, **changes: object) -> None:
    meta = json.loads((directory / META).read_text())
    (directory / META).write_text(json.dumps(meta | changes))


def edit_weights(directory: Path, name: str, tensor: torch.Tensor | None) -> None:
    state = load_file(directory / WEIGHTS)
    state.pop(name, None)
    if tensor is not None:
        state[name] = tensor
    save_file(state, directory / WEIGHTS)


def test_round_trip(model: Transformer, saved: Path, tokens: torch.Tensor) -> None:
    again, meta = load(saved)
    assert torch.equal(again(tokens), model(tokens))
    assert again.config == model.config
    assert (meta["protocol"], meta["strength"], meta["seed"], meta["step"]) == ("dpo", "small", 7, 800)
    assert meta["dtype"] == "float32"
    assert meta["config"]["width"] == 12
    assert sorted(path.name for path in saved.iterdir()) == [META, WEIGHTS]
    assert sorted(path.name for path in saved.parent.iterdir()) == ["base"], "nothing else is left behind"


def test_float64_round_trip(model: Transformer, tmp_path: Path) -> None:
    save(model.double(), tmp_path / "exact", {})
    again, _ = load(tmp_path / "exact")
    assert all(torch.equal(a, b) for a, b in zip(again.parameters(), model.parameters(), strict=True))


def test_loading_leaves_the_global_generator_alone(saved: Path) -> None:
    state = torch.get_rng_state()
    load(saved)
    assert torch.equal(torch.get_rng_state(), state)


def test_nothing_is_overwritten(model: Transformer, saved: Path) -> None:
    before = (saved / WEIGHTS).read_bytes()
    with pytest.raises(DeltawError, match="not empty"):
        save(model, saved, {})
    assert (saved / WEIGHTS).read_bytes() == before


def test_a_failed_write_leaves_nothing(model: Transformer, tmp_path: Path) -> None:
    with pytest.raises(TypeError):
        save(model, tmp_path / "a", {"seed": object()})
    (tmp_path / "file").write_text("")
    with pytest.raises(DeltawError, match="cannot be written"):
        save(model, tmp_path / "file" / "a", {})
    with pytest.raises(DeltawError, match="cannot be written"):
        save(model, tmp_path / "file", {})
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_our_keys_cannot_be_taken(model: Transformer, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="config"):
        save(model, tmp_path / "a", {"config": {}})


def test_a_model_with_nan_is_not_saved(model: Transformer, tmp_path: Path) -> None:
    with torch.no_grad():
        model.embed.weight[0, 0] = float("nan")
    with pytest.raises(DeltawError, match=r"embed\.weight holds NaN"):
        save(model, tmp_path / "a", {})
    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize("keep", [0, 5, 300, -1])
def test_truncated_weights(saved: Path, keep: int) -> None:
    content = (saved / WEIGHTS).read_bytes()
    (saved / WEIGHTS).write_bytes(content[:keep])
    with pytest.raises(DeltawError, match="truncated or not a safetensors file"):
        load(saved)


def test_another_kind_of_file(model: Transformer, saved: Path) -> None:
    torch.save(model.state_dict(), saved / WEIGHTS)
    with pytest.raises(DeltawError, match="not a safetensors file"):
        load(saved)


@pytest.mark.parametrize(
    ("name", "tensor", "message"),
    [
        ("norm_final.bias", None, r"lacks 1 of 41 tensors, norm_final\.bias"),
        ("extra.weight", torch.zeros(2), r"1 tensors that the model lacks, extra\.weight"),
        ("norm_final.bias", torch.zeros(13), r"norm_final\.bias is \(13,\) .* \(12,\)"),
        ("norm_final.bias", torch.zeros(12, dtype=torch.float16), "float16"),
        ("norm_final.bias", torch.full((12,), float("nan")), r"norm_final\.bias holds NaN"),
        ("norm_final.bias", torch.full((12,), float("inf")), r"norm_final\.bias holds NaN or infinite"),
    ],
)
def test_wrong_tensors(saved: Path, name: str, tensor: torch.Tensor | None, message: str) -> None:
    edit_weights(saved, name, tensor)
    with pytest.raises(DeltawError, match=message):
        load(saved)


@pytest.mark.parametrize("name", [META, WEIGHTS])
def test_a_missing_file(saved: Path, name: str) -> None:
    (saved / name).unlink()
    with pytest.raises(DeltawError, match=f"{name} does not exist"):
        load(saved)


def test_wrong_meta(saved: Path) -> None:
    good = (saved / META).read_text()
    cases: list[tuple[dict[str, object], str]] = [
        ({"format": "something-else"}, "something-else"),
        ({"dtype": "int8"}, "int8"),
        ({"config": None}, "lacks, or has in excess"),
        ({"config": json.loads(good)["config"] | {"depth": 3}}, "in excess: depth"),
        ({"config": json.loads(good)["config"] | {"layers": "3"}}, "layers is '3'"),
        ({"config": json.loads(good)["config"] | {"layers": 2}}, "that the model lacks"),
    ]
    for changes, message in cases:
        (saved / META).write_text(good)
        edit_meta(saved, **changes)
        with pytest.raises(DeltawError, match=message):
            load(saved)
    for content in (good[:-20].encode(), b"\xff\xfe\x00", b""):
        (saved / META).write_bytes(content)
        with pytest.raises(DeltawError, match="cannot be read as JSON"):
            load(saved)
    (saved / META).write_text("[1]")
    with pytest.raises(DeltawError, match="format 'list'"):
        load(saved)


def test_each_message_is_one_line(saved: Path) -> None:
    (saved / WEIGHTS).write_bytes(b"abc")
    with pytest.raises(DeltawError) as caught:
        load(saved)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"vocabulary_size": 10**9}, "embed.weight is"),
        ({"context": 10**9}, "position.weight is"),
        ({"layers": 10**9}, "blocks, but meta.json says 1000000000"),
        ({"mlp_ratio": 10**7}, "in_proj.weight is"),
        ({"context": 10**9, "positions": "sinusoidal"}, "context of 1000000000 is too long"),
        ({"": 1}, "in excess: ''"),
    ],
)
def test_sizes_that_the_file_has_not_are_refused_before_they_are_made(
    saved: Path, changes: dict[str, object], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    edit_meta(saved, config=json.loads((saved / META).read_text())["config"] | changes)
    monkeypatch.setattr(checkpoint, "Transformer", None)  # nothing is made
    with pytest.raises(DeltawError, match=message):
        load(saved)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[" * 100_000, "nested more than"),
        ('{"step": ' + "9" * 5000 + "}", "does not fit 64 bits"),
        ('{"format": "deltaw-model-99"}', "of a later deltaw; this one reads 'deltaw-model-1', so update it"),
        ('{"format": "deltaw-model-0"}', "expected 'deltaw-model-1'"),
    ],
)
def test_meta_from_elsewhere_is_refused_in_a_sentence(saved: Path, text: str, message: str) -> None:
    before = (saved / "model.safetensors").read_bytes()
    (saved / META).write_text(text)
    with pytest.raises(DeltawError, match=message):
        load(saved)
    assert (saved / "model.safetensors").read_bytes() == before
