"""Describes a study's rows for `nas check`: lengths, classes, repeated texts, and the standard error of the metric.

The rows are read, split and tokenised in the same way as by `nas train`, so that `nas check` raises the same errors
about the data. Nothing is written.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import chain
from typing import Any

import numpy as np
from datasets import Dataset

from nas.data import Splits, Unlabelled, truth_of
from nas.data.files import values_of
from nas.data.splits import normal
from nas.data.truth import LABELS
from nas.data.unlabelled import Counts
from nas.data.words import Text, are_words, joined, tokens_of, words_left_out
from nas.evaluate.recipe import judged_by
from nas.evaluate.spread import standard_error
from nas.pipeline.data import ReadTask, check_exits, read_task
from nas.pipeline.given_outputs import read_outputs
from nas.pipeline.run import Run
from nas.pipeline.separate_teacher import check_separate_teacher
from nas.pipeline.snapshots import errors_with_hub_ids
from nas.pipeline.unlabelled import read_new_texts
from nas.progress import busy
from nas.study import Study
from nas.tasks import Metric, task_kind
from nas.tasks.labels import first_names

ASSUMED = 0.9
"""The fraction of right answers, or the correlation, that is assumed when a metric's standard error is estimated."""
_MAX_CHARACTERS = 15_000_000
"""The number of characters that can be tokenised in a few seconds. If the training set, the test set or the unlabelled
texts have more characters, only a random sample with about this many characters is tokenised."""
_MAX_SIMULATED_ANSWERS = 2000
"""The maximum number of answers that are simulated to estimate a standard error. The estimate is then scaled to the
actual number of texts."""
_FEWEST_ROWS = 10
_LARGEST_CUT_SHARE, _LARGEST_UNKNOWN_SHARE, _LARGEST_CLASS_SHARE, _LARGEST_ERROR = 0.05, 0.05, 0.9, 0.01
"""The limits for warnings: the minimum number of rows per class; the maximum fractions of truncated texts, unknown
tokens and rows in one class; and the maximum standard error."""


@dataclass(frozen=True)
class Lengths:
    """The lengths of the texts of one set, in tokens."""

    rows: int
    tokenised: int
    """Number of rows that were tokenised: all rows, or a random sample. All fields below describe only these rows."""
    cut: int
    """Number of texts that are longer than `task.max_length`."""
    longest: int
    """Length of the longest text before truncation."""
    mean: float
    """Mean length of the texts after truncation."""
    words: int = 0
    """Number of words, if the task tags words."""
    words_left_out: int = 0
    """Number of words that are truncated or have no token. Such words are neither trained on nor evaluated."""


@dataclass(frozen=True)
class Targets:
    """The minimum, maximum, mean and standard deviation of the training set's numeric labels."""

    least: float
    most: float
    mean: float
    deviation: float


@dataclass(frozen=True)
class Rows:
    """A description of a study's rows, with warnings about possible problems."""

    sets: Mapping[str, Lengths]
    """Text lengths of the sets `train`, `search`, `test` and, if the study has unlabelled texts, `unlabelled`."""
    in_test: int
    """Number of training rows that were removed because their text or query also occurs in the test set."""
    repeated: int
    """Number of rows of the training and search sets that repeat the text of an earlier row."""
    contradicted: int
    """Number of repeated rows whose label differs from the label of the first row with the same text."""
    classes: Mapping[str, Mapping[str, int]]
    """The number of rows with each label in each set, keyed by label and then by set; empty if labels have no names.

    If the task tags words, words are counted instead of rows.
    """
    label_word: str
    """The plural noun for labels in this kind of task, such as "classes" or "tags"."""
    targets: Targets | None
    unknown: float
    """Fraction of the training set's tokens that are the tokenizer's unknown token."""
    without_embedding: tuple[str, ...]
    """Tokens in the tokenizer's vocabulary for which the teacher has no embedding. No text may contain such a token."""
    judged: int
    """Number of texts of the search set on which candidates are evaluated."""
    judged_by: str
    """The number of evaluated texts, groups or pairs in words, such as "1,000 texts"."""
    figures: Mapping[str, Mapping[str, int]]
    """Further counts for this kind of task, keyed by a description of the count and then by set."""
    shared: str
    """The part of a test row that must not occur in any other set: "text" or "query"."""
    metric: str
    """The metric's name, as shown in tables."""
    standard_error: float
    """Standard error of the metric on the evaluated texts, for a network with the assumed accuracy `ASSUMED`."""
    assumption: str
    """The assumption of `standard_error` in words, as a phrase that follows "assuming"."""
    unlabelled: Counts | None = None
    """The numbers of unlabelled texts that were read and left out; None if the study has no unlabelled texts."""
    unlabelled_unknown: float = 0.0
    """Fraction of the unlabelled texts' tokens that are the tokenizer's unknown token."""
    warnings: tuple[str, ...] = ()
    """Problems that a user should look at, each in one line."""

    def to_json(self) -> dict[str, Any]:
        """Return all fields and `ASSUMED` as JSON values."""
        return {**asdict(self), "assumed": ASSUMED}


