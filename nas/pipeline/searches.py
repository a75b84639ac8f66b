"""The steps between training and export: the search and the measured front."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from statistics import mean
from typing import Any

from nas.errors import SearchError
from nas.evaluate import EvaluationRecipe, Memory
from nas.evaluate.accuracy import FORM as EVALUATION
from nas.evaluate.recipe import weights_digest
from nas.files import digest, read_json, write_json
from nas.model.precision import training_processor
from nas.pipeline.division import evaluations as in_search
from nas.pipeline.division import search_seconds
from nas.pipeline.floors import floors_of_candidates
from nas.pipeline.prepare import metric_of
from nas.pipeline.profiles import costs_of, measured_on, recipes, texts
from nas.pipeline.run import Run, once
from nas.pipeline.supernets import decided, supernet_inputs
from nas.pipeline.teachers import load_teacher
from nas.progress import Laps, say
from nas.search import SearchState, search
from nas.search.costs import Costs
from nas.search.executors import Executor, Remembering, evaluating_processor, executor_for
from nas.search.knapsack import best_sums, score, single_changes
from nas.search.sampler import Trials
from nas.search.selection import Measurement, compared_at, measure_front
from nas.search.storage import Storage, check_database, database
from nas.search.uniform import best_uniform, every_uniform
from nas.study import Study

_FORM = 3
"""To be raised when the front holds other things than before, so that older ones are rebuilt."""


@once
def search_inputs(run: Run) -> str:
    """What a search depends on; how many results there are and who proposes candidates may change."""
    profiles = [recipe.digest for recipe in recipes(run)]
    return digest([supernet_inputs(run), profiles, run.study.digest("budgets"), *_judged_by(run)])


def _judged_by(run: Run) -> list[object]:
    """What accuracies depend on besides the supernet's inputs."""
    settings = run.study.search
    return [EVALUATION, settings.examples, settings.least_tokens, settings.bf16, _by_confidence(run)]


def _by_confidence(run: Run) -> bool:
    """Whether candidates are compared by the probability of the right answer: a floor is one of accuracy."""
    return not any(budget.has_floor for budget in run.study.budgets)


def evaluation(run: Run) -> EvaluationRecipe:
    """How to evaluate candidates of this run."""
    settings = run.study.search
    return EvaluationRecipe(
        run.supernet,
        run.data,
        metric_of(run),
        settings.examples,
        settings.least_tokens,
        settings.bf16,
        by_confidence=_by_confidence(run),
        weights=weights_digest(run.supernet),
        processor=training_processor(),
    )


def executor_of(run: Run, recipe: EvaluationRecipe) -> Executor:
    """What evaluates candidates of this run, and remembers what it evaluated."""
    settings = run.study.search
    precision = recipe.precision(evaluating_processor(settings))
    of = digest([supernet_inputs(run), recipe.weights, *_judged_by(run)])
    return Remembering(executor_for(settings, recipe), Memory(run.evaluations(of), precision))


@once
def costs_and_floors_of(run: Run) -> Costs:
    """What candidates cost by the profiles, and the floors of the budgets, which the teacher's accuracy decides.

    Where the supernet is trained near the budgets, the search looks no lower than that.
    """
    costs = replace(costs_of(run), floors=floors_of_candidates(run))
    return replace(costs, shares=(1.0, 0.5)) if run.study.is_near_budgets else costs


def check_storage(study: Study) -> None:
    """Raise `SearchError` if the database that a study names cannot be used."""
    if study.search.storage:
        check_database(database(study.search.storage.get_secret_value(), study.path.parent))


def trials_of(run: Run, costs: Costs) -> Trials:
    """The trials of the run's search, in the journal of its folder or the database that the study names."""
    study, url, inputs, weights = run.study, run.study.search.storage, search_inputs(run), weights_digest(run.supernet)
    where = database(url.get_secret_value(), study.path.parent) if url else run.journal
    metric = metric_of(run)
    objective = "probability of the right answer" if _by_confidence(run) and metric.is_share else metric.label
    values = [objective, *(f"predicted p50_ms, {device.name}" for device in study.devices)]
    # A database has room for the searches of several supernets that were trained alike.
    storage = Storage(where, study.name, digest([inputs, weights]) if url else inputs, values)
    trials = Trials(storage, study.space, costs, study.search, study.seed)
    trials.rest_on("weights", weights)
    return trials


@once
def searched(run: Run) -> SearchState:
    """The candidates that were searched so far, and their outcomes."""
    return SearchState.of(trials_of(run, costs_of(run)))


