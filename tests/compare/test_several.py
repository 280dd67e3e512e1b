"""Several tuned models of one base: numbers by numpy, only new pairs are measured, and mistakes are one sentence."""

import json
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from checkpoints import config, tensors, write
from torch import Tensor

from deltaw import cli
from deltaw.cli.compare_several import summary
from deltaw.compare import compare, measured_pairs, pair_records, several
from deltaw.compare.model_list import ListedModel, ModelList, from_arguments, from_file
from deltaw.compare.several import compare_several
from deltaw.errors import DeltawError
from deltaw.report import write_report
from deltaw.report.pages import several as page
from deltaw.report.pages import several_figures
from deltaw.results import Results, load

PATTERNS = ("net.{layer}.up", "net.{layer}.down")
UP, DOWN = (24, 10), (10, 24)
SETTINGS = {"model_type": "mine"}
State = dict[str, Tensor]


def random_state(seed: int) -> State:
    generator = torch.Generator().manual_seed(seed)
    shapes = {f"net.{layer}.{name}.weight": shape for layer in (0, 1) for name, shape in (("up", UP), ("down", DOWN))}
    return {name: torch.randn(shape, generator=generator, dtype=torch.float64) for name, shape in shapes.items()}


BASE = random_state(0)


def update(seed: int) -> State:
    """Random, but that the wide matrix of layer 1 writes to the same two directions in every update."""
    made = random_state(seed)
    directions = torch.linalg.qr(random_state(99)["net.0.down.weight"])[0][:, :4]
    inputs = made["net.1.down.weight"][:4] * torch.tensor([[4.0], [3.0], [2.0], [1.0]])
    return {**made, "net.1.down.weight": directions @ inputs}


def tuned(seed: int, common: float = 0.0) -> State:
    shared, own = update(77), update(seed)
    return {name: x + 0.01 * (own[name] + common * shared[name]) for name, x in BASE.items()}


@pytest.fixture
def models(tmp_path: Path) -> Path:
    write(tmp_path / "base", BASE, SETTINGS)
    for name, state in (("a", tuned(1, 1.0)), ("b", tuned(2, 1.0)), ("c", tuned(3)), ("d", tuned(4))):
        write(tmp_path / name, state, SETTINGS)
    return tmp_path


def listed(root: Path, *names: str, controls: tuple[str, ...] = ()) -> ModelList:
    return from_arguments(str(root / "base"), [str(root / name) for name in names], controls)


def run(root: Path, *names: str, controls: tuple[str, ...] = ()) -> Results:
    compare_several(listed(root, *names, controls=controls), root / "out", PATTERNS)
    return load(root / "out")


def line(results: Results, **where: object) -> dict[str, float]:
    rows = results.select(**where)
    assert len(rows) == 1, rows
    return {str(name): value for name, value in rows.to_dict("records")[0].items()}


