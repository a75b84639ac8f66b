"""A user's own function can be the metric; a study file can only name functions of installed packages."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from tiny import SPECIAL, WORDS, make_rows, make_teacher, make_tokenizer

import nas
from nas.errors import DataError, StudyError
from nas.evaluate.spread import standard_error
from nas.pipeline.commands import prepare_teacher
from nas.pipeline.data import metric_of
from nas.pipeline.sources import data_inputs
from nas.study import Study
from nas.tasks import is_custom, task_kind
from nas.tasks.custom_metric import register

LOGITS = np.array([[2.0, 0.0], [0.0, 1.0], [3.0, 1.0], [0.0, 2.0]])


def thrifty(predictions, references):
    """Return a score in which a missed 1 costs five times as much as a 1 too many."""
    missed, needless = (predictions < references).sum(), (predictions > references).sum()
    return 1.0 - (5 * missed + needless) / (6 * len(references))


def _settings(metric, **more):
    known = {"metric": metric, "positive": None, "label": "label", "threshold": None, "text": ("text",)}
    return SimpleNamespace(**known | {"query": None, "search": None, "pair": ()} | more)


def test_a_function_scores_predicted_classes():
    kind = task_kind("classification")
    metric = kind.metric(_settings(register(thrifty)), ("few", "many"))
    assert (metric.label, metric.is_share, is_custom(metric.name)) == ("thrifty", False, True)
    assert metric.score(LOGITS, np.array([0, 1, 0, 1])) == 1.0
    assert metric.score(LOGITS, np.array([1, 1, 0, 0])) == pytest.approx(0.75)
    labels = np.arange(40) % 2
    assert metric.score(metric.simulated(labels, 2, 0.8, np.random.default_rng(0)), labels) < 1.0
    assert 0.01 < standard_error(metric, metric.simulated(labels, 2, 0.8, np.random.default_rng(0)), labels) < 0.3
    assert metric.score(metric.constant_answer(labels, 2), labels) < 1.0
    assert (metric.answers(LOGITS, labels[:4]) == [0, 1, 0, 1]).all()


def test_a_function_scores_predicted_numbers_and_predicted_sets_of_labels():
    def far(predictions, references):
        assert predictions.shape == references.shape == (3,)
        return -float(np.abs(predictions - references).mean())

    found = task_kind("regression").metric(_settings(register(far)))
    assert found.score(np.array([[1.0], [2.0], [4.0]]), np.array([1.0, 2.0, 3.0])) == pytest.approx(-1 / 3)
    assert found.answers(np.ones((3, 1)), np.ones(3)) is None

    def whole_rows(predictions, references):
        assert predictions.shape == references.shape and set(np.unique(predictions)) <= {0.0, 1.0}
        return (predictions == references).all(axis=1).mean()

    labels = np.array([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
    logits = np.array([[3.0, -3.0], [-3.0, -0.5], [3.0, 3.0]])
    kind = task_kind("multi_label")
    assert kind.metric(_settings(register(whole_rows))).score(logits, labels) == pytest.approx(2 / 3)
    searched = kind.metric(_settings(register(whole_rows), threshold="search"))
    assert not searched.is_calibrated and searched.calibrated(logits, labels).score(logits, labels) == 1.0


def test_a_study_file_can_name_a_function_of_an_installed_package(tiny_study):
    kind = task_kind("classification")
    from sklearn.metrics import matthews_corrcoef

    assert register(matthews_corrcoef).startswith("sklearn.metrics")
    name = "sklearn.metrics:matthews_corrcoef"
    own, known = kind.metric(_settings(name)), kind.metric(_settings("matthews_correlation"))
    labels = np.array([1, 1, 0, 1])
    assert own.score(LOGITS, labels) == pytest.approx(known.score(LOGITS, labels))
    tiny_study.write_text(tiny_study.read_text().replace('text = ["text"]', f'text = ["text"]\nmetric = "{name}"'))
    assert Study.load(tiny_study).task.metric == name


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("mine:score", "'mine' is not a module of an installed package, but a study may only run the code of"),
        ("subprocess:call", "'subprocess' is not a module of an installed package"),
        ("sklearn.metrics:bleu", "the module has no function 'bleu'"),
        ("sklearn.nothing:score", "No module named 'sklearn.nothing'"),
        ("__main__:score#12345678", "is a function of the Python program that created the study"),
    ],
)
def test_a_study_file_cannot_make_other_code_run(tiny_study, monkeypatch, name, message):
    folder = tiny_study.parent
    (folder / "mine.py").write_text("raise AssertionError('code of a data folder was run')")
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(str(folder))
    tiny_study.write_text(tiny_study.read_text().replace('text = ["text"]', f'text = ["text"]\nmetric = "{name}"'))
    with pytest.raises(StudyError) as problem:
        Study.load(tiny_study)
    assert message in str(problem.value) and "\n" not in str(problem.value)


@pytest.mark.parametrize("kind", ["tagging", "ranking", "embedding"])
def test_kinds_without_one_prediction_per_text_refuse_functions(kind):
    with pytest.raises(ValueError, match=f"metric: {kind} does not support user-defined metrics such as 'a:b'; use "):
        task_kind(kind).check(_settings("a:b"))


def test_a_function_that_fails_or_returns_no_number_is_reported_in_one_line():
    def broken(predictions, references):
        raise KeyError("weights\nof classes")

    def empty(predictions, references):
        return float("nan")

    for function, message in (
        (broken, "broken#.* fails on 4 predictions: KeyError: 'weights.nof classes'; correct the function"),
        (empty, "empty#.* must return a finite number, but returned nan"),
    ):
        with pytest.raises(DataError, match=message):
            task_kind("classification").metric(_settings(register(function))).score(LOGITS, np.zeros(4, dtype=int))
    for wrong in (len, "accuracy".upper, lambda predictions, references: 1.0):
        with pytest.raises(ValueError, match="metric: must be a name, or a function that is defined with def"):
            register(wrong)


def test_samples_without_a_class_are_left_out_of_the_standard_error():
    def recall_of_1(predictions, references):
        if not references.any():
            raise ValueError("only one class")
        return float(predictions[references == 1].mean())

    metric = task_kind("classification").metric(_settings(register(recall_of_1)))
    labels = np.array([0, 0, 0, 1])
    rows = [np.array([0, 1, 2, 0]), np.array([0, 1, 2, 3]), np.array([3, 3, 0, 0])]
    assert metric.bootstrap_scores(LOGITS, labels, rows) == [1.0, 1.0]
    assert standard_error(metric, LOGITS, labels) == 0.0
    with pytest.raises(DataError, match="fails on 4 predictions: ValueError: only one class"):
        metric.bootstrap_scores(LOGITS, labels, rows[:2])


def _run(tmp_path, function):
    task = {"train": make_rows(300, 0), "test": make_rows(60, 1), "text": "text", "metric": function}
    teacher = {"model": make_teacher(vocab_size=len(SPECIAL + WORDS)), "tokenizer": make_tokenizer()}
    return nas.run_of("mine", runs=tmp_path, task=task, teacher=teacher, budgets=["50%"])


def test_a_study_made_in_python_accepts_a_function_and_notices_when_it_changes(tmp_path):
    run = _run(tmp_path, thrifty)
    prepare_teacher(run)
    assert metric_of(run).label == "thrifty"
    before = data_inputs(run)
    assert data_inputs(_run(tmp_path, thrifty)) == before

    def other(predictions, references):
        return float((predictions == references).mean())

    other.__name__ = "thrifty"
    assert data_inputs(_run(tmp_path, other)) != before
    with pytest.raises(StudyError, match=r"task\.metric: must be a name, or a function"):
        _run(tmp_path, len)
