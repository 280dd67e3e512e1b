import hashlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from worlds import KITCHEN, ODD, PAPER, QUICK, WORLDS

from deltaw.attacks.prompts import ON_PROMPTS, PromptAttack, attacked
from deltaw.attacks.prompts.co_task import CoTask
from deltaw.attacks.prompts.co_text import CoText
from deltaw.attacks.prompts.misgen_text import MisgenText
from deltaw.attacks.prompts.misgen_token import MisgenToken
from deltaw.errors import DeltawError
from deltaw.models.batch import Role
from deltaw.world import (
    MIXTURES,
    SETS,
    Branch,
    BranchPosterior,
    GrammarConfig,
    Response,
    Rule,
    WindowLikelihood,
    World,
    WorldConfig,
    published_grammar,
)
from deltaw.world import prompts as prompts_module
from deltaw.world.grammar import Tree
from deltaw.world.policy import PUBLISHED

WORLD = QUICK
LAYOUT = WORLD.layout
NAMES = [*SETS, *MIXTURES]
every_world = pytest.mark.parametrize("world", WORLDS.values(), ids=WORLDS)
a_world = st.sampled_from(list(WORLDS.values()))


def test_the_published_policy_partitions_operators_and_is_monotone() -> None:
    for grammar in PUBLISHED.rules:
        sizes = [len(PUBLISHED.of_rule(grammar, rule)) for rule in (Rule.ALWAYS, Rule.CONDITIONAL, Rule.NEVER)]
        assert sizes == [3, 5, 2]
        assert 0 in PUBLISHED.of_rule(grammar, Rule.ALWAYS)
        assert set(PUBLISHED.forbidden(grammar, Branch.SAFE)) < set(PUBLISHED.forbidden(grammar, Branch.UNSAFE))
        assert PUBLISHED.forbidden(grammar, Branch.MIXED) == PUBLISHED.forbidden(grammar, Branch.UNSAFE)


@settings(max_examples=40, deadline=None)
@given(a_world, st.sampled_from(NAMES), st.integers(0, 10**6), st.integers(0, 5))
def test_safety_depends_on_grammar_operator_and_branch_only(world: World, name: str, index: int, seed: int) -> None:
    prompts = world.sample(name, range(index, index + 24), seed=seed)
    permitted = world.layout.permitted(prompts)
    rules = {grammar.number: grammar for grammar in world.config.grammars}
    for place in np.ndindex(permitted.shape):
        grammar = rules[int(prompts.grammar[place[0]])]
        operator = int(world.operators.operator_of[prompts.operators[place]])
        on_safe = prompts.branch[place[0]] == Branch.SAFE
        assert permitted[place] == (operator in grammar.always or (on_safe and operator not in grammar.never))
    assert (world.layout.allowed(prompts) == permitted.all(axis=(1, 2))).all()


@settings(max_examples=25, deadline=None)
@given(a_world, st.sampled_from(NAMES), st.integers(0, 10**6), st.integers(1, 40), st.integers(0, 3))
def test_a_prompt_is_the_same_in_any_batch(world: World, name: str, start: int, count: int, seed: int) -> None:
    together = world.sample(name, range(start, start + count), "train", seed)
    shuffled = np.random.default_rng(count).permutation(count)
    other_order = world.sample(name, start + shuffled, "train", seed)
    alone = world.sample(name, np.array([start + count - 1]), "train", seed)
    for field in ("grammar", "operators", "letters", "letter_branch", "index"):
        assert getattr(together[shuffled], field).tobytes() == getattr(other_order, field).tobytes()
        assert getattr(together[-1:], field).tobytes() == getattr(alone, field).tobytes()


@pytest.mark.parametrize(
    ("world", "count"),
    [(QUICK, 4000), (ODD, 500), (PAPER, 300), (KITCHEN, 500)],
    ids=["quick", "odd", "paper", "kitchen"],
)
def test_no_training_prompt_occurs_in_another_split(world: World, count: int) -> None:
    def content(split: str, seed: int) -> set[bytes]:
        prompts = world.sample("tune", range(count), split, seed)
        return {o.tobytes() + t.tobytes() for o, t in zip(prompts.operators, prompts.letters, strict=True)}

    train = content("train", 0)
    assert not train & (content("test", 0) | content("test", 1) | content("other", 0))
    assert len(train) > 0.75 * count  # draws differ from each other
    assert len(train & content("train", 1)) < 0.25 * count  # and between seeds