def test_every_two_updates_equal_numpys_and_sides_are_named_by_what_they_do(models: Path) -> None:
    results = run(models, "a", "b", "c")
    updates = {
        name: {k: (tuned(s, c)[k] - BASE[k]).numpy() for k in BASE}
        for name, s, c in (("a", 1, 1.0), ("b", 2, 1.0), ("c", 3, 0.0))
    }
    for first, second in (("a", "b"), ("a", "c"), ("b", "c")):
        A, B = updates[first], updates[second]
        flat = [np.concatenate([x[name].ravel() for name in BASE]) for x in (A, B)]
        whole = {"model": first, "set": f"with={second}", "module": None, "null_kind": "rotation"}
        value = line(results, statistic="update_cosine", **whole)
        assert value["value"] == pytest.approx(flat[0] @ flat[1] / np.prod([np.linalg.norm(x) for x in flat]), abs=1e-6)
        energies = [[(x[name] ** 2).sum() for name in BASE] for x in (A, B)]
        spread = np.sqrt((np.prod(energies, axis=0) / 240).sum() / np.prod(np.sum(energies, axis=1)))
        deviations = line(results, statistic="update_cosine_deviations", **whole)
        assert deviations["value"] == pytest.approx(value["value"] / spread, rel=1e-6)
        for name in ("net.1.up", "net.1.down"):
            x, y = A[f"{name}.weight"], B[f"{name}.weight"]
            spans = [np.linalg.svd(z) for z in (x, y)]
            outputs = [span[0][:, :4] for span in spans]
            inputs = [span[2][:4].T for span in spans]
            where = {"set": f"with={second}/k=004", "module": name, "model": first}
            for side, (p, q) in (("output", outputs), ("input", inputs)):
                overlap = line(results, statistic=f"{side}_overlap", **where)
                assert overlap["value"] == pytest.approx(((p.T @ q) ** 2).sum() / 4, abs=1e-5)
                assert overlap["null_mean"] == pytest.approx(4 / len(p))
            shared = line(results, statistic="output_energy_shared", **where)
            assert shared["value"] == pytest.approx(
                (np.linalg.norm(outputs[1].T @ x) / np.linalg.norm(x)) ** 2, abs=1e-5
            )
            turned = line(
                results, statistic="input_energy_shared", module=name, model=second, set=f"with={first}/k=004"
            )
            assert turned["value"] == pytest.approx((np.linalg.norm(y @ inputs[0]) / np.linalg.norm(y)) ** 2, abs=1e-5)
            for model, z, span in ((first, x, spans[0]), (second, y, spans[1])):
                own = line(results, statistic="energy_own", model=model, module=name, set="k=004")
                assert own["value"] == pytest.approx((span[1][:4] ** 2).sum() / (z**2).sum(), abs=1e-9)
            at = {"module": name, "model": first, "set": f"with={second}"}
            reads = line(results, statistic="update_cosine_deviations", null_kind="rotation_of_outputs", **at)
            norms = np.linalg.norm(x) * np.linalg.norm(y)
            expected = np.linalg.norm(x @ y.T) / np.sqrt(len(x)) / norms  # outputs are turned, inputs stay
            assert reads["value"] == pytest.approx((x * y).sum() / norms / expected, rel=1e-5)
    planted = line(results, statistic="output_overlap", model="a", set="with=b/k=004", module="net.1.down")
    assert planted["value"] > 0.999 > planted["null_high"]
    assert (
        line(results, statistic="output_angle", model="a", set="with=b/k=004/angle=01", module="net.1.down")["value"]
        < 0.1
    )


def test_means_over_layers_have_the_chance_of_a_mean(models: Path) -> None:
    results = run(models, "a", "b")
    where = {"statistic": "update_cosine", "model": "a", "set": "with=b", "null_kind": "rotation"}
    each = [line(results, module=f"net.{layer}.up", **where) for layer in (0, 1)]
    mean = line(results, module="up", **where)
    assert mean["value"] == pytest.approx(np.mean([x["value"] for x in each]))
    assert mean["null_high"] == pytest.approx(np.sqrt(sum(x["null_high"] ** 2 for x in each)) / 2)
    deviations = line(results, module="up", **{**where, "statistic": "update_cosine_deviations"})
    assert deviations["value"] == pytest.approx(mean["value"] * np.sqrt(2 * 240), rel=1e-6)


class Counted:
    """Calls of a function, which still does its work."""

    def __init__(self, function: Callable[..., object], after: int | None = None) -> None:
        self.function, self.calls, self.after = function, 0, after

    def __call__(self, *arguments: object, **options: object) -> object:
        if self.calls == self.after:
            raise KeyboardInterrupt
        self.calls += 1
        return self.function(*arguments, **options)


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> dict[str, Counted]:
    places = {"compare": several, "record_of": measured_pairs}
    counters = {name: Counted(getattr(module, name)) for name, module in places.items()}
    for name, counter in counters.items():
        monkeypatch.setattr(places[name], name, counter)
    return counters


def test_adding_a_model_measures_only_what_is_new(models: Path, counted: dict[str, Counted]) -> None:
    def calls() -> tuple[int, int]:
        made = counted["compare"].calls, counted["record_of"].calls
        for counter in counted.values():
            counter.calls = 0
        return made

    first = run(models, "a", "b")
    assert calls() == (2, 4)  # four matrices
    again = run(models, "a", "b")
    assert calls() == (0, 0)
    assert again.measurements.equals(first.measurements)
    more = run(models, "c", "a", "b", controls=("c",))
    assert calls() == (1, 2 * 4)
    kept = more.select(statistic="update_cosine", model="a", set="with=b")
    assert kept.equals(first.select(statistic="update_cosine", model="a", set="with=b"))
    renamed = from_arguments(str(models / "base"), [f"x={models / 'b'}", str(models / "a")], ())
    compare_several(renamed, models / "out", PATTERNS)
    assert calls() == (0, 0)
    other = load(models / "out")
    old = line(first, statistic="input_energy_shared", model="a", set="with=b/k=004", module="net.0.up")
    new = line(other, statistic="input_energy_shared", model="a", set="with=x/k=004", module="net.0.up")
    assert new["value"] == old["value"]


