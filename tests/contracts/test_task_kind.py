"""Every kind of task fulfils the contract of `nas/tasks/kind.py` and `nas/tasks/metric.py`."""

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
from nas.study import Task
from nas.tasks import GROUP, IGNORED, REFERENCE, REGISTRY, LabelColumn, Problem, in_groups, task_kind

HALVES = slice(0, 4), slice(4, 8)
VARIANTS = {"embedding of own width": task_kind("embedding").variant(SimpleNamespace(output_width="own"))}
"""Variants of kinds, which fulfil the same contract. They have the labels and metrics of the kind itself."""
ALL = pytest.mark.parametrize("kind", [*REGISTRY.values(), *VARIANTS.values()], ids=[*REGISTRY, *VARIANTS])
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


def settings_of(kind, metric=None, **settings):
    """Return the `[task]` settings of a study of this kind."""
    metric = metric or kind.metrics[0]
    has_pairs = kind.evaluated_on(metric) in ("pairs", "retrieval")
    return SimpleNamespace(
        **{"metric": metric, "positive": None, "label": "label", "threshold": None}
        | {"text": ("one", "other") if kind.needs_pairs else ("text",), "query": None, "output_width": "teacher"}
        | ({"search": "pairs.csv", "pair": ("a", "b")} if has_pairs else {"search": None, "pair": ()})
        | settings
    )


def read_labels(kind, columns=None):
    """Read the label columns, by default those of the kind's first example, both as training and as test file."""
    columns = columns or kind.examples[0]
    train, test = (
        [LabelColumn(f"{name}.csv", column, list(values)) for column, values in columns.items()]
        for name in ("train", "test")
    )
    return kind.read(train, test, None)


