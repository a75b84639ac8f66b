"""Exports: a sub-network written as files, and the proof of what it does when reloaded from them."""

from __future__ import annotations

from nas.export.artefact import write_artefact
from nas.export.verification import verify

__all__ = ["verify", "write_artefact"]
