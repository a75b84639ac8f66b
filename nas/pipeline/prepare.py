"""Prepares the data and the teacher of a study: splits and tokenises the rows, and loads or fine-tunes the teacher.

"Teacher" here means the model that is compressed. If the study has a `[student]`, this model is the student's
checkpoint, and `separate_teacher.py` computes the outputs from which the student learns.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import chain, combinations, product
from pathlib import Path
from typing import Any, cast

import torch
from datasets import Dataset
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from nas import embedded
from nas.data import Splits, TaskData, read_sets, truth_of
from nas.data.files import read_rows, values_of
from nas.data.sample import SAMPLE_FILE, sample_of
from nas.data.task import tokenised
from nas.data.truth import first_rows
from nas.data.words import Text, words_left_out
from nas.errors import DataError, SearchSpaceError, TeacherError
from nas.evaluate.accuracy import logits_of
from nas.export.sentences import SentenceEncoder, write_sentence_modules
from nas.files import digest, file_digest, read_json, write_json
from nas.model.families import family_of
from nas.model.projection import read_projection
from nas.model.stock import shape_of
from nas.model.teacher_config import read_config, teacher_settings
from nas.model.tokenizer import check_ids, ignored_code, load_tokenizer
from nas.pipeline.error_names import student_named
from nas.pipeline.run import Run, once
from nas.pipeline.snapshots import (
    Role,
    commit,
    errors_with_hub_ids,
    has_hub_teacher,
    hub_model,
    pinned_task,
    record_snapshots,
)
from nas.pipeline.teacher_labels import pooling_of, teacher_labels
from nas.pipeline.teachers import Teacher, check_shape, check_teacher, load_classifier
from nas.pipeline.watching import watchers_of
from nas.progress import Stopwatch, busy, say
from nas.study import FineTuningSettings, Study, TeacherSettings
from nas.supernet.loops import NO_WATCHERS, AccuracyOf, FineTuning, Schedule, Watchers
from nas.supernet.scale import STANDARD, Scale, last_linear
from nas.tasks import Metric, task_kind
from nas.vocabulary import prune_embeddings, prune_tokenizer

_DATA_VERSION = 4
"""Increase this when the same files lead to different tokenised data than before, so that older data is rebuilt."""
_TEACHER_VERSION = 3
"""Increase this when the same files lead to a different teacher than before, so that older teachers are rebuilt."""
_SOURCE_FILE = "source.json"
"""The file that records the model and commit of the run's teacher, and the mean and deviation of its outputs."""
_TOKENIZER_FOLDER, _KEPT_TOKENS_FILE = "tokenizer", "vocabulary.json"
"""The folder of a pruned tokenizer, and the file with the original ids of the tokens that this tokenizer keeps."""
_EVALUATED_TEXTS = 1000
"""The teacher's accuracy is measured on this many texts, or groups of texts, of the search set."""
_PATIENCE = 3
"""If the study sets no number of epochs, fine-tuning stops if this many epochs in a row do not improve the accuracy
on the search set."""


def data_files(run: Run) -> dict[str, tuple[Path, ...]]:
    """Return the data files that the run reads, keyed by the name of the set; empty for a hub data set.

    The sets are `train`, `test` and, if the study names files for the search set, `search`.
    """
    if run.study.task.train == "embedded":
        return {name: (run.embedded / f"{name}.parquet",) for name in ("train", "test")}
    return given_files(run.study)


def given_files(study: Study) -> dict[str, tuple[Path, ...]]:
    """Return the data files that a study names, keyed by the name of the set.

    The sets are `train`, `test` and, if the study names files for the search set, `search`. The result is empty for a
    hub data set and for the built-in task.
    """
    if study.task.hub or study.task.train == "embedded":
        return {}
    return {name: tuple(map(study.resolve, paths)) for name, paths in study.task.sets.items()}


def check_distinct(files: Mapping[str, Sequence[Path]]) -> None:
    """Raise `DataError` if two sets have files with the same content. `files` is keyed by the name of the set."""
    for (first, paths), (second, other_paths) in combinations(files.items(), 2):
        for path, other in product(paths, other_paths):
            if file_digest(path) == file_digest(other):
                if not len(read_rows(str(other))):
                    raise DataError(f"{other}: has no rows; give a data set with examples")
                raise DataError(
                    f"{other}: has the same content as {path}, but the {first} set and the {second} set must be "
                    f"disjoint; give different rows as task.{second}"
                )


