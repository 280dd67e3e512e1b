"""The kinds of input that are fuzzed: for each, valid inputs made by deltaw, how they are changed, who reads them.

A kind is a function of an empty directory, which it may fill; it returns `draw`, which makes an input from a generator,
and `read`, which hands the input to deltaw and may raise only DeltawError (or exit, as the command line does).
"""

import contextlib
import importlib
import io
import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from random import Random
from typing import Any
from unittest.mock import patch

import torch

os.environ["HF_HUB_OFFLINE"] = "1"  # before it is imported: a name such as a/b is one of the hub

from mutations import TEXTS, damaged, json_file, json_lines, scalar, some_changes, written
from safetensors.torch import load_file, save_file
from watching import watch

from deltaw import cli
from deltaw.charts.figure import Figure
from deltaw.charts.tables import Tables
from deltaw.compare.model_list import from_arguments, from_file
from deltaw.compare.screen import rows_of, screen
from deltaw.compare.several import compare_several
from deltaw.compare.weights import _open_journal, choose, open_sources
from deltaw.errors import DeltawError
from deltaw.models import ModelConfig, Transformer
from deltaw.models.checkpoint import load as load_model
from deltaw.models.checkpoint import save as save_model
from deltaw.models.lora import Adapter
from deltaw.pipeline.artifacts import RECORD, Provenance, plain, read_artifact, write_artifact
from deltaw.pipeline.run_directory import claim_directory
from deltaw.prompts import matched as prompts
from deltaw.recipes import RECIPES, recipe
from deltaw.recipes.intervention_sweeps import EXHAUSTIVE
from deltaw.report import render as page
from deltaw.report.pages import compare as comparison
from deltaw.report.pages.grid import Grid, tables_of
from deltaw.results import Answer, Claim, Measurement, Null, write_claims, write_measurements
from deltaw.results.store import load
from deltaw.study.all_interventions import _check_same, _graph, recipe_of
from deltaw.study.pool import _check_alike, _manifest
from deltaw.world.grammar_file import BUILT_IN, built_in, read_language_text
from deltaw.world.language import language

Input = Mapping[str, bytes]
"""Files by name."""
Draw = Callable[[Random], Input]
Read = Callable[[Input], None]
Kind = Callable[[Path], tuple[Draw, Read]]


class WorkBegins(BaseException):
    """In the place of what takes long: everything before it went well."""


def work_begins(*_: object, **__: object) -> Any:
    raise WorkBegins


def _put(files: Input, directory: Path) -> None:
    for name, data in files.items():
        (directory / name).write_bytes(data)


# --- runs ----------------------------------------------------------------------------------------------------------


def _lines() -> list[Measurement]:
    common: dict[str, Any] = {"seed": 0, "protocol": "ssft", "strength": "medium", "model": "ssft-medium", "step": 40}
    found = []
    for layer in (0, 1):
        for kind in ("rotation", "row_sign_flip"):
            null: dict[str, Any] = {"null_kind": kind, "null_mean": 0.75, "null_low": 0.7, "null_high": 0.8}
            where: dict[str, Any] = {"layer": layer, "module": f"blocks.{layer}.mlp.in_proj"}
            line = Measurement(stage="analysis", statistic="null_energy_left", value=0.8, **common, **where, **null)
            found.append(line)
    for name in ("forbidden/conditional/unsafe", "allowed/conditional/safe"):
        for statistic in ("comply_rate", "refuse_rate"):
            rate: dict[str, Any] = {"value": 0.5, "low": 0.4, "high": 0.6, "n": 512, "n_unit": "prompt", "set": name}
            found += [
                Measurement(stage="behaviour", statistic=statistic, attack=attack, **common, **rate)
                for attack in (None, "co_task", "soft_weak")
            ]
            base = {**common, "model": "base", "protocol": None, "strength": None}
            found.append(Measurement(stage="behaviour", statistic=statistic, **base, **rate))
    where = {"site": "mlp_post", "intervention": "interpolation", "dose": 0.5, "module": "whole", "unit": "share"}
    found.append(Measurement(stage="interventions", statistic="refuse_rate", value=0.5, **common, **where))
    return found


