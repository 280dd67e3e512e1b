"""Comparing checkpoints: planted updates through every adapter, resuming, rounding, and agreement with the analyses."""

import json
import os
from pathlib import Path
from typing import Any

import checkpoints
import numpy as np
import pytest
import torch
from checkpoints import FAMILIES, HEADS, TALL, WIDE, D, F, changed, config, matrix_of, tensor_of, tensors, write
from torch import Tensor

import deltaw
from deltaw.analysis import Absent, column_basis, null_curve, null_energy, row_sign_flip_null, update_spectrum
from deltaw.analysis.rounding import rounding, steps
from deltaw.compare import Progress, compare
from deltaw.errors import DeltawError
from deltaw.models.checkpoint_files import open_checkpoint
from deltaw.results import Measurement, read_measurements


def numbers(out: Path, module: str, set: str | None = None) -> dict[str, float]:
    """Values of a module's statistics."""
    lines = read_measurements(out / "measurements.jsonl")
    return {x.statistic: x.value for x in lines if x.module == module and x.set == set}


def line(out: Path, module: str, statistic: str, null: str) -> Measurement:
    (found,) = (
        x
        for x in read_measurements(out / "measurements.jsonl")
        if (x.module, x.statistic, x.null_kind, x.set) == (module, statistic, null, None)
    )
    return found