def evaluate(run: Run, laps: Laps, knapsack: bool = False) -> SearchState:
    """Evaluate candidates until there are enough, beginning with a knapsack if there shall be one.

    Raises `SearchError` if other profiles, or weights, were used before.
    """
    costs, recipe, settings, wanted = costs_and_floors_of(run), evaluation(run), run.study.search, evaluations(run)
    trials = trials_of(run, costs)
    trials.rest_on("profiles", digest(measured_on(run)))
    executor = partial(executor_of, run, recipe)
    if trials.evaluated < wanted:
        processor = evaluating_processor(settings)
        say(f"search: candidates are evaluated on {processor} in {recipe.precision(processor)}")
    if knapsack and trials.evaluated < wanted:
        changes = single_changes(run.study.space)
        trials.begin_with(best_sums(run.study.space, costs, score(executor(), changes)))
        laps.end("knapsack")
    return search(trials, wanted, executor, laps)


def evaluations(run: Run) -> int:
    """How many evaluations the search has: as the study says, or with hours as was decided.

    Raises `SearchError` where that is not decided yet, as for who joins a search in its first seconds.
    """
    if not run.study.training.hours:
        return run.study.search.evaluations
    found = decided(run, "search")
    if found is None:
        raise SearchError(
            f"{run.folder}: how many candidates fit into the hours of this search is still being measured; try again "
            "in a minute"
        )
    return found


def _decide(run: Run, laps: Laps) -> None:
    """Note how many candidates are evaluated, by the search's share of what is left.

    The uniform networks of the front, which are as large as the budgets allow, tell how long an evaluation takes; that
    belongs to the share, and is remembered.
    """
    seconds, costs = search_seconds(laps.left), costs_of(run)
    before = laps.left
    executor, space = partial(executor_of, run, evaluation(run)), run.study.space
    found, count = best_uniform(executor, space, costs), len(every_uniform(space, costs))
    if not count:  # none that is as wide in every layer keeps a budget, or all budgets have floors
        floors = any(budget.has_floor for budget in run.study.budgets)
        count = len(score(executor(), [space.smallest(), *([space.largest()] if floors else [])]))
    taken = before - laps.left
    laps.end("timing")
    known = [result.seconds / run.study.search.workers for results in found.values() for result in results]
    # What an earlier search remembers took no time now: then those that are best, and large, say how long each took.
    each = mean(known) if sum(known) > taken else taken / count
    steps = in_search(seconds - taken, each)
    run.note("search", steps=steps)
    say(f"search: {steps} evaluations of {each:.2f} s, of the {max(0.0, laps.left) / 60:.0f} minutes that are left")


def join_search(run: Run) -> SearchState:
    """Evaluate candidates beside the command that searches this run, until there are enough.

    Writes nothing but trials and accuracies; what comes before and after is that command's.
    """
    if not run.is_started("search") or not run.is_started("search", search_inputs(run)):
        raise SearchError(
            f"{run.folder}: no search of this study with these settings has begun that could be joined; start one "
            "with nas search"
        )
    return evaluate(run, Laps())


def make_search(run: Run, laps: Laps) -> None:
    """Search the space, and note how the search ended. Goes on where a killed search stopped."""
    if run.study.training.hours and decided(run, "search") is None:
        _decide(run, laps)
    state = evaluate(run, laps, run.study.search.knapsack)
    run.note("search", ended=_end(run, len(state.results)))


def is_searched(run: Run) -> bool:
    """Whether there is a search of this supernet with these profiles, and it has ended."""
    return run.is_done("search", search_inputs(run)) and has_ended(run, len(searched(run).results))


def has_ended(run: Run, count: int) -> bool:
    """Whether a search that has begun and has so many results is at its end: those asked for, or it had run dry."""
    return count >= evaluations(run) or run.noted("search", "ended") == _end(run, count)


def _end(run: Run, count: int) -> list[object]:
    """What a search ended with: another sampler, asked for as many, may find what this one did not."""
    return [evaluations(run), run.study.search.sampler, count]


def front_inputs(run: Run) -> str:
    """The digest of what the front is made from."""
    results = [result.to_json() for result in searched(run).results]
    floors = [budget.model_dump(mode="json") for budget in run.study.budgets if budget.has_floor]
    given = [_FORM, results, run.study.export.candidates, measured_on(run)]
    return digest([*given, floors] if floors else given)


def make_front(run: Run, laps: Laps) -> None:
    """Measure the best of each budget whole."""
    study, costs, recipe = run.study, costs_and_floors_of(run), evaluation(run)
    results = searched(run).results
    limited = compared_at(costs, results, study.export.candidates)
    uniform = best_uniform(partial(executor_of, run, recipe), study.space, limited)
    evaluator = recipe.load()
    measurement = Measurement(evaluator.network, study.space.largest(), costs, texts(run))
    found = {"metric": metric_of(run).label} | measure_front(measurement, searched(run), study, uniform)
    found["importance"] = trials_of(run, costs).importance()
    found["teacher_search_accuracy"] = evaluator.accuracy_of(load_teacher(run))
    write_json(run.front, found)


def front(run: Run) -> dict[str, Any]:
    """The measured Pareto front of a finished search."""
    if not run.front.exists():
        raise SearchError(f"{run.front}: is not there yet; run the step that writes it, nas search or nas run, first")
    found: dict[str, Any] = read_json(run.front, SearchError)
    return found
