"""Stores complete evaluations in a file, so that a later search with the same supernet need not repeat them.

`CachingExecutor` (`nas/search/executors.py`) reads the memory and adds results to it.
"""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path

from nas.architecture import Architecture
from nas.errors import NasError
from nas.evaluate.accuracy import CandidateResult


class Memory:
    """Evaluation results, stored in a file with one JSON object per line, and looked up by architecture.

    The caller must use a separate file for each combination of weights, texts and evaluation method. Each line contains
    the precision of its result, and only results with the given `precision` are used. Several processes may append to
    the file. Incomplete lines, which a killed process may have left, are skipped. Results of evaluations that were
    stopped early are not stored, because they are estimates that depend on the other candidates of the search.
    """

    def __init__(self, path: Path, precision: str = "float32") -> None:
        self._path = path
        self._precision = precision
        self._known: dict[Architecture, CandidateResult] = {}
        for line in path.read_bytes().split(b"\n") if path.exists() else ():
            with suppress(ValueError, KeyError, TypeError, NasError):
                result = CandidateResult.from_json(json.loads(line))
                if result.precision == precision:
                    self._known[result.architecture] = result

    def get(self, architecture: Architecture) -> CandidateResult | None:
        """Return the result of an architecture, or None if it is unknown."""
        return self._known.get(architecture)

    def add(self, result: CandidateResult) -> None:
        """Store a result if it is complete and not yet known."""
        if not result.complete or result.architecture in self._known:
            return
        if result.precision == self._precision:
            self._known[result.architecture] = result
        self._path.parent.mkdir(parents=True, exist_ok=True)
        # The first newline ends an incomplete line that a killed process may have left.
        line = b"\n" + json.dumps(result.to_json(), separators=(",", ":")).encode() + b"\n"
        with self._path.open("ab", buffering=0) as file:
            file.write(line)