def not_seen(study: Study) -> str:
    """Return the reason why a study's rows cannot be read before `nas train`; empty if they can be read."""
    if study.task.train == "embedded":
        return "the data of the built-in task is generated by nas train"
    if study.task.hub:
        return f"the data set {study.task.hub} is downloaded by nas train"
    return ""


@errors_with_hub_ids
def look_at_rows(run: Run) -> Rows | None:
    """Read, split and tokenise a study's rows in memory; return their description.

    Return None if the rows are not on this machine yet. Raises the error that `nas train` would raise if the files, the
    labels or the tokenizer are not valid.
    """
    if not_seen(run.study):
        return None
    with busy("Checking the rows"):
        task = read_task(run, weights=False)
        check_separate_teacher(run, task.splits.label_names)
        unlabelled = read_new_texts(run, task) if run.study.task.unlabelled else None
        if not run.study.teacher.is_loaded:
            read_outputs(run, task, unlabelled)
        return _describe_rows(run.study, task, unlabelled)


def _describe_rows(study: Study, task: ReadTask, unlabelled: Unlabelled | None) -> Rows:
    check_exits(study, len(task.splits.label_names) or 1)
    sampled_splits = _with_sample(_with_sample(task.splits, "train"), "test")
    data = replace(task, splits=sampled_splits).encode()
    counts = {name: _token_counts(split) for name, split in data.splits.items()}
    if study.compressed.prune_vocabulary:  # raises an error if the tokenizer cannot be pruned
        task.pruned(np.flatnonzero(counts["train"]).tolist())
    evaluated_rows = judged_by(data.search, study.search.examples, study.search.least_tokens)
    kind = task_kind(study.task.kind)
    metric = kind.metric(study.task, data.label_names)
    truth = truth_of(evaluated_rows)
    metric.check_size(truth)
    repeated, contradicted = _count_repeated(task.splits)
    rows = Rows(
        sets={
            name: _lengths(task, len(task.splits.texts[name][0]), sampled_splits.texts[name], split)
            for name, split in data.splits.items()
        },
        in_test=task.splits.in_test,
        repeated=repeated,
        contradicted=contradicted,
        classes=_swapped(
            {name: kind.counts(labels, task.splits.label_names) for name, labels in task.splits.labels.items()}
        ),
        label_word=kind.label_word,
        judged_by=metric.describe_size(truth),
        figures=_swapped({name: metric.label_counts(task.splits.truth(name)) for name in task.splits.labels}),
        shared="query" if kind.judges_groups else "text",
        targets=_target_distribution(task.splits.labels["train"]) if kind.predicts_numbers else None,
        unknown=_token_share(counts["train"], task.tokenizer.unk_token_id),
        without_embedding=_without_embedding(task),
        judged=len(evaluated_rows),
        metric=metric.label,
        standard_error=expected_error(metric, truth, data.num_labels),
        assumption=metric.assumption(ASSUMED),
    )
    if unlabelled:
        rows = _with_unlabelled(rows, task, unlabelled)
    return replace(rows, warnings=tuple(_warnings(rows, study)))


def _with_unlabelled(description: Rows, task: ReadTask, unlabelled: Unlabelled) -> Rows:
    row_numbers = _sample_rows(unlabelled.texts)
    texts = [[column[row] for row in row_numbers] for column in unlabelled.texts] if row_numbers else unlabelled.texts
    encoded = task.tokenised(texts)
    lengths = _lengths(task, unlabelled.counts.kept, texts, encoded)
    return replace(
        description,
        sets={**description.sets, "unlabelled": lengths},
        unlabelled=unlabelled.counts,
        unlabelled_unknown=_token_share(_token_counts(encoded), task.tokenizer.unk_token_id),
    )


def _with_sample(splits: Splits, name: str) -> Splits:
    """Return the splits, in which a random sample replaces the set `name` if tokenising all of it would take long."""
    rows = _sample_rows(splits.texts[name])
    return splits.select(name, rows) if rows else splits