@once
def task_identity(run: Run) -> dict[str, Any]:
    """Return the task's settings as JSON values, with digests instead of paths and the commit of a hub data set."""
    identities_by_set = {name: list(map(content_of, paths)) for name, paths in data_files(run).items()}
    file_identities = {
        name: identities if len(identities) > 1 else identities[0] for name, identities in identities_by_set.items()
    }
    # Unlabelled texts have a step of their own. Settings that older versions of nas did not have are left out if they
    # are not set or have the former value, so that older digests stay valid.
    newer_settings = ("threshold", "query", "search", "pair")
    left_out = {"unlabelled"} | {key for key in newer_settings if not getattr(run.study.task, key)}
    left_out |= {"output_width"} if run.study.task.output_width == "teacher" else set()
    task = run.study.task.model_dump(mode="json", exclude=left_out)
    # If the search set is a file, nothing is held out, but digests of older runs contain this former default.
    if run.study.task.search:
        task["holdout"] = {"size": 5000, "by": "row"}
    return task | file_identities | {"revision": commit(run, "dataset")}


def content_of(path: Path) -> list[str | None]:
    """Return the suffix and the digest of a data file. The digest is None if the file is missing."""
    return [path.suffix, file_digest(path) if path.is_file() else None]


@once
def teacher_identity(run: Run) -> dict[str, Any]:
    """Return the settings of the run's teacher as JSON values, as `model_identity` does."""
    return model_identity(run, run.study.compressed, teacher_source(run), "model")


def model_identity(run: Run, settings: TeacherSettings, source: str, role: Role) -> dict[str, Any]:
    """Return a model's settings as JSON values, with the commit of a hub model but without a folder's path.

    `source` is the folder or hub id of the model. The columns of a teacher's outputs are left out.
    """
    exclude = {"outputs", *(["model"] if Path(source).is_dir() else [])}
    return settings.model_dump(mode="json", exclude=exclude) | {"revision": commit(run, role)}


@once
def data_inputs(run: Run) -> str:
    """Return the digest of everything that the tokenised data depends on."""
    teacher = teacher_identity(run)
    relevant_settings = {key: teacher.get(key) for key in ("model", "revision", "prune_vocabulary")}
    # Labels get the numbers that the teacher gives them, unless the teacher is fine-tuned.
    relevant_settings["tuned"] = teacher["fine_tune"] is not None
    source = teacher_source(run)
    tokenizer = file_digests(source, "*.json", "*.txt", "*.model")
    inputs = [_DATA_VERSION, task_identity(run), run.study.seed, relevant_settings, tokenizer]
    if run.study.task.evaluated_on == "texts":
        inputs.append([file_digests(source, "*.safetensors"), pooling_of(run.study, source)])
        inputs += _module_digests(run)
    return digest(inputs)


@once
def teacher_inputs(run: Run) -> str:
    """Return the digest of everything that the teacher depends on."""
    weights = file_digests(teacher_source(run), "*.safetensors")
    inputs = [_TEACHER_VERSION, data_inputs(run), teacher_identity(run), run.study.seed, weights]
    return digest([*inputs, *_module_digests(run)])


def _module_digests(run: Run) -> list[str]:
    """Return the digests of the files in `TaskKind.module_files` of the run's teacher. Empty if it is a hub model."""
    kind, source = task_kind(run.study.task.kind), Path(teacher_source(run))
    return [file_digest(path) for path in kind.module_files(source)] if source.is_dir() else []


def file_digests(source: str, *patterns: str) -> dict[str, str]:
    """Return the digest of each file that matches a pattern in the folder `source`, keyed by file name.

    The result is empty if `source` is a hub id.
    """
    return {path.name: file_digest(path) for pattern in patterns for path in Path(source).glob(pattern)}


def teacher_source(run: Run) -> str:
    """Return the folder or hub id from which the run's teacher is loaded."""
    if run.study.compressed.model == "embedded":
        return str(run.embedded / "teacher")
    return given_teacher(run.study)


