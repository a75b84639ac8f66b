"""A task's data: read, split into train / search / test, tokenise once, batch without padding, and score.

The three sets are disjoint. The search set is held out of the training rows, by row or by sentence; the test set
is the official validation set and is read once, for the final figure.
"""

from __future__ import annotations

import random
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow.parquet
import torch
from datasets import ClassLabel, Dataset, load_dataset
from datasets.exceptions import DatasetNotFoundError

from nas.errors import DataError
from nas.files import read_json, write_atomically, write_json
from nas.study import Task

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SPLITS = ("train", "search", "test")
_CORRELATIONS = ("spearman", "pearson")
_FORMATS = {".parquet": "parquet", ".csv": "csv", ".jsonl": "json"}


@dataclass(frozen=True)
class TaskData:
    """Tokenised splits with columns `input_ids`, `labels`, `length`, and `token_type_ids` if the model has types."""

    train: Dataset
    search: Dataset
    test: Dataset
    label_names: tuple[str, ...]
    """Class names in the order of their numbers; empty for regression."""

    @property
    def num_labels(self) -> int:
        """Outputs of a classifier for this task; one for regression."""
        return len(self.label_names) or 1

    def save(self, folder: Path) -> None:
        """Write the splits as Parquet files; `labels.json` comes last and marks the folder complete."""
        for name in SPLITS:
            write_atomically(folder / f"{name}.parquet", getattr(self, name).to_parquet)
        sizes = {name: len(getattr(self, name)) for name in SPLITS}
        write_json(folder / "labels.json", {"label_names": list(self.label_names), "examples": sizes})

    @classmethod
    def load(cls, folder: Path) -> TaskData:
        """Read what `save` wrote."""
        labels = read_json(folder / "labels.json", DataError)["label_names"]
        splits = {name: Dataset(pyarrow.parquet.read_table(folder / f"{name}.parquet")) for name in SPLITS}
        return cls(**splits, label_names=tuple(labels))


def prepare(
    task: Task, train: str, test: str, tokenizer: PreTrainedTokenizerBase, seed: int, token_types: bool = True
) -> TaskData:
    """Read, split and tokenise a task. `train` and `test` are resolved paths, or split names of the hub.

    `token_types` says whether the model has token types. Raises `DataError` for a missing file or column, an empty
    split, or labels that do not fit the task.
    """
    training, official = _read(task, train), _read(task, test)
    training = _without_test_texts(task, training, official)
    label_names = _label_names(task, training, official)
    searched = held_out([training[column] for column in task.text], task.holdout.by, task.holdout.size, seed)
    if not 0 < len(searched) < len(training):
        raise DataError(
            f"{train}: holding out {task.holdout.size} examples by {task.holdout.by} takes {len(searched)} of "
            f"{len(training)} rows; both sets need some, so change holdout.size"
        )
    kept = sorted(set(range(len(training))) - set(searched))
    parts = {"train": training.select(kept), "search": training.select(searched), "test": official}
    for name, source in (("search", train), ("test", test)):
        _check_size(task.metric, len(parts[name]), f"{source}: the {name} set")
    encoded = {name: _encode(task, part, label_names, tokenizer, token_types) for name, part in parts.items()}
    return TaskData(**encoded, label_names=label_names)


def read_rows(source: str, hub: str | None = None, config: str | None = None) -> Dataset:
    """The rows of a data file, or of a split of a hub data set. Raises `DataError` if it cannot be read."""
    try:
        if hub:
            return load_dataset(hub, config, split=source)
        if not Path(source).is_file():
            raise DataError(f"{source}: no such data file; correct the path in the study's [task]")
        kind = _FORMATS.get(Path(source).suffix)
        if kind is None:
            raise DataError(f"{source}: a data file must end in {', '.join(_FORMATS)}; convert it")
        return load_dataset(kind, data_files=source, split="train", keep_in_memory=True)
    except DataError:
        raise
    except (DatasetNotFoundError, ConnectionError, ValueError, OSError) as problem:
        reason = str(problem).splitlines()[0] if str(problem) else type(problem).__name__
        raise DataError(f"{hub or source}: cannot be read as a data set: {reason}; correct [task]") from None
    except Exception as problem:  # the datasets library raises bare exceptions for files it cannot parse
        raise DataError(
            f"{source}: cannot be parsed ({type(problem).__name__}); check that it is what its suffix says"
        ) from None


