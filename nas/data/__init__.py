"""A task's data: read, split into train / search / test, tokenised once, and batched without padding.

The three sets are disjoint. The search set is held out of the training rows, by row or by sentence; the test set
is the official validation set and is read once, for the final metric.
"""

from nas.data.batches import Batch, batches_by_length
from nas.data.files import read_rows
from nas.data.pairs import read_paired
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
    "read_splits",
    "read_unlabelled",
    "truth_of",
]
