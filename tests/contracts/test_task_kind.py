"""What every kind of task must do."""

from __future__ import annotations

import pickle
from types import SimpleNamespace
from typing import get_args

import numpy as np
import pytest
import torch
from datasets import Dataset
from tiny import make_teacher, make_tokenizer, randomise
from tolerance import assert_same

from nas.data import TaskData, truth_of
from nas.data.batches import padding
from nas.data.task import SPLITS
from nas.data.truth import as_array
from nas.errors import DataError
from nas.evaluate.spread import standard_error
from nas.model.stock import AUTO_CLASSES, from_stock
from nas.tasks import GROUP, IGNORED, JUDGED, REGISTRY, LabelColumn, Problem, in_groups, task_kind

HALVES = slice(0, 4), slice(4, 8)
ALL = pytest.mark.parametrize("kind", REGISTRY.values(), ids=REGISTRY)
EXAMPLES = pytest.mark.parametrize(
    ("kind", "columns"),
    [(kind, example) for kind in REGISTRY.values() for example in kind.examples],
    ids=[f"{name} {number}" for name, kind in REGISTRY.items() for number in range(len(kind.examples))],
)
CLASSIFIERS = pytest.mark.parametrize(
    ("kind", "columns"),
    [(kind, example) for kind in REGISTRY.values() if not kind.learns_from_texts for example in kind.examples],
)
METRICS = pytest.mark.parametrize(
    ("kind", "name"),
    [(kind, metric) for kind in REGISTRY.values() for metric in kind.metrics],
    ids=[f"{name} {metric}" for name, kind in REGISTRY.items() for metric in kind.metrics],
)


def asked(kind, metric=None, **settings):
    """What a study of a kind says of its task."""
    return SimpleNamespace(
        **{"metric": metric or kind.metrics[0], "positive": None, "label": "label", "threshold": None}
        | {"text": ("one", "other") if kind.needs_pairs else ("text",), "query": None}
        | ({"search": "pairs.csv", "pair": ("a", "b")} if kind.learns_from_texts else {"search": None, "pair": ()})
        | settings
    )


def read(kind, columns=None):
    """The labels of a kind's example, as training and as test set."""
    columns = columns or kind.examples[0]
    train, test = (
        [LabelColumn(f"{name}.csv", column, list(values)) for column, values in columns.items()]
        for name in ("train", "test")
    )
    return kind.read(train, test, None)


