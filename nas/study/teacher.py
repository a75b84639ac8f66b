"""The models that a study names: the teacher and the student."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import Field, field_validator

from nas.files import Flag, Positive, PositiveReal, Settings

_LEAST_TEXTS_READ, _EPOCH_RANGE = 50_000, (2, 10)
"""Defaults for fine-tuning a teacher: the smallest number of texts to read (each text counts once per epoch), and the
smallest and largest number of epochs. For example, a teacher is trained for two epochs on the 62,000 rows of SST-2, and
for seven epochs on 8,000 rows."""


class FineTuningSettings(Settings):
    """Settings for fine-tuning a teacher that has not yet been trained for the task."""

    epochs: PositiveReal | None = None
    """The number of epochs. By default, it depends on the size of the training set, and the model gets the weights of
    the epoch with the best score on the search set."""
    learning_rate: PositiveReal = 8e-5
    batch_size: Positive = 64

    def epochs_on(self, rows: int) -> float:
        """Return the number of epochs to train if there are `rows` training rows."""
        least, most = _EPOCH_RANGE
        return self.epochs or min(most, max(least, -(-_LEAST_TEXTS_READ // rows)))


class TeacherSettings(Settings):
    """A model provided by the user: the teacher, or a student to compress instead of the teacher."""

    model: str = Field(min_length=1)
    """A folder or a hub id with a model of a supported family, or `embedded` for the teacher of the built-in task. If
    the study sets `[student]`, the teacher may be any text classifier that transformers can load."""
    revision: str | None = Field(default=None, min_length=1)
    """The branch, tag or commit of a hub model. The default is its main branch."""
    fine_tune: FineTuningSettings | None = None
    """Settings for fine-tuning the model before it is used. `true` selects the default settings. If the model is
    already fine-tuned for the task, omit this key or set it to `false`."""
    prune_vocabulary: Flag = False
    """Whether to remove tokens that never occur in the training texts. Words that contain such tokens are then split
    into smaller pieces. Supported for WordPiece, BPE and Unigram tokenizers."""
    outputs: dict[str, str] | None = None
    """The columns of the training data and the unlabelled texts that hold the teacher's logits, keyed by label. If this
    key is set, the teacher is not loaded, and `model` is only its name. The key is allowed only for the teacher, and
    only if the study sets `[student]`."""

    @field_validator("fine_tune", mode="before")
    @classmethod
    def _as_table(cls, value: Any) -> Any:
        if isinstance(value, bool):
            return {} if value else None
        if value is not None and not isinstance(value, Mapping | FineTuningSettings):
            raise ValueError(f"must be true, false or a table such as {{ epochs = 2.0 }}, but got {value!r}")
        return value

    @property
    def is_loaded(self) -> bool:
        """Whether the model is loaded. If not, only its outputs are read from files."""
        return self.outputs is None
