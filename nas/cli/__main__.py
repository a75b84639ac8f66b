"""`python -m nas.cli` is `nas`."""

from __future__ import annotations

from nas.cli import main

main()
