"""Evidence: what the paper claims, written down as code, and the rule that turns measurements into verdicts."""

from deltaw.evidence.claims import STATEMENTS, Query, Statement, decide, judge

__all__ = ["STATEMENTS", "Query", "Statement", "decide", "judge"]
