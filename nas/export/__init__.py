"""Export a sub-network to files (`write_artefact`), then reload and measure these files (`verify`)."""

from __future__ import annotations

from nas.export.artefact import write_artefact
from nas.export.verification import verify

__all__ = ["verify", "write_artefact"]