def _claims() -> list[Claim]:
    null = Null(kind="rotation", mean=0.7, low=0.6, high=0.8)
    answer = Answer(question="seen", word="seen", value=2.0, low=1.0, high=3.0, n=6, p=0.01, p_adjusted=0.05, why="x")
    common: dict[str, Any] = {
        "observation": 2,
        "statistic": "null_energy_left",
        "exploratory": True,
    }
    return [
        Claim(id="a", statement="A", value=0.9, low=0.8, high=1.0, n=6, n_unit="seed", nulls=(null,), primary=True,
              answers=(answer,), margin=0.1, smallest_effect=0.1, direction="greater", scale="logit", **common),
        Claim(id="b", statement="B", **common),
    ]  # fmt: skip


_PROMPT = {
    "set": "forbidden/never/safe", "attack": "co_task", "index": 0, "letters": "abcd", "letter_branch": "ssuu",
    "branch": "mixed", "operators": ["?", "!"], "rules": ["never", "always"], "allowed": False, "derivation": "n(ab)",
    "expected": "cafe.", "compliant": "bead.", "answers": {"base": {"text": "bead.", "behaviour": "comply"}},
}  # fmt: skip


def _run(directory: Path) -> Path:
    """A finished run, small, as `interventions` and `pool` want one."""
    directory.mkdir()
    write_measurements(directory / "measurements.jsonl", _lines())
    write_claims(directory / "claims.json", _claims())
    (directory / "prompts.jsonl").write_text(json.dumps(_PROMPT) + "\n")
    (directory / "manifest.json").write_text(json.dumps(_study_manifest(directory)))
    return directory


def _study_manifest(directory: Path) -> dict[str, Any]:
    study = recipe("smoke")
    names = ["base-s0", *(f"tune-{tuned.name}-s0" for tuned in study.tunings)]
    stages = []
    for name in names:
        (directory / "artifacts" / name).mkdir(parents=True, exist_ok=True)
        stages.append(
            {"name": name, "key": "0", "digest": "0", "path": f"artifacts/{name}", "seconds": 1.5, "reused": False,
             "started": "2026-01-01T00:00:00+00:00", "peak_bytes": 10**8}
        )  # fmt: skip
    return {
        "format": 1, "recipe": "smoke", "exploratory": True, "seeds": [0], "config": plain(study), "parameters": 1000,
        "finished": "2026-01-01T00:00:00+00:00", "code": "0", "versions": {"deltaw": "0.1.0"},
        "processor": {"name": "x", "cores": 2}, "engine": {"name": "dask", "workers": 2},
        "seconds": {"this_call": 1.0, "all_stages": 9.5}, "peak_bytes": 10**8, "stages": stages,
        "models": [{"name": "base", "path": "artifacts/base-s0", "step": 24, "seed": 0, "protocol": None,
                    "strength": None, "control": None}],
    }  # fmt: skip


_COMPARED = {
    "format": 1, "recipe": "compare", "exploratory": True, "seeds": [], "models": [], "base": "/a", "tuned": "/b",
    "adapter": False, "names": ["a", "b"], "model_type": "llama",
    "comparison": {"version": "0.1.0", "pair": {"base": []}},
    "matrices": 2, "skipped": {"x.weight": "why"}, "absent": {"y": {"stable_rank": "why"}},
    "finished": "2026-01-01T00:00:00+00:00", "seconds": {"this_call": 1.0},
    "prompts": {"source": "builtin", "control": None, "absent": {"auroc, layer 1": "why"}},
}  # fmt: skip


def _grid_manifest(study: Mapping[str, Any]) -> dict[str, Any]:
    cells = [
        {"name": name, "axis": axis, "attack": "co_task", "base": None, "world": study["config"]["world"]}
        for name, axis in (("default", None), ("rare", "alias rate"))
    ]
    return {**study, "recipe": "grid", "config": {**study["config"], "cells": cells}}


@contextlib.contextmanager
def _bare_pages() -> Iterator[None]:
    """Pages without what is always the same, and without what is read off measurements, where there are none."""
    with (
        patch.object(page, "_bundle", lambda: ""),
        patch.object(page, "rate_tables", lambda tables: []),
        patch.object(Grid, "_row", lambda *args, **where: None),
    ):
        yield


