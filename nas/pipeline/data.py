"""Reads, splits and tokenises the data of a study, and loads the result from the run's folder."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import chain

from datasets import Dataset
from transformers import PreTrainedTokenizerBase

from nas import embedded
from nas.data import Splits, TaskData, read_sets, truth_of
from nas.data.files import values_of
from nas.data.sample import SAMPLE_FILE, sample_of
from nas.data.task import tokenised
from nas.data.words import Text, words_left_out
from nas.errors import SearchSpaceError
from nas.files import write_json
from nas.model.families import family_of
from nas.model.tokenizer import check_ids, ignored_code, load_tokenizer
from nas.pipeline.error_names import student_named
from nas.pipeline.run import Run, once
from nas.pipeline.snapshots import errors_with_hub_ids, has_hub_teacher, pinned_task
from nas.pipeline.sources import check_distinct, data_files, data_inputs, teacher_folder
from nas.pipeline.teacher_checks import Teacher, check_teacher
from nas.pipeline.teacher_labels import teacher_labels
from nas.progress import Stopwatch, busy, say
from nas.study import Study
from nas.tasks import Metric, task_kind
from nas.vocabulary import prune_tokenizer

TOKENIZER_FOLDER, KEPT_TOKENS_FILE = "tokenizer", "vocabulary.json"
"""The folder of a pruned tokenizer, and the file with the original ids of the tokens that this tokenizer keeps."""


@dataclass(frozen=True)
class ReadTask:
    """A study's data before tokenisation: the rows of each set, the teacher, and the maximum number of tokens."""

    splits: Splits
    teacher: Teacher
    max_length: int

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The teacher's tokenizer."""
        return self.teacher.tokenizer

    def encode(self, tokenizer: PreTrainedTokenizerBase | None = None) -> TaskData:
        """Tokenise the splits with `tokenizer`, or by default with the teacher's tokenizer.

        Raises `TeacherError` if the teacher's tokenizer returns a token for which the teacher has no embedding.
        """
        data = self.splits.encode(tokenizer or self.tokenizer, self.max_length, self._has_types)
        if tokenizer is None:
            for split in data.splits.values():
                self._check_ids(split)
        return data

    def tokenised(self, texts: Sequence[Sequence[Text]], tokenizer: PreTrainedTokenizerBase | None = None) -> Dataset:
        """Tokenise columns of unlabelled texts with `tokenizer`, or by default with the teacher's tokenizer.

        Raises `TeacherError` if the teacher's tokenizer returns a token for which the teacher has no embedding.
        """
        token_rows = tokenised(texts, tokenizer or self.tokenizer, self.max_length, self._has_types)
        if tokenizer in (None, self.tokenizer):
            self._check_ids(token_rows)
        return token_rows

    def pruned(self, used: Iterable[int]) -> tuple[PreTrainedTokenizerBase, list[int]]:
        """Return a pruned copy of the teacher's tokenizer, and the list of token ids that the copy keeps.

        The token ids `used` are kept; `prune_tokenizer` explains which other ids are kept. In some model families,
        position ids start after the id of a certain token, such as the padding token. For these families, this token
        and all tokens with lower ids are kept, so that its id does not change.
        """
        config, kept_ids = self.teacher.config, set(used)
        uncounted = family_of(config.model_type).uncounted(config.pad_token_id)
        if uncounted is not None:
            kept_ids |= set(range(uncounted + 1))
        return prune_tokenizer(self.tokenizer, kept_ids, config.vocab_size)

    @property
    def _has_types(self) -> bool:
        return "token_type_ids" in self.teacher.compact.input_names

    def _check_ids(self, rows: Dataset) -> None:
        ids = chain.from_iterable(values_of(rows, "input_ids"))
        check_ids(ids, self.tokenizer, self.teacher.source, self.teacher.config)


