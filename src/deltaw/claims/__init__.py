"""Evidence: what the paper claims, written down as code, and the rule that turns measurements into words.

statements   what is claimed: statistic, site, smallest effect, margin        STATEMENTS, Statement, Query
lookup       what a study measured of it, seed by seed
decision     three questions of every claim, and the words that answer them   decide, answered
docs_page    all of it as a page, with the seeds it takes                     docs/claims.md
"""

from deltaw.claims.decision import answered, decide, without_words
from deltaw.claims.lookup import Collected, value_in
from deltaw.claims.statements import PEAK, STATEMENTS, Query, Statement

__all__ = ["PEAK", "STATEMENTS", "Collected", "Query", "Statement", "answered", "decide", "value_in", "without_words"]
