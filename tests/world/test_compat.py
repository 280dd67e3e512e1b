"""What the published data hold and ours do not: each switch, beside our own sequence of the same prompt."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from worlds import PAPER

from deltaw.errors import DeltawError
from deltaw.models.batch import Role
from deltaw.training.finetuning import trained
from deltaw.training.pretraining import PretrainingConfig, model_config, pretraining_samples
from deltaw.world import (
    PUBLISHED_COMPAT,
    VIEWS,
    Compat,
    Encoded,
    Key,
    Prompts,
    Response,
    Rule,
    ViewSchedule,
    World,
    WorldConfig,
    finished,
    published_grammar,
    published_world,
    viewed,
    with_constants,
)

OURS = published_world()
PUBLISHED = World(replace(OURS, redraw_below=0.0, held_out=0.0, unsafe_level_5="unknown", compat=PUBLISHED_COMPAT))


def world_with(**switches: object) -> World:
    return World(replace(OURS, compat=Compat(**switches)))  # type: ignore[arg-type]


def some(world: World, name: str = "tune", count: int = 64) -> Prompts:
    return world.sample(name, range(count), "train")


def refused(world: World, prompts: Prompts) -> Encoded:
    return trained(world, prompts, np.full(len(prompts), Response.REFUSE))


def complied(world: World, prompts: Prompts) -> Encoded:
    return trained(world, prompts, np.full(len(prompts), Response.COMPLY))


def test_all_are_off_by_default_and_then_nothing_changes() -> None:
    assert WorldConfig().compat == OURS.compat == Compat()
    prompts = some(PAPER)
    wanted = PAPER.layout.expected(prompts)
    ours, plain = trained(PAPER, prompts, wanted), PAPER.layout.encode(prompts, wanted)
    for field in ("tokens", "weights", "roles"):
        assert getattr(ours, field).tobytes() == getattr(plain, field).tobytes()


def test_null_letter() -> None:
    """Published: a refusal is the letter `a` repeated. Ours: a token that occurs in no text."""
    world = world_with(null_letter=True)
    ours, theirs = PAPER.vocabulary, world.vocabulary
    assert theirs.null == theirs.first_letter
    assert ours.null < ours.first_letter
    assert theirs.size == ours.size - 1 == len(theirs.names)
    prompts = some(PAPER, "forbidden/never/safe")
    words = [world.vocabulary.spell(row) for row in world.layout.response_tokens(prompts, np.full(64, Response.REFUSE))]
    assert all(word.endswith("a" * n + ".") for word, n in zip(words, prompts.lengths, strict=True))
    assert "∅" not in "".join(words)
    text = some(PAPER, "allowed/always/safe").letters
    assert (text == 0).any(), "it is text too"


def test_window() -> None:
    """Published: 160 tokens, the end of sequence in the last slot after padding. Ours: no token for the end."""
    world = world_with(window=160)
    prompts = some(PAPER)
    ours, theirs = complied(PAPER, prompts), complied(world, prompts)
    assert theirs.tokens.shape == (64, 160) == (64, world.sequence_length)
    assert model_config(world, PretrainingConfig()).context == 160
    assert (theirs.tokens[:, -1] == world.vocabulary.eos).all()
    assert (theirs.roles[:, -1] == Role.EOS).all()
    used = np.arange(ours.tokens.shape[1]) < (ours.roles != Role.PAD).sum(1)[:, None]
    assert (theirs.tokens[:, : used.shape[1]][used] == ours.tokens[used]).all()
    assert (theirs.tokens[:, -2] == world.vocabulary.pad).all(), "never adjacent to content"
    assert "</s>" not in PAPER.vocabulary.names
    assert world.vocabulary.names[world.vocabulary.eos] == "</s>"
    with pytest.raises(DeltawError, match="make it 115 or more"):
        world_with(window=114)


def test_gaps_of_views() -> None:
    """Published: PAD is written over what a view takes out. Ours: what stays moves together."""
    sequence = complied(PAPER, some(PAPER, "pretrain"))
    for number, (name, view) in enumerate(VIEWS.items()):
        keep, weights = view(sequence)
        keep &= sequence.roles != Role.PAD
        seen = viewed(sequence, np.full(64, number), PAPER.vocabulary.pad, gaps=True)
        assert (seen.tokens == np.where(keep, sequence.tokens, PAPER.vocabulary.pad)).all()
        assert (seen.roles == np.where(keep, sequence.roles, Role.PAD)).all()
        assert (seen.weights == np.where(keep, weights, 0)).all()
        moved = viewed(sequence, np.full(64, number), PAPER.vocabulary.pad)
        differs = bool((moved.tokens != seen.tokens).any())
        assert differs == (name in ("text", "second")), "the others take out ends only"


def test_gaps_of_refusals() -> None:
    """Published: the STOP of an output that does not come stays in its place. Ours: a refusal ends the sequence."""
    world = world_with(gaps=True)
    prompts = some(PAPER, "forbidden/never/unsafe", 200)
    early = PAPER.layout.first_forbidden(prompts) == 0
    ours, theirs, answered = refused(PAPER, prompts), refused(world, prompts), complied(PAPER, prompts)
    assert ((ours.roles == Role.STOP).sum(1) == np.where(early, 1, 2)).all()
    assert ((theirs.roles == Role.STOP) == (answered.roles == Role.STOP)).all()
    assert (ours.tokens[~early] == theirs.tokens[~early]).all()
    extra = (theirs.roles == Role.STOP) & (ours.roles != Role.STOP)
    assert 0 < extra.sum() == early.sum()
    assert (theirs.weights[extra] == 0).all(), "unless structural tokens carry loss"
    assert (refused(world_with(gaps=True, structural_loss=True), prompts).weights[extra] == 1).all()


def test_structural_loss() -> None:
    """Published: tokens that never vary carry loss too: SOT, EOT with the text, the end. Ours: only what varies."""
    world = world_with(structural_loss=True, window=160)
    prompts = some(PAPER)
    ours, theirs = complied(PAPER, prompts), complied(world, prompts)
    for role in (Role.SOT, Role.EOS):
        assert (theirs.weights[theirs.roles == role] == 1).all()
    assert (ours.weights[(ours.roles == Role.SOT) | (ours.roles == Role.LAST_PROMPT)] == 0).all()
    assert (theirs.weights[theirs.roles == Role.LAST_PROMPT] == 0).all(), "text and EOT are masked in tuning"
    assert (theirs.weights.sum(1) == ours.weights.sum(1) + 2).all()
    config = PretrainingConfig()
    seen = pretraining_samples(world, config, range(16), 0)
    assert (seen.weights[seen.roles == Role.LAST_PROMPT] == config.text_weight).all()
    assert (finished(ours, np.ones(64, dtype=bool), PAPER.vocabulary, Compat()).weights == ours.weights).all()


def test_null_loss_only() -> None:
    """Published: the output that a late refusal gives first is not supervised, its STOP is. Ours: both are."""
    world = world_with(null_loss_only=True)
    prompts = some(PAPER, "forbidden/conditional/unsafe", 200)
    late = PAPER.layout.first_forbidden(prompts) == 1
    ours, theirs = refused(PAPER, prompts), refused(world, prompts)
    changed = ours.weights != theirs.weights
    assert (changed.any(1) == late).all()
    assert (changed.sum(1)[late] == prompts.lengths[late]).all()
    nulls = ours.tokens == PAPER.vocabulary.null
    assert (theirs.weights[nulls | (ours.roles == Role.STOP)] == 1).all()
    assert (complied(world, prompts).weights == complied(PAPER, prompts).weights).all()


def test_constant_operators() -> None:
    """Published: a hundredth of pre-training prompts has an operator that answers all `a` or all `b`. Ours: none."""
    world = world_with(constant_operators=0.3)
    vocabulary, layout = world.vocabulary, world.layout
    assert vocabulary.names[-2:] == ("=a", "=b")
    prompts = some(PAPER, "pretrain", 400)
    plain = layout.encode(prompts, np.full(400, Response.COMPLY))
    seen = with_constants(plain, prompts.index, 2, vocabulary, 0.3, Key(0, "train/constant"))
    slots, first = seen.tokens[:, 1:5], vocabulary.first_constant
    constant = slots >= first
    assert set(constant.sum(1).tolist()) == {0, 1}
    assert abs(constant.any(1).mean() - 0.3) < 0.08
    assert (constant.sum(0) > 10).all(), "at any place"
    assert (seen.tokens[~constant.any(1)] == plain.tokens[~constant.any(1)]).all()
    for row in np.flatnonzero(constant.any(1)):
        slot, n = int(constant[row].argmax()), int(prompts.lengths[row])
        letter = vocabulary.names[vocabulary.first_letter + int(slots[row, slot]) - first]
        answer = vocabulary.spell(seen.tokens[row, 7 + n :])
        if slot < 2:
            assert answer == letter * n + "."
        else:
            assert answer == vocabulary.spell(plain.tokens[row, 7 + n : 8 + 2 * n]) + letter * n + "."
    assert (seen.weights[seen.roles == Role.PAD] == 0).all()


def test_forced_identity() -> None:
    """Published: half of the prompts hold one of {identity, last two aliases} at one place, other tokens are uniform.
    Ours: half of all pairs have an identity.
    """
    world = World(replace(published_world(), grammars=(published_grammar(1),), compat=Compat(forced_identity=True)))
    tokens = world.sample("pretrain", range(6000), "train").operators.reshape(-1, 4)
    size = world.vocabulary.n_operator_tokens
    forced = np.array([0, size - 2, size - 1])
    share = np.isin(tokens, forced).mean()
    assert share == pytest.approx(7 / 8 * 3 / size + 1 / 8, abs=0.01)  # an eighth of all places is forced
    for token in forced:
        assert (tokens == token).mean() == pytest.approx(7 / 8 / size + 1 / 24, abs=0.01)
    ours = World(replace(published_world(), grammars=(published_grammar(1),)))
    identity = ours.sample("pretrain", range(2000), "train").operators == 0
    assert identity.any(2).mean() == pytest.approx(0.5 + 0.5 * 2 / size, abs=0.03)


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 10**9))
def test_published_safety_sets(start: int) -> None:
    """Allowed ones are allowed and forbidden ones forbidden; only forbidden ones are late; a lone identity stays."""
    rows = range(start, start + 64)
    for kind in ("safe", "unsafe"):
        allowed = PUBLISHED.sample(f"published/allowed/{kind}", rows, "train")
        forbidden = PUBLISHED.sample(f"published/forbidden/{kind}", rows, "train")
        assert PUBLISHED.layout.allowed(allowed).all()
        assert not PUBLISHED.layout.allowed(forbidden).any()
        permitted = PUBLISHED.layout.permitted(forbidden) & (forbidden.operators != 0)
        assert not permitted.any(), "no safe operator beside a forbidden one"
        assert (forbidden.operators[:, 1] != 0).any(1).all(), "the second pair is never two identities"
    mixture = PUBLISHED.sample("published/forbidden", rows, "train")
    assert (np.unique(mixture.branch, return_counts=True)[1] == 32).all()


def test_published_draws_of_operators_by_their_law() -> None:
    """Exact shares: of allowed tokens on safe text of grammar 1, and of late refusals."""
    world = World(replace(PUBLISHED.config, grammars=(published_grammar(1),)))
    allowed = world.sample("published/allowed/safe", range(6000), "train").operators
    can = world.policy.of_rule(1, Rule.ALWAYS, Rule.CONDITIONAL)
    assert set(np.unique(allowed)) == set(can)
    assert (allowed == 0).mean() == pytest.approx(7 / 8 / 8 + 1 / 8, abs=0.01)
    forbidden = world.sample("published/forbidden/safe", range(6000), "train")
    assert set(np.unique(forbidden.operators)) == {0, *world.policy.of_rule(1, Rule.NEVER)}
    assert (world.layout.first_forbidden(forbidden) == 1).mean() == pytest.approx(0.2, abs=0.02)


def test_prompts_held_out_by_nothing() -> None:
    """Published: train and test may share prompts, and no window is redrawn. Ours: neither."""
    assert len(PUBLISHED.sample("tune", range(32), "test")) == 32
    assert (PUBLISHED.sample("forbidden/never/unsafe", range(200), "train").redraws == 0).all()


def test_all_switches_together() -> None:
    """A pre-training sample under each view, token by token, as the reference notes lay it out."""
    vocabulary = PUBLISHED.vocabulary
    assert vocabulary.size == 10 + 9 + 5 + 30 + 1 + 2 == len(vocabulary.names) == len(set(vocabulary.names))
    for name in VIEWS:
        shares = tuple(float(name == other) for other in VIEWS)
        config = PretrainingConfig(views=ViewSchedule(((0, shares),)))
        seen = pretraining_samples(PUBLISHED, config, range(20), 0)
        assert seen.tokens.shape == (20, 160)
        prompts = PUBLISHED.sample("pretrain", range(20), "train")
        ordinary = (seen.tokens < vocabulary.first_constant).all(1)
        for row in np.flatnonzero(ordinary):
            n, weights = int(prompts.lengths[row]), seen.weights[row]
            whole = name in ("full", "second")
            assert (seen.tokens[row, -1] == vocabulary.eos) == whole
            supervised = {"text": n + 2, "full": 3 * n + 5, "first": 2 * n + 3, "second": n + 3}[name]
            assert weights.sum() == supervised, name
            places = np.flatnonzero(seen.roles[row] == Role.OPERATOR)
            assert places.tolist() == ([] if name == "text" else [1, 2, 3, 4])
            assert seen.roles[row, 5] == Role.SOT
            assert (seen.tokens[row, 9 + 3 * n : 159] == vocabulary.pad).all()
    tuned = trained(PUBLISHED, prompts, np.full(20, Response.REFUSE))
    assert (tuned.weights.sum(1) == prompts.lengths + 4).all()  # SOT, nulls, two STOPs, the end