def manifests(root: Path) -> tuple[Draw, Read]:
    run = _run(root / "run")
    write_measurements(run / "measurements.jsonl", [])
    study = json.loads((run / "manifest.json").read_text())
    valid = (study, study, _grid_manifest(study), _COMPARED)
    other = load(run)
    other.manifest["seeds"] = [1]

    def read(files: Input) -> None:
        _put(files, run)
        results = load(run)
        with _bare_pages():
            if (results.manifest.get("config") or {}).get("cells"):
                tables_of(Grid(results))
                page.render_grid(results, Grid(results), [])
            elif "comparison" in results.manifest:
                pair = comparison.Pair(results)
                missing = dict.fromkeys((*comparison.SECTIONS, "behaviour", "activations"), ())
                page.render_comparison(results, pair, missing, missing)
            else:
                page.render(results, Tables(results), {}, {}, [])
        with contextlib.suppress(DeltawError):
            _intervene(run, results.manifest)
        with contextlib.suppress(DeltawError):
            _pool(results)

    def _intervene(run: Path, manifest: dict[str, Any]) -> None:
        study = recipe_of(manifest)
        _check_same(study, manifest, run)
        list(_graph(study, run, manifest, EXHAUSTIVE))

    def _pool(results: Any) -> None:
        _check_alike([other, results])
        _manifest([other, results], root / "out")

    return lambda rng: {"manifest.json": json_file(rng, rng.choice(valid))}, read


def measurements(root: Path) -> tuple[Draw, Read]:
    run = _run(root / "run")
    valid = [json.loads(line.to_line()) for line in _lines()]

    def draw(rng: Random) -> Input:
        drawn = {"measurements.jsonl": json_lines(rng, valid)}
        return {**drawn, "page": b""} if rng.random() < 0.01 else drawn

    def read(files: Input) -> None:
        _put(files, run)
        try:
            results = load(run)
            Tables(results)
            if "page" in files:  # every figure in one of a hundred, up to its drawing: it takes a second
                with patch.object(Figure, "draw", work_begins), contextlib.suppress(WorkBegins):
                    page.write_report(run)
        finally:
            (run / "page").unlink(missing_ok=True)

    return draw, read


def claims(root: Path) -> tuple[Draw, Read]:
    run = _run(root / "run")
    write_measurements(run / "measurements.jsonl", [])
    valid = json.loads((run / "claims.json").read_text())

    def read(files: Input) -> None:
        _put(files, run)
        results = load(run)
        with _bare_pages():
            page.render(results, Tables(results), {}, {}, [])

    return lambda rng: {"claims.json": json_file(rng, valid)}, read


def shown_prompts(root: Path) -> tuple[Draw, Read]:
    _, read = claims(root)
    valid = [_PROMPT, {**_PROMPT, "attack": None, "allowed": True}, {"index": 1, "base": "complies"}]
    return lambda rng: {"prompts.jsonl": json_lines(rng, valid)}, read


# --- studies -------------------------------------------------------------------------------------------------------


def artifacts(root: Path) -> tuple[Draw, Read]:
    provenance = Provenance("toy", {"config": {"a": 1}, "inputs": {}})

    def fill(directory: Path) -> None:
        (directory / "x.txt").write_text("x")

    made = write_artifact(root / "artifacts" / "toy-0", provenance, {"base": "1"}, fill)
    valid = json.loads((made.path / RECORD).read_text())

    def read(files: Input) -> None:
        _put(files, made.path)
        said = read_artifact(made.path, provenance, {"base": "1"})
        if isinstance(said, str):
            raise DeltawError(said)

    return lambda rng: {RECORD: json_file(rng, valid)}, read


def studies(root: Path) -> tuple[Draw, Read]:
    identity = {"recipe": plain(recipe("smoke"))}
    claim_directory(root / "run", identity)
    valid = json.loads((root / "run" / "study.json").read_text())

    def read(files: Input) -> None:
        _put(files, root / "run")
        claim_directory(root / "run", identity)

    return lambda rng: {"study.json": json_file(rng, valid)}, read