def read_task(run: Run, weights: bool = True) -> ReadTask:
    """Read and split a study's data. Raise a `NasError` if the files, labels or teacher do not fit the study.

    If `weights` is not set, the weights of a hub teacher are neither downloaded nor checked.
    """
    study, files_by_set, source = run.study, data_files(run), teacher_folder(run, weights)
    task = pinned_task(run)
    check_distinct(files_by_set)
    sources = {name: tuple(map(str, files_by_set.get(name, names))) for name, names in task.sets.items()}
    teacher = check_teacher(study, source, weights or not has_hub_teacher(study))
    if code := ignored_code(source):
        role = study.compressed_table.capitalize()
        say(f"{role}: the custom code of its tokenizer ({code}) is not run; its tokenizer.json is used instead")
    with student_named(study):
        splits = read_sets(task, sources, study.seed, teacher.head(study))
    return ReadTask(splits, teacher, task.max_length)


def tokenizer_of(run: Run, task: ReadTask) -> PreTrainedTokenizerBase:
    """Return the tokenizer of the run's data: the teacher's tokenizer, pruned if the study sets `prune_vocabulary`."""
    return load_tokenizer(run.data / TOKENIZER_FOLDER) if run.study.compressed.prune_vocabulary else task.tokenizer


def make_embedded(run: Run, stopwatch: Stopwatch) -> None:
    """Build the data and the teacher of the built-in task."""
    with busy("Building the built-in task from the documentation of installed packages"):
        embedded.build(run.embedded, run.study.seed)


@errors_with_hub_ids
def make_data(run: Run, stopwatch: Stopwatch) -> None:
    """Read, split, tokenise and store the data. If the study sets `prune_vocabulary`, also prune the tokenizer."""
    with busy("Reading and splitting the data"):
        task = read_task(run)
    if run.study.task.evaluated_on == "texts":
        texts = {name: task.tokenised(task.splits.texts[name]) for name in ("search", "test")}
        task = replace(task, splits=task.splits.with_labels(teacher_labels(task.teacher, texts)))
    with busy("Tokenising the data"):
        data = task.encode()
        if run.study.compressed.prune_vocabulary:
            tokenizer, kept_ids = task.pruned(chain.from_iterable(data.train["input_ids"]))
            say(f"Vocabulary: {len(kept_ids):,} of {task.teacher.config.vocab_size:,} tokens are kept")
            tokenizer.save_pretrained(run.data / TOKENIZER_FOLDER)
            write_json(run.data / KEPT_TOKENS_FILE, kept_ids)
            data = task.encode(tokenizer)
        metric = task_kind(run.study.task.kind).metric(run.study.task, data.label_names)
        rows_to_show = metric.rows_to_compare(truth_of(data.test))
        write_json(run.data / SAMPLE_FILE, sample_of(task.splits.texts["test"], data.test["length"], rows_to_show))
        data.save(run.data)
    if task_kind(run.study.task.kind).has_words:
        _report_left_out_words(task.splits, data)


def _report_left_out_words(task_splits: Splits, data: TaskData) -> None:
    """Tell the user how many words of each set are ignored because the tokenised text has no token for them."""
    left_out = {name: words_left_out(data.splits[name], texts) for name, texts in task_splits.texts.items()}
    if any(left_out.values()):
        listed = ", ".join(f"{count:,} of the {name} set" for name, count in left_out.items() if count)
        say(
            "Words that are truncated at task.max_length or have no token are neither trained on nor evaluated: "
            f"{listed}"
        )


@once
def splits(run: Run) -> TaskData:
    """Load the tokenised splits from the run's folder."""
    return TaskData.load(run.data)


def check_exits(study: Study, labels: int) -> None:
    """Raise `SearchSpaceError` if an early-exit threshold is so low that every text reaches it."""
    for threshold in study.space.dimensions.exit_threshold:
        if threshold * labels <= 1.0:
            raise SearchSpaceError(
                f"search_space: exit_threshold must be above 1/{labels}, but is {threshold:g}: the most probable of "
                f"{labels} classes never has a lower probability, so every text would exit after the first layer; "
                "raise exit_threshold"
            )


def check_labels(run: Run) -> None:
    """Raise `SearchSpaceError` if an early-exit threshold is too low for the number of labels; see `check_exits`."""
    check_exits(run.study, splits(run).num_labels)


@once
def metric_of(run: Run) -> Metric:
    """Return the study's metric. Before the data has been read, the names of the labels are not known to the metric."""
    read = run.is_finished("data") and run.is_done("data", data_inputs(run))
    return task_kind(run.study.task.kind).metric(run.study.task, splits(run).label_names if read else ())
