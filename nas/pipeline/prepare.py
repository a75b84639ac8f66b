"""From a study to a fine-tuned teacher: the data is read and split, the teacher loaded and, if asked, fine-tuned.

The teacher here is the model that is compressed. If the study has a student it is the student's checkpoint, and
`separate_teacher.py` computes what it is taught.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import chain, combinations, product
from pathlib import Path
from typing import Any, cast

import torch
from datasets import Dataset
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from nas import embedded
from nas.data import Splits, TaskData, read_paired, read_splits, truth_of
from nas.data.files import values_of
from nas.data.sample import SAMPLE_FILE, sample_of
from nas.data.task import tokenised
from nas.data.truth import first_rows
from nas.data.words import Text, words_left_out
from nas.errors import DataError, SearchSpaceError, TeacherError
from nas.evaluate.accuracy import logits_of
from nas.export.sentences import SentenceEncoder
from nas.files import digest, file_digest, read_json, write_json
from nas.model.families import family_of
from nas.model.stock import shape_of
from nas.model.teacher_config import read_config, teacher_settings
from nas.model.tokenizer import check_ids, ignored_code, load_tokenizer
from nas.pipeline.named import student_named
from nas.pipeline.run import Run, once
from nas.pipeline.snapshots import commit, has_hub_teacher, hub_model, keep, said_of_ids
from nas.pipeline.teachers import Teacher, check_shape, check_teacher, load_classifier
from nas.pipeline.watching import watchers_of
from nas.progress import Laps, busy, say
from nas.sentence_modules import write_modules
from nas.study import FineTuning as FineTuningSettings
from nas.study import Study
from nas.study import Teacher as ModelSettings
from nas.supernet.loops import NOBODY, FineTuning, Judge, Schedule, Watchers
from nas.supernet.scale import STANDARD, Scale, last_linear
from nas.tasks import Metric, task_kind
from nas.vocabulary import prune_embeddings, prune_tokenizer

_DATA_FORM = 4
"""To be raised when the same files give other tokenised data than before, so that older data is rebuilt."""
_TEACHER_FORM = 3
"""To be raised when the same files give another teacher than before, so that older teachers are rebuilt."""
_SOURCE = "source.json"
"""What the teacher in the run's folder was made from, and the scale of its outputs."""
_TOKENIZER, _KEPT = "tokenizer", "vocabulary.json"
"""A pruned tokenizer, and the rows of the teacher's word table that it keeps."""
_JUDGED_BY = 1000
"""So many texts of the search set, or groups of texts, say how accurate the teacher is."""
_PATIENCE = 3
"""Where the study says no epochs: fine-tuning ends after so many in a row that were no better on the search set."""


def data_files(run: Run) -> dict[str, tuple[Path, ...]]:
    """The files that the sets are read from, by what they are for; none for a hub data set."""
    if run.study.task.train == "embedded":
        return {name: (run.embedded / f"{name}.parquet",) for name in ("train", "test")}
    return given_files(run.study)


def given_files(study: Study) -> dict[str, tuple[Path, ...]]:
    """The data files that a study names, by what they are for; none for a hub data set and the embedded task."""
    if study.task.hub or study.task.train == "embedded":
        return {}
    return {name: tuple(map(study.resolve, paths)) for name, paths in study.task.sets.items()}


def check_distinct(files: Mapping[str, Sequence[Path]]) -> None:
    """Raise `DataError` if two of the sets are read from files with the same content."""
    for (first, paths), (second, others) in combinations(files.items(), 2):
        for path, other in product(paths, others):
            if file_digest(path) == file_digest(other):
                raise DataError(
                    f"{other}: has the same content as {path}, but the {first} set and the {second} set must be "
                    f"disjoint; give other rows as task.{second}"
                )


