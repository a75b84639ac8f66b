"""Runs one study with several seeds, to show how much the accuracy of exports varies by chance.

`nas run --seeds` calls these functions, and the report shows the result.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from statistics import fmean, stdev
from typing import Any

from nas.errors import ExportError
from nas.export.artefact import VERIFICATION_FILE
from nas.files import file_digest, read_json, write_json
from nas.pipeline.run import Run

_SEEDS_FILE = "seeds.json"


def runs_of_seeds(run: Run, count: int) -> dict[int, Run]:
    """Return `count` runs of one study with consecutive seeds, keyed by seed. The first of these runs is `run`.

    The seed determines how the rows are split, and all random numbers in training, profiling and search. The folders of
    the additional runs are next to the folder of `run`.
    """
    runs = {run.study.seed: run}
    for seed in range(run.study.seed + 1, run.study.seed + count):
        study = run.study.model_copy(update={"seed": seed, "name": f"{run.study.name}-seed-{seed}"})
        runs[seed] = Run(study, run.folder.with_name(study.name))
    return runs


def spread(verified: Mapping[int, Mapping[str, Mapping[str, Any]]]) -> dict[str, dict[str, Any]]:
    """Return a dictionary for each budget, keyed by budget name, with the results of its exports over all seeds.

    The dictionary includes the test accuracy for each seed, and the mean and standard error of these accuracies. The
    standard error is None if there is only one seed. `verified` maps each seed and budget name to the content of the
    export's `verification.json`. A budget is left out if a seed has no export for the budget.
    """
    names = [name for name in next(iter(verified.values())) if all(name in exports for exports in verified.values())]
    return {name: _statistics({seed: exports[name] for seed, exports in verified.items()}) for name in names}


def _statistics(exports: Mapping[int, Mapping[str, Any]]) -> dict[str, Any]:
    values = [export["accuracy"] for export in exports.values()]
    return {
        "metric": next(iter(exports.values()))["metric"],
        "seeds": list(exports),
        "accuracies": values,
        "mean": fmean(values),
        "standard_error": stdev(values) / len(values) ** 0.5 if len(values) > 1 else None,
        "p50_ms": [export["p50_ms"] for export in exports.values()],
        "met": [export["met"] for export in exports.values()],
        "descriptions": [export["description"] for export in exports.values()],
    }


def keep_spread(run: Run, result: Mapping[str, Mapping[str, Any]]) -> None:
    """Write `result`, which `spread` returned, to the folder of `run`, the run with the first seed."""
    write_json(run.folder / _SEEDS_FILE, {"of": _verification_digests(run, result), "spread": result})


def spread_of(run: Run) -> dict[str, dict[str, Any]]:
    """Return the stored result of `spread`; empty if the run's exports have changed since the result was stored."""
    path = run.folder / _SEEDS_FILE
    stored = read_json(path, ExportError) if path.exists() else {"of": None, "spread": {}}
    return dict(stored["spread"]) if stored["of"] == _verification_digests(run, stored["spread"]) else {}


def _verification_digests(run: Run, names: Iterable[str]) -> list[str | None]:
    """Return a list with the digest of each export's `verification.json`, or None if the export does not exist."""
    files = [run.export(name) / VERIFICATION_FILE for name in names]
    return [file_digest(path) if path.exists() else None for path in files]