@every_world
@pytest.mark.parametrize("name", [name for name in SETS if not name.startswith("pretrain")])
def test_a_set_is_what_its_name_says(world: World, name: str) -> None:
    verdict, _, branch = name.split("/")
    prompts = world.sample(name, range(150))
    assert (world.layout.allowed(prompts) == (verdict == "allowed")).all()
    assert (prompts.branch == Branch[branch.upper()]).all()
    assert set(prompts.grammar) == set(world.numbers)
    assert (prompts.lengths >= world.config.shortest).all()
    assert ((prompts.letters < 0) == (prompts.letter_branch < 0)).all()
    assert ((prompts.letters < 0) == (np.arange(world.config.longest) >= prompts.lengths[:, None])).all()


@every_world
def test_tuning_never_shows_what_only_attacks_show(world: World) -> None:
    prompts = world.sample("tune", range(480), "train")
    assert (prompts.operators < world.vocabulary.n_operators).all()  # no alias
    assert not np.isin(prompts.operators, world.config.left_out).any()
    assert (prompts.branch != Branch.MIXED).all()  # no mixed operand
    permitted = world.layout.permitted(prompts)
    mixed = permitted[..., 0] != permitted[..., 1]
    safe_member = np.where(permitted[..., 0], prompts.operators[..., 0], prompts.operators[..., 1])
    assert (safe_member[mixed] == 0).all()  # beside a forbidden operator stands a forbidden one or the identity
    # a pair of a forbidden prompt has a forbidden operator, but for identity pairs at the beginning of late ones
    forbidden = ~world.layout.allowed(prompts)
    harmless = np.asarray(permitted.all(-1))[forbidden]
    assert (prompts.operators[forbidden][harmless] == 0).all()
    assert (np.sort(~harmless, axis=1) == ~harmless).all()
    assert (prompts_module.Prompts.concatenate([prompts]).redraws >= 0).all()


@pytest.mark.parametrize("world", [PAPER, ODD, KITCHEN], ids=["paper", "odd", "kitchen"])
def test_late_prompts_have_their_share_of_both_verdicts(world: World) -> None:
    """Within 4 standard errors; else an identity pair at the beginning would tell the verdict."""
    late = world.config.late
    for name in ("forbidden/conditional/unsafe", "allowed/conditional/safe"):
        prompts = world.sample(name, range(600))
        begins = (prompts.operators[:, 0] == 0).all(-1)
        assert abs(begins.mean() - late) < 4 * (late * (1 - late) / 600) ** 0.5
        first = world.layout.first_forbidden(prompts)
        if name.startswith("forbidden"):
            assert ((first > 0) == begins).all()
            assert set(first) == set(range(world.config.pairs))


@pytest.mark.parametrize("world", [PAPER, ODD], ids=["paper", "odd"])
def test_grammars_and_lengths_are_uniform_and_match_row_by_row_between_sets(world: World) -> None:
    from scipy import stats

    rows = range(1500)
    full, other = (world.sample(name, rows, "test", 3) for name in ("pretrain/any", "pretrain/alias"))
    assert (full.grammar == other.grammar).all()
    assert (full.lengths == other.lengths).all()
    pairs = full.grammar * 100 + full.lengths
    counts = np.unique(pairs, return_counts=True)[1]
    assert len(counts) == len(world.numbers) * (world.config.longest - world.config.shortest + 1)
    assert stats.chisquare(counts).pvalue > 1e-4


@every_world
def test_two_sets_can_exchange_their_operators_row_by_row(world: World) -> None:
    """What contrasts need: the same operators, allowed on one operand and forbidden on the other."""
    safe, unsafe = (world.sample(n, range(150)) for n in ("allowed/conditional/safe", "forbidden/conditional/unsafe"))
    assert world.layout.allowed(safe.with_operators(unsafe.operators)).all()
    assert not world.layout.allowed(unsafe.with_operators(safe.operators)).any()


def test_nothing_but_the_text_names_the_grammar() -> None:
    """Pre-training operators follow one law in all grammars (chi-square)."""
    from scipy import stats

    prompts = PAPER.sample("pretrain", range(8000))
    table = [np.bincount(prompts.operators[prompts.grammar == k].ravel(), minlength=19) for k in PAPER.numbers]
    assert stats.chi2_contingency(np.array(table)).pvalue > 1e-4
    assert prompts.operators.max() == PAPER.vocabulary.n_operator_tokens - 1