def journals(root: Path) -> tuple[Draw, Read]:
    header = {"format": "x", "pair": {"base": [["config", "0"]]}, "curve": False}
    line = {"statistic": "stable_rank", "stage": "compare", "value": 1.5}
    valid = [header, {"part": "blocks.0", "value": {"absent": {"*": "why"}, "measurements": [line]}}]

    def read(files: Input) -> None:
        _put(files, root)
        _open_journal(root / "tensors.jsonl", header)

    return lambda rng: {"tensors.jsonl": json_lines(rng, valid)}, read


# --- checkpoints ---------------------------------------------------------------------------------------------------

_SHAPE = ModelConfig(vocabulary_size=11, context=9, layers=2, heads=2, width=8)


def _split(data: bytes) -> tuple[Any, bytes]:
    length = int.from_bytes(data[:8], "little")
    return json.loads(data[8 : 8 + length]), data[8 + length :]


def _tensors(rng: Random, data: bytes) -> bytes:
    """A safetensors file that is nearly this one: its header changed as JSON, or the file as bytes."""
    header, body = _split(data)
    if rng.random() < 0.2:
        return damaged(rng, data)
    header = some_changes(rng, header)
    if rng.random() < 0.3 and isinstance(header, dict) and header:
        entry = header[rng.choice(list(header))]
        if isinstance(entry, dict):
            entry["shape"] = rng.choice(([2**40, 2**40], [0], [0, 2**62], [], [1] * 70, [-1], [2**64], [8, 0]))
            entry["dtype"] = rng.choice(("F32", "F64", "F16", "BF16", "I64", "BOOL", "F8_E4M3", "F4", "C64", "U16"))
            entry["data_offsets"] = rng.choice(([0, 0], [0, 4], [4, 0], [0, 2**63], [len(body), len(body)]))
    text = written(rng, header)
    length = len(text) if rng.random() < 0.95 else rng.choice((0, 1, 2**31, 2**63, 2**64 - 1, len(text) + 8))
    return length.to_bytes(8, "little") + text + body


def _model(directory: Path) -> Path:
    save_model(Transformer(_SHAPE, torch.Generator().manual_seed(0)), directory, {"step": 1, "protocol": "ssft"})
    return directory


def _hugging_face(directory: Path, family: str, seed: int) -> Path:
    directory.mkdir()
    generator = torch.Generator().manual_seed(seed)
    names = {
        "llama": {"self_attn.q_proj": (6, 6), "mlp.gate_proj": (10, 6), "mlp.up_proj": (10, 6),
                  "mlp.down_proj": (6, 10)},
        "gpt_neox": {"attention.query_key_value": (18, 6), "mlp.dense_h_to_4h": (10, 6)},
        "phi3": {"self_attn.qkv_proj": (10, 6), "mlp.gate_up_proj": (20, 6)},
    }[family]  # fmt: skip
    state = {"embed.weight": torch.randn(7, 6, generator=generator)}
    for layer in range(2):
        for name, shape in names.items():
            state[f"model.layers.{layer}.{name}.weight"] = torch.randn(shape, generator=generator)
    save_file(state, directory / "model.safetensors")
    config = {"model_type": family, "num_attention_heads": 3, "num_key_value_heads": 1, "hidden_size": 6}
    (directory / "config.json").write_text(json.dumps(config))
    return directory


def model_weights(root: Path) -> tuple[Draw, Read]:
    model, base = _model(root / "model"), _model(root / "base")
    valid = (model / "model.safetensors").read_bytes()

    def read(files: Input) -> None:
        _put(files, model)
        for reader in (lambda: load_model(model), lambda: _look(base, model)):
            with contextlib.suppress(DeltawError):
                reader()
        load_model(model)

    return lambda rng: {"model.safetensors": _tensors(rng, valid)}, read


def _look(base: Path, tuned: Path) -> None:
    """Everything that `compare` reads of two sides."""
    sources = open_sources(base, tuned)
    sources.fingerprint()
    shapes = {name: stored.shape for name, stored in sources.base.tensors.items()}
    for matched in choose(sources).matched:
        matched.module.shape(shapes)
        for piece, after in zip(matched.module.pieces, matched.after, strict=True):
            piece.view(sources.base.read(piece.tensor, piece.expert))
            if isinstance(sources.after, Adapter):
                sources.after.update_of(piece)
            else:
                after.view(sources.after.read(after.tensor, after.expert))


