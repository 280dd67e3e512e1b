"""The report of a finished run: one self-contained page and its figures. Reads results and nothing else."""

from deltaw.report.render import write_report

__all__ = ["write_report"]
