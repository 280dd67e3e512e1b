"""The plan of a study: its counts against the reference notes and against a real run, its schedule against hand-made
ones, its pace on a clock of its own.
"""

import io
import json
import sys
from collections import Counter
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from deltaw.behaviour.exact import judge
from deltaw.models import ModelConfig, Transformer
from deltaw.pipeline.progress import Listener
from deltaw.pipeline.scheduler import execute
from deltaw.pipeline.stage import Stage, StageContext
from deltaw.recipes import RECIPES, recipe
from deltaw.study.dry_run import plan
from deltaw.study.dry_run import timing as pacing
from deltaw.study.dry_run.page import amount, duration, show, stage_rows, to_json
from deltaw.study.dry_run.plan import Pace, make_plan, makespan, operations, parameter_count, work_of
from deltaw.study.graph import stages
from deltaw.study.stages import answers
from deltaw.training.pretraining import CHUNK, model_config, new_model
from deltaw.world import Prompts, World

PACE = Pace(
    update=dict.fromkeys(("pretrain", "ssft", "dpo", "unlearn", "dpo-published", "unlearn-published"), 1.0),
    reference=0.1,
    decode=0.01,
    ceiling=0.001,
    analysis={"once": 1.0, "checkpoint": 2.0, "last": 3.0},
    notes=("made up",),
)
MINI = ModelConfig(59, 159, 6, 6, 192, 4, "published", "sinusoidal", dead_norm=True)
POSITIONS = 10_000 * 512 * 159


@pytest.mark.parametrize(
    ("trained", "read", "plain", "with_attention"),
    [
        (10 * POSITIONS, 0, 1.315e17, 1.494e17),  # pre-training
        (POSITIONS, 0, 1.315e16, 1.494e16),  # SSFT
        (2 * POSITIONS, 0, 2.630e16, 2.988e16),  # unlearning
        (2 * POSITIONS, 2 * POSITIONS, 3.507e16, 3.984e16),  # DPO, with its two passes of the reference
    ],
)
def test_operations_are_those_of_the_reference_table(
    trained: int, read: int, plain: float, with_attention: float
) -> None:
    assert operations(MINI, trained, read, 159) == pytest.approx((plain, with_attention), rel=1e-3)


@pytest.mark.parametrize(
    "config",
    [
        MINI,
        replace(MINI, dead_norm=False, positions="learned"),
        ModelConfig(53, 46),
        ModelConfig(7, 5, 2, 1, 6, 3, positions="sinusoidal"),
    ],
)
def test_parameters_are_counted_from_the_shape(config: ModelConfig) -> None:
    model = Transformer(config, torch.Generator())
    assert parameter_count(config) == sum(p.numel() for p in model.parameters())


def test_memory_counts_what_a_step_is_known_to_keep() -> None:
    """Twice the rows, twice the activations; the state alone is 16 bytes a parameter."""
    state = plan.training_bytes(MINI, 0, 159, 2)
    assert state == 16 * parameter_count(MINI)
    one, two = (plan.training_bytes(MINI, rows, 159, 2) - state for rows in (64, 128))
    assert two == 2 * one > 64 * 159 * 6 * 192 * 40
    assert plan.training_bytes(MINI, 64, 159, 4) > plan.training_bytes(MINI, 64, 159, 2)


def of(name: str, *inputs: str, threads: int = 1, weight: float = 1.0) -> Stage:
    return Stage(name, print, {}, {source: source for source in inputs}, threads, weight)


def test_the_schedule_is_the_engines() -> None:
    graph = [of("a", threads=2), of("b", "a", weight=9), of("c", "a"), of("d", "a"), of("e", "b", "c")]
    seconds = {"a": 5.0, "b": 4.0, "c": 1.0, "d": 2.0, "e": 1.0}
    assert makespan(graph, seconds, 1) == 13.0
    assert makespan(graph, seconds, 2) == 5.0 + 4.0 + 1.0  # b beside c and d, then e
    assert makespan(graph, seconds, 3) == 10.0
    # A wide stage that waits for room is not passed by a narrow one.
    wide = [of("x", weight=9), of("wide", threads=2, weight=5), of("narrow")]
    assert makespan(wide, {"x": 3.0, "wide": 1.0, "narrow": 2.0}, 2) == 3.0 + 1.0 + 2.0


