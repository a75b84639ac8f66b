"""Reads a task that is trained on single texts without labels and evaluated on the retrieval of passages.

The search set and the test set are separate files or splits. Each of their rows holds a query, a passage, and a grade
of the passage's relevance to the query. The passages of all rows of a file form the corpus that is searched for each
query of the file.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from nas.data.files import values_of
from nas.data.pairs import check_distinct, with_training_texts
from nas.data.splits import numbered
from nas.data.task import RowSource, Splits, label_columns_of, read_source, texts_of
from nas.data.words import joined
from nas.errors import DataError, shown
from nas.study import Task
from nas.tasks import GROUP
from nas.tasks.ranking import grades_of
from nas.tasks.retrieval import passage_group


@dataclass(frozen=True)
class _RetrievalSet:
    """The distinct queries and the distinct passages of a search set or test set."""

    queries: list[str]
    passages: list[str]
    judgements: list[list[list[int]]]
    """For each query, a list with a pair for each relevant passage: the passage's group and its grade."""


def read_retrieval(task: Task, train: str | Sequence[str], search: str, test: str) -> Splits:
    """Read the training texts, and the queries and passages of the search and test sets.

    Each query or passage becomes one row. The labels of queries are in the format of `RetrievalMetric`. `train`,
    `search` and `test` are absolute paths, or names of splits on the hub. If `train` lists several of them, their rows
    are concatenated. A training text that is also a query or a passage is left out. Raises the same errors as
    `read_splits`. Also raises `DataError` if all queries of the search set occur in the test set, or vice versa, or if
    the same query and passage have different grades.
    """
    sources = {"search": search, "test": test}
    sets = {name: _read_set(task, source) for name, source in sources.items()}
    check_distinct({name: [found.queries] for name, found in sets.items()}, sources, "query", "queries")
    groups = {
        name: {GROUP: [*range(len(found.queries)), *map(passage_group, range(len(found.passages)))]}
        for name, found in sets.items()
    }
    evaluation_sets = Splits(
        {name: [[*found.queries, *found.passages]] for name, found in sets.items()},
        {name: [*found.judgements, *([] for _ in found.passages)] for name, found in sets.items()},
        (),
        more=groups,
    )
    return with_training_texts(task, train, sources, evaluation_sets)


def _read_set(task: Task, name: str) -> _RetrievalSet:
    """Read the queries, passages and grades of one file or split. Raises the same errors as `read_retrieval`."""
    query_column, passage_column = task.pair
    source = read_source(task, name, (*task.pair, *task.label_columns))
    (texts,), queries = texts_of(task, source, (passage_column,)), _read_queries(source, query_column)
    passages = list(map(joined, texts))
    (labels,) = label_columns_of(task, [source])
    # If a row has no query, its grade is ignored and may be missing.
    values = [value if query else 0 for query, value in zip(queries, labels.values, strict=True)]
    grades = grades_of(replace(labels, values=values))
    judged_rows = [row for row, query in enumerate(queries) if query]
    if not judged_rows:
        raise DataError(f"{name}: column {query_column!r} has no query, only empty values; add rows with queries")
    query_numbers, passage_numbers = numbered(queries[row] for row in judged_rows), numbered(passages)
    judgements: list[dict[int, int]] = [{} for _ in range(max(query_numbers) + 1)]
    for row, query in zip(judged_rows, query_numbers, strict=True):
        earlier_grade = judgements[query].setdefault(passage_numbers[row], grades[row])
        if earlier_grade != grades[row]:
            raise DataError(
                f"{labels.place}: row {row} (counted from 0) has the grade {grades[row]}, but an earlier row with the "
                f"same query and passage has {earlier_grade}; remove one of these rows"
            )
    return _RetrievalSet(
        list(dict.fromkeys(queries[row] for row in judged_rows)),
        list(dict.fromkeys(passages)),
        [[[passage_group(passage), grade] for passage, grade in graded.items() if grade] for graded in judgements],
    )


def _read_queries(source: RowSource, column: str) -> list[str]:
    """Return the query of each row.

    A missing query becomes an empty text. Raises `DataError` for other types of values.
    """
    values = values_of(source.rows, column)
    for row, value in enumerate(values):
        if value is not None and not isinstance(value, str):
            raise DataError(
                f"{source.name}: column {column!r} must hold texts, and may be empty in rows that only add a passage, "
                f"but row {row} (counted from 0) holds {shown(value)}; correct such rows"
            )
    return [value if value and value.strip() else "" for value in values]