def _read(task: Task, source: str) -> Dataset:
    rows = read_rows(source, task.hub, task.config)
    for column in (*task.text, task.label):
        if column not in rows.column_names:
            raise DataError(f"{source}: no column {column!r}; use one of {', '.join(rows.column_names)}")
    for column in task.text:
        bad = next((number for number, text in enumerate(rows[column]) if not isinstance(text, str)), None)
        if bad is not None:
            raise DataError(
                f"{source}: column {column!r} must hold texts, but row {bad} holds {rows[column][bad]!r}; "
                "drop or fill such rows"
            )
    if not len(rows):
        raise DataError(f"{source}: holds no rows; give a data set with examples")
    return rows


def _label_names(task: Task, training: Dataset, official: Dataset) -> tuple[str, ...]:
    if task.kind == "regression":
        return ()
    feature = training.features[task.label]
    if isinstance(feature, ClassLabel):
        return tuple(feature.names)
    values = _distinct(task.train, task.label, training)
    unknown = sorted(_distinct(task.test, task.label, official) - values, key=str)
    if unknown:
        raise DataError(f"{task.test}: label {unknown[0]!r} does not occur in {task.train}; correct one of them")
    if not 2 <= len(values) <= 1000 or any(isinstance(value, float) or value is None for value in values):
        raise DataError(
            f"{task.train}: classification needs 2 to 1000 classes as integers or texts in {task.label!r}, "
            f"but it holds {len(values)} distinct values; correct the column, or set kind = 'regression'"
        )
    return tuple(str(value) for value in sorted(values))


def _distinct(source: str, column: str, rows: Dataset) -> set[Any]:
    """The labels that occur."""
    try:
        return set(rows[column])
    except TypeError:
        raise DataError(
            f"{source}: column {column!r} must hold one label a row, but holds lists or records; correct it"
        ) from None


def _encode(
    task: Task, rows: Dataset, label_names: tuple[str, ...], tokenizer: PreTrainedTokenizerBase, token_types: bool
) -> Dataset:
    texts = [list(rows[column]) for column in task.text]
    tokens = tokenizer(
        *texts,
        truncation=True,
        max_length=task.max_length,
        return_token_type_ids=token_types,
        return_attention_mask=False,
    )
    labels, lengths = _labels(task, rows, label_names), [len(ids) for ids in tokens["input_ids"]]
    return Dataset.from_dict({**tokens, "labels": labels, "length": lengths})


def _labels(task: Task, rows: Dataset, label_names: tuple[str, ...]) -> list[Any]:
    values = rows[task.label]
    if task.kind == "regression":
        try:
            numbers = [float(value) for value in values]
        except (TypeError, ValueError):
            numbers = [float("nan")]
        if not np.isfinite(numbers).all():
            raise DataError(f"{task.label}: regression needs a number in every row; correct the column")
        return numbers
    if isinstance(feature := rows.features[task.label], ClassLabel):  # each file has an order of its own
        values = [feature.names[value] if value in range(len(feature.names)) else None for value in values]
    if None in values:
        raise DataError(f"{task.label}: some rows have no label; use a split whose labels are public")
    positions = {name: number for number, name in enumerate(label_names)}
    unknown = next((value for value in values if str(value) not in positions), None)
    if unknown is not None:
        raise DataError(
            f"{task.label}: label {unknown!r} is no class of {task.train}, which has {len(label_names)} such as "
            f"{label_names[0]!r}; use the same labels in {task.train} and {task.test}"
        )
    return [positions[str(value)] for value in values]