@once
def task_made_of(run: Run) -> dict[str, Any]:
    """The task's settings as JSON values, with the content of its files for their paths, and the commit of hub data."""
    contents = {name: list(map(content_of, paths)) for name, paths in data_files(run).items()}
    known = {name: found if len(found) > 1 else found[0] for name, found in contents.items()}
    # A step of its own reads the texts without labels; older runs do not know the other settings.
    newer = ("threshold", "query", "search", "pair")
    left_out = {"unlabelled"} | {key for key in newer if not getattr(run.study.task, key)}
    task = run.study.task.model_dump(mode="json", exclude=left_out)
    if task_kind(run.study.task.kind).learns_from_texts:  # nothing is held out; older runs have the former default here
        task["holdout"] = {"size": 5000, "by": "row"}
    return task | known | {"revision": commit(run, "dataset")}


def content_of(path: Path) -> list[str | None]:
    """The content of a data file as JSON values: its suffix, which says how the bytes are read, and their digest."""
    return [path.suffix, file_digest(path) if path.is_file() else None]


@once
def teacher_made_of(run: Run) -> dict[str, Any]:
    """The teacher's settings as JSON values, without the path if it is a folder, and with the commit of a hub model."""
    is_folder = Path(teacher_source(run)).is_dir()
    exclude = {"outputs", *(["model"] if is_folder else [])}  # outputs belong to teachers that are not compressed
    values = run.study.compressed.model_dump(mode="json", exclude=exclude)
    return values | {"revision": commit(run, "model")}


@once
def data_inputs(run: Run) -> str:
    """The digest of everything that the tokenised data is made from."""
    teacher = teacher_made_of(run)
    given = {key: teacher.get(key) for key in ("model", "revision", "prune_vocabulary")}
    given["tuned"] = teacher["fine_tune"] is not None  # labels are numbered as a teacher does that stays as it is
    tokenizer = _contents(teacher_source(run), "*.json", "*.txt", "*.model")
    return digest([_DATA_FORM, task_made_of(run), run.study.seed, given, tokenizer])


@once
def teacher_inputs(run: Run) -> str:
    """The digest of everything that the teacher is made from."""
    weights = _contents(teacher_source(run), "*.safetensors")
    return digest([_TEACHER_FORM, data_inputs(run), teacher_made_of(run), run.study.seed, weights])


def _contents(source: str, *patterns: str) -> dict[str, str]:
    """The digests of the files of a teacher's folder by their names; nothing for a hub id."""
    return {path.name: file_digest(path) for pattern in patterns for path in Path(source).glob(pattern)}


def teacher_source(run: Run) -> str:
    """The folder or hub id that the teacher is loaded from."""
    if run.study.compressed.model == "embedded":
        return str(run.embedded / "teacher")
    return given_teacher(run.study)


def given_teacher(study: Study) -> str:
    """The folder or hub id that a study gives. Raises `TeacherError` if a folder is not there."""
    with student_named(study):
        return given_model(study, study.compressed)


def given_model(study: Study, model: ModelSettings) -> str:
    """The folder or hub id of one of a study's models. Raises `TeacherError` if a folder is not there."""
    folder = study.resolve(model.model)
    if folder.is_dir():
        if model.revision:
            raise TeacherError(
                f"teacher.revision: {model.revision!r} is for a hub model, but {folder} is a folder; remove it"
            )
        return str(folder)
    if model.model.startswith((".", "/", "~")):
        raise TeacherError(f"teacher.model: {folder} is no folder; correct the path, or give a hub id")
    return model.model


def teacher_folder(run: Run, weights: bool = True) -> str:
    """The folder that the teacher is loaded from. Files of the hub are downloaded, weights only if asked for."""
    if not has_hub_teacher(run.study):
        return teacher_source(run)
    if not weights and run.is_done("teacher", teacher_inputs(run)):
        return str(run.teacher)  # what was downloaded may be gone
    with student_named(run.study):
        return str(hub_model(run, weights))


