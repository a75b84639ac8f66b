"""Run or resume the search of a folder: driver.py FOLDER EVALUATIONS EXECUTOR SAMPLER [WHERE [DRIVERS]]."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import torch

from nas.budget import Budget
from nas.evaluate import CandidateResult, EvaluationRecipe
from nas.latency.profile import Profile
from nas.model import CompactBertConfig
from nas.search import SearchState, drivers, search
from nas.search.costs import Costs
from nas.search.executors import Executor, InlineExecutor, executor_for
from nas.search.sampler import Trials
from nas.search.storage import Storage
from nas.space import SearchSpace
from nas.study import Search
from nas.tasks import ClassMetric

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
    """Return the trials of a folder's search, which are stored in a file of the folder or in a database."""
    settings = Search(sampler=sampler, population=8)
    storage = Storage(
        where if "://" in str(where) else folder / where, "tiny", inputs, ["accuracy", "predicted p50_ms"]
    )
    return Trials(storage, SearchSpace.load("tiny"), costs_of(folder), settings, 0)


class _HeldExecutor(InlineExecutor):
    """Evaluates `free` candidates, and then waits for the file `go` before it evaluates more."""

    def __init__(self, recipe: EvaluationRecipe, go: Path, free: int) -> None:
        super().__init__(recipe)
        self._go, self._asked, self._free = go, 0, free

    def next_result(self) -> tuple[int, CandidateResult]:
        self._asked += 1
        while self._asked > self._free and not self._go.exists():
            time.sleep(0.01)
        return super().next_result()


def run(
    folder: Path,
    evaluations: int,
    executor: str = "inline",
    sampler: str = "nsga2",
    where: Path | str = "journal.log",
    drivers: int = 1,
) -> SearchState:
    """Search. Several drivers wait for each other before the first evaluation, and each for the file `go` after five.

    The executor `held` waits for `go` after fifty evaluations.
    """
    recipe = EvaluationRecipe(folder / "supernet", folder / "data", ClassMetric("accuracy"))

    def make_executor() -> Executor:
        if executor == "held" or drivers > 1:
            created: Executor = _HeldExecutor(recipe, folder / "go", 50 if executor == "held" else 5)
        else:
            created = executor_for(Search(evaluations=evaluations, executor=executor), recipe)
        (folder / f"ready-{os.getpid()}").touch()
        while len(list(folder.glob("ready-*"))) < drivers:
            time.sleep(0.01)
        return created

    return search(trials_of(folder, where, sampler), evaluations, make_executor)


if __name__ == "__main__":
    torch.set_num_threads(1)
    drivers._HEARTBEAT_INTERVAL_S, drivers._HEARTBEAT_TIMEOUT_S = 0.2, 2.0
    state = run(Path(sys.argv[1]), int(sys.argv[2]), *sys.argv[3:6], *map(int, sys.argv[6:]))
    print(len(state.results), state.outcomes)