def _sample_rows(texts: Sequence[Sequence[Text]]) -> list[int]:
    """Return the row numbers of a random sample in ascending order; empty if all rows can be tokenised quickly."""
    rows, characters = len(texts[0]), sum(len(joined(text)) for column in texts for text in column)
    if characters <= _MAX_CHARACTERS:
        return []
    return sorted(random.Random(0).sample(range(rows), max(1, rows * _MAX_CHARACTERS // characters)))


def _token_counts(split: Dataset) -> np.ndarray:
    """Return the number of occurrences of each token id in a split, as an array of shape (largest id + 1,)."""
    return np.bincount(np.fromiter(chain.from_iterable(values_of(split, "input_ids")), np.int64), minlength=1)


def _token_share(counts: np.ndarray, token: int | None) -> float:
    """Return the fraction of tokens with the id `token`; 0 if there are no tokens or if `token` is None."""
    return 0.0 if token is None else float(counts[token : token + 1].sum() / max(1, counts.sum()))


def _lengths(task: ReadTask, rows: int, texts: Sequence[Sequence[Text]], encoded: Dataset) -> Lengths:
    """Return text-length statistics of a data set with `rows` rows.

    `texts` holds the columns of the (possibly sampled) texts before tokenisation, and `encoded` the same texts as
    token ids.
    """
    lengths = np.asarray(values_of(encoded, "length"))
    full_rows = np.flatnonzero(lengths >= task.max_length).tolist()
    longest, cut = int(lengths.max()), 0
    if full_rows:  # these texts may have been cut
        columns = [[column[row] for row in full_rows] for column in texts]
        tokens = tokens_of(columns, task.tokenizer, truncation=False, verbose=False)["input_ids"]
        uncut_lengths = [len(ids) for ids in tokens]
        longest, cut = max(uncut_lengths), sum(length > task.max_length for length in uncut_lengths)
    result = Lengths(rows, len(lengths), cut, longest, float(lengths.mean()))
    if are_words(texts) and LABELS in encoded.column_names:
        result = replace(result, words=sum(map(len, texts[0])), words_left_out=words_left_out(encoded, texts))
    return result


def _count_repeated(splits: Splits) -> tuple[int, int]:
    """Count the rows of the training and search sets that repeat the text of an earlier row.

    Return the number of these rows, and how many of them have a different label from the first row with the same text.
    """
    first_labels: dict[str, Any] = {}
    repeated = contradicted = 0
    for name in ("train", "search") if "train" in splits.labels else ():
        for row, label in zip(zip(*splits.texts[name], strict=True), splits.labels[name], strict=True):
            first_label = first_labels.setdefault(normal(row), label)
            repeated += 1
            contradicted += first_label != label
    return repeated - len(first_labels), contradicted


def _swapped(counts_by_set: Mapping[str, Mapping[str, int]]) -> dict[str, dict[str, int]]:
    """Return the counts keyed by what is counted and then by set. `counts_by_set` has the keys in the other order."""
    return {
        counted: {name: counts[counted] for name, counts in counts_by_set.items()}
        for counted in counts_by_set["search"]
    }


def _target_distribution(labels: Sequence[float]) -> Targets:
    values = np.asarray(labels, dtype=np.float64)
    return Targets(float(values.min()), float(values.max()), float(values.mean()), float(values.std()))


def _without_embedding(task: ReadTask) -> tuple[str, ...]:
    token_ids = task.tokenizer.get_vocab()
    tokens = (token for token, number in token_ids.items() if number >= task.teacher.config.vocab_size)
    return tuple(sorted(tokens, key=token_ids.__getitem__))


def expected_error(metric: Metric, labels: np.ndarray, outputs: int) -> float:
    """Return the standard error of a metric, assuming that a fraction `ASSUMED` of the answers is right.

    `labels` are the labels of the texts on which the metric is computed. If the metric is the fraction of right
    answers, return the binomial standard error. For any other metric, the standard error is estimated from simulated
    answers (`metric.simulated`).
    """
    count = len(labels)
    if metric.is_share:
        return math.sqrt(ASSUMED * (1.0 - ASSUMED) / count)
    rng = np.random.default_rng(0)
    if not metric.judges_groups:  # sampling rows would break up groups
        labels = labels[rng.permutation(count)[:_MAX_SIMULATED_ANSWERS]]
    labels = metric.simulated_labels(labels, rng)
    logits = metric.simulated(labels, outputs, ASSUMED, rng)
    return standard_error(metric, logits, labels) * math.sqrt(len(labels) / count)


def _warnings(rows: Rows, study: Study) -> Iterator[str]:
    yield from _text_warnings(rows, study.task.max_length)
    yield from _class_warnings(rows)
    enlarge = "add rows to task.search" if study.task.search else "raise task.holdout.size"
    if rows.standard_error > _LARGEST_ERROR:
        yield (
            f"candidates are evaluated on {rows.judged_by} of the search set, on which {rows.metric} has a "
            f"standard error of {100 * rows.standard_error:.1f} points: smaller differences between candidates can "
            f"hardly be detected; {enlarge} (or raise search.examples)"
        )
    hidden_sizes = study.space.dimensions.hidden_size
    if study.task.output_width == "own" and len(hidden_sizes) == 1:
        yield (
            "task.output_width is 'own', but the only hidden size of the search space is the teacher's, "
            f"{hidden_sizes[0]}: embeddings will have the teacher's width, but will not be comparable with the "
            "teacher's; remove output_width, or add smaller hidden sizes to the search space"
        )
    for budget in study.budgets:
        if budget.accuracy_loss is not None and budget.accuracy_loss < 100 * rows.standard_error:
            yield (
                f"budgets.{budget.name}: accuracy_loss = {budget.accuracy_loss:g} is less than the standard error of "
                f"{rows.metric} on the {rows.judged_by} of the search set, {100 * rows.standard_error:.1f} "
                f"points; raise accuracy_loss, or {enlarge}"
            )


def _text_warnings(rows: Rows, max_length: int) -> Iterator[str]:
    shares = {name: lengths.cut / lengths.tokenised for name, lengths in rows.sets.items()}
    if max(shares.values()) > _LARGEST_CUT_SHARE:
        listed = ", ".join(f"{share:.1%} of the {name} set" for name, share in shares.items())
        longest = max(lengths.longest for lengths in rows.sets.values())
        yield (
            f"texts are truncated at task.max_length = {max_length}: {listed}; "
            f"the longest text has {longest:,} tokens; raise task.max_length if the teacher supports longer texts"
        )
    if rows.in_test:
        yield (
            f"{rows.in_test:,} training {_rows_have(rows.in_test)} the {rows.shared} of a test row and "
            f"{'is' if rows.in_test == 1 else 'are'} not trained on; check how training and test rows were divided"
        )
    if rows.contradicted:
        yield (
            f"{rows.contradicted:,} training {_rows_have(rows.contradicted)} the text of an earlier row but a "
            "different label; check how they were labelled"
        )
    if rows.unknown > _LARGEST_UNKNOWN_SHARE:
        yield (
            f"{rows.unknown:.1%} of the tokens of the training set are unknown to the tokenizer; use a "
            "teacher for the language and script of the texts"
        )
    if rows.unlabelled_unknown > _LARGEST_UNKNOWN_SHARE:
        yield (
            f"{rows.unlabelled_unknown:.1%} of the tokens of unlabelled texts are unknown to the tokenizer; check "
            "whether they are in the task's language and domain"
        )


def _class_warnings(rows: Rows) -> Iterator[str]:
    unit = "word" if rows.sets["train"].words else "row"
    for name in ("train", "search", "test"):
        if absent_classes := [label for label, counts in rows.classes.items() if not counts[name]]:
            absent = first_names(absent_classes)
            yield f"the {name} set has no {unit} labelled {absent}; check how the rows were divided"
    rare_classes = [label for label, counts in rows.classes.items() if 0 < counts["train"] < _FEWEST_ROWS]
    if rare_classes:
        yield (
            f"labels with fewer than {_FEWEST_ROWS} training {unit}s, too few to learn from: "
            f"{first_names(rare_classes)}; add rows with these labels"
        )
    total = rows.sets["train"].rows
    shares = {label: counts["train"] for label, counts in rows.classes.items()}
    label = max(shares, key=lambda name: shares[name], default="")
    largest = shares.get(label, 0)
    if largest > _LARGEST_CLASS_SHARE * total and rows.metric == "accuracy":
        yield (
            f"{largest / total:.1%} of the training rows are labelled {label!r}, so a network that always predicts "
            "this label has about this accuracy; set task.metric = 'f1' or 'matthews_correlation', which are more "
            "informative"
        )


def _rows_have(count: int) -> str:
    return "row has" if count == 1 else "rows have"