def given_teacher(study: Study) -> str:
    """Return the folder or hub id of the model that a study compresses; raises the same errors as `given_model`."""
    with student_named(study):
        return given_model(study, study.compressed)


def given_model(study: Study, model: TeacherSettings) -> str:
    """Return the folder or hub id of the model that the settings in `model` describe.

    Raises `TeacherError` if the study names a folder that does not exist, or sets a revision for a folder.
    """
    folder = study.resolve(model.model)
    if folder.is_dir():
        if model.revision:
            raise TeacherError(
                f"teacher.revision: is {model.revision!r}, but only hub models have revisions, and {folder} is a "
                "folder; remove it"
            )
        return str(folder)
    if model.model.startswith((".", "/", "~")):
        raise TeacherError(f"teacher.model: {folder} is not a folder; correct the path, or give a hub id")
    return model.model


def teacher_folder(run: Run, weights: bool = True) -> str:
    """Return the folder from which the teacher is loaded.

    If the teacher is a hub model, download its files first. Its weights are downloaded only if `weights` is set.
    """
    if not has_hub_teacher(run.study):
        return teacher_source(run)
    if not weights and run.is_done("teacher", teacher_inputs(run)):
        return str(run.teacher)  # the downloaded files may have been deleted
    with student_named(run.study):
        return str(hub_model(run, weights))


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

    def encode(self, splits: Splits | None = None) -> TaskData:
        """Tokenise `splits`, or by default the splits of this task, with the teacher's tokenizer.

        Raises `TeacherError` if a text contains a token for which the teacher has no embedding.
        """
        data = self.encode_with(self.tokenizer, splits)
        for split in data.splits.values():
            self._check_ids(split)
        return data

    def encode_with(self, tokenizer: PreTrainedTokenizerBase, splits: Splits | None = None) -> TaskData:
        """Tokenise `splits`, or by default the splits of this task, with `tokenizer`.

        Unlike `encode`, this method does not check whether the teacher has an embedding for each token.
        """
        return (splits or self.splits).encode(tokenizer, self.max_length, self._has_types)

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

        The token ids `used` are kept; `prune_tokenizer` explains which other ids are kept. In some model families, the
        number of the first position depends on the id of a token such as the padding token. For these families, this id
        and all lower ids are kept, so that the token's id does not change.
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
        say(f"Teacher: the code of its tokenizer ({code}) is not run; its tokenizer.json is used instead")
    with student_named(study):
        splits = read_sets(task, sources, study.seed, teacher.head(study))
    return ReadTask(splits, teacher, task.max_length)


def tokenizer_of(run: Run, task: ReadTask) -> PreTrainedTokenizerBase:
    """Return the tokenizer of the run's data: the teacher's tokenizer, pruned if the study sets `prune_vocabulary`."""
    return load_tokenizer(run.data / _TOKENIZER_FOLDER) if run.study.compressed.prune_vocabulary else task.tokenizer


def embedded_inputs(run: Run) -> str:
    """Return the digest of the built-in task's settings.

    The digest does not cover the task's texts, which are taken from the documentation of installed packages.
    """
    return digest([run.study.seed, embedded.VERSION])


def make_embedded(run: Run, stopwatch: Stopwatch) -> None:
    """Build the data and the teacher of the built-in task."""
    with busy("Building the built-in task from the documentation of installed packages"):
        embedded.build(run.embedded, run.study.seed)


@errors_with_hub_ids
def settle_sources(run: Run) -> None:
    """Record the hub commits that the run uses. Raise a `NasError` if the teacher's configuration does not fit."""
    record_snapshots(run)
    source = teacher_folder(run, weights=False)
    check_shape(run.study, source, read_config(source))


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
            tokenizer.save_pretrained(run.data / _TOKENIZER_FOLDER)
            write_json(run.data / _KEPT_TOKENS_FILE, kept_ids)
            data = task.encode_with(tokenizer)
        rows_to_show = _metric(run.study, data).rows_to_compare(truth_of(data.test))
        write_json(run.data / SAMPLE_FILE, sample_of(task.splits.texts["test"], data.test["length"], rows_to_show))
        data.save(run.data)
    if task_kind(run.study.task.kind).has_words:
        _report_left_out_words(task.splits, data)


