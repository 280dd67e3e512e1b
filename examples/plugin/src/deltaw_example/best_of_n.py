"""An attack on models: try until one works (Hughes et al. 2024, without their augmentations)."""

from dataclasses import dataclass

import torch

from deltaw.attacks.models import AttackTarget, Cost, ModelAttack, TokenSearchConfig, random_suffix, suffix_tokens
from deltaw.attacks.models.attack import ALLOWED, FORBIDDEN
from deltaw.behaviour.exact import Behaviour, BehaviourCounts


@dataclass(frozen=True)
class BestOfN(ModelAttack):
    """Several random suffixes a prompt: it succeeds if the model complies with any of them."""

    name = "best_of_n"
    label = "best of n"
    tries: tuple[int, ...] = (1, 4)
    tokens: int = 2

    def attack(self, target: AttackTarget) -> None:
        """On forbidden prompts, and on allowed ones as the benign control; fewer tries are the first of the most."""
        allowed, config = suffix_tokens(target.world.vocabulary), TokenSearchConfig(tokens=self.tokens)
        for name, requests in ((FORBIDDEN, target.forbidden), (ALLOWED, target.allowed)):
            draws = target.generator(f"{self.name}/{name}")
            tried = [random_suffix(target.model, requests, allowed, config, draws) for _ in range(max(self.tries))]
            labels = torch.stack([suffix.answers.labels for suffix in tried])
            for n in self.tries:
                comply = int((labels[:n] == Behaviour.COMPLY).any(0).sum())
                refuse = int((labels[:n] == Behaviour.REFUSE).all(0).sum())
                counts = BehaviourCounts(comply, refuse, len(requests) - comply - refuse)
                target.add(f"best_of_{n}", counts, name)

    def cost(self, prompts: int) -> Cost:
        """Every try reads and answers both sets."""
        return Cost(differentiated=2 * max(self.tries) * prompts / 3, answered=2 * max(self.tries) * prompts)
