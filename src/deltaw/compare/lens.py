"""The lens of two real checkpoints: causal language models of Hugging Face, read at the last token of the prompt.

One model may be in memory at a time: `HuggingFaceModel` asks for it when it is needed, and `read_base` reads all that
observations want of the base model before the tuned one is asked for.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from deltaw.attacks.prompts import ON_REQUESTS, PromptAttack, under_attack
from deltaw.behaviour.exact import Behaviour
from deltaw.compare.asking import Effort, evenly, spoken_answer
from deltaw.compare.interpolation import stored_name
from deltaw.compare.two_models import TwoModels
from deltaw.errors import DeltawError
from deltaw.interventions import Edit, Patch, Place, Responses, State, check_patch, editing, holding, patching
from deltaw.models import MlpWeights
from deltaw.models.answers import answers_to_rows, decoded, text_of
from deltaw.models.architectures import family_of
from deltaw.models.batched import batches_by_length
from deltaw.models.chat_prompts import text_ids
from deltaw.models.freezing import frozen
from deltaw.models.huggingface import (
    Chat,
    Encoded,
    activations_of,
    embedded,
    logits_of,
    padded,
    readout,
    request_rows_of,
    row_losses,
    rows_of,
)
from deltaw.models.lora import Adapter
from deltaw.models.mlp_maps import mlp_of
from deltaw.models.taps import at_least_float32, tap
from deltaw.observations.lens import READ, BaseSide, Lens, Places, PromptEmbeddings, TextLoss
from deltaw.observations.prompts import Attacked, Contrast, Ints, Prompts, PromptSet, Question
from deltaw.observations.prompts import Effort as ObservationEffort
from deltaw.observations.vocabulary import top_tokens
from deltaw.prompts.matched import CONTRASTS, FORBIDDEN, Prompt, matched, spread
from deltaw.prompts.neutral import exact_questions, is_right, neutral_texts

LIGHT = 1 << 30
"""Bytes of all MLPs as float64, up to which they are kept in memory."""

Tokens = Callable[[Chat, PromptSet], list[list[int]]]
Complied = Callable[[Chat, PromptSet], NDArray[np.bool_]]
Judged = Callable[[Chat, PromptSet, list[list[int]]], Responses]
Blocks = Callable[[Encoded, PromptSet], dict[str, Tensor]]
Forced = Callable[[Chat, PromptSet, bool], list[list[int]]]
Texts = Callable[[Chat, PromptSet], list[tuple[list[int], int]]]
LAST = "last_prompt"
NO_MAPS = (
    "its MLPs are mixtures of experts, so that what reads an MLP's maps, or activations between them, is left out; "
    "the experts are compared by their weights"
)
"""What a mixture of experts lacks."""
REFUSAL = "I'm sorry, but I can't help with that request. It could cause harm to you or to other people."
HARMLESS = "The sun is shining today, so many people are in the park. Some of them walk, and some read a book."
"""What models are forced to say."""
FOLDS = 5  # of a separation; so many groups of pairs that share nothing are needed
LABEL_DRAWS, EFFECT_DRAWS = 200, 40  # of nulls, at most


def prompt_and_last(encoded: Encoded, prompts: PromptSet) -> dict[str, Tensor]:
    """Two blocks of positions: the last token, and all before it."""
    steps = torch.arange(encoded.tokens.shape[1], device=encoded.tokens.device)
    last = steps == encoded.last[:, None]
    return {"text": encoded.mask & ~last, LAST: last}


def tokens_of_texts(chat: Chat, texts: Sequence[str]) -> list[tuple[list[int], int]]:
    """(its tokens, the place of the first that is predicted) of each text. DeltawError if one exceeds the context."""
    rows = [text_ids(chat.tokenizer, text) for text in texts]
    positions = getattr(chat.config.get_text_config(), "max_position_embeddings", None)
    longest = max((len(tokens) for tokens, _ in rows), default=0)
    if positions is not None and longest > positions:
        raise DeltawError(
            f"a neutral text is {longest} tokens long, and {chat.directory} has {positions} positions, so that losses "
            "are not measured"
        )
    return rows


def forced_answers(chat: Chat, prompts: PromptSet, refusal: bool) -> list[list[int]]:
    """The tokens of `REFUSAL` or `HARMLESS`, for each prompt."""
    tokens: list[int] = chat.tokenizer(REFUSAL if refusal else HARMLESS, add_special_tokens=False)["input_ids"]
    return [tokens] * len(prompts)


class AtSites(dict[Place, Tensor]):
    """Activations by (layer, site); a site that the model's blocks do not have is a DeltawError."""

    def __missing__(self, place: Place) -> Tensor:
        raise DeltawError(f"there are no activations at {place[1]}: {NO_MAPS}")