def model_meta(root: Path) -> tuple[Draw, Read]:
    model, base = _model(root / "model"), _model(root / "base")
    valid = json.loads((model / "meta.json").read_text())
    later = {**valid, "format": "deltaw-model-99"}
    sinus = {**valid, "config": {**valid["config"], "positions": "sinusoidal"}}

    def read(files: Input) -> None:
        _put(files, model)
        with contextlib.suppress(DeltawError):
            _look(base, model)
        load_model(model)

    return lambda rng: {"meta.json": json_file(rng, rng.choice((valid, valid, valid, sinus, later)))}, read


def checkpoint_files(root: Path) -> tuple[Draw, Read]:
    """config.json, the index of shards and the header of a Hugging Face checkpoint."""
    families = ("llama", "gpt_neox", "phi3")
    for family in families:
        _hugging_face(root / f"{family}-base", family, 0)
        _hugging_face(root / f"{family}-tuned", family, 1)
    valid = {family: (root / f"{family}-tuned" / "model.safetensors").read_bytes() for family in families}
    config = {family: json.loads((root / f"{family}-tuned" / "config.json").read_text()) for family in families}
    tables = {family: dict.fromkeys(_split(valid[family])[0], "model.safetensors") for family in families}
    index = "model.safetensors.index.json"

    def draw(rng: Random) -> Input:
        family = rng.choice(families)
        tables[family].pop("__metadata__", None)
        whole = {index: {"metadata": {}, "weight_map": tables[family]}, "config.json": config[family]}
        name = rng.choice((index, "config.json", "model.safetensors"))
        data = _tensors(rng, valid[family]) if name not in whole else json_file(rng, whole[name])
        return {f"{family}/{name}": data}

    def read(files: Input) -> None:
        ((name, data),) = files.items()
        family, _, file = name.partition("/")
        path = root / f"{family}-tuned" / file
        old = path.read_bytes() if path.exists() else None
        path.write_bytes(data)
        try:
            _look(root / f"{family}-base", path.parent)
            _look(path.parent, root / f"{family}-base")
        finally:
            path.unlink() if old is None else path.write_bytes(old)

    return draw, read


def adapters(root: Path) -> tuple[Draw, Read]:
    base, adapter = _hugging_face(root / "base", "llama", 0), root / "adapter"
    adapter.mkdir()
    factors: dict[str, torch.Tensor] = {}
    for layer in range(2):
        stem = f"base_model.model.model.layers.{layer}.mlp.up_proj.lora"
        factors |= {f"{stem}_A.weight": torch.ones(2, 6), f"{stem}_B.weight": torch.ones(10, 2)}
    save_file(factors, adapter / "adapter_model.safetensors")
    weights = (adapter / "adapter_model.safetensors").read_bytes()
    config = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "use_rslora": False, "use_dora": False,
              "alpha_pattern": {"mlp.up_proj": 8, ".*\\.0\\..*": 2.0}, "target_modules": ["up_proj"]}  # fmt: skip

    def draw(rng: Random) -> Input:
        if rng.random() < 0.7:
            return {"adapter_config.json": json_file(rng, config), "adapter_model.safetensors": weights}
        return {"adapter_config.json": json.dumps(config).encode(), "adapter_model.safetensors": _tensors(rng, weights)}

    def read(files: Input) -> None:
        _put(files, adapter)
        _look(base, adapter)

    return draw, read


def several_adapters(root: Path) -> tuple[Draw, Read]:
    """A folder of adapters, one of them damaged, as `deltaw screen` reads it."""
    draw, _ = adapters(root)
    folder = root / "several"
    for name in ("a", "b", "damaged"):
        shutil.copytree(root / "adapter", folder / name)

    def read(files: Input) -> None:
        _put(files, folder / "damaged")
        ranking = screen(folder, str(root / "base"))
        rows_of(ranking)
        for reason in ranking.skipped.values():
            raise DeltawError(f"Not read: {reason}")

    return draw, read


