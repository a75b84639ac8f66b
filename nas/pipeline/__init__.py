"""The steps of a study, in order: each takes a `Run`, does what is not up to date, and leaves its results there."""

from __future__ import annotations

from nas.pipeline.exports import export
from nas.pipeline.run import Run
from nas.pipeline.searches import front, join_search, profile, search_candidates
from nas.pipeline.supernets import train

__all__ = ["Run", "export", "front", "join_search", "profile", "search_candidates", "train"]
