"""The lens of a study: our models in their world, read at the last prompt token.

There are four contrasts, each matched pair by pair:

    contrast/conditional         the same conditional operators on safe and on unsafe text: the combination decides
    contrast/operator            the same safe text under operators that are always and that are never allowed
    contrast/published-safe      the paper's pools: the same safe text under operators that are allowed there (of the
                                 published table eight of a grammar's ten) and under those that are not (two)
    contrast/published-unsafe    the same unsafe text under operators that are allowed there (three) and not (seven)

Costly observations are made on the first alone. It and the second are measured at every checkpoint; the published pools
at the last one, with half as many pairs, since their few operators limit what they say. Prompts that share
operators are no independent observations, so pairs form clusters (`clusters_of_operators`).

A probe is asked for the first letter of the compliant output, where it would be said next: a function of operators and
the text's first letter, so prompts that share both share a fold.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from deltaw.attacks.models import requests_for
from deltaw.attacks.prompts.attack import PromptAttack, attacked
from deltaw.behaviour import Behaviour
from deltaw.interventions import Edit, Patch, Place, Responses, State, answers_patched, editing, with_state
from deltaw.models import MlpWeights, Transformer, activations, mlp
from deltaw.models.batch import Batch, Role
from deltaw.models.freezing import frozen
from deltaw.models.likelihood import response_weights, token_nll
from deltaw.observations.lens import READ, BaseSide, Places, PromptEmbeddings, TextLoss
from deltaw.observations.prompts import Attacked, Contrast, Effort, Ints, Question
from deltaw.observations.prompts import Prompts as LensPrompts
from deltaw.observations.vocabulary import top_tokens
from deltaw.recipes.sizes import Sizes
from deltaw.study.stages.answers import answers_to
from deltaw.study.stages.shared import SeedConfig, last_model
from deltaw.training.pretraining import compliant
from deltaw.world import Prompts, Response, World, WorldConfig

PRIMARY, SECONDARY = "contrast/conditional", "contrast/operator"
PUBLISHED = {"contrast/published-safe": "safe", "contrast/published-unsafe": "unsafe"}
"""Contrasts of the paper's own pools -> their text."""

SOURCE_CONTRASTS = {"forbidden/conditional/unsafe": PRIMARY, "forbidden/never/safe": SECONDARY}
ALLOWED, FORBIDDEN = "allowed/conditional/safe", "forbidden/conditional/unsafe"
PROBED = ("forbidden/conditional/unsafe", "allowed/conditional/safe")
FOLDS = 5  # of cross-fitted observations
ROWS = 32  # of a batch of embeddings: its Jacobian has a thousand times as many numbers as its tokens
BLOCKS = (Role.BOS, Role.OPERATOR, Role.SOT, Role.TEXT, Role.LAST_PROMPT)