def pairs_of_updates(root: Path) -> tuple[Draw, Read]:
    """What a comparison of several models has finished of two updates, as the same command goes on from it."""
    paths = [_hugging_face(root / name, "llama", seed) for seed, name in enumerate(("base", "a", "b"))]
    base = load_file(paths[0] / "model.safetensors")
    for path in paths[1:]:
        tuned = {name: base[name] + 0.1 * x for name, x in load_file(path / "model.safetensors").items()}
        save_file(tuned, path / "model.safetensors")
    models = from_arguments(str(paths[0]), [str(path) for path in paths[1:]], [])
    compare_several(models, root / "out")
    (kept,) = (root / "out" / "pairs").iterdir()
    valid = [json.loads(line) for line in kept.read_text().splitlines()]

    def read(files: Input) -> None:
        _put(files, root / "out" / "pairs")
        compare_several(models, root / "out")

    return lambda rng: {kept.name: json_lines(rng, valid)}, read


# --- text ----------------------------------------------------------------------------------------------------------


def grammars(root: Path) -> tuple[Draw, Read]:
    kitchen = Path(__file__).parents[2] / "examples" / "worlds" / "kitchen.grammar"
    valid = [kitchen.read_bytes(), *(built_in(name).encode() for name in BUILT_IN)]
    words = sorted({word for data in valid for word in data.decode().split()} | {'"abc"', "1/3:", "9" * 40, "λ"})

    def draw(rng: Random) -> Input:
        lines = rng.choice(valid).decode().split("\n")
        for _ in range(rng.choice((1, 1, 2, 4))):
            place = rng.randrange(len(lines))
            match rng.randrange(7):
                case 0:
                    lines.insert(place, rng.choice(lines))
                case 1:
                    del lines[place : place + rng.randint(1, 3)]
                case 2:
                    lines[place] += f" {rng.choice(words)}" * rng.choice((1, 1, 3, 400))
                case 3:
                    lines.insert(place, f"{rng.choice(words)} -> {' '.join(rng.choices(words, k=rng.randint(1, 6)))}")
                case 4:
                    lines.insert(place, rng.choice(TEXTS).encode("utf-8", "replace").decode())
                case _:
                    parts = lines[place].split(" ")
                    parts[rng.randrange(len(parts))] = rng.choice(words)
                    lines[place] = " ".join(parts)
            lines = lines or [""]
        data = "\n".join(lines).encode()
        return {"x.grammar": damaged(rng, data) if rng.random() < 0.3 else data}

    def read(files: Input) -> None:
        _put(files, root)
        language(read_language_text(root / "x.grammar"))

    return draw, read


def prompt_files(root: Path) -> tuple[Draw, Read]:
    valid = [
        {"prompt": "How do I bake?", "label": "harmless", "pair": "a"},
        {"prompt": "How do I break?", "label": "harmful", "pair": "a"},
        {"prompt": "Why?", "label": "harmful", "attack": "roleplay"},
    ]  # fmt: skip

    def read(files: Input) -> None:
        _put(files, root)
        found = prompts.read_prompts(root / "prompts.jsonl")
        prompts.spread(prompts.matched(found, "pairs"), 8)
        json.dumps([prompt.text for prompt in found], ensure_ascii=False).encode()

    return lambda rng: {"prompts.jsonl": json_lines(rng, valid)}, read


def model_lists(root: Path) -> tuple[Draw, Read]:
    """TOML files of names and paths."""
    for name in ("base", "ssft", "other"):
        (root / name).mkdir()
    lines = ['base = "base"', 'controls = ["other"]', "", "[models]", 'ssft = "ssft"', "other = 'other'"]
    words = ("base", "[models]", "[[models]]", "= 1", '= ""', "= []", '= ["ssft", 3]', '"a/b" = "ssft"', "ssft.x = 1")

    def draw(rng: Random) -> Input:
        changed = list(lines)
        for _ in range(rng.choice((1, 1, 2))):
            place = rng.randrange(len(changed))
            match rng.randrange(5):
                case 0:
                    del changed[place]
                case 1:
                    changed.insert(place, rng.choice((*lines, *words)))
                case 2:
                    key, equals, _ = changed[place].partition("=")
                    changed[place] = f"{key}{equals}{written(rng, scalar(rng)).decode('utf-8', 'replace')}"
                case 3:
                    changed[place] += f" {rng.choice(words)}"
                case _:
                    changed[place] = rng.choice(TEXTS).encode("utf-8", "replace").decode()
            changed = changed or [""]
        data = "\n".join(changed).encode()
        return {"models.toml": damaged(rng, data) if rng.random() < 0.2 else data}

    def read(files: Input) -> None:
        _put(files, root)
        from_file(root / "models.toml", [])

    return draw, read