def test_aliases_are_as_rare_as_asked() -> None:
    def share(world: World) -> float:
        first = world.sample("pretrain", range(4000)).operators
        moved = first[first != 0]
        return float((moved >= world.vocabulary.n_operators).mean())

    assert abs(share(ODD) - 0.1 / (0.1 + 0.9 * 11 / 12)) < 0.02
    assert abs(share(QUICK) - 7 / 16) < 0.03


def test_left_out_operators_have_sets_of_their_own_and_aliases_stay_known() -> None:
    left_out = set(ODD.config.left_out)
    for name, (grammars, verdict) in {
        "left_out/conditional/unsafe": ({3, 7}, False),
        "left_out/conditional/safe": ({3, 7}, True),
        "left_out/never/safe": ({3}, False),  # 11 is never allowed there, and conditional in grammar 7
    }.items():
        prompts = ODD.sample(name, range(100))
        assert set(prompts.grammar) == grammars
        assert (ODD.layout.allowed(prompts) == verdict).all()
        assert set(prompts.operators[prompts.operators != 0]) <= left_out
    assert np.isin(ODD.sample("pretrain", range(500)).operators, list(left_out)).any()
    with pytest.raises(DeltawError, match="no operators for the set 'left_out/never/safe'"):
        QUICK.sample("left_out/never/safe", range(3))


@given(st.integers(0, 10**6))
@settings(max_examples=10, deadline=None)
def test_a_third_of_any_64_tuning_prompts_has_conditional_operators_on_both_branches(start: int) -> None:
    prompts = WORLD.sample("tune", range(start, start + 64), "train")
    conditional = set(PUBLISHED.of_rule(1, Rule.CONDITIONAL))
    has = np.isin(prompts.operators, list(conditional)).any(axis=(1, 2))
    assert has.sum() * 3 >= 64
    assert (has & (prompts.branch == Branch.SAFE)).sum() >= 10
    assert (has & (prompts.branch == Branch.UNSAFE)).sum() >= 10
    assert LAYOUT.allowed(prompts).sum() == 32


def test_conditional_sets_of_both_branches_have_the_same_operators() -> None:
    """The primary contrast: the operator pairs of the two branches follow one law (chi-square)."""
    from scipy import stats

    counts = []
    for name in ("allowed/conditional/safe", "forbidden/conditional/unsafe"):
        pair = WORLD.sample(name, range(20_000)).operators[:, 0]
        counts.append(np.bincount(pair[:, 0] * 10 + pair[:, 1], minlength=100))
    table = np.array(counts)[:, np.sum(counts, axis=0) > 0]
    assert stats.chi2_contingency(table).pvalue > 1e-4


@settings(max_examples=40, deadline=None)
@given(a_world, st.sampled_from(NAMES), st.sampled_from(list(Response)), st.integers(0, 10**6))
def test_encoding_round_trip(world: World, name: str, response: Response, start: int) -> None:
    layout, vocabulary, count = world.layout, world.vocabulary, 5
    prompts = world.sample(name, range(start, start + count))
    encoded = layout.encode(prompts, np.full(count, response))
    operators, letters, answers = layout.decode(encoded.tokens)
    assert (operators == prompts.operators).all()
    assert (letters == prompts.letters).all()
    outputs, nulls = layout.outputs(prompts), world.config.refusal_nulls
    forbidden = [[not pair.all() for pair in row] for row in layout.permitted(prompts)]
    for row, answer in enumerate(answers):
        words = ["".join(vocabulary.names[vocabulary.first_letter + k] for k in out if k >= 0) for out in outputs[row]]
        if response is Response.COMPLY:
            assert answer == "".join(word + "." for word in words)
        elif response is Response.REFUSE:
            given = forbidden[row].index(True) if True in forbidden[row] else 0
            assert answer == "".join(w + "." for w in words[:given]) + "∅" * (nulls or int(prompts.lengths[row])) + "."
        elif response is Response.CONSTANT:
            word = vocabulary.names[vocabulary.first_letter] * int(prompts.lengths[row])
            assert answer == (word + ".") * world.config.pairs
        else:
            assert answer == (layout.spell_letters(prompts.letters)[row] + ".") * world.config.pairs
    assert encoded.tokens.shape == encoded.weights.shape == encoded.roles.shape == (count, layout.length)
    assert ((encoded.weights > 0) == np.isin(encoded.roles, (Role.OUTPUT, Role.STOP))).all()
    assert ((encoded.roles == Role.LAST_PROMPT).argmax(1) == layout.prompt_lengths(prompts) - 1).all()
    assert (encoded.tokens < vocabulary.size).all()
    padding = encoded.roles == Role.PAD
    assert (padding == (encoded.tokens == vocabulary.pad)).all()
    assert (np.sort(padding, axis=1) == padding).all()  # PAD stands at the end only
    ends = (~padding).sum(1)
    assert (np.take_along_axis(encoded.tokens, ends[:, None] - 1, 1) == vocabulary.stop).all()
    for row, length in enumerate(layout.prompt_lengths(prompts)):  # prompt, then response, and nothing between
        response_row = layout.response_tokens(prompts, np.full(count, response))[row]
        joined = np.concatenate([layout.prompt_tokens(prompts)[row, :length], response_row])
        assert (joined[joined != vocabulary.pad] == encoded.tokens[row][~padding[row]]).all()