@dataclass(frozen=True)
class ReadTask:
    """A study's rows, split and numbered as its teacher needs them, and what tokenises them."""

    splits: Splits
    teacher: Teacher
    max_length: int

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The teacher's tokenizer."""
        return self.teacher.tokenizer

    def encode(self, splits: Splits | None = None) -> TaskData:
        """The tokenised splits, or others if they are given.

        Raises `TeacherError` if a text contains a token that the teacher has no embedding for.
        """
        data = self.encode_with(self.tokenizer, splits)
        for split in data.splits.values():
            self._check_ids(split)
        return data

    def encode_with(self, tokenizer: PreTrainedTokenizerBase, splits: Splits | None = None) -> TaskData:
        """The splits tokenised by another tokenizer."""
        return (splits or self.splits).encode(tokenizer, self.max_length, self._has_types)

    def tokenised(self, texts: Sequence[Sequence[Text]], tokenizer: PreTrainedTokenizerBase | None = None) -> Dataset:
        """Columns of texts without labels, tokenised by the teacher's tokenizer or another one.

        Raises `TeacherError` if a text contains a token that the teacher has no embedding for.
        """
        found = tokenised(texts, tokenizer or self.tokenizer, self.max_length, self._has_types)
        if tokenizer in (None, self.tokenizer):
            self._check_ids(found)
        return found

    def pruned(self, used: Iterable[int]) -> tuple[PreTrainedTokenizerBase, list[int]]:
        """The teacher's tokenizer without what `used` does not need, and the ids that it keeps; see `prune_tokenizer`.

        Where positions are counted from the number of a token, its padding, that number does not change.
        """
        config, wanted = self.teacher.config, set(used)
        uncounted = family_of(config.model_type).uncounted(config.pad_token_id)
        if uncounted is not None:
            wanted |= set(range(uncounted + 1))
        return prune_tokenizer(self.tokenizer, wanted, config.vocab_size)

    @property
    def _has_types(self) -> bool:
        return "token_type_ids" in self.teacher.compact.input_names

    def _check_ids(self, rows: Dataset) -> None:
        ids = chain.from_iterable(values_of(rows, "input_ids"))
        check_ids(ids, self.tokenizer, self.teacher.source, self.teacher.config)


def read_task(run: Run, weights: bool = True) -> ReadTask:
    """Read and split the data of a study. Raises what is wrong with the files, the labels or the teacher.

    Without `weights` those of a hub teacher are neither downloaded nor checked.
    """
    study, files, source = run.study, data_files(run), teacher_folder(run, weights)
    task = study.task.model_copy(update={"revision": commit(run, "dataset")})
    check_distinct(files)
    sources = {name: tuple(map(str, files.get(name, names))) for name, names in task.sets.items()}
    teacher = check_teacher(study, source, weights or not has_hub_teacher(study))
    if code := ignored_code(source):
        say(f"Teacher: code of its tokenizer ({code}) is not run; its tokenizer.json alone makes the tokens")
    with student_named(study):
        if task_kind(task.kind).learns_from_texts:
            splits = read_paired(task, sources["train"], sources["search"][0], sources["test"][0])
        else:
            splits = read_splits(task, sources["train"], sources["test"][0], study.seed, teacher.head(study))
    return ReadTask(splits, teacher, task.max_length)


def tokenizer_of(run: Run, task: ReadTask) -> PreTrainedTokenizerBase:
    """The tokenizer that the run's data was made with: the teacher's, pruned if the study asks for it."""
    return load_tokenizer(run.data / _TOKENIZER) if run.study.compressed.prune_vocabulary else task.tokenizer


def embedded_inputs(run: Run) -> str:
    """The digest of the embedded task's settings; the documentation that its texts come from does not count."""
    return digest([run.study.seed, embedded.VERSION])


def make_embedded(run: Run, laps: Laps) -> None:
    """Make data and teacher of the embedded task."""
    with busy("Building the embedded task from the documentation here"):
        embedded.build(run.embedded, run.study.seed)


@said_of_ids
def settle_sources(run: Run) -> None:
    """Note the commits that the run is made from. Raises if the teacher's shape does not fit the study."""
    keep(run)
    source = teacher_folder(run, weights=False)
    check_shape(run.study, source, read_config(source))


