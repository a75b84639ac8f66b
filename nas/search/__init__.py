"""The search: Optuna samplers propose architectures, executors evaluate them, and a `Storage` holds the trials.

`search` runs the loop and returns a `SearchState`; `nas/pipeline/searches.py` calls it.
"""

from __future__ import annotations

from nas.search.loop import SearchState, search

__all__ = ["SearchState", "search"]
