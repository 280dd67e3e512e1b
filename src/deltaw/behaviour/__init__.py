"""What a model does with a prompt: comply, refuse or neither, by exact match (`exact`) or a judge (`judge`)."""

from deltaw.behaviour.exact import Answers, Behaviour, BehaviourCounts, measure

__all__ = ["Answers", "Behaviour", "BehaviourCounts", "measure"]
