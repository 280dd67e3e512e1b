"""`compare --prompts`: behaviour and activations of the two models that `compare` has read the weights of.

Each model is loaded from its own directory, and one is in memory at a time (`two_models`). What is slow goes to
OUT/verdicts.jsonl as it is finished: verdicts and sensitivities, so that a stopped run goes on. At the end the lines
join those of the weights in measurements.jsonl, claims.json gets those about activations, prompts.jsonl the verdicts,
and the manifest what was asked.
No answer is kept, and of a prompt its place, set, label, pair and attack, not its text.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deltaw.attacks.prompts import ON_REQUESTS, PromptAttack, under_attack
from deltaw.attacks.prompts.requests import check_requests
from deltaw.behaviour.judge import Judge, Verdict
from deltaw.behaviour.judges.rules import RULES
from deltaw.compare.asking import (
    Effort,
    ask,
    attacked_to_ask,
    between,
    first_contrast,
    left_out,
    to_ask,
    write_changes,
    write_gaps,
    write_rates,
)
from deltaw.compare.capability import sentence, summary
from deltaw.compare.claims import OF_WEIGHTS, Lines, prompt_claims, weight_claims
from deltaw.compare.interventions import intervene_on_checkpoints, judged_by
from deltaw.compare.lens import NO_MAPS, Complied, attacked_pairs, prompts_of, real_lens
from deltaw.compare.questions import attack_key, capability_key, questions_of, read_control
from deltaw.compare.two_models import Loading, TwoModels, asking_files
from deltaw.compare.weights import Sources, open_sources
from deltaw.errors import DeltawError, PluginError
from deltaw.interventions import Intervention
from deltaw.interventions.subject import STAGE
from deltaw.models.huggingface import Chat
from deltaw.observations.attacked_prompts.measure import AttackedPrompts
from deltaw.observations.capability.measure import CAPABILITY, Capability, Done, done_by
from deltaw.observations.clusters.measure import ClusterSeparation
from deltaw.observations.dose_response.measure import DoseResponse
from deltaw.observations.gain.measure import Gain
from deltaw.observations.lens import Lens
from deltaw.observations.observation import Observation, names_of, observe
from deltaw.observations.probe.measure import ProbeAccuracy
from deltaw.observations.ranks.measure import Ranks
from deltaw.observations.refusal_direction.measure import RefusalDirection
from deltaw.observations.sensitivity.measure import PromptSensitivity, sensitive_prompts, spectral_norms
from deltaw.observations.update_effect.measure import UpdateEffect
from deltaw.prompts.matched import BUILTIN, CONTRASTS, Prompt, matched, read_prompts, spread
from deltaw.prompts.neutral import exact_questions
from deltaw.results import (
    Measurement,
    read_claims,
    read_measurements,
    write_claims,
    write_json_atomic,
    write_jsonl_atomic,
    write_measurements,
)
from deltaw.results.journal import Journal
from deltaw.results.recorder import Sheet
from deltaw.results.records import read_json

OBSERVED: tuple[Observation, ...] = (
    Capability(),
    ClusterSeparation(),
    Gain(),
    UpdateEffect(),
    AttackedPrompts(),
    PromptSensitivity(),
    Ranks(),
    RefusalDirection(),
    ProbeAccuracy(),
    DoseResponse(),
)
"""What is observed, if nothing else is asked for. What ΔW is without prompts, the comparison of weights has said."""

_Verdicts = tuple[dict[Prompt, Verdict], dict[Prompt, Verdict]]
JOURNAL, FORMAT = "verdicts.jsonl", "deltaw-verdicts-3"
Say = Callable[[str], None]


@dataclass(frozen=True)
class _Work:
    """What all steps share."""

    models: TwoModels
    sources: Sources
    effort: Effort
    attacks: tuple[PromptAttack, ...]
    journal: Journal
    base_journal: Journal
    """Of what concerns the base model alone."""
    sheet: Sheet
    absent: dict[str, str]
    """What could not be measured, and why."""
    say: Say


def compare_prompts(
    base: str | Path,
    tuned: str | Path,
    out: Path,
    prompts: str | Path | Sequence[Prompt] = BUILTIN,
    judge: Judge = RULES,
    effort: Effort | None = None,
    loading: Loading = Loading(),  # noqa: B008
    say: Say = lambda text: None,
    base_parts: Path | None = None,
    control: Path | None = None,
    observations: Sequence[Observation] = OBSERVED,
    attacks: Sequence[PromptAttack] = ON_REQUESTS,
    interventions: Sequence[Intervention] = (),
    models: TwoModels | None = None,
) -> Path:
    """Ask both models, look at their activations, and add the lines to OUT/measurements.jsonl, which `compare` wrote.

    prompts: a JSONL file, the word builtin, or prompts. judge: of every answer. base_parts: a file that several
    comparisons of one base share, so that it is asked once. control: a finished comparison of the same base, on the
    same prompts, with a tuning that teaches something harmless: claims that have controls in the study have to beat it.
    observations: what is observed of activations, gradients and the update. attacks: on the requests. With others than
    before, the same OUT asks only what is new. interventions: on the tuned model. loading: device, format, template.
    models: the two models, if `open_models` has opened them for these questions.
    DeltawError if a model, the prompts, an attack, the control or an earlier run's journal are at fault, or OUT holds
    no finished comparison of weights.
    """
    check_requests(attacks)
    started, effort = time.perf_counter(), effort or Effort()
    asked = list(prompts) if not isinstance(prompts, str | Path) else read_prompts(prompts)
    if not (out / "measurements.jsonl").is_file():
        raise DeltawError(f"{out} holds no finished comparison; compare the weights first")
    sources = open_sources(base, tuned)
    header = {
        "format": FORMAT,
        "pair": sources.fingerprint(),
        "asked_with": asking_files(sources, loading),
        **questions_of(asked, judge, effort),
    }
    beside = None if control is None else read_control(control, base, asked, judge, effort, attacks)
    shared = {"model": sources.names[1], "seed": effort.seed}
    try:
        journal = Journal.open(out / JOURNAL, header)
        of_base = {**header, "pair": sources.base.fingerprint(), "asked_with": header["asked_with"]["base"]}
        base_journal = journal if base_parts is None else Journal.open(base_parts, of_base)
        models = models or open_models(base, tuned, asked, effort, loading, attacks, say)
        sheet = Sheet(**shared)
        absent = left_out(asked, effort)
        work = _Work(models, sources, effort, tuple(attacks), journal, base_journal, sheet, absent, say)
        verdicts = _behaviour(work, asked, judge, out)
        _observe(work, asked, verdicts, judge, observations, interventions)
        manifest = {
            "observations": [made.recorded() for made in observations if made not in OBSERVED],
            "interventions": [made.recorded() for made in interventions],
        }
        _finish(work, out, prompts, header, time.perf_counter() - started, beside, manifest)
    except OSError as error:
        raise DeltawError(
            f"{out} cannot be written ({error.strerror or error}); what is finished is kept, and the same command goes "
            "on from it"
        ) from error
    return out / "measurements.jsonl"


def open_models(
    base: str | Path,
    tuned: str | Path,
    prompts: Sequence[Prompt],
    effort: Effort,
    loading: Loading = Loading(),  # noqa: B008
    attacks: Sequence[PromptAttack] = ON_REQUESTS,
    say: Say = lambda text: None,
) -> TwoModels:
    """Both models, each loaded once to see that it can be asked all of this; says how they differ.

    DeltawError, one sentence, if one cannot be loaded as itself or cannot read a prompt.
    """
    say("loading both models to see that they can be asked")
    models = TwoModels.open(
        open_sources(base, tuned), _everything(prompts, effort, attacks), effort.new_tokens, loading
    )
    models.release()
    for kind, text in models.differences.items():
        say(f"the models differ: {kind}: {text}")
    for kind, text in models.notes.items():
        say(f"note: {kind}: {text}")
    return models


def _everything(prompts: Sequence[Prompt], effort: Effort, attacks: Sequence[PromptAttack]) -> list[Prompt]:
    """Every prompt that a model will read."""
    first = first_contrast(prompts)
    pairs = [pair for contrast in CONTRASTS for pair in matched(prompts, contrast)]
    plain = [prompt for pair in pairs for prompt in (pair.allowed, pair.forbidden)]
    few = [] if first is None else spread(matched(prompts, first), len(pairs))[: attacked_pairs(effort)]
    attacked = [under_attack(pair.forbidden, attack) for pair in few for attack in attacks]
    questions = [question.prompt for question in exact_questions()]
    return [*to_ask(prompts, effort, attacks), *plain, *attacked, *questions]


def _behaviour(work: _Work, prompts: Sequence[Prompt], judge: Judge, out: Path) -> _Verdicts:
    """Writes what the models do; returns the verdicts on the base and on the tuned model's answers."""
    effort, verdicts = work.effort, {}
    whole, few = to_ask(prompts, effort, work.attacks), between(prompts, effort)
    part_of = {
        prompt: f", {attack_key(attack)}"
        for attack in work.attacks
        for prompt in attacked_to_ask(prompts, effort, attack)
    }
    for alpha in sorted({0.0, 1.0, *effort.alphas}):
        chosen = whole if alpha in (0.0, 1.0) else few
        if not chosen:
            continue
        if alpha not in (0.0, 1.0) and work.models.why_not_between is not None:
            work.absent["refusals between the models"] = work.models.why_not_between
            continue
        journal = work.base_journal if alpha == 0 else work.journal
        verdicts[alpha] = _ask_parts(work, journal, alpha, f"verdicts, alpha={alpha:g}", chosen, part_of, judge)
    base, tuned = verdicts[0.0], verdicts[1.0]
    sheet = work.sheet.with_(stage="behaviour")
    for model, model_verdicts in (("base", base), (work.sheet.shared["model"], tuned)):
        view = sheet.with_(model=model)
        write_rates(view, whole, model_verdicts, judge)
        write_gaps(view, whole, model_verdicts, effort)
    write_changes(sheet, whole, base, tuned, effort)
    places = {id(prompt): place for place, prompt in reversed(list(enumerate(whole)))}
    for alpha, step_verdicts in verdicts.items():
        if alpha in (0.0, 1.0):
            step_verdicts = [step_verdicts[places[id(prompt)]] for prompt in few]
        _write_step(work, few, step_verdicts, alpha, judge)
    write_jsonl_atomic(out / "prompts.jsonl", _records(whole, base, tuned))
    return dict(zip(whole, base, strict=True)), dict(zip(whole, tuned, strict=True))


