"""Reads additional texts without labels, and leaves out texts that occur in the task's splits.

Distillation uses the teacher's outputs for these texts in addition to its outputs for the training set.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

from nas.data.splits import normal, numbered, same_in_groups
from nas.data.task import Splits, groups_in, read_source, texts_of
from nas.data.words import Text
from nas.errors import DataError
from nas.study import Task
from nas.tasks import GROUP


@dataclass(frozen=True)
class Counts:
    """The numbers of unlabelled rows that were read, kept, and left out for each reason.

    Each row that is left out is counted under a single reason.
    """

    read: int
    kept: int
    in_test: int
    """The number of rows whose text (in a task with queries: whose query) occurs in the test set."""
    in_search: int
    """The number of rows whose text (in a task with queries: whose query) occurs in the search set."""
    in_train: int
    """The number of rows whose text occurs in the training set."""
    repeated: int
    """The number of rows whose text occurs in an earlier unlabelled row."""

    def summary(self) -> str:
        """Return the counts as one line of text."""
        left_out_by_reason = {
            "in the test set": self.in_test,
            "in the search set": self.in_search,
            "in the training set": self.in_train,
            "repeated": self.repeated,
        }
        listed = ", ".join(f"{count:,} {reason}" for reason, count in left_out_by_reason.items() if count)
        left_out = f"; left out: {listed}" if listed else ""
        return f"{self.kept:,} of {self.read:,} unlabelled texts are new{left_out}"


@dataclass(frozen=True)
class Unlabelled:
    """Texts without labels that do not occur in the task's splits."""

    texts: Sequence[Sequence[Text]]
    """The columns of texts, in the same structure as in `Splits.texts`."""
    counts: Counts
    rows: Sequence[Sequence[int]]
    """For each source, the row numbers of the rows that are kept, in the order of the texts."""
    groups: Sequence[int] = ()
    """The number of each text's group. It differs from all group numbers in the splits. Empty if the task has no
    groups."""


def read_unlabelled(task: Task, sources: Sequence[tuple[str, bool]], splits: Splits) -> Unlabelled:
    """Read the rows without labels, and leave out rows whose text occurs in a split or in an earlier row.

    In a task with queries, rows whose query occurs in the search or test set are also left out, even if their passages
    do not occur there. Texts are compared without regard to case and white space, as for the splits. Each item of
    `sources` is a name and a flag. If the flag is true, the name is the path of a file; otherwise, it is a split of the
    hub data set. Raises `DataError` if a file or column is missing, if a row has no text, or if all rows are left out.
    """
    query_columns = same_in_groups(splits.texts["train"], splits.more.get("train", {}).get(GROUP, ()))
    outcome_by_query = {
        normal(query): f"in_{name}"
        for name in ("search", "test")
        for query in zip(*(splits.texts[name][column] for column in query_columns), strict=True)
    }
    outcome_by_text = {normal(row): "in_train" for row in zip(*splits.texts["train"], strict=True)}
    count_by_outcome = dict.fromkeys(("kept", "in_test", "in_search", "in_train", "repeated"), 0)
    kept_rows: list[tuple[Text, ...]] = []
    kept_numbers: list[list[int]] = []
    groups: list[tuple[str, Hashable]] = []
    for name, is_file in sources:
        source = read_source(task, name, task.unlabelled_columns, is_file)
        source_groups = groups_in(task, source)
        kept_numbers.append([])
        for number, row in enumerate(zip(*texts_of(task, source, task.text), strict=True)):
            text, query = normal(row), normal([row[column] for column in query_columns])
            outcome = outcome_by_query.get(query) or outcome_by_text.get(text, "kept")
            count_by_outcome[outcome] += 1
            if outcome == "kept":
                outcome_by_text[text] = "repeated"
                kept_rows.append(row)
                kept_numbers[-1].append(number)
                groups += [(name, source_groups[number])] if source_groups else []
    counts = Counts(read=sum(count_by_outcome.values()), **count_by_outcome)
    if not kept_rows:
        raise DataError(
            f"task.unlabelled: {', '.join(name for name, _ in sources)}: {counts.summary()}; give other texts, or "
            "remove the setting"
        )
    texts = [list(column) for column in zip(*kept_rows, strict=True)]
    return Unlabelled(texts, counts, kept_numbers, [-1 - number for number in numbered(groups)])