def many(kind, count=400):
    """What a metric of a kind compares outputs with, (count, ...), drawn from its first example.

    Groups are of ten; where pairs are judged, each two rows are one.
    """
    found = read(kind)
    labels = as_array((found.judged or found.values)["train"])
    rows = np.random.default_rng(0).integers(0, len(labels), count)
    if kind.learns_from_texts:
        pairs = np.arange(count) // 2
        return in_groups(labels[rows[pairs]], pairs), 2, found.names
    drawn = in_groups(labels[rows], np.arange(count) // 10) if kind.judges_groups else labels[rows]
    return drawn, len(kind.output_names(found.names)), found.names


@ALL
def test_texts_leave_early_only_where_the_first_token_is_read(kind):
    assert kind.network_form.readout == "first" or kind.why_no_exits


def test_every_kind_is_found_by_its_name():
    for name, kind in REGISTRY.items():
        assert task_kind(name) is kind and kind.name == name
    with pytest.raises(ValueError, match=r"kind: must be one of classification, .*, but got 'poetry'"):
        task_kind("poetry")


@ALL
def test_says_what_it_is_for(kind):
    assert kind.metrics and len(set(kind.metrics)) == len(kind.metrics)
    assert kind.problem_type in get_args(Problem)
    assert kind.learns_from_texts == (kind.network_form.network_type == "encoder")
    with pytest.raises(ValueError, match=f"metric: 'beauty' is not a metric of {kind.name}; use {kind.metrics[0]}"):
        kind.check(asked(kind, "beauty"))
    for metric in kind.metrics:
        kind.check(asked(kind, metric))


@EXAMPLES
def test_labels_are_read_in_both_files_alike_and_survive_the_disk(kind, columns, tmp_path):
    found = read(kind, columns)
    rows = len(next(iter(columns.values())))
    assert found.values["train"] == found.values["test"] and len(found.values["train"]) == rows
    assert list(kind.output_names(found.names)) == list(range(max(1, len(found.names))))
    labels = found.values["train"]
    more = {JUDGED: found.judged["train"]} if found.judged else {}
    more |= {GROUP: [0] * rows} if kind.judges_groups else {}
    split = Dataset.from_dict({"input_ids": [[2, 3]] * rows, "labels": labels, **more, "length": [2] * rows})
    TaskData(dict.fromkeys(SPLITS, split), found.names).save(tmp_path)
    again = TaskData.load(tmp_path)
    assert again.label_names == found.names and again.num_labels == len(kind.output_names(found.names))
    assert np.array_equal(as_array(again.search["labels"][:]), as_array(labels))
    truth = as_array(found.judged["train"] if found.judged else labels)
    if kind.judges_groups:
        assert np.array_equal(truth_of(again.search), in_groups(truth, np.zeros(rows, int)))
    else:
        assert np.array_equal(truth_of(again.search), truth)


@METRICS
def test_a_right_network_scores_one_and_a_worse_one_less(kind, name):
    labels, outputs, names = many(kind)
    metric = kind.metric(asked(kind, name), names)
    right, worse = (metric.simulated(labels, outputs, share, np.random.default_rng(1)) for share in (1.0, 0.7))
    assert (
        right.shape
        == worse.shape
        == (*(labels.shape if kind.network_form.readout == "every" else labels.shape[:1]), outputs)
    )
    assert metric.score(right, labels) == pytest.approx(1.0)
    assert 0.9 > metric.score(worse, labels) > 0.2
    constant = metric.constant_answer(labels, outputs)
    assert constant is None or metric.score(constant, labels) < metric.score(worse, labels)


@METRICS
def test_a_metric_travels_and_says_what_is_answered_and_what_is_right(kind, name):
    labels, outputs, names = many(kind, 60)
    metric = pickle.loads(pickle.dumps(kind.metric(asked(kind, name), names)))
    assert metric.label
    logits = metric.simulated(labels, outputs, 0.7, np.random.default_rng(1))
    answers = metric.answers(logits, labels)
    if answers is not None:
        assert len(answers) == len(labels) and np.array_equal(answers, metric.answers(logits.copy(), labels))
        assert not np.array_equal(answers, metric.answers(-logits, labels))
    if metric.is_share:
        assert metric.is_correct(logits, labels).mean() == metric.score(logits, labels)
    draws = [np.arange(60), np.arange(30), np.array([3, 3, 3, *range(5, 20)])]
    if metric.judges_groups:
        each = metric.group_scores(logits, labels)
        assert len(each) == metric.size(labels) and each.mean() == pytest.approx(metric.score(logits, labels))
    elif kind.learns_from_texts:  # pairs are drawn
        assert metric.bootstrap_scores(logits, labels, [np.arange(60).repeat(2)[:60]]) != [metric.score(logits, labels)]
    else:
        scores = [metric.score(logits[rows], labels[rows]) for rows in draws]
        assert metric.bootstrap_scores(logits, labels, draws) == pytest.approx(scores, abs=1e-9)
    assert set(metric.rows_to_compare(labels)) <= set(range(len(labels)))
    count = next(count for count in range(1, 60) if metric.size(labels[:count]) > metric.least_size)
    assert np.isfinite(standard_error(metric, logits[:count], labels[:count]))


@METRICS
def test_too_little_to_judge_is_refused(kind, name):
    labels, _, names = many(kind, 60)
    metric = kind.metric(asked(kind, name), names)
    metric.check_size(labels)
    with pytest.raises(
        DataError, match=rf"the set needs at least \d+ {metric.size_word} for {name}, but has 0; give more"
    ):
        metric.check_size(labels[:0], "the set")


@ALL
def test_what_is_learnt_from_the_teacher_is_a_mean_over_texts_and_least_for_equal_logits(kind):
    _, outputs, _ = many(kind)
    shape = (8, 5, outputs) if kind.network_form.readout == "every" else (8, outputs)
    student, teacher = torch.randn(2, *shape, generator=torch.Generator().manual_seed(0))
    student.requires_grad_()
    loss = kind.divergence(student, teacher)
    loss.backward()
    assert loss.item() > 0.01 and student.grad.abs().sum() > 0
    assert kind.divergence(teacher, teacher).item() == pytest.approx(0.0, abs=1e-6)
    if kind.judges_groups:
        groups = torch.tensor([5, 5, 1, 1, 7, 7, 7, 7])
        compared = kind.divergence(student, teacher, groups)
        assert compared.item() > loss.item() and kind.divergence(student, student + 3.0, groups).item() == (
            pytest.approx(kind.divergence(student, student + 3.0).item(), rel=1e-5)
        )
        assert_same(compared, sum(kind.divergence(student[at], teacher[at], groups[at]) for at in HALVES) / 2)
    if not kind.learns_from_texts:  # embeddings are also compared with those of the other texts of a batch
        halves = [kind.divergence(student[part], teacher[part]) for part in HALVES]
        assert_same(loss, sum(halves) / 2)
    if kind.network_form.readout == "every":  # each text counts alike, however many of its tokens do
        mask = torch.arange(5) < torch.tensor([[5], [3]])
        two = [
            kind.divergence(student[row : row + 1, :count], teacher[row : row + 1, :count])
            for row, count in ((0, 5), (1, 3))
        ]
        assert_same(kind.divergence(student[:2], teacher[:2], mask=mask), sum(two) / 2)
    rounded = kind.divergence(student.bfloat16(), teacher.bfloat16())
    assert rounded.dtype == torch.float32 and rounded.item() == pytest.approx(loss.item(), rel=0.1)


@ALL
def test_a_teacher_of_the_kind_is_known_from_those_of_other_kinds(kind):
    _, outputs, _ = many(kind)
    if kind.network_form.network_type == "encoder":
        assert not kind.accepts(kind.problem_type, outputs)  # no classifier is one
        return
    assert kind.accepts(kind.problem_type, outputs)
    for other in REGISTRY.values():
        of_one_number = kind.has_one_output and other.has_one_output  # which may be put in an order whatever it is
        if other.problem_type != kind.problem_type and not of_one_number:
            assert not other.accepts(kind.problem_type, outputs)


@CLASSIFIERS
def test_classifiers_of_transformers_and_of_nas_learn_from_the_labels_as_they_are_stored(kind, columns):
    """The same loss, by the problem type that stands in config.json."""
    found = read(kind, columns)
    names = kind.output_names(found.names)
    teacher = make_teacher(outputs=len(names))
    teacher = randomise(AUTO_CLASSES[kind.network_form.network_type].from_config(teacher.config))
    teacher.config.problem_type = kind.problem_type
    rows = [{"input_ids": [2, 4, 5 + number, 3], "labels": label} for number, label in enumerate(found.values["train"])]
    if kind.has_words:
        for row in rows:
            tags = row["labels"]
            row |= {"input_ids": [2, *range(4, 4 + len(tags)), 3], "labels": [IGNORED, *tags, IGNORED]}
    batch = padding(make_tokenizer(), kind.has_words)(rows)
    losses = [model(**batch).loss for model in (teacher, from_stock(teacher, kind.network_form))]
    assert losses[0].item() > 0.0
    assert_same(*losses)


@ALL
def test_rows_of_each_label_are_counted(kind):
    found = read(kind)
    labels, names = found.values["train"] * 8, found.names
    counts = kind.counts(labels, names)
    assert set(counts) == set(names) and (not names or sum(counts.values()) >= 40)
    assert all(isinstance(count, int) for count in kind.label_counts(many(kind, 50)[0]).values())
    assert kind.summary("texts", names).split()[1] == "texts"
