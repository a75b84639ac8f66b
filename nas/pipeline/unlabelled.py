"""The step that reads unlabelled texts, and functions that return all texts for the distillation.

This step is separate from the step `data`, so that the data is not split again and the teacher is not fine-tuned again
if the unlabelled texts change. Only the supernet and all later results are then rebuilt.
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

from datasets import Dataset, concatenate_datasets

from nas.data import Unlabelled, read_unlabelled
from nas.data.files import read_table, values_of, write_table
from nas.data.truth import LABEL_COLUMNS
from nas.data.unlabelled import Counts
from nas.errors import DataError
from nas.files import digest, read_json, write_json
from nas.pipeline.data import ReadTask, read_task, splits, tokenizer_of
from nas.pipeline.run import Run, once
from nas.pipeline.snapshots import commit, errors_with_hub_ids, pinned_task
from nas.pipeline.sources import content_of, data_inputs
from nas.progress import Stopwatch, busy, say
from nas.tasks import GROUP

_RESULT_VERSION = 1
"""Increase this when the same files lead to different texts than before, so that older texts are rebuilt."""
_TEXTS_FILE, _COUNTS_FILE = "texts.parquet", "counts.json"


def sources(run: Run) -> list[tuple[str, bool]]:
    """Return a pair for each source of unlabelled texts: the file's path or split's name, and whether it is a file."""
    task = run.study.task
    files = task.unlabelled_files
    return [(str(run.study.resolve(name)) if name in files else name, name in files) for name in task.unlabelled]


@once
def unlabelled_inputs(run: Run) -> str:
    """Return the digest of everything that the tokenised unlabelled texts depend on."""
    contents = [content_of(Path(name)) if is_file else [name, commit(run, "dataset")] for name, is_file in sources(run)]
    # Earlier versions of nas kept unlabelled passages whose query occurs in the search or test set.
    version = [_RESULT_VERSION, "other queries"] if run.study.task.group_column else _RESULT_VERSION
    return digest([version, data_inputs(run), contents])


def read_new_texts(run: Run, task: ReadTask) -> Unlabelled:
    """Read the study's unlabelled texts, leaving out texts that `task.splits` already contains."""
    return read_unlabelled(pinned_task(run), sources(run), task.splits)


@errors_with_hub_ids
def make_unlabelled(run: Run, stopwatch: Stopwatch) -> None:
    """Read the unlabelled texts, leave out texts that the splits already contain, and tokenise the rest."""
    with busy("Reading and tokenising unlabelled texts"):
        task = read_task(run, weights=False)
        new_texts = read_new_texts(run, task)
        texts = task.tokenised(new_texts.texts, tokenizer_of(run, task))
        if new_texts.groups:
            texts = texts.add_column(GROUP, list(new_texts.groups))
    say(f"Distillation: {new_texts.counts.summary()}")
    write_table(texts, run.unlabelled / _TEXTS_FILE)
    write_json(run.unlabelled / _COUNTS_FILE, asdict(new_texts.counts))


def unlabelled_counts(run: Run) -> Counts | None:
    """Return how many unlabelled texts were read, and how many of them were left out.

    Return None if the study has no unlabelled texts, or if they are not read yet.
    """
    if not run.study.task.unlabelled or not run.is_finished("unlabelled"):
        return None
    return Counts(**read_json(run.unlabelled / _COUNTS_FILE, DataError))


@once
def unlabelled_texts(run: Run) -> Dataset:
    """Load the tokenised unlabelled texts from the run's folder."""
    return read_table(run.unlabelled / _TEXTS_FILE)


def distilled_texts(run: Run) -> Dataset:
    """Return the texts for the distillation: first the training set, then the unlabelled texts.

    The columns with labels are removed. The distillation draws each of these texts equally often.
    """
    train = splits(run).train
    train = train.remove_columns([name for name in train.column_names if name in LABEL_COLUMNS])
    if not run.study.task.unlabelled:
        return train
    return concatenate_datasets([train, unlabelled_texts(run).select_columns(train.column_names)])


def distilled_from(run: Run) -> list[Path]:
    """Return the files from which `distilled_texts` reads."""
    return [run.data / "train.parquet", *([run.unlabelled / _TEXTS_FILE] if run.study.task.unlabelled else [])]


def unlabelled_lengths(run: Run) -> list[int]:
    """Return the number of tokens of each unlabelled text; empty if no unlabelled texts have been read."""
    if unlabelled_counts(run) is None:
        return []
    return values_of(unlabelled_texts(run), "length")