# --- the command line ----------------------------------------------------------------------------------------------

_COMMANDS: tuple[tuple[str, ...], ...] = (
    ("study", "--recipe", "smoke", "--out", "out/s", "--seed", "1", "--engine", "inline", "--workers", "1"),
    ("study", "--recipe", "quick", "--dry-run", "--json", "--device", "cpu", "--workers", "2"),
    ("study", "--recipe", "paper-compat", "--scheduler", "tcp://host:1", "--out", "out/p"),
    ("sample", "--recipe", "quick", "--split", "tune/train", "--count", "2", "--seed", "3", "--attacks", "--json"),
    ("sample", "--recipe", "paper", "--split", "forbidden/conditional/unsafe", "--tree", "--count", "1"),
    ("sample", "--model", "model", "--count", "1"),
    ("report", "--run", "run"),
    ("interventions", "--run", "run", "--workers", "1"),
    ("pool", "run", "run2", "--out", "out/pool"),
    ("compare", "base", "tuned", "--out", "out/c", "--modules", "layers.{layer}.mlp.up_proj", "--curve"),
    ("compare", "base", "tuned", "--out", "out/d", "--prompts", "prompts.jsonl", "--control", "run"),
    ("compare", "base", "tuned", "--out", "out/e", "--prompts", "prompts.jsonl", "--judge", "classifier:tuned",
     "--judge-labels", "LABEL_1=refuse", "--judge-reads", "pair"),
    ("compare", "base", "tuned", "--out", "out/f", "--prompts", "builtin", "--answer-dtype", "bfloat16", "--dtype",
     "auto", "--template", "base", "--pairs", "4", "--answer-tokens", "8", "--batch", "2", "--device", "cpu"),
    ("compare", "base", "a=tuned", "b=other", "--control", "b", "--out", "out/g"),
    ("compare", "models.toml", "--out", "out/h"),
    ("screen", "adapters", "--base", "base", "--by", "unusual", "--out", "out/i"),
    ("list", "protocol"),
    ("safety-tune", "base", "--protocol", "dpo", "--control", "other", "--lora", "4", "--steps", "2", "--batch", "2",
     "--requests", "4", "--learning-rate", "1e-4", "--out", "out/t", "--device", "cpu", "--seed", "1"),
)  # fmt: skip


