"""The steps between the supernet's training and the final training: searching, and measuring the best candidates.

The final training and the exports read the result of these steps, `front.json`.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from statistics import mean
from typing import Any

from nas.budget import STORED
from nas.errors import SearchError
from nas.evaluate import EvaluationRecipe, Memory
from nas.evaluate.accuracy import RESULT_VERSION as EVALUATION_VERSION
from nas.evaluate.recipe import weights_digest
from nas.files import digest, read_json, write_json
from nas.model.precision import training_processor
from nas.pipeline.data import metric_of
from nas.pipeline.division import evaluations as evaluations_within
from nas.pipeline.division import search_seconds
from nas.pipeline.floors import floors_of_candidates
from nas.pipeline.profiles import costs_of, measured_on, recipes, texts
from nas.pipeline.run import Run, once
from nas.pipeline.supernets import decided, supernet_inputs
from nas.pipeline.teachers import load_teacher
from nas.progress import Stopwatch, say
from nas.report.numbers import duration
from nas.search import SearchState, search
from nas.search.costs import Costs
from nas.search.database import check_database, database
from nas.search.executors import CachingExecutor, Executor, evaluating_processor, executor_for
from nas.search.knapsack import best_sums, score, single_changes
from nas.search.sampler import Trials
from nas.search.selection import Measurement, compared_at, measure_front
from nas.search.storage import Storage
from nas.search.uniform import best_uniform, every_uniform
from nas.study import Study

_RESULT_VERSION = 4
"""Increase this when the contents of `front.json` change, so that older files are rebuilt."""
_STORED_FLOOR_VERSION = 1
"""Increase this when the contents change only for studies with a budget that minimises `size_mb` or `params`."""


@once
def search_inputs(run: Run) -> str:
    """Return the digest of everything that a search depends on.

    The digest does not cover the number of evaluations and the sampler, so that a user can change these settings and
    then resume the search.
    """
    profiles = [recipe.digest for recipe in recipes(run)]
    return digest([supernet_inputs(run), profiles, run.study.digest("budgets"), *_evaluation_settings(run)])


def _evaluation_settings(run: Run) -> list[object]:
    """Return the settings on which the accuracies of candidates depend, in addition to the supernet's inputs."""
    settings = run.study.search
    return [EVALUATION_VERSION, settings.examples, settings.least_tokens, settings.bf16, _compares_by_confidence(run)]


def _compares_by_confidence(run: Run) -> bool:
    """Whether candidates are compared by the probability of the right answer, and not by accuracy.

    If a budget has an accuracy floor, candidates must be compared by accuracy.
    """
    return not any(budget.has_floor for budget in run.study.budgets)


def evaluation(run: Run) -> EvaluationRecipe:
    """Return the recipe for evaluating candidates of this run."""
    settings = run.study.search
    return EvaluationRecipe(
        run.supernet,
        run.data,
        metric_of(run),
        settings.examples,
        settings.least_tokens,
        settings.bf16,
        by_confidence=_compares_by_confidence(run),
        weights=weights_digest(run.supernet),
        processor=training_processor(),
    )


def executor_of(run: Run, recipe: EvaluationRecipe) -> Executor:
    """Return the executor that evaluates candidates of this run and stores the results for later searches."""
    settings = run.study.search
    precision = recipe.precision(evaluating_processor(settings))
    identity = digest([supernet_inputs(run), recipe.weights, *_evaluation_settings(run)])
    return CachingExecutor(executor_for(settings, recipe), Memory(run.evaluations(identity), precision))


@once
def costs_and_floors_of(run: Run) -> Costs:
    """Return an object that predicts the costs of candidates and holds the accuracy floors of the budgets.

    By default, the search also looks for candidates that cost at most a given fraction of a budget, such as a half or a
    quarter (`Costs.shares`). If the supernet is trained only on sub-networks near the budgets, the smallest of these
    fractions is one half, since the weights of cheaper sub-networks are not trained.
    """
    costs = replace(costs_of(run), floors=floors_of_candidates(run))
    return replace(costs, shares=(1.0, 0.5)) if run.study.is_near_budgets else costs


