"""What was evaluated whole is remembered: another search asks the same supernet for the same accuracies."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path

from nas.architecture import Architecture
from nas.errors import NasError
from nas.evaluate.accuracy import CandidateResult


class Memory:
    """Results by architecture, in a file with a line of JSON for each; a line that a kill has torn is passed over.

    All of them rest on the same weights, texts and form of evaluation: whoever names the file sees to that. Each line
    says in which precision it was computed, and only those of the asked `precision` are known. Several processes may
    add to the file. Results of races that were lost are estimates, made against rivals of their search, and not kept.
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
        """The result of an architecture, if it is known."""
        return self._known.get(architecture)

    def add(self, result: CandidateResult) -> None:
        """Remember a result, if it is complete and was not known."""
        if not result.complete or result.architecture in self._known:
            return
        if result.precision == self._precision:
            self._known[result.architecture] = result
        self._path.parent.mkdir(parents=True, exist_ok=True)
        line = b"\n" + json.dumps(result.to_json(), separators=(",", ":")).encode() + b"\n"  # behind a torn one, too
        with self._path.open("ab", buffering=0) as file:
            file.write(line)
