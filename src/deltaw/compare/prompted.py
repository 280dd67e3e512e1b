"""`compare --prompts`: behaviour and activations of the two models that `compare` has read the weights of.

Each model is loaded from its own directory, and one is in memory at a time (`two_models`). What is slow goes to
OUT/verdicts.jsonl as it is finished: verdicts and sensitivities, so that a stopped run goes on. At the end the lines
join those of the weights in measurements.jsonl, claims.json gets those about activations, prompts.jsonl the verdicts,
and the manifest what was asked.
No answer is kept, and of a prompt its place, set, label, pair and attack, not its text.
"""

import hashlib
import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from deltaw.analysis import Absent, power_iteration, sensitivity_change
from deltaw.attacks.prompts.plain_english import ATTACKS, under_attack
from deltaw.behaviour.judge import Judge, Verdict, refusal_judge
from deltaw.compare.activations import FOLDS, SITES, Layer, Seen, write_clusters, write_gains, write_positions
from deltaw.compare.asking import Effort, ask, between, first_contrast, to_ask, write_changes, write_gaps, write_rates
from deltaw.compare.claims import prompt_claims
from deltaw.compare.over_layers import CLAIMED
from deltaw.compare.two_models import TwoModels, asking_files
from deltaw.compare.weights import Sources, _part, choose, open_sources
from deltaw.errors import DeltawError
from deltaw.models.architectures import Module, family_of
from deltaw.models.checkpoint_files import find_directory, open_checkpoint
from deltaw.models.huggingface import Chat, activations_of, embedded, encode, readout
from deltaw.models.lora import Adapter
from deltaw.prompts.matched import BUILTIN, CONTRASTS, MatchedPair, Prompt, matched, read_prompts, spread
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
from deltaw.results.parsing import parse_json
from deltaw.results.recorder import Sheet
from deltaw.results.records import read_json
from deltaw.statistics import FloatArray, bootstrap_means, percentile_interval

JOURNAL, FORMAT = "verdicts.jsonl", "deltaw-verdicts-2"
Say = Callable[[str], None]


@dataclass(frozen=True)
class _Work:
    """What all steps share. base_journal: of what concerns the base model alone. absent: what could not be measured."""

    models: TwoModels
    sources: Sources
    effort: Effort
    journal: Journal
    base_journal: Journal
    sheet: Sheet
    absent: dict[str, str]
    say: Say


def compare_prompts(
    base: str | Path,
    tuned: str | Path,
    out: Path,
    prompts: str | Path | Sequence[Prompt] = BUILTIN,
    judge: Judge = refusal_judge,
    effort: Effort | None = None,
    device: str = "cpu",
    say: Say = lambda text: None,
    base_parts: Path | None = None,
    control: Path | None = None,
) -> Path:
    """Ask both models, look at their activations, and add the lines to OUT/measurements.jsonl, which `compare` wrote.

    prompts: a JSONL file, the word builtin, or prompts. judge: of every answer. base_parts: a file that several
    comparisons of one base share, so that it is asked once. control: a finished comparison of the same base, on the
    same prompts, with a tuning that teaches something harmless: claims that have controls in the study have to beat it.
    DeltawError if a model, the prompts, the control or an earlier run's journal are at fault, or OUT holds no finished
    comparison of weights.
    """
    started, effort = time.perf_counter(), effort or Effort()
    asked = list(prompts) if not isinstance(prompts, str | Path) else read_prompts(prompts)
    if not (out / "measurements.jsonl").is_file():
        raise DeltawError(f"{out} holds no finished comparison; compare the weights first")
    sources = open_sources(base, tuned)
    header = {
        "format": FORMAT,
        "pair": sources.fingerprint(),
        "asked_with": asking_files(sources),
        **_asked(asked, judge, effort),
    }
    beside = None if control is None else read_control(control, base, asked, judge, effort)
    shared = {"model": sources.directory.resolve().name, "seed": effort.seed}
    try:
        journal = Journal.open(out / JOURNAL, header)
        of_base = {**header, "pair": sources.base.fingerprint(), "asked_with": header["asked_with"]["base"]}
        base_journal = journal if base_parts is None else Journal.open(base_parts, of_base)
        say("loading both models to see that they can be asked")
        models = TwoModels.open(sources, _everything(asked, effort), effort.new_tokens, device)
        for kind, text in models.differences.items():
            say(f"the models differ: {kind}: {text}")
        work = _Work(models, sources, effort, journal, base_journal, Sheet(**shared), {}, say)
        _behaviour(work, asked, judge, out)
        _activations(work, asked)
        _sensitivity(work, asked)
        _finish(work, out, prompts, header, time.perf_counter() - started, beside)
    except OSError as error:
        raise DeltawError(
            f"{out} cannot be written ({error.strerror or error}); what is finished is kept, and the same command goes "
            "on from it"
        ) from error
    return out / "measurements.jsonl"