def check_storage(study: Study) -> None:
    """Raise `SearchError` if the study names a database that cannot be used."""
    if study.search.storage:
        check_database(database(study.search.storage.get_secret_value(), study.path.parent))


def trials_of(run: Run, costs: Costs) -> Trials:
    """Return the trials of the run's search, which are stored in the study's database or else in a journal file."""
    study, url, inputs, weights = run.study, run.study.search.storage, search_inputs(run), weights_digest(run.supernet)
    location = database(url.get_secret_value(), study.path.parent) if url else run.journal
    metric = metric_of(run)
    objective = "probability of the right answer" if _compares_by_confidence(run) and metric.is_share else metric.label
    value_names = [objective, *(f"predicted p50_ms, {device.name}" for device in study.devices)]
    # A database may hold the searches of several supernets with the same inputs but different weights.
    storage = Storage(location, study.name, digest([inputs, weights]) if url else inputs, value_names)
    trials = Trials(storage, study.space, costs, study.search, study.seed)
    trials.record_dependency("weights", weights)
    return trials


@once
def searched(run: Run) -> SearchState:
    """Return the candidates that the search has evaluated so far, and the number of trials with each outcome."""
    return SearchState.of(trials_of(run, costs_of(run)))


def evaluate(run: Run, stopwatch: Stopwatch, knapsack: bool = False) -> SearchState:
    """Evaluate candidates until their number reaches `evaluations(run)`; return the state of the search.

    If `knapsack` is set, the accuracies of single changes to the largest network are measured first. A knapsack solver
    then combines these changes into the first candidates. Raises `SearchError` if earlier trials were based on
    different profiles or weights.
    """
    costs, recipe, settings, count = costs_and_floors_of(run), evaluation(run), run.study.search, evaluations(run)
    trials = trials_of(run, costs)
    trials.record_dependency("profiles", digest(measured_on(run)))
    executor = partial(executor_of, run, recipe)
    if trials.evaluated < count:
        processor = evaluating_processor(settings)
        say(f"search: candidates are evaluated on {processor} in {recipe.precision(processor)}")
    if knapsack and trials.evaluated < count:
        changes = single_changes(run.study.space)
        trials.begin_with(best_sums(run.study.space, costs, score(executor(), changes)))
        stopwatch.end("knapsack")
    return search(trials, count, executor, stopwatch)


def evaluations(run: Run) -> int:
    """Return the number of evaluations of the search.

    Without `training.hours`, the study sets this number. With `training.hours`, the number is chosen when the search
    starts. Raises `SearchError` if no number has been chosen yet, which can happen only in a process that joins a
    search just after its start.
    """
    if not run.study.training.hours:
        return run.study.search.evaluations
    count = decided(run, "search")
    if count is None:
        raise SearchError(
            f"{run.folder}: the search is still measuring how many candidates fit into training.hours; try again in "
            "a minute"
        )
    return count


def _decide_evaluations(run: Run, stopwatch: Stopwatch) -> None:
    """Decide how many candidates fit into the search's share of the time left, and record the number.

    The time per evaluation is measured on the uniform baselines, which are as large as the budgets allow. The
    measurement uses up part of the search's time, but its results are stored, and the step `front` reuses them.
    """
    search_share, costs = search_seconds(stopwatch.left), costs_of(run)
    seconds_before = stopwatch.left
    executor, space = partial(executor_of, run, evaluation(run)), run.study.space
    results_by_budget, count = best_uniform(executor, space, costs), len(every_uniform(space, costs))
    if not count:  # no uniform network meets a budget, or all budgets have floors
        has_floors = any(budget.has_floor for budget in run.study.budgets)
        count = len(score(executor(), [space.smallest(), *([space.largest()] if has_floors else [])]))
    seconds_taken = seconds_before - stopwatch.left
    stopwatch.end("timing")
    known_seconds = [
        result.seconds / run.study.search.workers for results in results_by_budget.values() for result in results
    ]
    # Results that an earlier search stored are reused, which takes no time. Their stored times are then used instead.
    seconds_each = mean(known_seconds) if sum(known_seconds) > seconds_taken else seconds_taken / count
    steps = evaluations_within(search_share - seconds_taken, seconds_each)
    run.add_note("search", steps=steps)
    say(
        f"search: {steps} evaluations of {seconds_each:.2f} s each "
        f"(time left for search and training: {duration(max(0.0, stopwatch.left))})"
    )