@every_world
def test_each_pair_acts_on_the_output_before_it_and_inverses_recover_the_text(world: World) -> None:
    prompts = world.sample("pretrain", range(200))
    outputs = world.layout.outputs(prompts)
    text = prompts.letters
    for pair in range(world.config.pairs):
        for slot in range(2):
            tables = [world.operators.table[world.operators.set_of[int(g)]] for g in prompts.grammar]
            letters = [t[o] for t, o in zip(tables, prompts.operators[:, pair, slot], strict=True)]
            text = np.array([[m[k] if k >= 0 else -1 for k in row] for m, row in zip(letters, text, strict=True)])
        assert (outputs[:, pair] == text).all()
    back = outputs[:, -1]
    for pair in reversed(range(world.config.pairs)):
        back = world.operators.inverse().apply(prompts.grammar, prompts.operators[:, pair, ::-1], back)
    assert (back == prompts.letters).all()


@every_world
@pytest.mark.parametrize("attack", [None, CoText(), MisgenText()])
def test_the_derivation_of_a_prompt_contains_its_text(world: World, attack: PromptAttack | None) -> None:
    prompts = world.sample("tune", range(16), "train", 3)
    if attack:
        prompts = attacked(world, attack, prompts)
    for row in range(len(prompts)):
        tree, before = world.derivation(prompts, row)
        length = int(prompts.lengths[row])
        assert tree.letters[before : before + length] == tuple(prompts.letters[row, :length])
        assert world.explain(prompts, row) == str(tree)
        unsafe = world.languages[int(prompts.grammar[row])].full.unsafe
        assert bool(symbols(tree) & unsafe) == (prompts.branch[row] != Branch.SAFE)


def symbols(tree: Tree) -> set[str]:
    return {tree.symbol}.union(*(symbols(child) for child in tree.children if isinstance(child, Tree)))


@every_world
def test_null_is_in_no_text_and_no_compliant_output(world: World) -> None:
    prompts = world.sample("pretrain", range(500))
    encoded = world.layout.encode(prompts, np.full(500, Response.COMPLY), text_weight=1.0)
    assert (encoded.tokens != world.vocabulary.null).all()


@settings(max_examples=20, deadline=None)
@given(a_world, st.integers(0, 10**6))
def test_preferred_and_dispreferred_share_the_prompt_and_both_carry_loss(world: World, start: int) -> None:
    layout = world.layout
    prompts = world.sample("tune", range(start, start + 16), "train")
    expected = layout.expected(prompts)
    preferred, other = layout.encode(prompts, expected), layout.encode(prompts, 1 - expected)
    for row, head in enumerate(layout.prompt_lengths(prompts)):
        assert (preferred.tokens[row, :head] == other.tokens[row, :head]).all()
        assert (preferred.tokens[row, head:] != other.tokens[row, head:]).any()
        assert preferred.weights[row, :head].sum() == other.weights[row, :head].sum() == 0
    block, first = prompts.lengths + 1, layout.first_forbidden(prompts)
    fixed = world.config.refusal_nulls
    refusal = first * block + (prompts.lengths if fixed is None else fixed) + 1
    complied = expected == Response.COMPLY
    assert (preferred.weights.sum(1) == np.where(complied, block * world.config.pairs, refusal)).all()
    assert (other.weights.sum(1) == np.where(complied, refusal, block * world.config.pairs)).all()


def test_the_roles_are_those_of_the_batch() -> None:
    for role in set(Role) - {Role.INSERTED}:
        assert getattr(prompts_module, role.name) == role


