"""The data of a task: rows are read, split into training, search and test sets, tokenised once, and batched.

The three sets are disjoint. The search set is held out of the training rows, by row, sentence or group, unless the
task names a separate file. The test set comes from a file or split of its own and is used only for the final metrics.
`read_sets` calls the function that suits the content of the search and test sets.
"""

from nas.data.batches import Batch, batches_by_length
from nas.data.files import read_rows
from nas.data.pairs import read_paired
from nas.data.reading import read_sets
from nas.data.splits import held_out
from nas.data.task import Splits, TaskData, prepare, read_splits
from nas.data.truth import truth_of
from nas.data.unlabelled import Unlabelled, read_unlabelled

__all__ = [
    "Batch",
    "Splits",
    "TaskData",
    "Unlabelled",
    "batches_by_length",
    "held_out",
    "prepare",
    "read_paired",
    "read_rows",
    "read_sets",
    "read_splits",
    "read_unlabelled",
    "truth_of",
]