def _asked(prompts: Sequence[Prompt], judge: Judge, effort: Effort) -> dict[str, Any]:
    """What names the questions, as files hold it: a hash of the prompts, the judge, the effort."""
    judge_name = f"{judge.__module__}.{getattr(judge, '__qualname__', type(judge).__name__)}"
    found: dict[str, Any] = json.loads(
        json.dumps({"prompts": _digest(prompts), "judge": judge_name, "effort": asdict(effort)})
    )
    return found


def read_control(
    directory: Path,
    base: str | Path,
    prompts: Sequence[Prompt],
    judge: Judge = refusal_judge,
    effort: Effort | None = None,
) -> tuple[str, list[Measurement]]:
    """(its name, its lines) of a control's comparison. DeltawError unless it is finished, of the same base, and asked
    the same.
    """
    try:
        manifest = parse_json((directory / "manifest.json").read_text(encoding="utf-8"))
        asked, of_base = manifest["prompts"], manifest["comparison"]["pair"]["base"]
        name = str(manifest["names"][1])
    except (OSError, ValueError, KeyError, TypeError, IndexError) as error:
        raise DeltawError(
            f"the control {directory} holds no finished comparison with prompts; make it first: deltaw compare BASE "
            f"CONTROL --out {directory} --prompts FILE"
        ) from error
    if of_base != open_checkpoint(find_directory(base)).fingerprint():
        raise DeltawError(f"the control {directory} compares another base model; give one of the same base")
    for what, expected in _asked(prompts, judge, effort or Effort()).items():
        if asked.get(what) != expected:
            raise DeltawError(f"the control {directory} was asked otherwise ({what}); compare it with the same prompts")
    return name, read_measurements(directory / "measurements.jsonl")