def test_a_stopped_report_goes_on_from_the_last_matrix(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stopping = Counted(pair_records.record_of, after=3)
    with monkeypatch.context() as patch:
        patch.setattr(measured_pairs, "record_of", stopping)
        with pytest.raises(KeyboardInterrupt):
            run(models, "a", "b", "c")
    assert not (models / "out" / "measurements.jsonl").exists()
    rest = Counted(pair_records.record_of)
    monkeypatch.setattr(measured_pairs, "record_of", rest)
    run(models, "a", "b", "c")
    assert rest.calls == 3 * 4 - 3


def test_an_update_that_rounding_could_have_made_is_in_no_pair(models: Path) -> None:
    nearly = {name: x.clone() for name, x in tuned(5).items()}
    nearly["net.0.up.weight"] = BASE["net.0.up.weight"]
    write(models / "e", nearly, SETTINGS)
    results = run(models, "a", "e")
    assert results.manifest["absent"]["a and e"] == {"net.0.up": "e: the update is zero, so it has no direction"}
    assert set(results.select(statistic="update_cosine", model="a")["module"].dropna()) == {
        "net.0.down",
        "net.1.down",
        "net.1.up",
        "down",
        "up",
    }


def test_models_that_did_not_change_have_a_page(models: Path) -> None:
    for name in ("e", "f"):
        write(models / name, BASE, SETTINGS)
    results = run(models, "e", "f")
    assert len(results.measurements) == 0
    assert set(results.manifest["absent"]["e and f"]) == {f"net.{i}.{name}" for i in (0, 1) for name in ("up", "down")}
    text = write_report(models / "out").read_text(encoding="utf-8")
    assert "the update is zero" in text
    assert "Not drawn" in text
    assert summary(models / "out") == ["e and f (two tunings): no matrix was compared; the report says why"]


def test_a_tensor_and_its_parts_count_once_in_the_whole(tmp_path: Path) -> None:
    for family in ("llama", "phi3", "gpt2"):
        root = tmp_path / family
        base = tensors(family)
        write(root / "base", base, config(family))
        states = [{k: x + 0.01 * tensors(family, seed)[k] for k, x in base.items()} for seed in (1, 2)]
        for name, state in zip("ab", states, strict=True):
            write(root / name, state, config(family))
        compare_several(listed(root, "a", "b"), root / "out")
        matrices = [k for k, x in base.items() if x.ndim == 2 and k != "embed.weight"]
        A, B = (np.concatenate([(s[k] - base[k]).numpy().ravel() for k in matrices]) for s in states)
        whole = line(load(root / "out"), statistic="update_cosine", module=None, null_kind="rotation")
        assert whole["value"] == pytest.approx(A @ B / np.linalg.norm(A) / np.linalg.norm(B), abs=1e-4)


def test_a_shared_rounding_of_the_base_is_bounded(models: Path) -> None:
    """The base was stored in bfloat16 after the tunings began: both updates hold its error."""
    rounded = {name: x.to(torch.bfloat16).double() for name, x in BASE.items()}
    write(models / "rounded", rounded, SETTINGS)
    given = from_arguments(str(models / "rounded"), [str(models / "c"), str(models / "d")], ())
    compare_several(given, models / "out", PATTERNS)
    error = (BASE["net.0.up.weight"] - rounded["net.0.up.weight"]).square().sum()
    c, d = (tuned(seed)["net.0.up.weight"] - rounded["net.0.up.weight"] for seed in (3, 4))
    bound = line(load(models / "out"), statistic="cosine_of_rounding", module="net.0.up")["value"]
    assert bound == pytest.approx(float(error / (c.norm() * d.norm())), rel=0.3)


def test_the_page_says_how_to_read_chance_and_controls(models: Path) -> None:
    run(models, "a", "b", "c", "d", controls=("c", "d"))
    text = write_report(models / "out").read_text(encoding="utf-8")
    assert "first chance, then controls" in text
    assert "The controls (c, d) were tuned on something harmless" in text
    shown = page.Several(load(models / "out"))
    assert [pair.group for pair in shown.pairs] == [
        "two tunings",
        *["tuning and control"] * 4,
        "two controls",
    ]
    table = page.beside_controls(shown)
    assert table is not None
    assert {row[0] for row in table.rows} == {"a and b"}
    assert all(row[3].startswith("c and d: ") for row in table.rows)
    energy = page.shared_energy(shown)
    assert energy is not None
    assert len(energy.rows) == 2 * 6
    assert all(float(row[2].split()[0]) <= float(row[4]) + 1e-3 for row in energy.rows)
    whole = page.overview(shown)
    assert whole is not None
    overview = {row[0]: row for row in whole.rows}
    assert float(overview["a and b"][2]) > 0.3
    assert abs(float(overview["c and d"][4].replace("−", "-"))) < 4
    for name in ("several-cosine", "several-output-overlap", "several-input-angle", "several-output-energy-shared"):
        assert (models / "out" / "figures" / f"{name}.svg").is_file()
        assert f'id="spec-{name}"' in text
    run(models, "a", "b")
    assert "No control was given" in write_report(models / "out").read_text(encoding="utf-8")


def test_one_control_stands_beside_each_of_two_tunings(models: Path) -> None:
    run(models, "a", "b", "c", controls=("c",))
    table = page.beside_controls(page.Several(load(models / "out")))
    assert table is not None
    assert all("a and c: " in row[3] and "b and c: " in row[3] for row in table.rows)


def test_a_file_names_models_beside_itself(models: Path) -> None:
    (models / "models.toml").write_text('base = "base"\ncontrols = ["other"]\n[models]\nsafe = "a"\nother = "c"\n')
    assert from_file(models / "models.toml", ()) == ModelList(
        str(models / "base"), (ListedModel("safe", str(models / "a")), ListedModel("other", str(models / "c"), True))
    )


def command(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["deltaw", "compare", *arguments])
    with pytest.raises(SystemExit) as exit:
        cli.main()
    return int(exit.value.code or 0)


def test_the_command_makes_one_report(
    models: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(models)
    monkeypatch.setattr(several_figures, "drawn", lambda _: [])
    monkeypatch.setattr("deltaw.report.pages.compare.drawn", lambda _: _nothing())
    arguments = ("base", "first=a", "b", "--control", "c", "--out", "out", "--modules", *PATTERNS)
    assert command(monkeypatch, *arguments) == 0
    said = capsys.readouterr().out
    assert "first and b (two tunings): cosine 0." in said
    assert "b and c (tuning and control): cosine " in said
    assert "write overlap" in said
    assert "SDs of chance" in said
    assert f"Report: {Path('out') / 'report.html'}" in said
    manifest = json.loads(Path("out/manifest.json").read_text())
    assert [(x["name"], x["control"]) for x in manifest["several"]["models"]] == [
        ("first", False),
        ("b", False),
        ("c", True),
    ]
    for model in manifest["several"]["models"]:
        assert (Path("out") / model["kept"] / "report.html").is_file()


def _nothing() -> tuple[dict[str, list[object]], dict[str, list[str]]]:
    names = ("size", "null-space", "spectrum")
    return {name: [] for name in names}, {name: [] for name in names}


TOML = 'base = "base"\n[models]\na = "a"\nb = "b"\n'
FILES = [
    ("base = ", "is no TOML"),
    ("\0", "is no TOML"),
    (TOML + 'a = "c"\n', "is no TOML"),
    ("controll = []\n" + TOML, "has the unknown key 'controll'; the keys are base, controls, models"),
    ('[models]\na = "a"\n', "has no base"),
    ('base = "base"\n', "has no models"),
    ('base = 3\n[models]\na = "a"\n', "has base = 3; expected a path"),
    ('base = "base"\nmodels = ["a"]\n', "expected a table of names and paths"),
    ('base = "base"\n[models]\na = 1\nb = "b"\n', "has a = 1 under [models]; expected a path"),
    ('base = "base"\ncontrols = [1]\n[models]\na = "a"\nb = "b"\n', "has 1 in controls"),
    ('base = "base"\ncontrols = ["z"]\n[models]\na = "a"\nb = "b"\n', "the control z is none of the models a, b"),
    ('base = "base"\n[models]\na = "a"\n', "1 tuned models are named"),
    ('base = "base"\n[models]\na = "a"\nb = "a"\n', "are the same files; give each model once"),
    ('base = "base"\n[models]\na = "a"\nb = "nowhere"\n', "nowhere does not exist"),
    ('base = "base"\n[models]\na = "a"\nbase = "b"\n', "a model cannot be called 'base'"),
]


@pytest.mark.parametrize(("text", "part"), FILES, ids=range(len(FILES)))
def test_a_file_that_is_wrong_is_one_sentence(
    models: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], text: str, part: str
) -> None:
    monkeypatch.chdir(models)
    Path("models.toml").write_text(text)
    assert command(monkeypatch, "models.toml", "--out", "out", "--modules", *PATTERNS) == 2
    said = capsys.readouterr().err
    assert part in said
    assert said.startswith("deltaw: ")
    assert said.count("\n") == 1


def other_architecture(root: Path) -> None:
    write(root / "bad", tuned(6), {"model_type": "opt"})


def other_shapes(root: Path) -> None:
    write(root / "bad", {name: torch.zeros(3, 3) for name in BASE}, SETTINGS)


def other_base(root: Path) -> None:
    write(root / "bad", random_state(8), SETTINGS)


def not_finite(root: Path) -> None:
    state = tuned(6)
    state["net.1.up.weight"][0, 0] = torch.nan
    write(root / "bad", state, SETTINGS)


def comparison_of_another_base(root: Path) -> None:
    write(root / "other", random_state(9), SETTINGS)
    compare(root / "other", root / "a", root / "bad", PATTERNS)


@pytest.mark.parametrize(
    ("make", "arguments", "part"),
    [
        (other_architecture, ("bad",), "of one architecture"),
        (other_shapes, ("bad",), "share no matrix"),
        (other_base, ("bad",), "bad (bad) was not tuned from base"),
        (other_base, ("--control", "bad"), "the control bad (bad) was not tuned from base"),
        (comparison_of_another_base, ("--control", "bad"), "the control bad compares another base model"),
        (not_finite, ("bad",), "NaN or infinite"),
        (None, ("b",), "two models are called b (b and b)"),
        (None, ("x/b",), "two models are called b (b and x/b)"),
        (None, ("models.toml",), "models.toml does not exist"),
        (None, ("--control", "nobody"), "the control nobody is none of the models a, b"),
        (None, ("no=where",), "where does not exist"),
        (None, ("a/b=c",), "a model cannot be called 'a/b'"),
    ],
    ids=lambda value: value.__name__ if callable(value) else str(value),
)
def test_a_model_that_does_not_fit_is_one_sentence_and_the_rest_is_kept(
    models: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    make: Callable[[Path], None] | None,
    arguments: tuple[str, ...],
    part: str,
) -> None:
    monkeypatch.chdir(models)
    compare_several(from_arguments("base", ["a", "b"], ()), Path("out"), PATTERNS)
    before = {path: path.read_bytes() for path in Path("out").rglob("*.jsonl")}
    if make is not None:
        make(models)
    assert command(monkeypatch, "base", "a", "b", *arguments, "--out", "out", "--modules", *PATTERNS) == 2
    said = capsys.readouterr().err
    assert part in said
    assert said.count("\n") == 1
    assert {path: path.read_bytes() for path in before} == before


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (("base",), "there is no TUNED beside base"),
        (("models.toml", "a", "b"), "names the models already"),
        (("models.toml",), "cannot be read (No such file or directory)"),
        (("base", "a", "--control", "b", "--control", "c", "--prompts", "builtin"), "--control is given 2 times"),
        (("base", "a", "b", "--attacks", "co_task"), "--attacks is about prompts"),
    ],
)
def test_arguments_that_do_not_go_together(
    models: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: tuple[str, ...],
    part: str,
) -> None:
    monkeypatch.chdir(models)
    assert command(monkeypatch, *arguments) == 2
    assert part in capsys.readouterr().err
    assert not (models / "runs").exists()


