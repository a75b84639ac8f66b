"""The architecture search: Optuna samplers propose candidates, and executors evaluate them.

`search` runs the search loop, and stores the results through `Trials`. `nas/pipeline/searches.py` calls `search`.
"""

from __future__ import annotations

from nas.search.loop import SearchState, search

__all__ = ["SearchState", "search"]
