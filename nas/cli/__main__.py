"""Runs the `nas` command for `python -m nas.cli`, which works even if the script `nas` is not on the PATH."""

from __future__ import annotations

from nas.cli import main

main()
