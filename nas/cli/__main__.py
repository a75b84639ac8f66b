"""Let `python -m nas.cli` run the `nas` command, also if its script is not on the PATH."""

from __future__ import annotations

from nas.cli import main

main()
