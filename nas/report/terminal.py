"""The console for all tables, and the tables of `nas doctor`.

This module imports only rich, because `nas doctor` must run even if other packages are missing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

_console = Console()
# Output that is redirected to a file has no width. Rich would assume 80 columns and break names across lines.
console = _console if _console.is_terminal else Console(width=120)


def print_findings(findings: Sequence[Mapping[str, str]]) -> None:
    """Print the findings of `nas doctor`, one table per subject."""
    styles = {"ok": "green", "note": "yellow", "missing": "bold red"}
    for subject in dict.fromkeys(finding["about"] for finding in findings):
        table = Table(title=subject, title_justify="left")
        for column in ("", "state", "detail"):
            table.add_column(column, overflow="fold")
        for finding in findings:
            if finding["about"] == subject:
                state = Text(finding["state"], styles[finding["state"]])
                table.add_row(Text(finding["name"]), state, Text(finding["detail"]))
        console.print(table)
