"""Evidence: what the paper claims, written down as code, and the rule that turns measurements into verdicts.

claims       what is claimed: statistic, site, nulls, smallest effect         STATEMENTS, Statement, Query
reading      what a study measured of it, seed by seed
deciding     holds, fails or undecided; multiplicity and power                decide, judge
ledger       all of it as a page, with the seeds it takes                     docs/claims.md
calibration  how often each test finds what is not there, and what is         docs/calibration.md
"""

from deltaw.claims.decision import decide, judge, verdicts, weigh
from deltaw.claims.lookup import Collected, found_in
from deltaw.claims.statements import STATEMENTS, Query, Statement

__all__ = ["STATEMENTS", "Collected", "Query", "Statement", "decide", "found_in", "judge", "verdicts", "weigh"]