@given(st.lists(st.tuples(st.floats(0.1, 9), st.sets(st.integers(0, 7), max_size=3)), max_size=8), st.integers(1, 4))
def test_a_schedule_is_no_shorter_than_its_chain_and_no_longer_than_its_sum(
    drawn: list[tuple[float, set[int]]], workers: int
) -> None:
    graph = [of(f"s{n}", *(f"s{k}" for k in inputs if k < n)) for n, (_, inputs) in enumerate(drawn)]
    seconds = {f"s{n}": length for n, (length, _) in enumerate(drawn)}
    found = makespan(graph, seconds, workers)
    chain = max(plan._chains(graph, seconds).values(), default=0.0)
    total = sum(seconds.values())
    assert max(chain, total / workers) - 1e-9 <= found <= total + 1e-9
    if workers == 1:
        assert found == pytest.approx(total)


@pytest.mark.parametrize("name", RECIPES)
def test_every_stage_of_every_recipe_has_an_estimate(name: str) -> None:
    chosen = recipe(name)
    found = make_plan(chosen, PACE, 2)
    assert found.unknown == []
    assert [stage.name for stage in found.stages] == [stage.name for stage in stages(chosen)]
    world = World(chosen.world)
    model = new_model(world, chosen.pretraining, 0)
    assert found.parameters == sum(p.numel() for p in model.parameters())
    assert found.model == model_config(world, chosen.pretraining) == model.config
    assert found.chain <= found.wall <= found.seconds
    assert make_plan(chosen, PACE, 2, "inline").wall == pytest.approx(found.seconds)
    base = next(stage for stage in found.stages if stage.name.startswith("base-"))
    assert base.work is not None
    assert base.work.trained == chosen.base_checkpoints[-1] * chosen.pretraining.batch * world.sequence_length
    for tuned, responses in (("ssft-medium", 1), ("dpo-medium", 2), ("unlearn-medium", 2)):
        if tuned not in {one.name for one in chosen.tunings}:
            assert name == "grid"
            continue
        work = next(stage.work for stage in found.stages if stage.name.startswith(f"tune-{tuned}-"))
        assert work is not None
        rows = chosen.tunings[0].config.batch
        length = world.sequence_length
        assert (work.rows, work.trained) == (rows, chosen.steps * rows * work.length)
        assert work.length == length if responses == 1 else length < work.length < 2 * length