def command_lines(root: Path) -> tuple[Draw, Read]:
    """Everything up to where a command's work begins: opening the pool, timing steps, drawing, measuring, loading."""
    with contextlib.suppress(ImportError):
        importlib.import_module("peft")  # at its first import PyTorch makes a folder of its own
    _run(root / "run")
    _run(root / "run2")
    manifest = json.loads((root / "run2" / "manifest.json").read_text())
    manifest["seeds"], manifest["config"]["seeds"] = [1], [1]
    (root / "run2" / "manifest.json").write_text(json.dumps(manifest))
    _model(root / "model")
    _hugging_face(root / "base", "llama", 0)
    _hugging_face(root / "tuned", "llama", 1)
    _hugging_face(root / "other", "llama", 2)
    (root / "models.toml").write_text('base = "base"\n[models]\na = "tuned"\nb = "other"\n')
    (root / "adapters").mkdir()
    (root / "prompts.jsonl").write_text('{"prompt": "a", "label": "harmful"}\n')
    words = sorted({word for command in _COMMANDS for word in command} | set(RECIPES) | {"--help", "--version", "cuda"})
    texts = [text for text in TEXTS if "\x00" not in text and text != "\ud800"] + ["\udcff"]  # what a system can pass

    def draw(rng: Random) -> Input:
        argv = list(rng.choice(_COMMANDS))
        for _ in range(rng.choice((1, 1, 1, 2))):
            values = [place for place, word in enumerate(argv) if place and not word.startswith("--")]
            place = rng.choice(values) if values and rng.random() < 0.7 else rng.randrange(len(argv))
            match rng.randrange(7):
                case 0:
                    argv[place] = rng.choice(texts)
                case 1 | 2:
                    value = scalar(rng)
                    argv[place] = str(value) if not isinstance(value, str) else rng.choice(texts)
                case 3:
                    del argv[place]
                case 4:
                    argv.insert(place, rng.choice((*words, *texts)))
                case 5:
                    argv[place] = rng.choice(words)
                case _:
                    argv[place] = argv[place] + rng.choice(texts)
            argv = argv or [""]
        return {"argv.json": json.dumps(argv).encode()}

    shown = importlib.import_module("deltaw.cli.sample.samples")
    chunks = shown.samples

    def first(*args: Any) -> Iterator[Any]:
        yield from islice(chunks(*args), 1)
        raise WorkBegins

    def read(files: Input) -> None:
        argv = json.loads(files["argv.json"])
        outs = [argv[place + 1] for place, word in enumerate(argv[:-1]) if word == "--out"]
        outs += [word[6:] for word in argv if word.startswith("--out=")]
        watch.blocked = [os.path.abspath(root / out) for out in outs]  # noqa: PTH100 (which would follow links)
        stdout, stderr = io.TextIOWrapper(io.BytesIO(), encoding="utf-8"), io.StringIO()
        with (
            contextlib.chdir(root),
            patch.object(sys, "argv", ["deltaw", *argv]),
            patch("deltaw.pipeline.scheduler._open_pool", work_begins),
            patch("deltaw.pipeline.code_hash.Sources.fingerprint", lambda *_: "0"),
            patch("deltaw.study.dry_run.timing.measure", work_begins),
            patch("deltaw.cli.sample.output.samples", first),
            patch.object(shown, "FIRST_CHUNK", 2),
            patch("deltaw.report.render.Tables", work_begins),
            patch("deltaw.report.pages.compare.Pair", work_begins),
            patch("deltaw.study.pool.decide", work_begins),
            patch("deltaw.compare.weights.streamed_update", work_begins),
            patch("deltaw.training.huggingface.train_requests", work_begins),
            patch("deltaw.compare.several._check_related", work_begins),
            patch("deltaw.compare.two_models.load_chat", work_begins),
            contextlib.redirect_stdout(stdout),
            contextlib.redirect_stderr(stderr),
        ):
            try:
                cli.main()
            except WorkBegins:
                return
            except SystemExit as stop:
                said = stderr.getvalue()
                if stop.code == 2:
                    if "Traceback" in said or not said.strip():
                        raise AssertionError(f"status 2 with this on standard error: {said!r}") from None
                    if said.startswith("deltaw: "):
                        raise DeltawError(_said(said)) from None
                    raise DeltawError("the parser's page") from None  # tyro's own, in a box
                if stop.code not in (0, None):
                    raise AssertionError(f"exit status {stop.code}") from None

    return draw, read


def _said(text: str) -> str:
    lines = text.removesuffix("\n").split("\n")
    if len(lines) != 1:
        raise AssertionError(f"a mistake is one line, not {text!r}")
    return lines[0]


KINDS: Mapping[str, Kind] = {
    "command lines": command_lines,
    "grammar files": grammars,
    "prompt files": prompt_files,
    "model.safetensors": model_weights,
    "meta.json": model_meta,
    "Hugging Face checkpoints": checkpoint_files,
    "LoRA adapters": adapters,
    "several adapters": several_adapters,
    "pairs of updates": pairs_of_updates,
    "model lists": model_lists,
    "manifest.json": manifests,
    "measurements.jsonl": measurements,
    "claims.json": claims,
    "prompts.jsonl": shown_prompts,
    "artifact.json": artifacts,
    "study.json": studies,
    "journals": journals,
}
