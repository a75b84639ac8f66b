"""Reads the rows of a task and divides them into training, search and test sets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from nas.data.pairs import read_paired
from nas.data.retrieval import read_retrieval
from nas.data.task import Splits, read_splits
from nas.data.teacher_labels import read_texts
from nas.study import Task
from nas.tasks import Head


def read_sets(task: Task, sources: Mapping[str, Sequence[str]], seed: int, head: Head | None = None) -> Splits:
    """Read the rows of a task.

    The function that reads them depends on what the search and test sets contain (`nas.tasks.Evaluation`).
    `sources` holds absolute paths or names of splits on the hub, keyed by `train`, `search` and `test`. `head` is the
    teacher's classifier. Raises the same errors as the function that reads the rows.
    """
    train, test = sources["train"], sources["test"][0]
    match task.evaluated_on:
        case "pairs":
            return read_paired(task, train, sources["search"][0], test)
        case "retrieval":
            return read_retrieval(task, train, sources["search"][0], test)
        case "texts":
            return read_texts(task, train, test, seed)
        case "rows":
            return read_splits(task, train, test, seed, head)