@said_of_ids
def make_data(run: Run, laps: Laps) -> None:
    """Tokenise the splits, and prune the tokenizer if the study asks for it."""
    with busy("Reading, splitting and tokenising the data"):
        rows = read_task(run)
        data = rows.encode()
        if run.study.compressed.prune_vocabulary:
            tokenizer, kept = rows.pruned(chain.from_iterable(data.train["input_ids"]))
            say(f"Vocabulary: {len(kept):,} of {rows.teacher.config.vocab_size:,} tokens stay")
            tokenizer.save_pretrained(run.data / _TOKENIZER)
            write_json(run.data / _KEPT, kept)
            data = rows.encode_with(tokenizer)
        shown = _metric(run.study, data).shown(truth_of(data.test))
        write_json(run.data / SAMPLE_FILE, sample_of(rows.splits.texts["test"], data.test["length"], shown))
        data.save(run.data)
    if task_kind(run.study.task.kind).has_words:
        _say_left_out(rows.splits, data)


def _say_left_out(given: Splits, data: TaskData) -> None:
    """Say how many words of each set have no token that could be judged."""
    left_out = {name: words_left_out(data.splits[name], texts) for name, texts in given.texts.items()}
    if any(left_out.values()):
        listed = ", ".join(f"{count:,} of the {name} set" for name, count in left_out.items() if count)
        say(f"Words behind task.max_length, or without a token, are neither learnt nor judged: {listed}")


@once
def splits(run: Run) -> TaskData:
    """The tokenised splits, read from the run's folder."""
    return TaskData.load(run.data)


def check_exits(study: Study, labels: int) -> None:
    """Raise `SearchSpaceError` if a threshold of early exits is one that every text reaches."""
    for threshold in study.space.dimensions.exit_threshold:
        if threshold * labels <= 1.0:
            raise SearchSpaceError(
                f"search_space: exit_threshold must be above 1/{labels}, which the likeliest of the task's {labels} "
                f"classes always reaches, but got {threshold:g}; raise it"
            )


def check_labels(run: Run) -> None:
    """Raise `SearchSpaceError` if the task's labels are too few for the space's early exits."""
    check_exits(run.study, splits(run).num_labels)


@once
def metric_of(run: Run) -> Metric:
    """The study's metric, with the class that it is of where the data has been read."""
    read = run.is_finished("data") and run.is_done("data", data_inputs(run))
    return _metric(run.study, splits(run) if read else None)


def _metric(study: Study, data: TaskData | None) -> Metric:
    return task_kind(study.task.kind).metric(study.task, data.label_names if data else ())


@said_of_ids
def make_teacher(run: Run, laps: Laps) -> None:
    """Load or fine-tune the teacher into the run's folder."""
    study, data, source = run.study, splits(run), teacher_folder(run)
    torch.manual_seed(study.seed)
    model, tokenizer = load_classifier(study, source, data)
    if study.compressed.prune_vocabulary:
        tokenizer = load_tokenizer(run.data / _TOKENIZER)
        prune_embeddings(model, read_json(run.data / _KEPT, TeacherError), tokenizer.pad_token_id)
    if study.compressed.fine_tune:
        origin = {"form": _TEACHER_FORM, "teacher": teacher_inputs(run)}
        title = f"Fine-tuning the {'student' if study.student else 'teacher'}"
        place = Place(run.teacher, origin, title, watchers_of(run))
        fine_tune(study, study.compressed.fine_tune, model, tokenizer, data, place)
    model.save_pretrained(run.teacher)
    form, whole = task_kind(study.task.kind).form(source), cast(nn.Module, model)
    if form.network_type == "encoder":
        write_modules(run.teacher, form, shape_of(model.config).hidden_size)
        whole = SentenceEncoder(model, run.teacher)
    tokenizer.model_max_length = study.task.max_length  # exports cut texts where accuracy was judged
    tokenizer.save_pretrained(run.teacher)
    outputs, tuned = _judge(whole, data, study), study.compressed.fine_tune is not None
    about: dict[str, Any] = {"model": study.compressed.model, "commit": commit(run, "model"), "fine_tuned_here": tuned}
    about["served_as"] = task_kind(study.task.kind).served_as(teacher_settings(source), tuned)
    write_json(run.teacher / _SOURCE, about | {"outputs": asdict(outputs)})


