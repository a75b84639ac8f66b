"""Batches of tokenised texts without padding."""

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
    """Texts of one length: no padding, so no mask."""

    rows: np.ndarray
    inputs: dict[str, torch.Tensor]
    """`input_ids`, and `token_type_ids` if the model has types; each (batch, sequence)."""

    def to(self, processor: str) -> Batch:
        """The same batch on a processor."""
        return Batch(self.rows, {name: value.to(processor) for name, value in self.inputs.items()})


def batches_by_length(split: Dataset, max_tokens: int = 4096) -> Iterator[Batch]:
    """Batches of equal length, longest first, at most `max_tokens` tokens each.

    Nothing is computed for padding, and an int8 block sees each text as it would when served alone.
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


def padding(tokenizer: PreTrainedTokenizerBase, is_label_of_token: bool = False) -> Callable[[Any], Any]:
    """What makes a padded batch of tokenised texts; labels are padded too where each token has one."""
    if is_label_of_token:
        return DataCollatorForTokenClassification(tokenizer, label_pad_token_id=IGNORED)
    return DataCollatorWithPadding(tokenizer)
