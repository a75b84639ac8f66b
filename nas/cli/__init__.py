"""The `nas` command: its subcommands parse options, call functions of other packages of `nas`, and print the results.

Importing one of the modules `setup`, `steps`, `devices` and `publishing` registers its subcommands on `app`.
Packages that load slowly are imported only inside the subcommands that need them, so that `nas --help` responds at
once.
"""

from __future__ import annotations

from nas.cli import devices, publishing, setup, steps  # each module registers its subcommands
from nas.cli.app import app, main

__all__ = ["app", "devices", "main", "publishing", "setup", "steps"]
