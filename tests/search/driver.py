"""Runs (or goes on with) the search of a folder: driver.py FOLDER EVALUATIONS EXECUTOR SAMPLER."""

from __future__ import annotations

import sys
from pathlib import Path

from nas.budget import Budget
from nas.evaluate import EvaluationRecipe
from nas.latency.profile import Profile
from nas.model import CompactBertConfig
from nas.search import SearchState, search
from nas.search.costs import Costs
from nas.search.executors import executor_for
from nas.search.sampler import Trials
from nas.space import SearchSpace
from nas.study import Search

BUDGETS = (
    Budget(name="half", device="cpu", p50_ms="50%"),
    Budget(name="fifth", device="cpu", p50_ms="20%"),
)


def costs_of(folder: Path) -> Costs:
    config = CompactBertConfig.from_pretrained(folder / "supernet")
    return Costs(config, {"cpu": Profile.load(folder / "profile.json")}, BUDGETS)


def run(
    folder: Path, evaluations: int, executor: str = "inline", sampler: str = "nsga2", journal: str = "journal.log"
) -> SearchState:
    settings = Search(sampler=sampler, evaluations=evaluations, population=8, executor=executor)
    recipe = EvaluationRecipe(folder / "supernet", folder / "data", "accuracy", None, threads=1)
    trials = Trials(folder / journal, "inputs", SearchSpace.load("tiny"), costs_of(folder), settings, 0)
    return search(trials, evaluations, lambda: executor_for(settings, recipe))


if __name__ == "__main__":
    state = run(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4])
    print(len(state.results), state.outcomes)