def _normal(row: Sequence[str]) -> str:
    return " ".join(" ".join(row).lower().split())


def _without_test_texts(task: Task, training: Dataset, official: Dataset) -> Dataset:
    """The training rows whose text does not stand in the test set too."""
    tested = {_normal(row) for row in zip(*(official[column] for column in task.text), strict=True)}
    texts = [_normal(row) for row in zip(*(training[column] for column in task.text), strict=True)]
    kept = [number for number, text in enumerate(texts) if text not in tested]
    if not kept:
        raise DataError(f"{task.train}: every row stands in {task.test} too; give another test set")
    return training.select(kept)


def held_out(columns: Sequence[Sequence[str]], by: str, size: int, seed: int) -> list[int]:
    """Row numbers of the search set: about `size` of them, in ascending order.

    By row, rows are drawn at random; rows with equal texts go together. By sentence, whole texts (those not
    contained in another row) are drawn, and every row contained in one of them goes along. Containment is by runs of
    words; a short phrase may still occur inside sentences that stay.
    """
    texts = [_normal(row) for row in zip(*columns, strict=True)]
    rows: dict[str, list[int]] = {}
    for number, text in enumerate(texts):
        rows.setdefault(text, []).append(number)
    sizes: dict[str, set[int]] = {}
    for text in rows:
        sizes.setdefault(text.split(" ")[0], set()).add(len(text.split(" ")))
    contained = {text: _spans(text, rows, sizes) if by == "sentence" else [] for text in rows}
    inner = {span for spans in contained.values() for span in spans}
    whole = [text for text in rows if text not in inner]
    random.Random(seed).shuffle(whole)
    chosen: set[int] = set()
    for text in whole:
        if len(chosen) >= size:
            break
        for member in (text, *contained[text]):
            chosen.update(rows[member])
    return sorted(chosen)


def _spans(text: str, rows: Container[str], sizes: Mapping[str, Iterable[int]]) -> list[str]:
    """The other rows that are a run of this text's words. `sizes` are those of the rows by their first word."""
    words = text.split(" ")
    found = {
        span
        for start, first in enumerate(words)
        for size in sizes.get(first, ())
        if size < len(words) and start + size <= len(words) and (span := " ".join(words[start : start + size])) in rows
    }
    return sorted(found)


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
    lengths = np.asarray(split["length"])
    columns = {name: list(split[name]) for name in ("input_ids", "token_type_ids") if name in split.column_names}
    for length in sorted(set(lengths.tolist()), reverse=True):
        rows = np.flatnonzero(lengths == length)
        step = max(1, max_tokens // length)
        for start in range(0, len(rows), step):
            part = rows[start : start + step]
            inputs = {name: torch.tensor([values[row] for row in part]) for name, values in columns.items()}
            yield Batch(part, inputs)


def _check_size(metric: str, texts: int, what: str) -> None:
    if metric in _CORRELATIONS and texts < 2:
        raise DataError(f"{what} needs at least 2 texts for {metric}, but has {texts}; give more")


def score(metric: str, logits: np.ndarray, labels: np.ndarray) -> float:
    """A task's metric from logits (examples, num_labels) and labels (examples,); higher is better.

    Raises `DataError` for a correlation of less than two examples.
    """
    from scipy.stats import pearsonr, spearmanr
    from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef

    if metric in _CORRELATIONS:
        _check_size(metric, len(labels), "What is judged (search.examples, search.least_tokens)")
        both = (logits[:, 0], labels)
        value = float(spearmanr(*both).statistic if metric == "spearman" else pearsonr(*both).statistic)
        return value if np.isfinite(value) else 0.0  # a constant prediction correlates with nothing
    predictions = logits.argmax(axis=1)
    if metric == "accuracy":
        return float(accuracy_score(labels, predictions))
    if metric == "f1":
        average = "binary" if logits.shape[1] == 2 else "macro"
        return float(f1_score(labels, predictions, average=average, zero_division=0.0))
    return float(matthews_corrcoef(labels, predictions))
