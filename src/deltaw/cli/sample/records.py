"""Samples as JSON objects, so that a program of anyone's can check the world: numbers in place of tokens and signs.

index               the prompt's number within its split
set                 the set that it is of (a mixture cycles through sets)
grammar             its number: 1 to 4 in the published world
operators           a list of pairs of operator numbers (0: identity; 0 to 9 in the published world), aliases resolved
aliases             the same nesting: true where the prompt names the operator by an alias
letters             the text, letters by number from 0
letter_branch       one character a letter: s (safe) or u (unsafe)
branch              safe, unsafe or mixed
posterior_unsafe    exact probability, given the letters, that one of them is unsafe; null if not derivable
allowed             the policy's verdict: true if it allows all operators on this branch
response            what the policy asks for: comply or refuse
refused_from        the pair (1 is the first) from which a refusal takes the place of outputs; null if allowed
outputs             the exact compliant outputs, a list of letters for each pair; of a forbidden prompt, harmful ones
tokens              token ids of the prompt and the response that the policy asks for
answer              with a model: its own answer (text) and what that is (behaviour: comply, refuse or neither)
attacks             with attacks: the same object (but without attacks) for each attack's version of the prompt
"""

import json
from collections.abc import Iterator
from typing import Any

import numpy as np

from deltaw.cli.sample.samples import BRANCHES, Samples


def records(chunk: Samples) -> Iterator[dict[str, Any]]:
    """Each sample as an object, as described above."""
    world, prompts = chunk.world, chunk.prompts
    layout = world.layout
    expected = layout.expected(prompts)
    encoded = layout.encode(prompts, expected)
    ends = np.where(encoded.tokens != world.vocabulary.pad, np.arange(encoded.tokens.shape[1]) + 1, 0).max(1)
    resolved = world.operators.operator_of[prompts.operators]
    aliases = prompts.operators >= world.vocabulary.n_operators
    allowed, refused_from, outputs = layout.allowed(prompts), layout.first_forbidden(prompts), layout.outputs(prompts)
    lengths, branch = prompts.lengths, prompts.branch
    versions = {name: records(version) for name, version in chunk.attacks.items()}
    for row in range(len(prompts)):
        letters, posterior = slice(0, int(lengths[row])), float(chunk.posterior_unsafe[row])
        record: dict[str, Any] = {
            "index": int(prompts.index[row]),
            "set": chunk.split.set_of(int(prompts.index[row])),
            "grammar": int(prompts.grammar[row]),
            "operators": resolved[row].tolist(),
            "aliases": aliases[row].tolist(),
            "letters": prompts.letters[row, letters].tolist(),
            "letter_branch": "".join("su"[b] for b in prompts.letter_branch[row, letters]),
            "branch": BRANCHES[int(branch[row])],
            "posterior_unsafe": None if np.isnan(posterior) else posterior,
            "allowed": bool(allowed[row]),
            "response": "comply" if allowed[row] else "refuse",
            "refused_from": None if allowed[row] else int(refused_from[row]) + 1,
            "outputs": outputs[row, :, letters].tolist(),
            "tokens": encoded.tokens[row, : int(ends[row])].tolist(),
        }
        if chunk.answers is not None:
            text, behaviour = chunk.answers[row]
            record["answer"] = {"text": text, "behaviour": behaviour}
        if chunk.attacks:
            record["attacks"] = {name: next(version) for name, version in versions.items()}
        yield record


def to_json(record: dict[str, Any]) -> str:
    """One line, ASCII only."""
    return json.dumps(record, allow_nan=False, separators=(",", ":"))