def _digest(prompts: Sequence[Prompt]) -> str:
    text = json.dumps([asdict(prompt) for prompt in prompts], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _everything(prompts: Sequence[Prompt], effort: Effort) -> list[Prompt]:
    """Every prompt that a model will read."""
    first = first_contrast(prompts)
    pairs = [pair for contrast in CONTRASTS for pair in matched(prompts, contrast)]
    plain = [prompt for pair in pairs for prompt in (pair.harmless, pair.harmful)]
    few = [] if first is None else _attacked(spread(matched(prompts, first), len(pairs)), effort)
    return [*to_ask(prompts, effort), *plain, *(under_attack(pair.harmful, name) for pair in few for name in ATTACKS)]


def _attacked(pairs: Sequence[MatchedPair], effort: Effort) -> Sequence[MatchedPair]:
    """Of pairs in order, those whose harmful prompt is read under every attack."""
    return pairs[: max(effort.attacked, 2 * FOLDS)]


def _behaviour(work: _Work, prompts: Sequence[Prompt], judge: Judge, out: Path) -> None:
    effort, verdicts = work.effort, {}
    whole, few = to_ask(prompts, effort), between(prompts, effort)
    for alpha in sorted({0.0, 1.0, *effort.alphas}):
        chosen = whole if alpha in (0.0, 1.0) else few
        if not chosen:
            continue
        if alpha not in (0.0, 1.0) and work.models.why_not_between is not None:
            work.absent["refusals between the models"] = work.models.why_not_between
            continue
        name, journal = f"verdicts, alpha={alpha:g}", work.base_journal if alpha == 0 else work.journal

        def answers(alpha: float = alpha, chosen: Sequence[Prompt] = chosen) -> list[Verdict]:
            def say(done: int, total: int) -> None:
                work.say(f"answers at alpha {alpha:g}: {done}/{total}")

            return ask(work.models.at(alpha), chosen, judge, effort, say)

        verdicts[alpha] = [Verdict(verdict) for verdict in journal.part(name, answers)]
    base, tuned = verdicts[0.0], verdicts[1.0]
    sheet = work.sheet.with_(stage="behaviour")
    for model, found in (("base", base), (work.sheet.shared["model"], tuned)):
        view = sheet.with_(model=model)
        write_rates(view, whole, found)
        write_gaps(view, whole, found, effort)
    write_changes(sheet, whole, base, tuned, effort)
    places = {id(prompt): place for place, prompt in reversed(list(enumerate(whole)))}
    for alpha, found in verdicts.items():
        if alpha in (0.0, 1.0):
            found = [found[places[id(prompt)]] for prompt in few]
        _write_step(work, few, found, alpha)
    write_jsonl_atomic(out / "prompts.jsonl", _records(whole, base, tuned))


def _write_step(work: _Work, prompts: Sequence[Prompt], verdicts: Sequence[Verdict], alpha: float) -> None:
    """Rates of the plain pairs at a step between the models; `set` holds the step."""
    sheet = Sheet(**work.sheet.shared, stage="interpolation")
    write_rates(sheet, prompts, verdicts)
    for line in sheet.lines:
        work.sheet.lines.append(type(line)(**{**asdict(line), "set": f"{line.set}/alpha={alpha:g}"}))


def _records(prompts: Sequence[Prompt], base: Sequence[Verdict], tuned: Sequence[Verdict]) -> Iterator[dict[str, Any]]:
    for index, (prompt, old, new) in enumerate(zip(prompts, base, tuned, strict=True)):
        said = {"set": prompt.set, "label": prompt.label, "pair": prompt.pair, "attack": prompt.attack}
        yield {"index": index, **said, "base": str(old), "tuned": str(new)}


def _activations(work: _Work, prompts: Sequence[Prompt]) -> None:
    effort, first = work.effort, first_contrast(prompts)
    for contrast in CONTRASTS:
        pairs = matched(prompts, contrast)
        if not pairs:
            continue
        # those under attack come first, so that attacked prompt i is made from harmful prompt i
        pairs = spread(pairs, len(pairs))
        groups = len({pair.harmful.cluster for pair in pairs})
        if groups < FOLDS:
            work.absent[f"activations, {contrast}"] = f"{groups} independent pairs; clusters need at least {FOLDS}"
            continue
        seen = []
        for model, alpha in (("base", 0.0), ("tuned", 1.0)):
            work.say(f"activations of the {model} model, contrast {contrast}")
            attacks = tuple(ATTACKS) if contrast == first else ()
            seen.append(_see(work.models.at(alpha), pairs, attacks, work.effort))
        sheet = work.sheet.with_(stage="compare", set=contrast, role="last_prompt")
        write_clusters(sheet, pairs, seen[0], seen[1], effort)
        work.absent.update(write_gains(sheet, pairs, seen[0], _layers(work), effort))
        if contrast == first:
            work.absent.update(write_positions(sheet, pairs, seen[1], seen[0], effort))


def _see(chat: Chat, pairs: Sequence[MatchedPair], attacks: Sequence[str], effort: Effort) -> Seen:
    def read(prompts: Sequence[Prompt]) -> dict[tuple[int, str], Tensor]:
        return activations_of(chat, prompts, SITES, range(chat.layers), effort.batch)

    few = _attacked(pairs, effort)
    return Seen(
        read([pair.harmless for pair in pairs]),
        read([pair.harmful for pair in pairs]),
        {attack: read([under_attack(pair.harmful, attack) for pair in few]) for attack in attacks},
    )


def _layers(work: _Work) -> Iterator[tuple[int, Layer]]:
    """The input map of each MLP (both, stacked, of a gated one), one layer at a time."""
    modules, _ = choose(work.sources)
    family = family_of(work.models.parameters)
    for layer in range(work.models.layers):
        module = _widest(modules, layer, f"{family.in_proj.format(layer=layer)}.weight")
        if module is None:
            continue
        parts = [_part(work.sources, piece) for piece in module.pieces]
        W = torch.cat([before.double() for before, _ in parts])
        updates = [
            after.double() - before.double() if isinstance(after, Tensor) else after.left @ after.right.T
            for before, after in parts
        ]
        dW = torch.cat(updates).double()
        yield layer, Layer(W, dW, *_biases(work.sources, module))


def _widest(modules: Sequence[Module], layer: int, tensor: str) -> Module | None:
    """Of the modules that begin with that tensor (a bare model's lack its prefix), the one of most parts."""
    found = [one for one in modules if one.layer == layer and tensor.endswith(one.pieces[0].tensor)]
    whole = [module for module in found if module.pieces[0].rows is None]
    return max(whole, key=lambda module: len(module.pieces), default=None)


def _biases(sources: Sources, module: Module) -> tuple[Tensor | None, Tensor | None]:
    names = [piece.tensor.removesuffix(".weight") + ".bias" for piece in module.pieces]
    if isinstance(sources.after, Adapter) or not all(name in sources.base.tensors for name in names):
        bias = [name for name in names if name in sources.base.tensors]
        return (torch.cat([sources.base.read(name).double() for name in bias]) if bias else None), None
    before = torch.cat([sources.base.read(name).double() for name in names])
    return before, torch.cat([sources.after.read(name).double() for name in names]) - before


def _sensitivity(work: _Work, prompts: Sequence[Prompt]) -> None:
    """Observation 4: the spectral norm of the Jacobian at the embeddings of each prompt, template included."""
    contrast, effort = first_contrast(prompts), work.effort
    pairs = [] if contrast is None else spread(matched(prompts, contrast), effort.sensitive)
    if len(pairs) < 2:
        return
    values: dict[str, tuple[FloatArray, FloatArray]] = {}
    for model, alpha in (("base", 0.0), ("tuned", 1.0)):
        name, journal = f"sensitivity, {model}", work.base_journal if alpha == 0 else work.journal
        if name not in journal.parts:
            work.say(f"sensitivity of the {model} model: {2 * len(pairs)} prompts")
        rows = journal.part(name, lambda alpha=alpha: _spectral_norms(work.models.at(alpha), pairs, effort))  # type: ignore[misc]
        values[model] = (np.array(rows["harmless"]), np.array(rows["harmful"]))
    change = sensitivity_change(values["base"], values["tuned"], np.random.default_rng(effort.seed), draws=effort.draws)
    if isinstance(change, Absent):
        work.absent["sensitivity"] = change.reason
        return
    generator = np.random.default_rng([effort.seed, 20])
    sheet = work.sheet.with_(stage="compare", set=contrast, n=len(pairs), n_unit="pair")
    for suffix, (harmless, harmful) in (("_base", values["base"]), ("", values["tuned"])):
        for label, found in (("harmless", harmless), ("harmful", harmful)):
            draws = np.exp(bootstrap_means([np.log(found)], generator, draws=effort.draws)[:, 0])
            view = sheet.with_(set=f"{contrast}/{label}", n_unit="prompt", unit="nats per unit of embedding")
            mean = float(np.exp(np.log(found).mean()))
            view.add(f"sensitivity_spectral{suffix}", mean, percentile_interval(draws))
    for label, one in (("harmless", change.allowed), ("harmful", change.forbidden)):
        view = sheet.with_(set=f"{contrast}/{label}", n_unit="prompt", unit="log ratio")
        view.add("sensitivity_log_ratio_spectral", one.value, one.interval, [one.null])
    both, name = change.difference, "sensitivity_log_ratio_spectral_difference"
    sheet.with_(unit="log ratio").add(name, both.value, both.interval, [both.null])


def _spectral_norms(chat: Chat, pairs: Sequence[MatchedPair], effort: Effort) -> dict[str, list[float]]:
    found: dict[str, list[float]] = {}
    for label in ("harmless", "harmful"):
        values: list[float] = []
        for start in range(0, len(pairs), 8):
            prompts = [getattr(pair, label) for pair in pairs[start : start + 8]]
            encoded = encode(chat, prompts)
            result = power_iteration(
                readout(chat, encoded), embedded(chat, encoded), encoded.mask,
                np.random.default_rng([effort.seed, 21]), iterations=effort.iterations, tolerance=1e-3,
            )  # fmt: skip
            values += result.value.tolist()
        found[label] = values
    return found


def _finish(
    work: _Work,
    out: Path,
    prompts: object,
    header: dict[str, Any],
    seconds: float,
    control: tuple[str, list[Measurement]] | None,
) -> None:
    path = out / "measurements.jsonl"
    weights = [line for line in read_measurements(path) if line.seed is None]  # only ours have one
    write_measurements(path, [*weights, *work.sheet.lines])
    name, lines = control or (None, [])
    asked = prompt_claims(work.sheet.lines, lines, name)
    of_weights = [claim for claim in read_claims(out / "claims.json") if claim.id.partition("/")[0] in CLAIMED]
    write_claims(out / "claims.json", [*of_weights, *asked])
    manifest = read_json(out / "manifest.json")
    manifest["prompts"] = {
        "source": str(prompts) if isinstance(prompts, str | Path) else "given",
        **{what: header[what] for what in ("prompts", "judge", "effort")},
        "control": name,
        "differences": work.models.differences,
        "absent": work.absent,
        "seconds": {"this_call": round(seconds, 1)},
    }
    write_json_atomic(out / "manifest.json", manifest)
