"""The steps of a study as values, what makes them, and the run's folder, which holds what they leave."""

from __future__ import annotations

from nas.pipeline.commands import export, export_trial, profile, search_candidates, train
from nas.pipeline.run import Run
from nas.pipeline.searches import front, join_search

__all__ = ["Run", "export", "export_trial", "front", "join_search", "profile", "search_candidates", "train"]