@dataclass(eq=False)
class HuggingFaceModel:
    """A causal language model with its tokenizer, as observations read it (`observations.lens.ObservedModel`).

    chat: gives the model, loaded; what it gave another model before may be gone then.
    tokens: of prompts, as the model reads them, special tokens and template included.
    answers_asked: (N,) whether its answer to each prompt does what was asked.
    blocks: names parts of the prompt, for sensitivities; the last token is one, called `LAST`.
    batch: prompts that are read at once.
    jacobian_rows: prompts whose Jacobians are taken at once.
    judged: what its answers to prompts are, from their tokens; None: it is read, and not edited and asked.
    new_tokens: of an answer.
    stored: gives the maps of a layer's MLP, float64, from files, None where they are not there.
    texts: tokens of neutral texts, and from which on they are predicted.
    request_tokens: those of prompts up to and with the last token of the request itself.
    forced_answers: the tokens of the refusal, or else of the harmless answer, that it is made to give to each prompt.
    """

    chat: Callable[[], Chat]
    tokens: Tokens
    answers_asked: Complied
    blocks: Blocks = prompt_and_last
    batch: int = 16
    jacobian_rows: int = 8
    judged: Judged | None = None
    new_tokens: int = 32
    stored: Callable[[int], tuple[Tensor, Tensor, Tensor, Tensor] | None] = lambda layer: None
    texts: Texts = tokens_of_texts
    forced_answers: Forced = forced_answers
    request_tokens: Tokens = request_rows_of
    _mlps: dict[int, MlpWeights] = field(default_factory=dict)

    @cached_property
    def layers(self) -> range:
        """Its blocks."""
        return range(self.chat().layers)

    @cached_property
    def sites(self) -> tuple[str, ...]:
        """All sites; of a mixture of experts the block's output."""
        mixture = family_of(name for name, _ in self.chat().model.named_parameters()).experts
        return ("resid_out",) if mixture else READ

    @cached_property
    def embedding_norm(self) -> float:
        """Mean length of its token embeddings."""
        weight: Tensor = self.chat().model.get_input_embeddings().weight  # type: ignore[operator]
        return float(weight.detach().norm(dim=1).mean())

    @cached_property
    def _first(self) -> MlpWeights:
        """The shape of its MLPs and their activation, without weights."""
        first = mlp_of(self.chat().model, 0)
        shapes = [part.to("meta") for part in (first.w_in, first.b_in, first.w_out, first.b_out)]
        return MlpWeights(shapes[0], shapes[1], shapes[2], shapes[3], first.activation)

    @cached_property
    def light(self) -> bool:
        """Whether all its MLPs fit into memory as float64; a mixture of experts has none that are kept."""
        if "mlp_in" not in self.sites:
            return False
        return (self._first.w_in.numel() + self._first.w_out.numel()) * 8 * len(self.layers) <= LIGHT

    def mlp(self, layer: int) -> MlpWeights:
        """The MLP of a layer, float64, on the CPU. Of a light model all are read at the first call; of another the
        layer's alone, from its files if they are known, so that the model need not be in memory.
        """
        if not self.light:
            maps = self.stored(layer)
            if maps is None:
                return mlp_of(self.chat().model, layer).cpu().double()
            return MlpWeights(*maps, activation=self._first.activation)
        if not self._mlps:
            model = self.chat().model
            self._mlps = {number: mlp_of(model, number).cpu().double() for number in self.layers}
        return self._mlps[layer]

    @cached_property
    def _state(self) -> Mapping[str, Tensor]:
        return {name: tensor.detach().cpu().clone() for name, tensor in self.chat().model.named_parameters()}

    def state(self) -> Mapping[str, Tensor]:
        """All its parameters by name, kept."""
        return self._state

    def activations(self, prompts: PromptSet, sites: Sequence[str] = READ) -> Places:
        """Activations (N, width) at the last token of each prompt, by (layer, site)."""
        return self._activations(self.tokens, prompts, sites)

    def request_activations(self, prompts: PromptSet, sites: Sequence[str] = READ) -> Places:
        """Activations (N, width) at the last token of each request, by (layer, site): what comes after it is not read
        there, since attention is causal.
        """
        return self._activations(self.request_tokens, prompts, sites)

    def _activations(self, tokens: Tokens, prompts: PromptSet, sites: Sequence[str]) -> Places:
        chat = self.chat()
        there = [site for site in sites if site in self.sites or site not in READ]
        return AtSites(activations_of(chat, tokens(chat, prompts), there, self.layers, self.batch))

    def complied(self, prompts: PromptSet) -> NDArray[np.bool_]:
        """(N,) whether its free-running answer does what the prompt asks."""
        return self.answers_asked(self.chat(), prompts)

    def answers(self, *parts: PromptSet) -> Responses:
        """Its answers to the prompts of all parts, in order, with the edits in force."""
        chat = self.chat()
        rows = [row for part in parts for row in self.tokens(chat, part)]
        return self._responses(chat, parts, answers_to_rows(chat, rows, self.new_tokens, self.batch))

    def _responses(self, chat: Chat, parts: Sequence[PromptSet], tokens: list[list[int]]) -> Responses:
        if self.judged is None:
            raise DeltawError(f"the model in {chat.directory} was given no judge, so its answers cannot be told apart")
        judged, start = [], 0
        for part in parts:
            judged.append(self.judged(chat, part, tokens[start : start + len(part)]))
            start += len(part)
        labels = np.concatenate([responses.labels for responses in judged])
        return Responses(labels, tuple(row for responses in judged for row in responses.tokens))

    def lengths(self, prompts: PromptSet) -> Ints:
        """(N,) tokens of each prompt, template included."""
        return np.array([len(row) for row in self.tokens(self.chat(), prompts)])

    @contextmanager
    def edited(self, state: State) -> Iterator["HuggingFaceModel"]:
        """Within this context this model holds `state`; then its own parameters again."""
        with holding(self.chat().model, state):
            yield self

    def editing(self, edits: Mapping[Place, Edit]) -> AbstractContextManager[None]:
        """Within this context, this model goes on with the edited activations."""
        return editing(self.chat().model, edits)

    def patched(self, target: PromptSet, source: PromptSet, patch: Patch) -> Responses:
        """Its answers to `target`, judged as such, where its update reads `source`, row by row. Prompts of one length
        share a batch.
        """
        chat = self.chat()
        targets, sources = self.tokens(chat, target), self.tokens(chat, source)
        check_patch([len(row) for row in targets], [len(row) for row in sources], patch)
        answers: list[list[int]] = [[]] * len(targets)
        for rows in batches_by_length(targets, self.batch):
            read = _read_sources(chat, [sources[row] for row in rows], patch)
            with patching(chat.model, patch, read):
                batch = decoded(chat, [targets[row] for row in rows], self.new_tokens)
            for row, answer in zip(rows, batch, strict=True):
                answers[row] = answer
        return self._responses(chat, [target], answers)

    def embedded(self, prompts: PromptSet) -> Iterator[PromptEmbeddings]:
        """The prompts in batches, padded on the left."""
        chat = self.chat()
        rows = self.tokens(chat, prompts)
        with frozen(chat.model):
            for start in range(0, len(rows), self.jacobian_rows):
                part = slice(start, start + self.jacobian_rows)
                encoded = padded(rows[part], "left", chat.device)
                blocks = self.blocks(encoded, prompts[part])
                yield PromptEmbeddings(readout(chat, encoded), embedded(chat, encoded), blocks, LAST)

    @torch.no_grad()
    def forced(self, prompts: PromptSet, refusal: bool, tokens: int) -> Tensor:
        """(N, T, V) log-probabilities along a forced answer, float32."""
        chat = self.chat()
        rows, answers = self.tokens(chat, prompts), self.forced_answers(chat, prompts, refusal)
        longest = min(tokens, max(map(len, answers)))
        whole = [[*row, *answer[:longest]] for row, answer in zip(rows, answers, strict=True)]
        log_probs = []
        for start in range(0, len(whole), self.jacobian_rows):
            encoded = padded(whole[start : start + self.jacobian_rows], "right", chat.device)
            logits = logits_of(chat, encoded)
            for number, logit in enumerate(logits, start):
                answer_logits = logit[len(rows[number]) - 1 : len(whole[number]) - 1]
                of_answer = torch.log_softmax(at_least_float32(answer_logits), -1).cpu()
                beyond = of_answer.new_full((longest - len(answer_logits), of_answer.shape[1]), torch.nan)
                log_probs.append(torch.cat([of_answer, beyond]))
        return torch.stack(log_probs)

    def text_loss(self, texts: PromptSet) -> TextLoss:
        """The loss of each text by itself, without a chat template."""
        chat = self.chat()
        rows = self.texts(chat, texts)
        counts = np.array([len(tokens) - first for tokens, first in rows], dtype=np.float64)
        nats = np.array(row_losses(chat, rows, self.jacobian_rows))
        if not np.isfinite(nats).all():
            raise DeltawError(f"the model in {chat.directory} gives a neutral text no finite loss; use another --dtype")
        return TextLoss(nats, counts)

    def exact(self, questions: PromptSet) -> Ints:
        """(N,) what its answers are: right, else a refusal by the judge, else wrong."""
        chat, prompts = self.chat(), [question.prompt for question in questions]
        answers = answers_to_rows(chat, self.tokens(chat, prompts), self.new_tokens, self.batch)
        refused = self._responses(chat, [prompts], answers).are(Behaviour.REFUSE)
        right = [
            is_right(question, spoken_answer(chat, prompt, tokens))
            for question, prompt, tokens in zip(questions, prompts, answers, strict=True)
        ]
        return np.where(right, int(Behaviour.COMPLY), np.where(refused, int(Behaviour.REFUSE), int(Behaviour.NEITHER)))

    def top_tokens(self, directions: Tensor, count: int) -> list[list[tuple[str, float]]]:
        """Of each direction (D, K), the tokens with the largest logits along it. DeltawError without an unembedding."""
        chat = self.chat()
        head: Any = chat.model.get_output_embeddings()  # type: ignore[operator]
        if head is None:
            raise DeltawError(f"the model in {chat.directory} has no unembedding")
        return top_tokens(head.weight, directions, count, lambda token: text_of(chat, [token]))

    def random(self, seed: int) -> "HuggingFaceModel":
        """A model of the same shape with random weights, as its architecture draws them."""
        chat = self.chat()
        drawn: list[Chat] = []

        def make() -> Chat:
            if not drawn:
                with torch.random.fork_rng(devices=[]):
                    torch.manual_seed(seed)
                    model = type(chat.model)(chat.config).to(chat.device).eval()
                for weight in model.parameters():  # not buffers, as transformers loads them
                    weight.data = weight.data.to(next(chat.model.parameters()).dtype)
                drawn.append(Chat(model, chat.tokenizer, chat.directory))
            return drawn[0]

        return HuggingFaceModel(make, self.tokens, self.answers_asked, self.blocks, self.batch, self.jacobian_rows)