def _ask_parts(
    work: _Work,
    journal: Journal,
    alpha: float,
    name: str,
    prompts: Sequence[Prompt],
    part_of: Mapping[Prompt, str],
    judge: Judge,
) -> list[Verdict]:
    """The verdicts on the answers to `prompts`, kept in the journal attack by attack.

    part_of: what is added to the name of the part that a prompt is in, if anything.
    """
    parts: dict[str, list[Prompt]] = {}
    for prompt in prompts:
        parts.setdefault(part_of.get(prompt, ""), []).append(prompt)
    said: dict[str, Iterator[Verdict]] = {}
    for suffix, of_part in parts.items():

        def answers(suffix: str = suffix, of_part: Sequence[Prompt] = of_part) -> list[Verdict]:
            what = suffix.rpartition(" ")[0]

            def say(done: int, total: int) -> None:
                work.say(f"answers at alpha {alpha:g}{what}: {done}/{total}")

            return ask(work.models.answering(alpha), of_part, judge, work.effort, say)

        said[suffix] = iter([Verdict(verdict) for verdict in journal.part(f"{name}{suffix}", answers)])
    return [next(said[part_of.get(prompt, "")]) for prompt in prompts]


def _write_step(
    work: _Work, prompts: Sequence[Prompt], verdicts: Sequence[Verdict], alpha: float, judge: Judge
) -> None:
    """Rates of the plain pairs at a step between the models; `set` holds the step."""
    sheet = Sheet(**work.sheet.shared, stage="interpolation")
    write_rates(sheet, prompts, verdicts, judge)
    work.sheet.lines += [replace(line, set=f"{line.set}/alpha={alpha:g}") for line in sheet.lines]


