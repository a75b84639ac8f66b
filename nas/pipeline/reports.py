"""The step that writes the report."""

from __future__ import annotations

from pathlib import Path

from nas.pipeline.run import Run


def report(run: Run) -> Path:
    """Write `report.html`; returns its path."""
    path = run.folder / "report.html"
    return path