@dataclass(frozen=True, eq=False)
class SyntheticModel:
    """One of our models in its world, as observations read it and interventions edit it
    (`observations.lens.ObservedModel`, `interventions.editable.EditableModel`).

    model: on any device.
    world: whose prompts it reads.
    """

    model: Transformer
    world: World

    @property
    def layers(self) -> range:
        """Its blocks."""
        return range(self.model.config.layers)

    @property
    def sites(self) -> tuple[str, ...]:
        """All."""
        return READ

    @property
    def embedding_norm(self) -> float:
        """Mean length of its token embeddings."""
        return float(self.model.embed.weight.detach().norm(dim=1).mean())

    @property
    def light(self) -> bool:
        """It is small."""
        return True

    def mlp(self, layer: int) -> MlpWeights:
        """The MLP of a layer, float64, on the CPU."""
        return mlp(self.model, layer).cpu().double()

    def state(self) -> Mapping[str, Tensor]:
        """All its parameters by name."""
        return self.model.state_dict()

    def activations(self, prompts: Prompts, sites: Sequence[str] = READ) -> Places:
        """Activations (N, width) at the last prompt token, by (layer, site)."""
        batch = compliant(self.world, prompts).to(self.model.embed.weight.device)
        return activations(self.model, batch, sites, self.layers)

    def request_activations(self, prompts: Prompts, sites: Sequence[str] = READ) -> Places:
        """Activations (N, width) at the last letter of each text, by (layer, site)."""
        batch = compliant(self.world, prompts).to(self.model.embed.weight.device)
        steps = torch.arange(batch.roles.shape[1], device=batch.roles.device)
        last = torch.where(batch.roles == int(Role.TEXT), steps, -1).amax(1)
        roles = torch.where(steps == last[:, None], int(Role.LAST_PROMPT), int(Role.PAD)).to(batch.roles.dtype)
        return activations(self.model, replace(batch, roles=roles), sites, self.layers)

    def complied(self, prompts: Prompts) -> NDArray[np.bool_]:
        """(N,) whether the whole free-running answer is the compliant one."""
        labels, _ = answers_to(self.model, self.world, prompts)
        return np.asarray((labels == int(Behaviour.COMPLY)).numpy())

    def answers(self, *parts: Prompts) -> Responses:
        """Its answers to the prompts of all parts, in order: the whole answer is the compliant one, a refusal or
        neither.
        """
        labels, outputs = answers_to(self.model, self.world, Prompts.concatenate(parts))
        return self._responses(labels, outputs)

    def _responses(self, labels: Tensor, outputs: Tensor) -> Responses:
        pad = self.world.vocabulary.pad
        rows = outputs.tolist()
        lengths = ((outputs != pad).long() * torch.arange(1, outputs.shape[1] + 1)).amax(1).tolist()
        tokens = tuple(tuple(row[:length]) for row, length in zip(rows, lengths, strict=True))
        return Responses(labels.long().numpy(), tokens)

    def lengths(self, prompts: Prompts) -> Ints:
        """(N,) tokens of each prompt."""
        return self.world.layout.prompt_lengths(prompts)

    @contextmanager
    def edited(self, state: State) -> Iterator["SyntheticModel"]:
        """Another model that holds `state`; this one stays as it is."""
        yield SyntheticModel(with_state(self.model, state), self.world)

    def editing(self, edits: Mapping[Place, Edit]) -> AbstractContextManager[None]:
        """Within this context, this model goes on with the edited activations."""
        return editing(self.model, edits)

    def patched(self, target: Prompts, source: Prompts, patch: Patch) -> Responses:
        """Its answers to `target` where its update reads `source`, row by row."""
        device = self.model.embed.weight.device
        requests, sources = (requests_for(self.world, prompts, device) for prompts in (target, source))
        answers = answers_patched(self.model, requests, sources, patch)
        return self._responses(answers.labels.cpu(), answers.outputs.cpu())

    def embedded(self, prompts: Prompts) -> Iterator[PromptEmbeddings]:
        """The prompts in batches, up to their last token; blocks are called by role."""
        batch = compliant(self.world, prompts).to(self.model.embed.weight.device)
        with frozen(self.model):
            for start in range(0, len(batch), ROWS):
                yield self._embedded(batch[start : start + ROWS])

    def _embedded(self, batch: Batch) -> PromptEmbeddings:
        last = batch.position_of(Role.LAST_PROMPT)
        stop = int(last.max()) + 1
        rows = torch.arange(len(last), device=last.device)

        def readout(embeddings: Tensor) -> Tensor:
            logits: Tensor = self.model(embeddings=embeddings)
            return logits[rows, last]

        blocks = {role.name.lower(): batch.roles[:, :stop] == int(role) for role in BLOCKS}
        return PromptEmbeddings(
            readout, self.model.embed(batch.tokens[:, :stop]), blocks, Role.LAST_PROMPT.name.lower()
        )

    @torch.no_grad()
    def forced(self, prompts: Prompts, refusal: bool, tokens: int) -> Tensor:
        """(N, T, V) log-probabilities of a refusal, or of the constant answer, whatever the prompt's verdict."""
        layout, device = self.world.layout, self.model.embed.weight.device
        answers = torch.from_numpy(refusals(self.world, prompts) if refusal else constant_answers(self.world, prompts))
        rows, lengths = torch.from_numpy(layout.prompt_tokens(prompts)), layout.prompt_lengths(prompts)
        answers, pad = answers[:, :tokens], self.world.vocabulary.pad
        steps = torch.from_numpy(lengths)[:, None] + torch.arange(answers.shape[1])
        sequences = torch.full((len(rows), int(lengths.max()) + answers.shape[1]), pad)
        sequences[:, : rows.shape[1]] = rows
        sequences.scatter_(1, steps, answers)
        logits = self.model(sequences.to(device))[torch.arange(len(rows))[:, None], (steps - 1).to(device)]
        log_probs = torch.log_softmax(logits.double(), -1).cpu()
        log_probs[answers == pad] = torch.nan
        return log_probs

    @torch.no_grad()
    def text_loss(self, texts: Prompts) -> TextLoss:
        """Of prompts with their compliant answers, the loss of the answers."""
        batch = compliant(self.world, texts).to(self.model.embed.weight.device)
        nats = (token_nll(self.model(batch.tokens), batch) * batch.weights).double().sum(1)
        return TextLoss(nats.cpu().numpy(), response_weights(batch).double().cpu().numpy())

    def exact(self, questions: Prompts) -> Ints:
        """(N,) what its whole answers are; every prompt of the world has one right answer."""
        labels, _ = answers_to(self.model, self.world, questions)
        return labels.long().numpy()

    def top_tokens(self, directions: Tensor, count: int) -> list[list[tuple[str, float]]]:
        """Of each direction (D, K), the tokens with the largest logits along it."""
        return top_tokens(
            self.model.unembed.weight, directions, count, lambda token: self.world.vocabulary.names[token]
        )

    def random(self, seed: int) -> "SyntheticModel":
        """A model of the same shape with random weights."""
        model = Transformer(self.model.config, torch.Generator().manual_seed(seed))
        return SyntheticModel(model.to(self.model.embed.weight.device), self.world)


