"""Computes the accuracy floors (minimum accuracies) of budgets, which depend on the teacher's measured accuracy.

The search uses `floors_of_candidates`. The final training and the exports use `floors_of_exports`.
"""

from __future__ import annotations

from nas.budget import Floor
from nas.data import truth_of
from nas.errors import TeacherError
from nas.evaluate.accuracy import logits_of
from nas.evaluate.recipe import judged_by
from nas.evaluate.spread import SELECTION_BIAS, standard_error
from nas.files import digest, read_json, write_json
from nas.pipeline.data import metric_of, splits
from nas.pipeline.run import Run, once
from nas.pipeline.sources import teacher_inputs
from nas.pipeline.teachers import load_teacher


@once
def floors_of_candidates(run: Run) -> dict[str, Floor]:
    """Return the accuracy floor of each budget that has one, keyed by budget name.

    The floors are computed from the teacher's accuracy on the texts on which candidates are evaluated. These texts are
    part of the search set.
    """
    return _floors(run, run.study.search.examples)


@once
def floors_of_exports(run: Run) -> dict[str, Floor]:
    """Return the accuracy floor of each budget that has one, keyed by budget name.

    The floors are computed from the teacher's accuracy on the entire search set, because trained networks are evaluated
    on the entire search set.
    """
    return _floors(run, None)


def _floors(run: Run, examples: int | None) -> dict[str, Floor]:
    budgets = [budget for budget in run.study.budgets if budget.has_floor]
    if not budgets:
        return {}
    accuracy, error = _teacher_accuracy(run, examples)
    floors = {budget.name: budget.floor(accuracy, SELECTION_BIAS * error) for budget in budgets}
    return {name: floor for name, floor in floors.items() if floor}


def _teacher_accuracy(run: Run, examples: int | None) -> tuple[float, float]:
    """Return the teacher's accuracy on the search set, and the standard error of this accuracy.

    If `examples` is given, evaluate only this many texts. Both values are computed once, and stored in the folder
    `evaluations`.
    """
    least_tokens = run.study.search.least_tokens
    path = run.evaluations(f"teacher-{digest([teacher_inputs(run), examples, least_tokens])}").with_suffix(".json")
    if not path.exists():
        texts, metric = judged_by(splits(run).search, examples, least_tokens), metric_of(run)
        logits, labels = logits_of(load_teacher(run), texts, "Accuracy of the teacher"), truth_of(texts)
        accuracy, error = metric.score(logits, labels), standard_error(metric, logits, labels)
        write_json(path, {"accuracy": accuracy, "standard_error": error})
    stored = read_json(path, TeacherError)
    return stored["accuracy"], stored["standard_error"]