def test_the_counts_are_those_of_a_real_run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A smoke study of one tuning, run but for its analysis, with its answers counted where they are given."""
    answered: Counter[str] = Counter()
    running: list[str] = []
    answers_to = answers.answers_to

    def counting(model: Transformer, world: World, prompts: Prompts, *rest: object) -> object:
        answered[running[-1]] += len(prompts)
        return answers_to(model, world, prompts, *rest)  # type: ignore[arg-type]

    class Following(Listener):
        def started(self, stage: str) -> None:
            running.append(stage)

    def judging(outputs: torch.Tensor, *rest: object) -> object:
        answered[running[-1]] += len(outputs)
        return judge(outputs, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(answers, "answers_to", counting)
    for module in ("targets", "prefill"):
        monkeypatch.setattr(sys.modules[f"deltaw.attacks.models.{module}"], "judge", judging)
    smoke = recipe("smoke")
    sizes = replace(smoke.sizes, final=9, checkpoint=5, attacked=3, ceiling=4, shown=2)
    chosen = replace(smoke, tunings=smoke.tunings[:1], sizes=sizes)
    graph = [
        stage for stage in stages(chosen) if not stage.name.startswith(("analysis-", "attacks-", "interventions-"))
    ]
    execute(graph, tmp_path, "inline", listener=Following())
    layout = World(chosen.world).layout
    for stage in graph:
        answer = layout.prompt_length + layout.response_length - 1
        work = work_of(stage, layout.length, answer, layout.length + 9, 2)
        assert work is not None
        matched = tmp_path.glob(f"artifacts/{stage.inputs.get('model', '-')}-*/matched.json")
        if any(json.loads(path.read_text())["step"] is None for path in matched):
            assert (
                answered[stage.name]
                == plan.behaviour_prompts(chosen.sizes, chosen.prompt_attacks, matched=False)
                < work.decoded
            )
        else:
            assert answered[stage.name] == work.decoded, stage.name


def strange(context: StageContext) -> None:
    raise NotImplementedError


def test_a_stage_that_is_not_known_is_named_and_not_guessed(monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = recipe("smoke")
    whole = make_plan(chosen, PACE, 2)
    graph = [*stages(chosen), Stage("strange-s0", strange, {}, {"model": "base-s0"})]
    monkeypatch.setattr(plan, "stages", lambda recipe: graph)
    found = make_plan(chosen, PACE, 2)
    assert found.unknown == ["strange-s0"]
    assert found.seconds == whole.seconds
    text = io.StringIO()
    show(found, text)
    assert "Not estimated, so not in the total: strange-s0." in text.getvalue()
    assert to_json(found)["not_estimated"] == ["strange-s0"]


def test_a_log_gets_plain_lines_with_everything_in_them() -> None:
    chosen = recipe("paper")
    found = make_plan(chosen, PACE, 2)
    text = io.StringIO()
    show(found, text)
    page = text.getvalue()
    for words in (
        "block: published", "positions: sinusoidal", "peak_lr: 0.001", "steps: 100,000", "warmup: 20,000",
        "tuning, medium", "tuning, small", "unlearn-small: unlearn (ascent_weight 0.1, cap none)", "control noise",
        "made up",
        f"parameters: {found.parameters:,}",
    ):  # fmt: skip
        assert words in page, words
    assert "\x1b" not in page
    assert "{" not in page
    assert max(map(len, page.splitlines())) <= 120
    assert len(page.splitlines()) < 135


def test_a_terminal_gets_tables() -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    text = Terminal()
    show(make_plan(recipe("smoke"), PACE, 2), text)
    assert "━" in text.getvalue()
    assert "tuning, medium" in text.getvalue()


def test_rows_add_up() -> None:
    found = make_plan(recipe("quick"), PACE, 2)
    *rows, total = stage_rows(found)
    assert sum(int(row[1]) for row in rows) == int(total[1]) == len(found.stages)
    assert sum(int(row[2].replace(",", "") or 0) for row in rows) == int(total[2].replace(",", ""))


def test_json_holds_the_plan() -> None:
    found = json.loads(json.dumps(to_json(make_plan(recipe("smoke"), PACE, 3))))
    assert found["engine"] == {"name": "dask", "workers": 3}
    assert found["seconds"]["all_stages"] == pytest.approx(sum(stage["seconds"] for stage in found["stages"]))
    assert found["config"]["pretraining"]["block"] == "pre_ln"


def test_numbers_as_people_say_them() -> None:
    assert [duration(x) for x in (0.42, 59, 240, 7000, 12_600, 527_000)] == [
        "0.4 s", "59 s", "4.0 min", "117 min", "3.5 h", "6.1 days",
    ]  # fmt: skip
    assert [amount(x) for x in (0, 17, 1.494e17)] == ["0", "17", "1.49e17"]


class Clockwork:
    """A training that takes 10 ms a row and update, and 1 ms a row for each of the chunk's batches that it draws."""

    def __init__(self) -> None:
        self.now, self.seen = 0.0, list[tuple[int, int]]()

    def __call__(self, rows: int, steps: int, checkpoints: Collection[int], on_checkpoint: pacing.OnCheckpoint) -> None:
        self.seen.append((rows, steps))
        model = Transformer(ModelConfig(3, 2, 1, 1, 2), torch.Generator())
        on_checkpoint(0, model)
        self.now += 0.001 * rows * CHUNK
        for step in range(1, steps + 1):
            self.now += 0.010 * rows
            if step in checkpoints:
                on_checkpoint(step, model)


@pytest.mark.parametrize(
    ("batch", "budget", "rows"), [(64, 10.0, 64), (512, 0.505, 50), (512, 0.01, 16), (4, 0.001, 4)]
)
def test_a_pace_is_scaled_by_rows_and_shares_the_drawing(batch: int, budget: float, rows: int) -> None:
    work = Clockwork()
    found = pacing.time_updates(work, batch, budget, lambda: work.now)
    assert found.rows == work.seen[-1][0] == rows
    assert found.seconds == pytest.approx(batch * (0.010 + 0.001))


def test_the_pace_of_a_recipe_comes_from_its_own_steps() -> None:
    chosen = recipe("smoke")
    found = pacing.measure(chosen, 0, budget=0.05)
    assert set(found.update) == {"pretrain", "ssft", "dpo", "unlearn"}
    assert all(seconds > 0 for seconds in (*found.update.values(), found.reference, found.decode, found.ceiling))
    assert set(found.analysis) == {"once", "checkpoint", "last"}
    assert len(found.notes) == len(found.update) + 3
    assert found.notes[-1].startswith("Bayes ceiling: 1.000 of branches")
    assert make_plan(chosen, found, 2).unknown == []
