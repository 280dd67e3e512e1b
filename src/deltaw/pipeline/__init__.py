"""A study: a graph of stages, the engine that runs it, and the directory that it owns."""

from deltaw.pipeline.progress import Listener, PlainListener, RichListener, choose_listener
from deltaw.pipeline.run_directory import claim_directory
from deltaw.pipeline.scheduler import StageRecord, execute
from deltaw.pipeline.stage import Report, Stage, StageContext

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