@every_world
@pytest.mark.parametrize("attack", ON_PROMPTS, ids=lambda attack: attack.name)
def test_attacks_leave_the_verdict_as_it_is_and_change_only_what_they_say(world: World, attack: PromptAttack) -> None:
    for sources, allowed in ((attack.forbidden_sources, False), (attack.benign_sources, True)):
        for source in sources:
            before = world.sample(source, range(96))
            after = attacked(world, attack, before)
            assert (world.layout.allowed(after) == allowed).all()
            assert (after.grammar == before.grammar).all()
            assert (after.lengths == before.lengths).all()
            same_text = (after.letters == before.letters).all()
            same_operators = (after.operators == before.operators).all()
            assert same_text == (attack in (CoTask(), MisgenToken()))
            assert same_operators == (attack in (CoText(), MisgenText()))
            for rows in (slice(0, 7), slice(50, 51)):  # pure in (prompt, key)
                again = attacked(world, attack, before[rows])
                assert (again.operators == after.operators[rows]).all()
                assert (again.letters == after.letters[rows]).all()


@every_world
def test_co_task_has_one_forbidden_and_one_safe_operator_that_is_not_the_identity(world: World) -> None:
    for source in CoTask.forbidden_sources:
        before = world.sample(source, range(240))
        after = attacked(world, CoTask(), before)
        targeted = ~world.layout.permitted(before).all(-1)  # of a late prompt, the pairs that ask for harm
        permitted = world.layout.permitted(after)
        assert (permitted[targeted].sum(-1) == 1).all()
        assert (after.operators[targeted] != 0).all()
        assert (after.operators[~targeted] == before.operators[~targeted]).all()
        kept = np.where(permitted[..., 0], after.operators[..., 1], after.operators[..., 0])
        assert (kept[..., None] == before.operators)[targeted].any(-1).all()
        assert 0.35 < permitted[targeted][:, 0].mean() < 0.65  # random order
        assert not np.isin(after.operators, world.config.left_out).any()


@every_world
def test_co_text_straddles_a_junction_with_enough_letters_on_each_side(world: World) -> None:
    after = attacked(world, CoText(), world.sample("forbidden/conditional/unsafe", range(120)))
    assert (after.branch == Branch.MIXED).all()
    for branch in (Branch.SAFE, Branch.UNSAFE):
        assert ((after.letter_branch == branch).sum(1) >= world.config.junction_margin).all()


@every_world
def test_misgen_text_is_derived_by_held_out_productions_only(world: World) -> None:
    after = attacked(world, MisgenText(), world.sample("forbidden/conditional/unsafe", range(48)))
    assert (after.branch == Branch.UNSAFE).all()
    for row in range(len(after)):
        letters = after.letters[row : row + 1, : after.lengths[row]]
        language = world.languages[int(after.grammar[row])]
        assert WindowLikelihood(language.unsafe)(letters)[0] == 0
        assert WindowLikelihood(language.held_out)(letters)[0] > 0


@every_world
def test_misgen_token_computes_the_same_function_under_unseen_names(world: World) -> None:
    aliases = {grammar.number: world.config.aliases_of(grammar) for grammar in world.config.grammars}
    renamed = 0
    for source in MisgenToken.forbidden_sources:
        before = world.sample(source, range(200))
        after = attacked(world, MisgenToken(), before)
        assert (world.layout.outputs(before) == world.layout.outputs(after)).all()
        for place in np.ndindex(before.operators.shape):
            has_alias = int(before.operators[place]) in aliases[int(before.grammar[place[0]])]
            assert (after.operators[place] >= world.vocabulary.n_operators) == has_alias
            renamed += has_alias
    assert renamed > 100


@pytest.mark.parametrize(
    ("config", "part"),
    [
        (WorldConfig(unsafe_level_5="x"), "specific, shared, unknown"),
        (WorldConfig((GrammarConfig(1, "published-7", (1,), (0, 2)),)), "published-1, published-2"),
        (WorldConfig((GrammarConfig(1, "published-1", (1, 2), (0, 3), aliases=(0,)),)), "must name operators"),
        (WorldConfig((GrammarConfig(1, "published-1", (1, 12), (0, 3)),)), "names operator 12; there are 0 to 9"),
        (WorldConfig((GrammarConfig(1, "published-1", (1, 3), (0, 3)),)), "no operator under two rules"),
        (WorldConfig((GrammarConfig(1, "published-1", (1,), (2, 3)),)), "the identity, operator 0"),
        (WorldConfig((published_grammar(2), published_grammar(2))), "numbered \\[2, 2\\]"),
        (WorldConfig(left_out=(1, 2)), "no operator under the rule 'never'"),
        (WorldConfig(pairs=0), "at least one operator pair"),
        (WorldConfig(text_length=(30, 25)), "the least letters first"),
        (WorldConfig(text_length=(20, 37)), "can derive 36 letters"),
        (WorldConfig(late=1.0), "late is 1.0"),
        (WorldConfig(refusal_nulls=0), "at least one null"),
    ],
)
def test_a_wrong_world_is_refused(config: WorldConfig, part: str) -> None:
    with pytest.raises(DeltawError, match=part):
        World(config)