def prompts_of(
    prompts: Sequence[Prompt],
    effort: Effort,
    absent: dict[str, str],
    attacks: Sequence[PromptAttack] = ON_REQUESTS,
) -> Prompts:
    """Matched pairs as contrasts, the first contrast's forbidden prompts under every attack, and what a probe is asked.

    Pairs come in an order in which those under attack are the first. A probe is asked whether a prompt is forbidden;
    prompts that share an operand and a label share a fold. absent: gets the contrasts with too few pairs.
    """
    contrasts = []
    for name in CONTRASTS:
        pairs = matched(prompts, name)
        groups = len({pair.forbidden.cluster for pair in pairs})
        if groups >= FOLDS:
            ordered = spread(pairs, len(pairs))
            clusters = np.array([pair.forbidden.cluster for pair in ordered])
            contrasts.append(
                Contrast(name, [pair.allowed for pair in ordered], [pair.forbidden for pair in ordered], clusters)
            )
        elif pairs:
            absent[f"activations, {name}"] = f"{groups} independent pairs; clusters need at least {FOLDS}"
    texts, exact = evenly(neutral_texts(), effort.pairs), evenly(exact_questions(), effort.pairs)
    if not contrasts:
        return Prompts((), neutral=texts, exact=exact)
    probed = (_question(contrasts[0]),)
    return Prompts(tuple(contrasts), lambda: _attacked(contrasts[0], attacks, effort), probed, texts, exact)


