"""Batches of tokenised texts.

For evaluation, all texts of a batch have the same length and need no padding. For training, texts are padded.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from datasets import Dataset
from transformers import DataCollatorForTokenClassification, DataCollatorWithPadding

from nas.data.files import values_of
from nas.tasks import IGNORED

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class Batch:
    """A batch of texts of equal length. Because it needs no padding, it has no attention mask."""

    rows: np.ndarray
    """The row numbers of the texts in the split, (batch,)."""
    inputs: dict[str, torch.Tensor]
    """`input_ids` and, if the model has token types, `token_type_ids`. Both have the shape (batch, sequence)."""

    def to(self, processor: str) -> Batch:
        """Return a copy of the batch on a processor (`cpu` or `cuda`)."""
        return Batch(self.rows, {name: value.to(processor) for name, value in self.inputs.items()})


def batches_by_length(split: Dataset, max_tokens: int = 4096) -> Iterator[Batch]:
    """Yield batches of texts of equal length, beginning with the longest texts.

    A batch has at most `max_tokens` tokens, or consists of one text with more tokens. Batches without padding save
    time, and int8 blocks quantise each text in such a batch as if the text were served alone.
    """
    lengths = np.asarray(values_of(split, "length"))
    columns = {name: values_of(split, name) for name in ("input_ids", "token_type_ids") if name in split.column_names}
    for length in sorted(set(lengths.tolist()), reverse=True):
        rows = np.flatnonzero(lengths == length)
        step = max(1, max_tokens // length)
        for start in range(0, len(rows), step):
            part = rows[start : start + step]
            inputs = {name: torch.tensor([values[row] for row in part]) for name, values in columns.items()}
            yield Batch(part, inputs)


def padding(tokenizer: PreTrainedTokenizerBase, labels_are_per_token: bool) -> Callable[[Any], Any]:
    """Return a collator, which pads the tokenised texts of a batch to equal length.

    If each token has a label, the collator also pads the labels.
    """
    if labels_are_per_token:
        return DataCollatorForTokenClassification(tokenizer, label_pad_token_id=IGNORED)
    return DataCollatorWithPadding(tokenizer)