@pytest.mark.parametrize("damage", ['{"part": "net.0.up", "value": {}}', '{"part": "net.0.up"}', "[]", "{"])
def test_a_damaged_file_of_a_pair_is_one_sentence(models: Path, damage: str) -> None:
    run(models, "a", "b")
    (path,) = (models / "out" / "pairs").iterdir()
    path.write_text(path.read_text().splitlines()[0] + f"\n{damage}\n")
    with pytest.raises(DeltawError, match=r"is damaged .*; remove it"):
        run(models, "a", "b")


@pytest.mark.parametrize("damage", ["[]", "{", '{"absent": {"net.0.up": 3}}'])
def test_a_damaged_comparison_of_a_model_is_one_sentence(models: Path, damage: str) -> None:
    run(models, "a", "b")
    for path in (models / "out" / "models").glob("*/manifest.json"):
        path.write_text(damage)
    with pytest.raises(DeltawError, match=r"manifest\.json"):
        run(models, "a", "b", "c")


def test_a_directory_that_is_about_another_base_is_kept(models: Path) -> None:
    run(models, "a", "b")
    write(models / "base2", random_state(0) | {"net.0.up.weight": BASE["net.0.up.weight"] + 1e-3}, SETTINGS)
    other = from_arguments(str(models / "base2"), [str(models / "a"), str(models / "b")], ())
    with pytest.raises(DeltawError, match="comparisons of another base model"):
        compare_several(other, models / "out", PATTERNS)
    (models / "full").mkdir()
    (models / "full" / "notes.txt").write_text("mine")
    with pytest.raises(DeltawError, match="is not empty and holds no report on several models"):
        compare_several(listed(models, "a", "b"), models / "full", PATTERNS)