def join_search(run: Run) -> SearchState:
    """Evaluate candidates for a search that another command runs, until the search has enough candidates.

    This function writes only trials and accuracies, because the other command runs the steps before and after the
    search. Raises `SearchError` if no search has been started with the study's current inputs.
    """
    if not run.is_started("search") or not run.is_started("search", search_inputs(run)):
        raise SearchError(
            f"{run.folder}: there is no search to join, because none has been started with the study's current "
            "settings; start one with nas search"
        )
    return evaluate(run, Stopwatch())


def make_search(run: Run, stopwatch: Stopwatch) -> None:
    """Search the space, and record how the search ended. An interrupted search is resumed."""
    if run.study.training.hours and decided(run, "search") is None:
        _decide_evaluations(run, stopwatch)
    run.journal.parent.mkdir(parents=True, exist_ok=True)  # the step's result, even if a database holds the trials
    state = evaluate(run, stopwatch, run.study.search.knapsack)
    run.add_note("search", ended=_end_note(run, len(state.results)))


def is_searched(run: Run) -> bool:
    """Whether the search for the current supernet and profiles has ended."""
    return run.is_done("search", search_inputs(run)) and has_ended(run, len(searched(run).results))


def has_ended(run: Run, count: int) -> bool:
    """Whether a search with `count` results has ended.

    A search has ended if `count` reaches `evaluations(run)`, or if the search recorded that no new candidates were
    left.
    """
    return count >= evaluations(run) or run.get_note("search", "ended") == _end_note(run, count)


def _end_note(run: Run, count: int) -> list[object]:
    """Return the note that records how a search ended.

    The note includes the sampler and the number of evaluations, since a search with another sampler or more evaluations
    may find more candidates.
    """
    return [evaluations(run), run.study.search.sampler, count]


def front_inputs(run: Run) -> str:
    """Return the digest of everything that `front.json` depends on."""
    results = [result.to_json() for result in searched(run).results]
    floors = [budget.model_dump(mode="json") for budget in run.study.budgets if budget.has_floor]
    inputs = [_RESULT_VERSION, results, run.study.export.candidates, measured_on(run)]
    if any(budget.minimise in STORED for budget in run.study.budgets):
        inputs.append(_STORED_FLOOR_VERSION)
    return digest([*inputs, floors] if floors else inputs)


def make_front(run: Run, stopwatch: Stopwatch) -> None:
    """Measure the best candidates and uniform networks for each budget on the devices, and write `front.json`."""
    study, costs, recipe = run.study, costs_and_floors_of(run), evaluation(run)
    results = searched(run).results
    comparable_costs = compared_at(costs, results, study.export.candidates)
    uniform = best_uniform(partial(executor_of, run, recipe), study.space, comparable_costs)
    evaluator = recipe.load()
    measurement = Measurement(evaluator.network, study.space.largest(), costs, texts(run))
    content = {"metric": metric_of(run).label} | measure_front(measurement, searched(run), study, uniform)
    content["importance"] = trials_of(run, costs).importance()
    content["teacher_search_accuracy"] = evaluator.accuracy_of(load_teacher(run))
    write_json(run.front, content)


def front(run: Run) -> dict[str, Any]:
    """Return the content of `front.json`: all candidates, the Pareto front, and each budget's measured candidates.

    Raises `SearchError` if the file does not exist yet.
    """
    if not run.front.exists():
        raise SearchError(f"{run.front}: does not exist yet; run nas search or nas run to write it")
    content: dict[str, Any] = read_json(run.front, SearchError)
    return content
