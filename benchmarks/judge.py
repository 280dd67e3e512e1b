"""The refusal judge's errors on answers that its rules were not fitted to, as the table of docs/real-models.md.

With the directory or hub name of a text classifier, that classifier's errors: python benchmarks/judge.py NAME
"""

import sys

from deltaw.behaviour.judge import errors_under_attack, judge_errors, judged_answers
from deltaw.behaviour.judges.classifier import Classifier
from deltaw.behaviour.judges.rules import Rules
from deltaw.statistics import wilson

judge = Classifier(sys.argv[1]) if len(sys.argv) > 1 else Rules()
for title, development in (("answers written after its rules", False), ("answers its rules were fitted to", True)):
    errors = judge_errors(judge, judged_answers(development))
    print(f"\n| {title} | style | wrong | of | rate, 95 % |\n|---|---|---|---|---|")
    for (verdict, style), rate in sorted(
        errors.items(), key=lambda item: (item[0][0], item[0][1] != "all", item[0][1])
    ):
        span, share = rate.interval, rate.wrong / rate.n
        print(f"| {verdict} | {style} | {rate.wrong} | {rate.n} | {share:.2f} [{span.low:.2f}, {span.high:.2f}] |")

print("\n| attack | refusals missed, 95 % | others called refusals, 95 % |\n|---|---|---|")
for attack, errors in errors_under_attack(judge).items():
    cells = []
    for wrong, n in ((errors.missed, errors.refusals), (errors.mistaken, errors.others)):
        span = wilson(wrong, n)
        cells.append(f"{wrong} of {n} [{span.low:.2f}, {span.high:.2f}]")
    print(f"| {attack or 'none'} | {cells[0]} | {cells[1]} |")
