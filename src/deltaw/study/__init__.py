"""A study: a graph of stages, the engine that runs it, and the directory that it owns."""

from deltaw.study.directory import claim_directory
from deltaw.study.engine import StageRecord, execute
from deltaw.study.progress import Listener, PlainListener, RichListener, choose_listener
from deltaw.study.stage import Report, Stage, StageContext

__all__ = [
    "Listener",
    "PlainListener",
    "Report",
    "RichListener",
    "Stage",
    "StageContext",
    "StageRecord",
    "choose_listener",
    "claim_directory",
    "execute",
]