def drawn_labels(kind, count=400, metric=None):
    """Return labels (count, ...) for a metric of this kind, the number of outputs, and their names.

    They have the form that the metric's search and test sets have, and are drawn at random: by default, from the kind's
    first example. Groups have ten rows, and pairs have two.
    """
    found = read_labels(kind)
    labels = as_array((found.judged or found.values)["train"])
    rng = np.random.default_rng(0)
    rows = rng.integers(0, len(labels), count)
    outputs = 2 if kind.network_form.network_type == "encoder" else len(kind.output_names(found.names))
    evaluated_on = kind.evaluated_on(metric or kind.metrics[0])
    if evaluated_on == "pairs":
        pairs = np.arange(count) // 2
        return in_groups(labels[rows[pairs]], pairs), outputs, found.names
    if evaluated_on == "texts":
        return in_groups(rng.standard_normal((count, 8)), np.arange(count)), outputs, found.names
    if evaluated_on == "retrieval":  # each query is followed by nine passages, two of which are relevant to it
        groups = np.array([row // 10 if row % 10 == 0 else -1 - row for row in range(count)])
        judged = [[[-1 - row - 3, 1], [-1 - row - 7, 2]] if row % 10 == 0 else [] for row in range(count)]
        return in_groups(as_array(judged), groups), outputs, found.names
    drawn = in_groups(labels[rows], np.arange(count) // 10) if kind.judges_groups else labels[rows]
    return drawn, outputs, found.names


@ALL
def test_a_kind_explains_why_it_has_no_early_exits_unless_it_reads_the_first_token(kind):
    assert kind.network_form.readout == "first" or kind.why_no_exits


def test_every_kind_is_found_by_its_name():
    for name, kind in REGISTRY.items():
        assert task_kind(name) is kind and kind.name == name
    with pytest.raises(ValueError, match="kind: 'poetry' is not a kind of task; use one of classification, "):
        task_kind("poetry")


@pytest.mark.parametrize("kind", REGISTRY.values(), ids=REGISTRY)
def test_a_kind_has_a_variant_only_for_a_setting_that_it_supports(kind):
    assert kind.variant(settings_of(kind)) is kind
    variant = kind.variant(settings_of(kind, output_width="own"))
    assert (variant is not kind) == kind.has_output_width == variant.network_form.own_width
    assert variant.name == kind.name and variant.metrics == kind.metrics
    for metric in kind.metrics:
        settings = settings_of(kind, metric, output_width="own")
        assert variant.metric(settings) == kind.metric(settings)
        assert variant.evaluated_on(metric) == kind.evaluated_on(metric)
    assert bool(kind.describe_outputs((16, 32), kind.network_form)) == kind.has_output_width
    given = {"kind": kind.name, "metric": kind.metrics[0], "train": "a.csv", "test": "b.csv", "output_width": "teacher"}
    if not kind.has_output_width:
        message = f"output_width: must not be set if the kind is {kind.name}, .* but got 'teacher'; remove output_width"
        with pytest.raises(ValueError, match=message):
            Task(**given, text=("one", "other") if kind.needs_pairs else ("text",))


@ALL
def test_metrics_and_problem_type_are_valid(kind):
    assert kind.metrics and len(set(kind.metrics)) == len(kind.metrics)
    assert kind.problem_type in get_args(Problem)
    assert kind.learns_from_texts == (kind.network_form.network_type == "encoder")
    with pytest.raises(
        ValueError, match=f"metric: 'beauty' is not a metric of {kind.name}; use one of {kind.metrics[0]}"
    ):
        kind.check(settings_of(kind, "beauty"))
    for metric in kind.metrics:
        kind.check(settings_of(kind, metric))


@EXAMPLES
def test_labels_are_read_alike_from_both_files_and_do_not_change_on_disk(kind, columns, tmp_path):
    found = read_labels(kind, columns)
    rows = len(next(iter(columns.values())))
    assert found.values["train"] == found.values["test"] and len(found.values["train"]) == rows
    assert list(kind.output_names(found.names)) == list(range(max(1, len(found.names))))
    labels = found.values["train"]
    more = {REFERENCE: found.judged["train"]} if found.judged else {}
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
def test_a_perfect_network_scores_one_and_a_worse_one_less(kind, name):
    labels, outputs, names = drawn_labels(kind, metric=name)
    metric = kind.metric(settings_of(kind, name), names)
    right, worse = (metric.simulated(labels, outputs, share, np.random.default_rng(1)) for share in (1.0, 0.7))
    texts = labels.shape if kind.network_form.readout == "every" else labels.shape[:1]
    width = right.shape[-1] if kind.network_form.network_type == "encoder" else outputs  # embeddings may have any size
    assert right.shape == worse.shape == (*texts, width)
    assert metric.score(right, labels) == pytest.approx(1.0)
    assert 0.9 > metric.score(worse, labels) > 0.2
    constant = metric.constant_answer(labels, outputs)
    assert constant is None or metric.score(constant, labels) < metric.score(worse, labels)


@METRICS
def test_a_score_does_not_depend_on_the_order_of_the_rows(kind, name):
    labels, outputs, names = drawn_labels(kind, metric=name)
    metric = kind.metric(settings_of(kind, name), names)
    logits, order = metric.simulated(labels, outputs, 0.7, np.random.default_rng(1)), np.arange(len(labels))[::-1]
    assert metric.score(logits[order], labels[order]) == pytest.approx(metric.score(logits, labels), abs=1e-9)


@METRICS
def test_a_metric_survives_pickling_and_its_methods_agree_with_its_score(kind, name):
    labels, outputs, names = drawn_labels(kind, 60, name)
    metric = pickle.loads(pickle.dumps(kind.metric(settings_of(kind, name), names)))
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
    elif kind.learns_from_texts:  # the bootstrap draws pairs or texts, and rows are in several pairs
        assert metric.bootstrap_scores(logits, labels, [np.arange(60).repeat(2)[:60]]) != [metric.score(logits, labels)]
    else:
        scores = [metric.score(logits[rows], labels[rows]) for rows in draws]
        assert metric.bootstrap_scores(logits, labels, draws) == pytest.approx(scores, abs=1e-9)
    assert set(metric.rows_to_compare(labels)) <= set(range(len(labels)))
    count = next(count for count in range(1, 60) if metric.size(labels[:count]) > metric.least_size)
    assert np.isfinite(standard_error(metric, logits[:count], labels[:count]))


@METRICS
def test_a_set_that_is_too_small_for_the_metric_is_refused(kind, name):
    labels, _, names = drawn_labels(kind, 60, name)
    metric = kind.metric(settings_of(kind, name), names)
    metric.check_size(labels)
    with pytest.raises(
        DataError, match=rf"the set needs at least \d+ {metric.size_word} for {name}, but has 0; give more"
    ):
        metric.check_size(labels[:0], "the set")


@ALL
def test_the_distillation_loss_is_a_mean_over_texts_and_zero_for_equal_logits(kind):
    _, outputs, _ = drawn_labels(kind)
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
    if not kind.learns_from_texts:  # the embeddings of a batch are also compared with each other
        halves = [kind.divergence(student[part], teacher[part]) for part in HALVES]
        assert_same(loss, sum(halves) / 2)
    if kind.network_form.readout == "every":  # all texts have the same weight, however many tokens they have
        mask = torch.arange(5) < torch.tensor([[5], [3]])
        two = [
            kind.divergence(student[row : row + 1, :count], teacher[row : row + 1, :count])
            for row, count in ((0, 5), (1, 3))
        ]
        assert_same(kind.divergence(student[:2], teacher[:2], mask=mask), sum(two) / 2)
    rounded = kind.divergence(student.bfloat16(), teacher.bfloat16())
    assert rounded.dtype == torch.float32 and rounded.item() == pytest.approx(loss.item(), rel=0.1)


@ALL
def test_teachers_of_the_kind_are_accepted_and_those_of_other_kinds_are_not(kind):
    _, outputs, _ = drawn_labels(kind)
    if kind.network_form.network_type == "encoder":
        assert not kind.accepts(kind.problem_type, outputs)  # a classifier cannot be an encoder
        return
    assert kind.accepts(kind.problem_type, outputs)
    for other in REGISTRY.values():
        same_output = kind.has_one_output and other.has_one_output  # any single number can be used for ranking
        if other.problem_type != kind.problem_type and not same_output:
            assert not other.accepts(kind.problem_type, outputs)


@CLASSIFIERS
def test_classifiers_of_transformers_and_of_nas_have_the_same_loss_for_stored_labels(kind, columns):
    """The loss follows from the `problem_type` in config.json."""
    found = read_labels(kind, columns)
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
    found = read_labels(kind)
    labels, names = found.values["train"] * 8, found.names
    counts = kind.counts(labels, names)
    assert set(counts) == set(names) and (not names or sum(counts.values()) >= 40)
    assert kind.summary("texts", names).split()[1] == "texts"


@METRICS
def test_a_metric_describes_its_labels_and_the_network_that_it_simulates(kind, name):
    labels, outputs, names = drawn_labels(kind, 60, name)
    metric = kind.metric(settings_of(kind, name), names)
    assert all(isinstance(count, int) for count in metric.label_counts(labels).values())
    assert metric.assumption(0.9).split(" ")[0] in ("that", "a", "an")  # as it follows "assuming"
    assert not metric.note or metric.note.endswith(".")
    stand_in = metric.simulated_labels(labels[:50], np.random.default_rng(0))
    logits = metric.simulated(stand_in, outputs, 1.0, np.random.default_rng(1))
    assert len(stand_in) == 50 and metric.score(logits, stand_in) == pytest.approx(1.0)
