"""The report."""

from pathlib import Path


def write_report(run_dir: Path) -> Path:
    """Placeholder until the page exists."""
    return run_dir / "report.html"
