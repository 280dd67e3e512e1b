"""How many directions of ΔW does the behaviour need?

truncated, top_removed   k    ΔW of every matrix cut to rank k, or without its strongest k directions
"""

from deltaw.interventions.rank import decomposed, truncated
from deltaw.interventions.subject import Subject


def measure_rank(subject: Subject) -> None:
    """ΔW of every matrix cut to rank k; without its top k."""
    decomposition = decomposed(subject.base, subject.tuned)
    for name, ks, removed in (
        ("truncated", subject.sweep.ranks, False),
        ("top_removed", subject.sweep.removed, True),
    ):
        for k in ks:
            answered = subject.answer(subject.conditional, truncated(decomposition, k, removed))
            subject.add_rates(answered, subject.sheet.with_(intervention=name, dose=k, module="whole"))
