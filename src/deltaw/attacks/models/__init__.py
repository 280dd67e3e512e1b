"""Attacks on models: what gets a forbidden response out of a tuned model by other means than another prompt.

    soft_prompt     soft_prompt, universal_soft_prompt    vectors before the end of the prompt, optimised
                    random_tokens, unrelated              ... controls: as long but random, optimised for something else
    token_search    token_search                          a suffix of ordinary tokens, by greedy coordinate gradient
                    best_suffix        ... the exact optimum, on short suffixes
                    random_suffix                         ... control
    prefill         prefill                               the first k tokens of the harmful output are given
                    wrong_prefill                         ... control: those of another prompt's output
    relearning      relearn                               a few gradient steps, on benign or harmful prompts

Each file also has the attack as a plug-in (`attack.ModelAttack`), with its doses and controls as a study makes them.

All start from `Requests`: prompts with their compliant responses and refusals. Success on a prompt is the whole
compliant response by free-running greedy decoding, and every result has `success` (N,) or `answers`. The same attack on
allowed prompts is the benign control; `answers_with` tries vectors found elsewhere. `attacked_inputs` gives what
`activations` needs to read attacked prompts at the same roles as plain ones.

Randomness is a `torch.Generator` on the CPU. Computation is in the model's dtype, on its device; `Requests` must be
there too. No attack changes the model, and none leaves a gradient in it.
"""

from deltaw.attacks.models.attack import AttackTarget, Cost, ModelAttack
from deltaw.attacks.models.defaults import ON_MODELS
from deltaw.attacks.models.insertion import (
    Positions,
    answers_with,
    attacked_inputs,
    insert,
    position_ids,
    require_room,
    slots,
    spliced,
)
from deltaw.attacks.models.losses import ResponseLosses, response_losses
from deltaw.attacks.models.prefill import DOSES as PREFILL_DOSES
from deltaw.attacks.models.prefill import Prefill, Prefilling, prefill, wrong_prefill
from deltaw.attacks.models.relearning import Relearning, RelearningConfig, RelearningCurve, relearn
from deltaw.attacks.models.soft_prompt import (
    DOSES,
    SharedSoftPrompt,
    SoftPrompt,
    SoftPromptConfig,
    SoftPrompts,
    UniversalSoftPrompt,
    embedding_norm,
    project,
    random_tokens,
    soft_prompt,
    universal_soft_prompt,
)
from deltaw.attacks.models.targets import Requests, requests_for, unattacked, unrelated
from deltaw.attacks.models.token_search import (
    TokenSearch,
    TokenSearchConfig,
    TokenSuffix,
    best_suffix,
    random_suffix,
    suffix_losses,
    suffix_tokens,
    token_search,
)

__all__ = [
    "DOSES",
    "ON_MODELS",
    "PREFILL_DOSES",
    "AttackTarget",
    "Cost",
    "ModelAttack",
    "Positions",
    "Prefill",
    "Prefilling",
    "Relearning",
    "RelearningConfig",
    "RelearningCurve",
    "Requests",
    "ResponseLosses",
    "SharedSoftPrompt",
    "SoftPrompt",
    "SoftPromptConfig",
    "SoftPrompts",
    "TokenSearch",
    "TokenSearchConfig",
    "TokenSuffix",
    "UniversalSoftPrompt",
    "answers_with",
    "attacked_inputs",
    "best_suffix",
    "embedding_norm",
    "insert",
    "position_ids",
    "prefill",
    "project",
    "random_suffix",
    "random_tokens",
    "relearn",
    "requests_for",
    "require_room",
    "response_losses",
    "slots",
    "soft_prompt",
    "spliced",
    "suffix_losses",
    "suffix_tokens",
    "token_search",
    "unattacked",
    "universal_soft_prompt",
    "unrelated",
    "wrong_prefill",
]