def _records(prompts: Sequence[Prompt], base: Sequence[Verdict], tuned: Sequence[Verdict]) -> Iterator[dict[str, Any]]:
    for index, (prompt, old, new) in enumerate(zip(prompts, base, tuned, strict=True)):
        said = {"set": prompt.set, "label": prompt.label, "pair": prompt.pair, "attack": prompt.attack}
        yield {"index": index, **said, "base": str(old), "tuned": str(new)}


def _observe(
    work: _Work,
    prompts: Sequence[Prompt],
    verdicts: _Verdicts,
    judge: Judge,
    observations: Sequence[Observation],
    interventions: Sequence[Intervention],
) -> None:
    """The observations of activations, gradients and the update, and the interventions, through the lens."""
    of_lens = prompts_of(prompts, work.effort, work.absent, work.attacks)
    if not of_lens.contrasts:
        observations = [observation for observation in observations if not observation.needs_pairs]
    if not (observations or (of_lens.contrasts and interventions)):
        return
    base, tuned = verdicts
    keys = {attack.name: f", {attack_key(attack)}" for attack in work.attacks}
    part_of = {prompt: keys[attacked.attack] for attacked in of_lens.attacked() for prompt in attacked.prompts}
    forbidden = of_lens.contrasts[0].forbidden if of_lens.contrasts else ()
    left = [prompt for prompt in dict.fromkeys([*forbidden, *part_of]) if prompt not in tuned]
    answered = _ask_parts(work, work.journal, 1.0, "verdicts, dose and response", left, part_of, judge)
    known = {**tuned, **dict(zip(left, answered, strict=True))}
    work.say("activations of the base model")
    lens = real_lens(work.models, of_lens, work.effort, (_complied(base), _complied(known)), judged_by(judge))
    if not lens.has("mlp_in"):
        lens.absent["maps of MLPs"] = NO_MAPS
    _keep_slow(work, lens, names_of(observations))
    sheet = work.sheet.with_(stage="analysis", role="last_prompt")
    for observation in observations:
        work.say(f"{observation.label}, in both models")
        try:
            observe(observation, lens, sheet)
        except PluginError:
            raise
        except DeltawError as error:  # what these models or prompts cannot give; the rest can be had
            lens.absent[observation.label] = str(error)
    work.absent.update(lens.absent)
    if not of_lens.contrasts:
        return
    intervene_on_checkpoints(
        interventions,
        lens,
        work.effort,
        [attack_key(attack) for attack in work.attacks],
        work.sheet.with_(stage=STAGE),
        work.absent,
        work.journal,
        work.say,
        work.models.why_not_between if lens.has("mlp_in") else NO_MAPS,
    )