def _report_left_out_words(task_splits: Splits, data: TaskData) -> None:
    """Tell the user how many words of each set are left out because the tokenised text has no token for them."""
    left_out = {name: words_left_out(data.splits[name], texts) for name, texts in task_splits.texts.items()}
    if any(left_out.values()):
        listed = ", ".join(f"{count:,} of the {name} set" for name, count in left_out.items() if count)
        say(f"Words beyond task.max_length, or without a token, are neither trained on nor evaluated: {listed}")


@once
def splits(run: Run) -> TaskData:
    """Load the tokenised splits from the run's folder."""
    return TaskData.load(run.data)


def check_exits(study: Study, labels: int) -> None:
    """Raise `SearchSpaceError` if an early-exit threshold is so low that every text reaches it."""
    for threshold in study.space.dimensions.exit_threshold:
        if threshold * labels <= 1.0:
            raise SearchSpaceError(
                f"search_space: exit_threshold must be above 1/{labels}, since the likeliest of the task's {labels} "
                f"classes always has at least this probability, but got {threshold:g}; raise it"
            )


def check_labels(run: Run) -> None:
    """Raise `SearchSpaceError` if an early-exit threshold is too low for the number of labels; see `check_exits`."""
    check_exits(run.study, splits(run).num_labels)


@once
def metric_of(run: Run) -> Metric:
    """Return the study's metric. Until the data is read, the metric does not know the names of the labels."""
    read = run.is_finished("data") and run.is_done("data", data_inputs(run))
    return _metric(run.study, splits(run) if read else None)


def _metric(study: Study, data: TaskData | None) -> Metric:
    return task_kind(study.task.kind).metric(study.task, data.label_names if data else ())


@errors_with_hub_ids
def make_teacher(run: Run, stopwatch: Stopwatch) -> None:
    """Load the teacher, fine-tune it if the study asks for fine-tuning, and save it in the run's folder."""
    study, data, source = run.study, splits(run), teacher_folder(run)
    torch.manual_seed(study.seed)
    model, tokenizer = load_classifier(study, source, data)
    if study.compressed.prune_vocabulary:
        tokenizer = load_tokenizer(run.data / _TOKENIZER_FOLDER)
        prune_embeddings(model, read_json(run.data / _KEPT_TOKENS_FILE, TeacherError), tokenizer.pad_token_id)
    if study.compressed.fine_tune:
        origin = {"form": _TEACHER_VERSION, "teacher": teacher_inputs(run)}
        title = f"Fine-tuning the {study.compressed_table}"
        context = FineTuningContext(run.teacher, origin, title, watchers_of(run))
        fine_tune(study, study.compressed.fine_tune, model, tokenizer, data, context)
    model.save_pretrained(run.teacher)
    form, network = study.task.variant.form(source), cast(nn.Module, model)
    if form.network_type == "encoder":
        hidden_size = shape_of(model.config).hidden_size
        write_sentence_modules(run.teacher, form, hidden_size, read_projection(Path(source), hidden_size))
        network = SentenceEncoder(model, run.teacher)
    tokenizer.model_max_length = study.task.max_length  # exports cut texts to the length at which accuracy is measured
    tokenizer.save_pretrained(run.teacher)
    output_scale, is_fine_tuned = _report_accuracy(network, data, study), study.compressed.fine_tune is not None
    facts: dict[str, Any] = {
        "model": study.compressed.model,
        "commit": commit(run, "model"),
        "fine_tuned_here": is_fine_tuned,
    }
    facts["served_as"] = task_kind(study.task.kind).served_as(teacher_settings(source), is_fine_tuned)
    write_json(run.teacher / _SOURCE_FILE, facts | {"outputs": asdict(output_scale)})


def served_as(run: Run) -> dict[str, Any]:
    """Return the entries of an export's `config.json` that describe how to turn the network's outputs into answers."""
    stored = read_json(run.teacher / _SOURCE_FILE, TeacherError).get("served_as")  # absent in older runs
    entries: dict[str, Any] = stored or task_kind(run.study.task.kind).served_as({}, False)
    return entries