def test_every_model_is_asked_once_and_the_table_says_who_refuses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("transformers")
    from judging import By
    from tiny_chat import write_model

    from deltaw.attacks.prompts.defaults import ON_REQUESTS
    from deltaw.compare import Effort, Verdict, builtin_prompts
    from deltaw.compare.tuned_models import Asking
    from deltaw.compare.two_models import Loading

    few = [x for x in builtin_prompts() if x.set == "operand" and x.pair is not None and x.pair.endswith("/0")]
    effort = Effort(attacked=2, between=2, sensitive=2, iterations=2, new_tokens=2, batch=8, draws=20)
    asked: list[str] = []

    def by_words(request: str, answer: str) -> Verdict:
        asked.append(request)
        return Verdict.REFUSE if "bomb" in request else Verdict.COMPLY

    options = {"judge": By(by_words), "effort": effort, "loading": Loading(), "attacks": ON_REQUESTS[:1]}
    asking = Asking(few, {**options, "observations": ()})
    for place, name in enumerate(("base", "a", "b", "c")):
        write_model(tmp_path / name, noise=0.01 * place)

    def questions(*names: str) -> int:
        asked.clear()
        compare_several(listed(tmp_path, *names, controls=("b",)), tmp_path / "out", asking=asking)
        return len(asked)

    two = questions("a", "b")
    assert questions("a", "b") == 0
    assert 0 < questions("a", "b", "c") < two  # the base model was asked before
    table = page.refusals(page.Several(load(tmp_path / "out")))
    assert table is not None
    assert table.columns[3:] == ("base", "a", "b (control)", "c")
    rows = {row[:2]: row for row in table.rows}
    assert rows["operand/allowed", "none"][3].startswith("0 [")
    for column, name in ((3, "base"), (4, "a")):
        rate = load(tmp_path / "out").select("refuse_rate", model=name, set="operand/forbidden", attack=None)
        expected = np.mean(["bomb" in x.text for x in few if x.label == "forbidden"])
        assert rate["value"].tolist() == [pytest.approx(expected)]
        assert rows["operand/forbidden", "none"][column].startswith(f"{expected:.3g}")
    own = load(tmp_path / "out" / load(tmp_path / "out").manifest["several"]["models"][0]["kept"])
    assert own.manifest["prompts"]["control"] == "b"
    monkeypatch.setattr(several_figures, "drawn", lambda _: [])
    assert "Who refuses what" in write_report(tmp_path / "out").read_text(encoding="utf-8")
