"""The command `nas`: thin verbs over the public functions. Heavy rooms are imported when a verb needs them."""

from __future__ import annotations

from nas.cli import beginning, devices, publishing, steps  # each adds its verbs
from nas.cli.app import app, main

__all__ = ["app", "beginning", "devices", "main", "publishing", "steps"]