@dataclass(frozen=True)
class FineTuningContext:
    """The checkpoint folder of a fine-tuning run, an identifier of its inputs, and the receivers of its progress."""

    folder: Path
    origin: dict[str, Any]
    """JSON values that identify the inputs of the fine-tuning. Checkpoints with a different `origin` are refused."""
    title: str = "Fine-tuning the teacher"
    watchers: Watchers = NO_WATCHERS


def fine_tune(
    study: Study,
    settings: FineTuningSettings,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    data: TaskData,
    context: FineTuningContext,
) -> None:
    """Fine-tune a model in place.

    If the labels are numbers, they are standardised for training. After training, the last layer is rescaled, so that
    the model's outputs are on the original scale of the labels.
    """
    train, scale = data.train, STANDARD
    if task_kind(study.task.kind).predicts_numbers:
        scale = Scale.of(train["labels"])
        evaluated_rows = first_rows(train, _EVALUATED_TEXTS)
        Scale.to_remove(logits_of(model, evaluated_rows)[:, 0], evaluated_rows["labels"]).remove_from(
            last_linear(model)
        )
        targets = scale.standardised(train["labels"])
        train = train.remove_columns("labels").add_column("labels", targets)
    accuracy_of, patience = (None, 0) if settings.epochs else (_accuracy_function(study, data), _PATIENCE)
    epochs = settings.epochs_on(len(train))
    schedule = Schedule(
        settings.learning_rate, settings.batch_size, epochs=epochs, patience=patience, watchers=context.watchers
    )
    labels_are_per_token = task_kind(study.task.kind).has_words
    training = FineTuning(
        train,
        tokenizer,
        schedule,
        context.folder,
        study.seed,
        context.origin,
        accuracy_of,
        context.title,
        labels_are_per_token,
    )
    training.tune(model)
    scale.restore_in(last_linear(model))


def _accuracy_function(study: Study, data: TaskData) -> AccuracyOf:
    """Return a function that measures a model's accuracy on part of the search set, which is not used for training."""
    metric, texts = _metric(study, data), first_rows(data.search, _EVALUATED_TEXTS)
    labels = truth_of(texts)
    return lambda model: metric.score(logits_of(model, texts), labels)


def scale_of(run: Run) -> Scale:
    """Return the mean and standard deviation of the teacher's output; 0 and 1 if the task has several outputs."""
    return Scale(**read_json(run.teacher / _SOURCE_FILE, TeacherError)["outputs"])


def _report_accuracy(model: nn.Module, data: TaskData, study: Study) -> Scale:
    """Print the teacher's accuracy on part of the search set. Warn if a constant answer is at least as accurate.

    Return the mean and standard deviation of the teacher's output; 0 and 1 if the task has several outputs.
    """
    metric = _metric(study, data)
    texts = first_rows(data.search, _EVALUATED_TEXTS)
    with busy("Looking at the teacher's answers"):
        logits, labels = logits_of(model, texts), truth_of(texts)
    accuracy = metric.score(logits, labels)
    constant_logits = metric.constant_answer(labels, logits.shape[1])
    constant_accuracy = 0.0 if constant_logits is None else metric.score(constant_logits, labels)
    role = study.compressed_table.capitalize()
    say(f"{role}: {metric.label} {accuracy:.3f} on {metric.describe_size(labels)} of the search set")
    if accuracy <= constant_accuracy:
        say(
            f"Warning: giving every text the same answer scores {constant_accuracy:.3f}, so there is nothing to learn "
            "from this teacher; give a different teacher, number the labels as this one does, or set teacher.fine_tune"
        )
    kind = task_kind(study.task.kind)
    if not kind.has_one_output:
        return STANDARD
    output_scale = Scale.of(logits[:, 0])
    if study.compressed.fine_tune or not kind.predicts_numbers:
        return output_scale
    label_scale = Scale.of(labels)
    is_shifted = abs(output_scale.mean - label_scale.mean) > 2 * label_scale.deviation
    if is_shifted or not 0.2 < output_scale.deviation / label_scale.deviation < 5.0:
        say(
            f"Note: the teacher's outputs ({output_scale.mean:.4g} ± {output_scale.deviation:.2g}) are on a different "
            f"scale from the targets ({label_scale.mean:.4g} ± {label_scale.deviation:.2g}); exports will use the "
            "teacher's scale"
        )
    return output_scale
