"""The live view of a search on a terminal: best candidates, Pareto front, and outcomes of proposals.

The search loop adds results to a `View`. `nas.progress.track` draws the view below the progress bar.
"""

from __future__ import annotations

import time

from rich.console import Group, RenderableType
from rich.table import Table

from nas.architecture import Architecture
from nas.errors import counted
from nas.evaluate import CandidateResult
from nas.search.front import cheapest_reaching, pareto_front, ranking
from nas.search.sampler import Trials
from nas.space import evenly_spaced

_FRONT_ROWS = 8


class View:
    """Collects the results of a search, and displays them.

    The Pareto front and the best candidates are computed only when the view is drawn.
    """

    def __init__(self, trials: Trials, results: list[CandidateResult]) -> None:
        self._trials = trials
        self._unprocessed = list(results)
        self._initial_count, self.done, self._started = len(results), len(results), time.monotonic()
        self._stopped_early = 0
        self._front: list[CandidateResult] = []
        self._best: dict[str, list[CandidateResult]] = {}
        self._costs: dict[Architecture, tuple[float, ...]] = {}
        self._most_accurate = max((result.accuracy for result in results), default=0.0)

    def add(self, result: CandidateResult) -> None:
        """Add a result, which is displayed the next time that the view is drawn."""
        self._unprocessed.append(result)
        self.done += 1
        self._most_accurate = max(self._most_accurate, result.accuracy)

    def note(self) -> str:
        """Return a text with the best accuracy so far, and the evaluations per second since the view was created."""
        rate = (self.done - self._initial_count) / (time.monotonic() - self._started)
        return f"best {self._most_accurate:.4f}, {rate:.2g} candidates/s"

    def __call__(self) -> RenderableType:
        """Return the current view as an object that the library `rich` can draw."""
        self._catch_up()
        table = Table(box=None)
        for column in ("", "accuracy", *(f"ms on {name}" for name in self._trials.costs.profiles)):
            table.add_column(column, justify="right" if column else "left")
        table.add_column("architecture", no_wrap=True, overflow="ellipsis")
        for budget, best in self._best.items():
            self._add_row(table, budget, best[:1])
        for number, index in enumerate(evenly_spaced(min(_FRONT_ROWS, len(self._front)), len(self._front))):
            title = f"front, {counted(len(self._front), 'candidate')}" if number == 0 else ""
            self._add_row(table, title, [self._front[index]])
        return Group(self._outcome_shares(), table)

    def _catch_up(self) -> None:
        costs, unprocessed = self._trials.costs, self._unprocessed
        self._unprocessed = []
        self._stopped_early += sum(not result.complete for result in unprocessed)
        complete = [result for result in unprocessed if result.complete]
        for result in complete:
            self._costs[result.architecture] = tuple(costs.predict_ms(result.architecture, result.exits).values())
        self._front = pareto_front([*self._front, *complete], lambda result: self._costs[result.architecture])
        for budget in costs.budgets:
            ranked = ranking([*self._best.get(budget.name, []), *complete], costs, budget, 0.0)
            floor = costs.floors.get(budget.name)
            reaching = cheapest_reaching(ranked, costs, floor, floor.minimum) if floor else None
            self._best[budget.name] = [reaching] if reaching else ranked[:1]

    def _add_row(self, table: Table, title: str, results: list[CandidateResult]) -> None:
        for result in results:
            predicted = (f"{value:.3f}" for value in self._costs[result.architecture])
            table.add_row(title, f"{result.accuracy:.4f}", *predicted, result.architecture.describe())
        if not results:
            table.add_row(title, "none yet")

    def _outcome_shares(self) -> str:
        """Return a line with the share of each outcome, and the share of evaluations that were stopped early."""
        outcomes = self._trials.outcomes()
        proposals = sum(outcomes.values())
        shares = (f"{count / max(proposals, 1):.0%} {name.replace('_', ' ')}" for name, count in outcomes.items())
        stopped = f"{self._stopped_early / max(self.done, 1):.0%} of the evaluated candidates were stopped early"
        return f"{counted(proposals, 'proposal')}: {', '.join(shares)}; {stopped}"
