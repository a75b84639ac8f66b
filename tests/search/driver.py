"""Runs (or goes on with) the search of a folder: driver.py FOLDER EVALUATIONS EXECUTOR SAMPLER [WHERE [DRIVERS]].

DRIVERS wait for each other, and notice within two seconds when another one dies.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

from nas.budget import Budget
from nas.evaluate import EvaluationRecipe
from nas.latency.profile import Profile
from nas.model import CompactBertConfig
from nas.search import SearchState, search, storage
from nas.search.costs import Costs
from nas.search.executors import executor_for
from nas.search.sampler import Trials
from nas.search.storage import Storage
from nas.space import SearchSpace
from nas.study import Search

BUDGETS = (
    Budget(name="half", device="cpu", p50_ms="50%"),
    Budget(name="fifth", device="cpu", p50_ms="20%"),
)


def costs_of(folder: Path) -> Costs:
    config = CompactBertConfig.from_pretrained(folder / "supernet")
    return Costs(config, {"cpu": Profile.load(folder / "profile.json")}, BUDGETS)


def trials_of(
    folder: Path, where: Path | str = "journal.log", sampler: str = "nsga2", inputs: str = "inputs"
) -> Trials:
    """The trials of a folder's search: in a file of it, or in a database."""
    settings = Search(sampler=sampler, population=8)
    storage = Storage(
        where if "://" in str(where) else folder / where, "tiny", inputs, ["accuracy", "predicted p50_ms"]
    )
    return Trials(storage, SearchSpace.load("tiny"), costs_of(folder), settings, 0)


def run(
    folder: Path, evaluations: int, executor: str = "inline", sampler: str = "nsga2", where: Path | str = "journal.log"
) -> SearchState:
    settings = Search(evaluations=evaluations, executor=executor)
    recipe = EvaluationRecipe(folder / "supernet", folder / "data", "accuracy", None, threads=1)
    return search(trials_of(folder, where, sampler), evaluations, lambda: executor_for(settings, recipe))


if __name__ == "__main__":
    folder, evaluations = Path(sys.argv[1]), int(sys.argv[2])
    if len(sys.argv) > 6:
        storage._SECONDS_BETWEEN_BEATS, storage._SECONDS_OF_SILENCE = 0.2, 2.0
        (folder / f"ready-{os.getpid()}").touch()
        while len(list(folder.glob("ready-*"))) < int(sys.argv[6]):
            time.sleep(0.01)
    state = run(folder, evaluations, *sys.argv[3:6])
    print(len(state.results), state.outcomes)
