"""The data of a task: its rows are read, split into training, search and test sets, tokenised once, and batched.

Rows of the search and test sets do not occur in the training set. By default, single rows, sentences or groups of rows
are held out of the training rows as the search set. A task may instead name a separate file or split for the search
set. The test set always comes from a separate file or split, and networks are evaluated on it only for the final
results. `read_sets` chooses the function that reads the sets, depending on what the search and test sets contain.
"""

from nas.data.batches import Batch, batches_by_length
from nas.data.files import read_rows
from nas.data.reading import read_sets
from nas.data.task import Splits, TaskData, prepare, read_splits
from nas.data.truth import truth_of
from nas.data.unlabelled import Unlabelled, read_unlabelled

__all__ = [
    "Batch",
    "Splits",
    "TaskData",
    "Unlabelled",
    "batches_by_length",
    "prepare",
    "read_rows",
    "read_sets",
    "read_splits",
    "read_unlabelled",
    "truth_of",
]
