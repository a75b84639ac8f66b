"""The search: Optuna proposes, executors evaluate, the storage remembers."""

from __future__ import annotations

from nas.search.loop import SearchState, search

__all__ = ["SearchState", "search"]
