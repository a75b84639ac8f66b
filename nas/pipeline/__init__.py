"""The pipeline of a study: the list of its steps, the runner that executes them, and the folder with the results.

The command line and the public API of `nas` call the functions that are exported here.
"""

from __future__ import annotations

from nas.pipeline.commands import export, export_trial, profile, search_candidates, train
from nas.pipeline.run import Run
from nas.pipeline.searches import front, join_search

__all__ = ["Run", "export", "export_trial", "front", "join_search", "profile", "search_candidates", "train"]