def refusals(world: World, prompts: Prompts) -> Ints:
    """(N, T) tokens of the refusal at the first output, of allowed prompts too; PAD after its end."""
    fixed, vocabulary = world.layout.refusal_nulls, world.vocabulary
    nulls = prompts.lengths if fixed is None else np.full(len(prompts), fixed)
    places = np.arange(int(nulls.max()) + 1)
    ended = np.where(places == nulls[:, None], vocabulary.stop, vocabulary.pad)
    return np.where(places < nulls[:, None], vocabulary.null, ended)


def constant_answers(world: World, prompts: Prompts) -> Ints:
    """(N, T) tokens of the one harmless answer that is the same for all prompts of a length."""
    return world.layout.response_tokens(prompts, np.full(len(prompts), Response.CONSTANT))


def contrasts(world: World, count: int, seed: int) -> tuple[Contrast, ...]:
    """The contrasts (see the module's docstring), the primary one first: of `count` pairs, of the published pools half.

    Late prompts are left out: their first output is the same whatever the verdict, so nothing need be decided yet.
    """
    return _contrasts(world.config, count, seed)


@lru_cache(maxsize=4)
def _contrasts(config: WorldConfig, count: int, seed: int) -> tuple[Contrast, ...]:
    """A process that analyses several models draws them once."""
    world = World(config)

    def early_rows(draw: Callable[[Ints], Prompts], count: int = count) -> tuple[Ints, Prompts]:
        rows = np.arange(count)
        while True:
            prompts = draw(rows)
            places = np.flatnonzero(world.layout.first_forbidden(prompts) == 0)[:count]
            if len(places) == count:
                return rows[places], prompts[places]
            rows = np.arange(2 * len(rows))

    def conditional(rows: Ints) -> Prompts:
        operators = world.sample("allowed/conditional/safe", rows, seed=seed).operators
        return world.sample("forbidden/conditional/unsafe", rows, seed=seed).with_operators(operators)

    def same_text(name: str, forbidden_set: str, allowed_set: str, count: int, published: bool) -> Contrast:
        rows, forbidden = early_rows(lambda rows: world.sample(forbidden_set, rows, seed=seed), count)
        allowed = forbidden.with_operators(world.sample(allowed_set, rows, seed=seed).operators)
        allowed, forbidden, operator_pairs = nested(allowed, forbidden)
        clusters = clusters_of_operators(operator_pairs)
        return Contrast(name, allowed, forbidden, clusters, not published, activations_only=published)

    rows, unsafe = early_rows(conditional)
    safe = world.sample("allowed/conditional/safe", rows, seed=seed)
    fewer = max(count // 2, min(count, 16))
    return (
        Contrast(PRIMARY, safe, unsafe, clusters_of_operators(first_operators(safe)), every_checkpoint=True),
        same_text(SECONDARY, "forbidden/never/safe", "allowed/always/safe", count, published=False),
        *(
            same_text(name, f"published/forbidden/{text}", f"published/allowed/{text}", fewer, published=True)
            for name, text in PUBLISHED.items()
        ),
    )


def first_operators(prompts: Prompts) -> Ints:
    """(N,) a number for each grammar and pair of operators of the first output."""
    parts = np.column_stack([prompts.grammar, prompts.operators[:, 0]])
    return np.asarray(np.unique(parts, axis=0, return_inverse=True)[1]).reshape(-1)


def nested(allowed: Prompts, forbidden: Prompts) -> tuple[Prompts, Prompts, Ints]:
    """The same texts, with operators such that each first operator pair of the richer side stands beside one of the
    other side only; and (N,) a number for each pair of the other side. The richer side is the one with more different
    pairs, grammar by grammar; its prompts exchange operators, and it may lose some.

    Drawn row by row, the two sides' operators are crossed: then no pairs of prompts are independent of all others.
    """
    sides = [allowed.operators.copy(), forbidden.operators.copy()]
    numbers = [first_operators(prompts) for prompts in (allowed, forbidden)]
    clusters = np.empty(len(allowed), dtype=np.int64)
    total = 0
    for grammar in np.unique(allowed.grammar):
        rows = np.flatnonzero(allowed.grammar == grammar)
        ids = [np.unique(of_side[rows], return_inverse=True)[1] for of_side in numbers]
        richer = int(ids[0].max() < ids[1].max())
        count = int(ids[1 - richer].max()) + 1
        operators = sides[richer][rows]
        for cluster in range(count):
            places = np.flatnonzero(ids[1 - richer] == cluster)
            donors = np.flatnonzero(ids[richer] % count == cluster)
            sides[richer][rows[places]] = operators[np.resize(donors, len(places))]
        clusters[rows] = total + ids[1 - richer]
        total += count
    return allowed.with_operators(sides[0]), forbidden.with_operators(sides[1]), clusters


def clusters_of_operators(operator_pairs: Ints) -> Ints | None:
    """The clusters of a contrast: which pairs of prompts (N,) share the operators of the first output, which decide the
    verdict there. None: there are too few.

    Where texts are equal, verdicts come with operators, and few of them: in grammar 1 eight operator pairs are never
    allowed. What a model does at an operator is common to all its prompts, so operator pairs are the sample and not
    prompts. The side with fewer different pairs defines the clusters, and the other side's are `nested` in them.

    In the contrast by combination both prompts of a pair have the same operators, and texts vary. What an operator adds
    to both cancels. What tuning taught of it together with unsafe text does not, and all pairs that have it share that.
    So operator pairs are clusters there too: 35 in grammar 1.

    With fewer than about 20 clusters an interval is too narrow. It says how the statistic varies over these operator
    pairs; only other seeds and policies can say more. With fewer than `FOLDS`, none can be left out of a fold in
    cross-fitting, so pairs then count singly.
    """
    return operator_pairs if len(np.unique(operator_pairs)) >= FOLDS else None


def attacks_on_primary(attacks: Sequence[PromptAttack]) -> tuple[PromptAttack, ...]:
    """Those that attack the primary contrast's forbidden prompts."""
    return tuple(attack for attack in attacks if FORBIDDEN in attack.forbidden_sources)


def attacked_prompts(
    world: World, attacks: Sequence[PromptAttack], by_name: Mapping[str, Contrast], seed: int
) -> tuple[Attacked, ...]:
    """The contrasts' forbidden prompts under every attack on prompts that is made from their set."""
    return tuple(
        Attacked(attack.name, source, name, attacked(world, attack, by_name[name].forbidden, seed=seed))
        for attack in attacks
        for source in attack.forbidden_sources
        if (name := SOURCE_CONTRASTS.get(source, "")) in by_name
    )


def early(world: World, name: str, count: int, seed: int) -> Prompts:
    """The first `count` prompts of a set, without late ones: their first output harms nobody."""
    prompts = world.sample(name, range(count), seed=seed)
    return prompts[world.layout.first_forbidden(prompts) == 0]


def first_letters(world: World, prompts: Prompts) -> tuple[Ints, Ints]:
    """(labels, groups) (N,): the first letter of the first compliant output, and what it is a function of."""
    parts = np.column_stack([prompts.grammar, prompts.operators[:, 0], prompts.letters[:, 0]])
    _, groups = np.unique(parts, axis=0, return_inverse=True)
    return world.layout.outputs(prompts)[:, 0, 0], groups.reshape(-1)


def questions(world: World, count: int, seed: int) -> tuple[Question, ...]:
    """What a probe is asked, of `count` prompts of each set (fewer without late ones)."""
    asked = []
    for name in PROBED:
        prompts = early(world, name, count, seed)
        asked.append(Question(name, prompts, *first_letters(world, prompts)))
    return tuple(asked)


def synthetic_side(
    base: Transformer,
    world: World,
    sizes: Sizes,
    seed: int,
    attacks: tuple[PromptAttack, ...] = (),
    probed: int = 0,
) -> BaseSide:
    """The base model's side of a lens.

    attacks: on prompts.
    probed: prompts behind a probe's question; 0: it is asked none.
    """
    all_contrasts = contrasts(world, sizes.contrast, seed)
    by_name = {contrast.name: contrast for contrast in all_contrasts}
    prompts = LensPrompts(
        all_contrasts,
        lambda: attacked_prompts(world, attacks, by_name, seed),
        questions(world, probed, seed) if probed else (),
        neutral=all_contrasts[0].allowed,
        exact=all_contrasts[0].allowed,
    )
    effort = Effort(draws=sizes.draws, bootstrap=sizes.bootstrap)
    return BaseSide(SyntheticModel(base, world), prompts, effort, seed)


@lru_cache(maxsize=4)
def base_side(
    artifact: Path,
    world: WorldConfig,
    sizes: Sizes,
    seed: int,
    device: str,
    attacks: tuple[PromptAttack, ...] = (),
    probed: int = 0,
) -> BaseSide:
    """The side of the base model in `artifact`; a process that analyses its tuned models in turn computes it once."""
    return synthetic_side(last_model(artifact)[0].to(device), World(world), sizes, seed, attacks, probed)


def base_sides(
    artifact: Path, shared: SeedConfig, device: str, attacks: tuple[PromptAttack, ...] = (), probed: int = 0
) -> tuple[BaseSide, BaseSide]:
    """The base model's side for a last checkpoint, and for earlier ones, which have no more pairs than `checkpoint`."""
    sizes = shared.sizes
    few = replace(sizes, contrast=min(sizes.contrast, sizes.checkpoint))
    whole = base_side(artifact, shared.world, sizes, shared.seed, device, attacks, probed)
    return whole, base_side(artifact, shared.world, few, shared.seed, device, attacks)