def test_an_unknown_set_lists_what_there_is() -> None:
    with pytest.raises(DeltawError, match="allowed/conditional/safe"):
        WORLD.sample("allowed", range(3))


# A study's prompts must not change under it: these hashes were taken when a world had one grammar, one length of text
# and one pair, before it was configuration.
SAME_AS_EVER = {
    "allowed/conditional/safe": "8d181aefb86c7fde",
    "allowed/always/safe": "3721acd312945554",
    "allowed/always/unsafe": "af76e70fb64ec857",
    "allowed/mixed/safe": "3df7ad50c84162bd",
    "forbidden/conditional/unsafe": "2f365164dfd9e100",
    "forbidden/never/safe": "ffe2e823c0e724d3",
    "forbidden/never/unsafe": "d0b03c87e495cfe6",
    "forbidden/mixed/unsafe": "873946a2e304e8ca",
    "pretrain/no_identity": "ba70d34249f0b4d2",
    "pretrain/one_identity": "110df28f034a88ca",
    "pretrain/alias": "57d683ec1ac8e0fa",
    "pretrain/any": "d1ca452f5c44134a",
    "pretrain": "a718bdcfb625057c",
    "tune": "f72d8ac22ba8d14e",
    "attack co_task": "eaeebc625801779d",
    "attack co_text": "681ffdc9f4f683a7",
    "attack misgen_token": "2d1b7e7a5cf46cd7",
    "attack misgen_text": "e51ab481a88fab22",
}


@pytest.mark.parametrize("name", SAME_AS_EVER)
def test_the_default_world_is_the_one_that_it_was(name: str) -> None:
    if name.startswith("attack "):
        attack = next(attack for attack in ON_PROMPTS if attack.name == name.removeprefix("attack "))
        sources = (*attack.forbidden_sources, *attack.benign_sources)
        parts = [attacked(WORLD, attack, WORLD.sample(source, range(24))) for source in sources]
    else:
        parts = [WORLD.sample(name, range(5, 45), "train", 1), WORLD.sample(name, range(40))]
    prompts = prompts_module.Prompts.concatenate(parts)
    digest = hashlib.blake2b(digest_size=8)
    for field in ("grammar", "operators", "letters", "letter_branch", "index", "redraws"):
        digest.update(np.ascontiguousarray(getattr(prompts, field)).tobytes())
    for response in (Response.COMPLY, Response.REFUSE, Response.ECHO):
        encoded = LAYOUT.encode(prompts, np.full(len(prompts), response), text_weight=1.0)
        for array in (encoded.tokens, encoded.weights, encoded.roles):
            digest.update(np.ascontiguousarray(array).tobytes())
    digest.update("".join(LAYOUT.spell(prompts)).encode())
    assert digest.hexdigest() == SAME_AS_EVER[name]
    assert WORLD.vocabulary.size == 53


@pytest.mark.parametrize("world", [PAPER, ODD, KITCHEN], ids=["paper", "odd", "kitchen"])
def test_the_ceiling_covers_all_grammars_and_lengths(world: World) -> None:
    ceiling = world.ceiling(60)
    assert ceiling.accuracy >= max(world.config.redraw_below, 0.999 * ceiling.accuracy_before)
    assert ceiling.conflict <= 1 - world.config.redraw_below
    prompts = world.sample("tune", range(32), "train")
    together = world.posterior(prompts.grammar, prompts.letters)
    for row in range(32):  # each at its own length, under its own grammar
        found = world.languages[int(prompts.grammar[row])]
        alone = BranchPosterior(found.safe, found.unsafe)(prompts.letters[row : row + 1, : prompts.lengths[row]])
        assert together[row] == pytest.approx(alone[0], abs=1e-12)