def _complied(known: Mapping[Prompt, Verdict]) -> Complied:
    """Whether answers whose verdicts are known comply."""

    def complied(chat: Chat, prompts: Sequence[Prompt]) -> NDArray[np.bool_]:
        return np.array([known[prompt] == Verdict.COMPLY for prompt in prompts])

    return complied


def _keep_slow(work: _Work, lens: Lens, names: Sequence[str]) -> None:
    """What is slow goes to the journal as it is made, all of the base model's before the tuned one is loaded; the lens
    then has it. names: of observations.
    """
    for model in ("base", "tuned"):
        if Capability.name in names:
            _keep_capability(work, lens, model)
        if PromptSensitivity.name in names:
            _keep_sensitivity(work, lens, model)


def _keep_capability(work: _Work, lens: Lens, model: str) -> None:
    prompts, of_base = lens.before.prompts, model == "base"
    journal, side = (work.base_journal, lens.before) if of_base else (work.journal, lens)
    observed = lens.before.model if of_base else lens.tuned

    def made() -> dict[str, list[float]]:
        done = done_by(observed, prompts)
        return {part: getattr(done, part).tolist() for part in ("nats", "tokens", "labels")}

    name = f"capability, {model}, {capability_key(prompts)}"
    if name not in journal.parts:
        work.say(f"neutral texts and questions, {model} model")
    try:
        kept = journal.part(name, made)
    except PluginError:
        raise
    except DeltawError:  # the observation meets it too, and says so
        return
    side.once(CAPABILITY, lambda: Done(*(np.array(kept[part]) for part in ("nats", "tokens", "labels"))))


def _keep_sensitivity(work: _Work, lens: Lens, model: str) -> None:
    of_base = model == "base"
    journal, side = (work.base_journal, lens.before) if of_base else (work.journal, lens)
    observed = lens.before.model if of_base else lens.tuned

    def norms() -> dict[str, list[float]]:
        prompts = sensitive_prompts(lens)
        return {verdict: rows.tolist() for verdict, rows in spectral_norms(lens, observed, prompts).items()}

    if f"sensitivity, {model}" not in journal.parts:
        work.say(f"sensitivity of the {model} model")
    kept = {key: np.array(rows) for key, rows in journal.part(f"sensitivity, {model}", norms).items()}
    side.once(("spectral", lens.effort.jacobians), lambda: kept)


def _finish(
    work: _Work,
    out: Path,
    prompts: object,
    header: dict[str, Any],
    seconds: float,
    control: tuple[str, list[Measurement]] | None,
    more: Mapping[str, Any],
) -> None:
    path = out / "measurements.jsonl"
    weights = [line for line in read_measurements(path) if line.seed is None]  # only ours have one
    write_measurements(path, [*weights, *work.sheet.lines])
    name, lines = control or (None, [])
    claimed = [claim.id.partition("/") for claim in read_claims(out / "claims.json")]
    kinds = list(dict.fromkeys(kind for prefix, _, kind in claimed if prefix in OF_WEIGHTS))
    of_weights = weight_claims(kinds, Lines(weights, lines, name))
    write_claims(out / "claims.json", [*of_weights, *prompt_claims(Lines(work.sheet.lines, lines, name))])
    numbers = summary(work.sheet.lines)
    work.say(sentence(numbers))
    manifest = read_json(out / "manifest.json")
    manifest["prompts"] = {
        "source": str(prompts) if isinstance(prompts, str | Path) else "given",
        **{what: header[what] for what in ("prompts", "judge", "effort")},
        "attacks": [
            {"name": attack.name, "label": attack.label, "sentence": attack.sentence, "key": attack_key(attack)}
            for attack in work.attacks
        ],
        "control": name,
        "capability": numbers,
        "differences": work.models.differences,
        "notes": work.models.notes,
        "loading": asdict(work.models.loading),
        "absent": work.absent,
        **more,
        "seconds": {"this_call": round(seconds, 1)},
    }
    write_json_atomic(out / "manifest.json", manifest)