def attacked_pairs(effort: Effort) -> int | None:
    """How many forbidden prompts are read under every attack; None: all."""
    return None if effort.attacked is None else max(effort.attacked, 2 * FOLDS)


def _attacked(contrast: Contrast, attacks: Sequence[PromptAttack], effort: Effort) -> tuple[Attacked, ...]:
    few = contrast.forbidden[: attacked_pairs(effort)]
    source = f"{contrast.name}/forbidden"
    return tuple(
        Attacked(attack.name, source, contrast.name, [under_attack(prompt, attack) for prompt in few])
        for attack in attacks
    )


def _question(contrast: Contrast) -> Question:
    asked = [*contrast.allowed, *contrast.forbidden]
    names = [f"{prompt.cluster}/{prompt.label}" for prompt in asked]
    labels = np.array([int(prompt.label == FORBIDDEN) for prompt in asked])
    return Question(f"{contrast.name}/forbidden or not", asked, labels, np.unique(names, return_inverse=True)[1])


def real_lens(
    models: TwoModels,
    prompts: Prompts,
    effort: Effort,
    complied: tuple[Complied, Complied],
    judged: Judged | None = None,
) -> Lens:
    """The lens of two checkpoints, the base model's side read. complied: of the base and of the tuned model. judged:
    what answers are, where models are edited and asked.
    """
    base, tuned = (
        HuggingFaceModel(
            lambda alpha=alpha: models.at(alpha),  # type: ignore[misc]
            rows_of,
            said,
            batch=effort.batch,
            judged=judged,
            new_tokens=effort.new_tokens,
            stored=partial(stored_maps, models, alpha == 1.0),
        )
        for alpha, said in zip((0.0, 1.0), complied, strict=True)
    )
    draws, of_effect = min(LABEL_DRAWS, effort.draws), min(EFFECT_DRAWS, effort.draws)
    bounded = ObservationEffort(draws, effort.draws, effort.sensitive, of_effect, whole_jacobian=False)
    lens = Lens(BaseSide(base, prompts, bounded, effort.seed), tuned)
    read_base(lens)
    return lens