def served_as(run: Run) -> dict[str, Any]:
    """What `config.json` of an export says of how its outputs become answers."""
    known = read_json(run.teacher / _SOURCE, TeacherError).get("served_as")  # older runs do not have it
    found: dict[str, Any] = known or task_kind(run.study.task.kind).served_as({}, False)
    return found


@dataclass(frozen=True)
class Place:
    """Where a fine-tuning keeps its checkpoints."""

    folder: Path
    origin: dict[str, Any]
    """What it is made of, as JSON values: checkpoints of something else are refused."""
    title: str = "Fine-tuning the teacher"
    watchers: Watchers = NOBODY


def fine_tune(
    study: Study,
    settings: FineTuningSettings,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    data: TaskData,
    place: Place,
) -> None:
    """Train a model in place; where labels are numbers on standardised ones, which its last layer then undoes."""
    train, scale = data.train, STANDARD
    if task_kind(study.task.kind).predicts_numbers:
        scale = Scale.of(train["labels"])
        some = first_rows(train, _JUDGED_BY)
        Scale.to_begin_with(logits_of(model, some)[:, 0], some["labels"]).take_out_of(last_linear(model))
        targets = scale.standardised(train["labels"])
        train = train.remove_columns("labels").add_column("labels", targets)
    judge, patience = (None, 0) if settings.epochs else (_judge_of(study, data), _PATIENCE)
    epochs = settings.epochs_on(len(train))
    schedule = Schedule(
        settings.learning_rate, settings.batch_size, epochs=epochs, patience=patience, watchers=place.watchers
    )
    is_label_of_token = task_kind(study.task.kind).has_words
    training = FineTuning(
        train, tokenizer, schedule, place.folder, study.seed, place.origin, judge, place.title, is_label_of_token
    )
    training.tune(model)
    scale.put_into(last_linear(model))


def _judge_of(study: Study, data: TaskData) -> Judge:
    """Tells how accurate a teacher is on some of the search set, which it does not learn from."""
    metric, texts = _metric(study, data), first_rows(data.search, _JUDGED_BY)
    labels = truth_of(texts)
    return lambda model: metric.score(logits_of(model, texts), labels)


def scale_of(run: Run) -> Scale:
    """The scale of the teacher's outputs where they are numbers to be predicted, else that of standardised ones."""
    return Scale(**read_json(run.teacher / _SOURCE, TeacherError)["outputs"])


def _judge(model: nn.Module, data: TaskData, study: Study) -> Scale:
    """Say how accurate the teacher is on some of the search set, and whether a constant answer is as good.

    Returns the scale of its outputs; see `scale_of`.
    """
    metric = _metric(study, data)
    texts = first_rows(data.search, _JUDGED_BY)
    with busy("Looking at the teacher's answers"):
        logits, labels = logits_of(model, texts), truth_of(texts)
    found = metric.score(logits, labels)
    constant = metric.constant(labels, logits.shape[1])
    least = 0.0 if constant is None else metric.score(constant, labels)
    who = "Student" if study.student else "Teacher"
    say(f"{who}: {metric.label} {found:.3f} on {metric.in_words(labels)} of the search set")
    if found <= least:
        say(
            f"Warning: one answer for all texts has {least:.3f}, so this teacher has nothing to teach; give another, "
            "number the labels as it does, or set teacher.fine_tune"
        )
    kind = task_kind(study.task.kind)
    if not kind.has_one_output:
        return STANDARD
    given = Scale.of(logits[:, 0])
    if study.compressed.fine_tune or not kind.predicts_numbers:
        return given
    wanted = Scale.of(labels)
    far = abs(given.mean - wanted.mean) > 2 * wanted.deviation
    if far or not 0.2 < given.deviation / wanted.deviation < 5.0:
        say(
            f"Note: the teacher's outputs ({given.mean:.4g} ± {given.deviation:.2g}) are on another scale than the "
            f"targets ({wanted.mean:.4g} ± {wanted.deviation:.2g}); exports give outputs on the teacher's scale"
        )
    return given
