"""Reads a task that is trained and evaluated on texts without labels.

The search set is held out of the training texts. The labels of the search set and the test set are the teacher's
outputs. `Splits.with_labels` adds these labels later.
"""

from __future__ import annotations

from collections.abc import Sequence

from nas.data.splits import divided, normal
from nas.data.task import Splits, names_of, read_sources, texts_in
from nas.data.words import Text
from nas.study import Task
from nas.tasks import GROUP


def read_texts(task: Task, train: str | Sequence[str], test: str, seed: int) -> Splits:
    """Read texts without labels, and hold out some of the training texts as the search set.

    In the search set and the test set, labels are empty lists, each text is a separate group, and a text that occurs
    several times is read only once. Parameters and errors are those of `nas.data.read_splits`.
    """
    sources = {"train": read_sources(task, train, task.text), "test": read_sources(task, test, task.text)}
    texts = {name: texts_in(task, parts, task.text) for name, parts in sources.items()}
    names = {name: names_of(parts) for name, parts in sources.items()}
    rows = divided(task, texts, {"train": (), "test": ()}, names, seed)
    (training_texts,), (test_texts,) = texts["train"], texts["test"]
    search_rows = _first_occurrences(training_texts, rows["search"])
    columns = {
        "train": [training_texts[row] for row in rows["train"]],
        "search": [training_texts[row] for row in search_rows],
        "test": [test_texts[row] for row in _first_occurrences(test_texts, range(len(test_texts)))],
    }
    evaluated = ("search", "test")
    splits = Splits(
        {name: [column] for name, column in columns.items()},
        {name: [[] for _ in columns[name]] for name in evaluated},
        (),
        in_test=len(training_texts) - sum(map(len, rows.values())),
        rows={"train": rows["train"], "search": search_rows},
        more={name: {GROUP: range(len(columns[name]))} for name in evaluated},
    )
    splits.check_sizes(task, {"search": names["train"], "test": names["test"]})
    return splits


def _first_occurrences(texts: Sequence[Text], rows: Sequence[int]) -> list[int]:
    """Return the row numbers in `rows` whose text does not occur earlier in `rows`."""
    first_rows: dict[str, int] = {}
    for row in rows:
        first_rows.setdefault(normal((texts[row],)), row)
    return list(first_rows.values())