def stored_maps(models: TwoModels, tuned: bool, layer: int) -> tuple[Tensor, Tensor, Tensor, Tensor] | None:
    """(w_in, b_in, w_out, b_out) of a layer of one side, float64, from its files: neither model need be in memory.

    None if the files do not hold them under the names that the base model's parameters have.
    """
    sources, family = models.sources, family_of(models.parameters)
    if family.experts:
        return None
    side = sources.base if isinstance(sources.after, Adapter) or not tuned else sources.after

    def linear(path: str) -> tuple[Tensor, Tensor] | None:
        name = stored_name(sources, f"{family.block}.{path}.weight".format(layer=layer))
        if name is None or name not in side.tensors:
            return None
        adapter = sources.after if tuned and isinstance(sources.after, Adapter) else None

        def stored(tensor: str) -> Tensor:
            before = side.read(tensor)
            return before.double() if adapter is None else adapter.after(tensor, before, family.transposed)

        weight = stored(name)
        weight = weight.T if family.transposed else weight
        bias = f"{name.removesuffix('.weight')}.bias"
        return weight, stored(bias) if bias in side.tensors else weight.new_zeros(len(weight))

    maps = [linear(part.path) for part in (*family.mlp_in, family.mlp_out)]
    present = [linear_map for linear_map in maps if linear_map is not None]
    if len(present) < len(maps):
        return None
    *first, (w_out, b_out) = present
    return torch.cat([weight for weight, _ in first]), torch.cat([bias for _, bias in first]), w_out, b_out


@torch.no_grad()
def _read_sources(chat: Chat, rows: Sequence[Sequence[int]], patch: Patch) -> dict[int, Tensor]:
    """What the first MLP maps read on the sources of a patch, by layer: (B, 1, d), or (B, T, d) of whole prompts."""
    encoded = padded(rows, "left", chat.device)

    def select(x: Tensor) -> Tensor:
        whole = x.view(len(rows), -1, x.shape[-1])  # some architectures flatten batch and positions before their MLP
        return whole[:, -1:] if patch.at == "last_prompt" else whole

    with tap(chat.model, ("mlp_in",), list(patch.maps), select) as recorded:
        logits_of(chat, encoded)
    return {layer: x for (layer, _), x in recorded.items()}


def read_base(lens: Lens) -> None:
    """Read what observations want of the base model while it is in memory: MLPs, activations on all prompts."""
    before = lens.before
    if not before.contrasts:
        return
    _ = before.model.embedding_norm, before.model.light
    if before.model.light:
        before.mlp(0)
    for name in before.contrasts:
        before.contrast(name)
    for attacked in before.attacked:
        before.activations((attacked.contrast, attacked.attack), attacked.prompts)
    for number, question in enumerate(before.prompts.questions):
        before.activations(("question", number), question.prompts)