def manifest(out: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((out / "manifest.json").read_text())
    return found


def draw(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def planted(W: Tensor, where: str, rank: int) -> Tensor:
    """An update (out, in) of a rank whose columns (tall W) or rows (wide W) lie inside C(W), or in its complement."""
    tall = W if W.shape[0] > W.shape[1] else W.T
    free = draw(5, tall.shape[0], rank)
    inside = tall @ torch.linalg.lstsq(tall, free).solution
    left = inside if where == "inside" else free - inside
    update: Tensor = left @ draw(6, rank, tall.shape[1])
    scaled: Tensor = 0.01 * (update if tall is W else update.T)
    return scaled


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(("kind", "side"), [(TALL, "left"), (WIDE, "right")])
@pytest.mark.parametrize(("where", "truth"), [("inside", 0.0), ("outside", 1.0)])
def test_planted_updates_are_recovered_through_each_family(
    tmp_path: Path, family: str, kind: dict[str, str], side: str, where: str, truth: float
) -> None:
    module = kind[family]
    base = {name: x.double() for name, x in tensors(family).items()}
    W = matrix_of(family, base, module)
    update = planted(W, where, 2)
    out = tmp_path / "out"
    compare(
        write(tmp_path / "a", base, config(family), shards=3),
        write(tmp_path / "b", changed(family, base, module, update), config(family)),
        out,
    )
    name = f"{checkpoints.SHAPES[family][0]}.1.{module}"
    found = numbers(out, name)
    assert found[f"null_energy_{side}"] == pytest.approx(truth, abs=1e-6)
    assert found["update_relative_norm"] == pytest.approx(float(update.norm() / W.norm()), rel=1e-9)
    assert found["participation_ratio"] <= 2 + 1e-6
    assert numbers(out, name, "k=002")["residual_energy"] == pytest.approx(0, abs=1e-9)
    assert numbers(out, name, "k=001")["residual_energy"] > 0.01
    other = {"left": "right", "right": "left"}[side]
    assert f"null_energy_{other}" in manifest(out)["absent"][name]
    first_layer = [x for x in read_measurements(out / "measurements.jsonl") if x.layer == 0]
    assert {x.value for x in first_layer if x.statistic == "update_relative_norm"} == {0}


@pytest.mark.parametrize("family", FAMILIES)
def test_every_matrix_of_every_layer_is_found(tmp_path: Path, family: str) -> None:
    base = tensors(family)
    after = {
        name: x + 0.01 * torch.randn(x.shape, generator=torch.Generator().manual_seed(9)) for name, x in base.items()
    }
    out = tmp_path / "out"
    compare(write(tmp_path / "a", base, config(family)), write(tmp_path / "b", after, config(family), shards=2), out)
    modules = {x.module for x in read_measurements(out / "measurements.jsonl") if x.layer is not None}
    per_layer = {"llama": 8, "phi3": 8, "phi": 6, "gpt2": 6, "gpt_neox": 6, "opt": 6}[family]
    assert len(modules) == 2 * per_layer
    assert manifest(out)["skipped"] == {}


def test_all_numbers_are_those_of_the_analyses(tmp_path: Path) -> None:
    base, after = tensors("llama"), tensors("llama", seed=1)
    after = {name: base[name] + 0.05 * after[name] for name in base}
    out = tmp_path / "out"
    compare(write(tmp_path / "a", base, config("llama")), write(tmp_path / "b", after, config("llama")), out)
    names = [f"model.layers.0.mlp.{x}_proj" for x in ("gate", "up")]
    cases = {
        names[0]: (base[f"{names[0]}.weight"], after[f"{names[0]}.weight"]),
        "model.layers.0.mlp.gate_up": tuple(torch.cat([x[f"{n}.weight"] for n in names]) for x in (base, after)),
    }
    for name, (old, new) in cases.items():
        W, dW = old.double(), new.double() - old.double()
        basis, spectrum, found = column_basis(W), update_spectrum(dW, W), numbers(out, name)
        curve = null_curve(dW, W, [0, 3, D])
        assert not isinstance(spectrum, Absent)
        assert not isinstance(curve, Absent)
        assert found["null_energy_left"] == pytest.approx(null_energy(dW, basis), abs=1e-9)
        assert found["update_relative_norm"] == pytest.approx(spectrum.relative_norm)
        assert found["stable_rank"] == pytest.approx(spectrum.stable_rank)
        assert found["participation_ratio"] == pytest.approx(spectrum.participation_ratio)
        for k, rho in zip((0, 3, D), curve.rho, strict=True):
            assert numbers(out, name, f"k={k:03d}")["null_energy_curve"] == pytest.approx(rho, abs=1e-9)
        for number, sigma in enumerate(spectrum.singular_values, start=1):
            assert numbers(out, name, f"vector={number:03d}")["singular_value"] == pytest.approx(sigma, rel=1e-6)
        null = row_sign_flip_null(dW, basis, np.random.default_rng(0), 20_000)
        ours = line(out, name, "null_energy_left", "row_sign_flip")
        assert ours.null_mean == pytest.approx(null.mean)
        assert ours.null_low == pytest.approx(null.low, abs=0.1 * (null.high - null.low))
    q = "model.layers.0.self_attn.q_proj"
    assert "null_energy_left" not in numbers(out, q)
    assert "full rank" in manifest(out)["absent"][q]["null_energy_left"]
    assert numbers(out, q, f"k={D:03d}")["null_energy_curve"] == pytest.approx(0, abs=1e-9)


def test_a_comparison_reads_as_a_run(tmp_path: Path) -> None:
    base = tensors("llama")
    out = tmp_path / "out"
    a, b = write(tmp_path / "a", base, config("llama")), write(tmp_path / "b", tensors("llama", 1), config("llama"))
    compare(a, b, out)
    table = deltaw.load(out).select("null_energy_left", null_kind="rotation", module="model.layers.1.mlp.up_proj")
    assert table["null_mean"].tolist() == pytest.approx([1 - D / F])


def test_square_matrices_that_lack_rank_have_both_null_spaces(tmp_path: Path) -> None:
    base = {name: x.double() for name, x in tensors("llama").items()}
    name = "model.layers.1.self_attn.q_proj"
    W = draw(1, D, 4) @ draw(2, 4, D)
    update = draw(3, D, D)
    after = {**base, f"{name}.weight": W + update}
    base[f"{name}.weight"] = W
    out = tmp_path / "out"
    compare(write(tmp_path / "a", base, config("llama")), write(tmp_path / "b", after, config("llama")), out)
    found = numbers(out, name)
    assert found["weight_rank"] == 4
    assert found["null_energy_left"] == pytest.approx(null_energy(update, column_basis(W)), abs=1e-6)
    assert found["null_energy_right"] == pytest.approx(null_energy(update.T, column_basis(W.T)), abs=1e-6)


def test_fused_attention_is_cut_where_the_family_cuts_it(tmp_path: Path) -> None:
    """A change of the values only is seen in the values only; NeoX interleaves them by head."""
    for family, rows in (
        ("gpt_neox", torch.arange(3 * D).view(HEADS, 3, -1)[:, 2].flatten()),
        ("phi3", torch.arange(D + checkpoints.KV, D + 2 * checkpoints.KV)),
        ("gpt2", torch.arange(2 * D, 3 * D)),
    ):
        base = tensors(family)
        stem = {"gpt_neox": "attention.query_key_value", "phi3": "self_attn.qkv_proj", "gpt2": "attn.c_attn"}[family]
        name = tensor_of(family, stem)
        after = dict(base)
        moved = base[name].clone()
        (moved.T if family == "gpt2" else moved)[rows] += 1
        after[name] = moved
        out = tmp_path / f"out-{family}"
        compare(
            write(tmp_path / f"a-{family}", base, config(family)),
            write(tmp_path / f"b-{family}", after, config(family)),
            out,
        )
        sizes = {part: numbers(out, f"{name.removesuffix('.weight')}:{part}")["update_relative_norm"] for part in "qkv"}
        assert sizes["q"] == sizes["k"] == 0 < sizes["v"]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_an_update_below_the_rounding_floor_is_not_interpreted(tmp_path: Path, dtype: torch.dtype) -> None:
    exact = {name: x.double() for name, x in tensors("llama").items()}
    eps = torch.finfo(dtype).eps
    name = "model.layers.0.mlp.gate_proj"
    small = {**exact, f"{name}.weight": exact[f"{name}.weight"] * (1 + 0.01 * eps * draw(1, F, D))}
    large = {**exact, f"{name}.weight": exact[f"{name}.weight"] * (1 + 40 * eps * draw(1, F, D))}
    rounded = {key: {n: x.to(dtype) for n, x in s.items()} for key, s in (("a", exact), ("s", small), ("l", large))}
    dirs = {key: write(tmp_path / key, state, config("llama")) for key, state in rounded.items()}
    compare(dirs["a"], dirs["s"], tmp_path / "small")
    compare(dirs["a"], dirs["l"], tmp_path / "large")
    below, above = numbers(tmp_path / "small", name), numbers(tmp_path / "large", name)
    assert set(below) <= {"update_relative_norm", "rounding_floor", "identical_share"}
    assert below["identical_share"] > 0.9
    reason = manifest(tmp_path / "small")["absent"][name]["*"]
    assert "below the rounding floor" in reason or "is zero" in reason
    assert above["update_relative_norm"] > above["rounding_floor"]
    assert "null_energy_left" in above


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_the_floor_is_what_rounding_does(tmp_path: Path, dtype: torch.dtype) -> None:
    """Two roundings of unrelated small disturbances of one matrix differ by the floor."""
    hidden = draw(0, 200, 100)
    eps = torch.finfo(dtype).eps
    first, second = ((hidden + 50 * eps * draw(seed, 200, 100)).to(dtype) for seed in (1, 2))
    unrounded = [hidden + 50 * eps * draw(seed, 200, 100) for seed in (1, 2)]
    noise = (first.double() - unrounded[0]) - (second.double() - unrounded[1])
    assert rounding([steps(first)], [steps(second)]).expected == pytest.approx(float(noise.square().sum()), rel=0.05)


def test_a_stopped_run_goes_on_where_it_was(tmp_path: Path) -> None:
    a = write(tmp_path / "a", tensors("llama"), config("llama"))
    b = write(tmp_path / "b", tensors("llama", 1), config("llama"))
    compare(a, b, tmp_path / "whole")

    def stop(progress: Progress) -> None:
        if progress.place == 5:
            raise KeyboardInterrupt

    out = tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        compare(a, b, out, listener=stop)
    journal = (out / "tensors.jsonl").read_bytes()
    assert journal.count(b"\n") == 6
    with (out / "tensors.jsonl").open("ab") as file:
        file.write(b'{"part": "half a li')
    compare(a, b, out)
    assert (out / "tensors.jsonl").read_bytes().startswith(journal)
    assert (out / "measurements.jsonl").read_bytes() == (tmp_path / "whole" / "measurements.jsonl").read_bytes()


def test_the_directory_of_another_pair_is_refused(tmp_path: Path) -> None:
    a, b = (write(tmp_path / name, tensors("opt", seed), config("opt")) for name, seed in (("a", 0), ("b", 1)))
    compare(a, b, tmp_path / "out")
    os.utime(b / "model.safetensors", ns=(0, 0))
    with pytest.raises(DeltawError, match=r"another comparison \(its pair differ"):
        compare(a, b, tmp_path / "out")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("x")
    with pytest.raises(DeltawError, match="not empty and holds no comparison"):
        compare(a, b, tmp_path / "mine")


def test_checkpoints_of_one_size_and_time_are_told_apart(tmp_path: Path) -> None:
    """As files are that were unpacked from an image or archive that sets all times alike."""
    state = tensors("opt", 1)
    last = [name for name in state if name.endswith("fc2.weight")][-1]
    states = (tensors("opt"), state, {**state, last: state[last] + 1e-3})
    a, b, c = (write(tmp_path / name, one, config("opt")) for name, one in zip("abc", states, strict=True))
    for directory in (a, b, c):
        os.utime(directory / "model.safetensors", ns=(0, 0))
    compare(a, b, tmp_path / "out")
    with pytest.raises(DeltawError, match=r"another comparison \(its pair differ"):
        compare(a, c, tmp_path / "out")
    prints = [open_checkpoint(directory).fingerprint() for directory in (a, b, c)]
    assert prints == [open_checkpoint(directory).fingerprint() for directory in (a, b, c)]
    assert len({str(mark) for mark in prints}) == 3


def test_shapes_that_differ_are_skipped_and_named(tmp_path: Path) -> None:
    base, after = tensors("llama"), tensors("llama", 1)
    name = "model.layers.0.mlp.down_proj"
    after[f"{name}.weight"] = torch.zeros(D, F + 1)
    extra = "model.layers.2.self_attn.q_proj"
    after[f"{extra}.weight"] = torch.zeros(D, D)
    out = tmp_path / "out"
    compare(write(tmp_path / "a", base, config("llama")), write(tmp_path / "b", after, config("llama")), out)
    assert manifest(out)["skipped"] == {
        name: f"it is ({D}, {F}) in the base model and ({D}, {F + 1}) in the tuned one",
        extra: "only the tuned model has it",
    }
    assert numbers(out, name) == {}


def test_matrices_of_an_unknown_architecture_are_named_by_patterns(tmp_path: Path) -> None:
    base = {f"net.{i}.ffn.w1.weight": draw(i, F, D) for i in range(2)} | {"net.0.mix.attn.weight": draw(7, D, F)}
    after = {name: x + planted(x, "outside", 1) for name, x in base.items()}
    a = write(tmp_path / "a", base, {"model_type": "mine"})
    b = write(tmp_path / "b", after, {"model_type": "mine"})
    with pytest.raises(DeltawError, match=r"'mine' is not among .*net.\{layer\}.ffn.w1.weight"):
        compare(a, b, tmp_path / "out")
    with pytest.raises(DeltawError, match=r"no matrix is named like 'w3'; there are net.\{layer\}"):
        compare(a, b, tmp_path / "out", ["w3"])
    compare(a, b, tmp_path / "out", ["net.{layer}.ffn.w1", "*.attn:transposed"])
    assert numbers(tmp_path / "out", "net.1.ffn.w1")["null_energy_left"] == pytest.approx(1)
    assert numbers(tmp_path / "out", "net.0.mix.attn")["null_energy_left"] == pytest.approx(1)


@pytest.mark.parametrize("master", [torch.float32, torch.bfloat16])
def test_near_the_floor_the_share_of_rounding_is_said_and_null_energy_is_corrected(
    tmp_path: Path, master: torch.dtype
) -> None:
    """Planted in the column space of W and stored in bfloat16: ρ_N is 0 before it is rounded."""
    before = {name: 0.02 * x.double() for name, x in tensors("opt").items()}
    name = "model.decoder.layers.0.fc1"
    rows, columns = 400, 40
    W = (0.02 * draw(1, rows, columns)).to(master).double()
    inside = W @ draw(2, columns, columns)
    out = {}
    for times in (0.2, 1.7, 2.5, 4.0, 50.0):
        D_ = inside * times * 0.0017 * W.norm() / inside.norm()
        pair = (W.to(master), (W + D_).to(torch.bfloat16))
        a, b = (
            write(tmp_path / f"{label}-{times}", {**before, f"{name}.weight": x}, config("opt"))
            for label, x in zip("ab", pair, strict=True)
        )
        compare(a, b, tmp_path / f"out-{times}")
        absent = manifest(tmp_path / f"out-{times}")["absent"]
        out[times] = numbers(tmp_path / f"out-{times}", name), absent[name]
    values = {times: found.get("null_energy_left") for times, (found, _) in out.items()}
    shares = {times: found.get("rounding_share") for times, (found, _) in out.items()}
    assert "below the rounding floor" in out[0.2][1].get("*", "") or "zero" in out[0.2][1]["*"]
    assert shares[50.0] is None
    assert values[50.0] == pytest.approx(0, abs=0.01)
    near = [times for times in (1.7, 2.5, 4.0) if shares[times] is not None]
    assert 2.5 in near
    for times in near:  # right or withheld, with the reason
        if values[times] is None:
            assert "energy is rounding" in out[times][1]["null_energy_left"]
        else:
            assert values[times] == pytest.approx(0, abs=0.02)
    if master == torch.float32:  # only the tuned side was rounded, so the correction is known
        assert shares[2.5] == pytest.approx(1 / (1 + 2.5**2), rel=0.1)
        assert values[2.5] is not None
