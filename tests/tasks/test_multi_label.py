"""Multi-label tasks: lists of labels are read and scored, and exports apply the chosen thresholds."""

from __future__ import annotations

import json
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from datasets import ClassLabel, Dataset, Features, List, Value
from sklearn.metrics import average_precision_score, f1_score
from tiny import LABEL_STUDY, make_labelled, make_teacher, write_label_study

from nas.data import read_splits
from nas.errors import DataError, StudyError, TeacherError
from nas.export.infer import Classifier
from nas.files import read_json
from nas.pipeline import Run
from nas.pipeline.commands import prepare_data
from nas.pipeline.rows import look_at_rows
from nas.pipeline.teacher_checks import load_classifier
from nas.study import Study, Task
from nas.tasks import Head, LabelColumn, LabelMetric, task_kind
from nas.tasks.multi_label import best_threshold, counts, f1, probabilities

KIND = task_kind("multi_label")


def read(train, test=None, classes=None, head=None, name="labels"):
    """Read the labels of one column of lists."""
    return KIND.read(
        [LabelColumn("train.jsonl", name, train, classes)],
        [LabelColumn("test.jsonl", name, test or train, classes)],
        head,
    )


def test_lists_hold_names_whole_numbers_or_numbers_with_declared_names():
    names = read([["b", " a"], [], ["c"]])
    assert names.names == ("a", "b", "c")
    assert names.values["train"] == [[1.0, 1.0, 0.0], [0.0, 0.0, 0.0], [0.0, 0.0, 1.0]]
    assert read([[10, 2], [2]]).names == read([[10.0, 2.0], [2.0]]).names == ("2", "10")
    declared = read([[1], [0, 1]], classes=("joy", "anger", "fear"))
    assert declared.names == ("joy", "anger", "fear") and declared.values["train"] == [[0.0, 1.0, 0.0], [1.0, 1.0, 0.0]]
    assert read([["a", "a"], ["b"]]).values["train"][0] == [1.0, 0.0]


@pytest.mark.parametrize("one", [1, 1.0, True])
def test_lists_with_a_0_or_1_for_each_label_are_recognised(one):
    zero = type(one)(0)
    found = read([[one, zero, zero], [zero, one, zero], [zero, zero, zero]])
    assert found.names == ("0", "1", "2")
    assert found.values["train"] == [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 0.0]]
    named = read([[one, one], [zero, one]], head=Head("bert", ("joy", "anger")))
    assert named.names == ("joy", "anger") and named.values["test"] == [[1.0, 1.0], [0.0, 1.0]]
    for bad in ([one, zero], [one, zero, 2], []):
        with pytest.raises(DataError, match=r"test.jsonl: .* vectors of 3 zeros and ones, but row 1 "):
            read([[one, zero, zero], [zero, one, zero]], [[one, one, zero], bad])


def test_lists_of_the_labels_0_and_1_are_not_mistaken_for_a_0_or_1_for_each_label():
    assert read([[0], [1], [0, 1]]).values["train"] == [[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]]


def test_training_data_whose_rows_all_have_the_same_labels_is_refused():
    with pytest.raises(DataError, match=r"column 'labels': all 2 rows have the labels 'a', 'b', so there is nothing"):
        read([["a", "b"], ["b", "a"]])
    with pytest.raises(DataError, match="column 'labels': all 2 rows have the label 'b', so there is nothing"):
        read([[1], [1]], classes=("a", "b"))
    columns = [LabelColumn("a.csv", name, [0, 0, 0]) for name in ("toxic", "insult")]
    with pytest.raises(DataError, match="column 'toxic': all 3 rows have no label, so there is nothing to learn"):
        KIND.read(columns, columns, None)


def test_labels_get_the_numbers_of_the_teacher():
    found = read([["joy"], ["anger", "joy"]], head=Head("bert", ("Joy", "fear", "Anger")))
    assert found.names == ("Joy", "fear", "Anger") and found.values["train"] == [[1.0, 0.0, 0.0], [1.0, 0.0, 1.0]]
    assert "no row is labelled 'fear'" in found.notes[0]
    with pytest.raises(TeacherError, match="has 2 labels: 'x', 'y', but the data has 2 labels: 'a', 'b'"):
        read([["a"], ["b"]], head=Head("bert", ("x", "y")))


@pytest.mark.parametrize(
    ("labels", "classes", "message"),
    [
        (
            [["a"], "b"],
            None,
            r"needs a list of labels in every row, but row 1 \(counted from 0\) holds 'b'; write lists",
        ),
        ([["a"], None, ["b"]], None, r"row 1 .* has no label \(1 of 3 rows"),
        ([["a"], ["b", None]], None, r"must be whole numbers or strings, but the list in row 1 .* holds None"),
        ([["a", " "]], None, "the list in row 0 .* holds ' '"),
        ([[0.5, 1.0]], None, r"the list in row 0 .* holds 0\.5"),
        ([[["a"]], [["b"]]], None, r"the list in row 0 .* holds \['a'\]"),
        ([[0], [-1]], ("a", "b"), "the list in row 1 .* holds -1"),
        (
            [["a"], []],
            None,
            r"multi_label needs 2 to 1000 classes, but found 1 \('a'\); choose a column with 2 to 1000 distinct "
            r"labels$",
        ),
    ],
)
def test_invalid_lists_of_labels_are_refused(labels, classes, message):
    with pytest.raises(DataError, match=f"train.jsonl: column 'labels'.*{message}"):
        read(labels, classes=classes)


@pytest.mark.parametrize("one", [1, 1.0, True])
def test_vectors_with_a_0_or_1_per_label_are_read_as_such(one):
    zero = type(one)(0)
    found = read([[zero, one, one], [zero, zero, zero], [one, zero, one]], [[zero, one, zero]])
    assert found.names == ("0", "1", "2")
    assert found.values == {"train": [[0, 1, 1], [0, 0, 0], [1, 0, 1]], "test": [[0, 1, 0]]}
    named = read([[zero, one], [one, one]], [[one, zero]], head=Head("t", ("x", "y")))
    assert named.names == ("x", "y") and named.values["train"] == [[0, 1], [1, 1]]


def test_vectors_of_different_widths_are_refused():
    with pytest.raises(DataError, match=r"vectors of 3 zeros and ones, but row 1 .* holds \[0, 1\]; write one 0 or 1"):
        read([[0, 1, 1], [1, 0, 0]], [[0, 1, 1], [0, 1]])


def test_a_label_of_the_test_set_that_no_training_row_has_is_refused():
    with pytest.raises(DataError, match=r"row 1 \(counted from 0\): label 'c' is not a class of train.jsonl"):
        read([["a"], ["b"]], [["a"], ["b", "c"]])


def test_a_column_for_each_label_must_contain_0_or_1():
    def columns(**given):
        return [LabelColumn("a.csv", name, values) for name, values in given.items()]

    given = columns(toxic=["1", "0", "true"], insult=[False, 1, 0.0])
    found = KIND.read(given, given, None)
    assert found.names == ("toxic", "insult") and found.values["test"] == [[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]]
    for bad in (0.3, "yes", 2, -1):
        with pytest.raises(DataError, match=r"column 'insult': must hold 0 or 1 .* row 1"):
            KIND.read(columns(toxic=[0, 1], insult=[0, bad]), given, None)
    with pytest.raises(DataError, match=r"column 'toxic': row 1 .* has no label"):
        KIND.read(columns(toxic=[0, ""], insult=[0, 1]), given, None)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"metric": "accuracy"}, "not a metric of multi_label; use one of f1_micro, f1_macro, average_precision"),
        ({"threshold": 1.0}, "threshold"),
        ({"threshold": "best"}, "threshold"),
        ({"label": ["a", "a"]}, "label: must name distinct columns, .*; name each column once"),
        ({"label": []}, r"label: must name at least one column, but got \[\]; name the label column"),
        (
            {"kind": "classification", "metric": "accuracy", "label": ["a", "b"]},
            r"needs one column of labels, but got \['a', 'b'\]",
        ),
        (
            {"kind": "regression", "metric": "pearson", "threshold": 0.3},
            "threshold: must not be set if the kind is regression, which has no thresholds, but got 0.3",
        ),
    ],
)
def test_settings_that_do_not_suit_several_labels_are_refused(tmp_path, changes, message):
    write_label_study(tmp_path)
    given = {"kind": "multi_label", "metric": "f1_micro"} | changes
    lines = "\n".join(f"{key} = {json.dumps(value)}" for key, value in given.items())
    text = LABEL_STUDY.replace('kind = "multi_label"\nmetric = "f1_macro"\nthreshold = "search"\n', f"{lines}\n")
    (tmp_path / "study.toml").write_text(text.replace('label = "labels"\n', "") if "label" in changes else text)
    with pytest.raises(StudyError, match=message):
        Study.load(tmp_path / "study.toml")


def random_answers(texts=300, labels=5, seed=0):
    rng = np.random.default_rng(seed)
    wanted = (rng.random((texts, labels)) < [0.5, 0.3, 0.2, 0.1, 0.02]).astype(float)
    return rng.normal(size=(texts, labels)) + wanted, wanted


def test_metrics_agree_with_scikit_learn():
    logits, labels = random_answers()
    predicted = 1.0 / (1.0 + np.exp(-logits)) >= 0.5
    for average in ("micro", "macro"):
        assert LabelMetric(f"f1_{average}").score(logits, labels) == f1_score(labels, predicted, average=average)
    precision = [average_precision_score(labels[:, number], logits[:, number]) for number in range(5)]
    assert LabelMetric("average_precision").score(logits, labels) == pytest.approx(np.mean(precision))
    labels[:, 4] = 0.0  # a label that no text has is left out
    assert LabelMetric("average_precision").score(logits, labels) == pytest.approx(np.mean(precision[:4]))


@pytest.mark.parametrize("ties", [False, True])
def test_the_best_threshold_has_the_highest_f1_of_all_thresholds(ties):
    logits, labels = random_answers(80)
    for number in range(5):
        found, wanted = probabilities(logits[:, number]), labels[:, number].astype(bool)
        found = found.round(1) if ties else found
        tried = [f1(counts(found[:, None] >= at, wanted[:, None]))[0] for at in np.linspace(0.0, 1.0, 2001)]
        at = best_threshold(found, wanted)
        assert 0.0 < at < 1.0 and f1_score(wanted, found >= at, zero_division=0.0) == pytest.approx(max(tried))
    assert best_threshold(found, np.zeros(80, bool)) == 0.5


def test_thresholds_are_chosen_once_and_then_kept():
    logits, labels = random_answers()
    for name, count in (("f1_micro", 1), ("f1_macro", 5), ("average_precision", 5)):
        asked = SimpleNamespace(metric=name, threshold="search")
        metric = KIND.metric(asked)
        chosen = metric.calibrated(logits, labels)
        assert not metric.is_calibrated and chosen.is_calibrated and len(chosen.thresholds) == count
        assert chosen.calibrated(*random_answers(seed=1)) is chosen
        assert len(chosen.config_entries(5)["thresholds"]) == 5
        if name.startswith("f1"):
            assert (
                metric.score(logits, labels) == chosen.score(logits, labels) > LabelMetric(name).score(logits, labels)
            )
    assert LabelMetric("f1_micro").config_entries(3) == {"thresholds": [0.5, 0.5, 0.5]}


def test_the_f1_of_all_labels_average_to_f1_macro():
    logits, labels = random_answers()
    found = LabelMetric("f1_macro").by_label(logits, labels, "abcde")
    assert [found[name]["rows"] for name in "abcde"] == labels.sum(axis=0).tolist()
    assert np.mean([figures["f1"] for figures in found.values()]) == pytest.approx(
        LabelMetric("f1_macro").score(logits, labels)
    )


def test_lists_of_class_labels_are_read_from_parquet(tmp_path):
    feature = {"text": Value("string"), "labels": List(ClassLabel(names=["x", "y", "z"]))}
    for name, count in (("train", 40), ("test", 9)):
        texts = [f"w{number} {name}" for number in range(count)]
        rows = {"text": texts, "labels": [[number % 3] for number in range(count)]}
        Dataset.from_dict(rows, features=Features(feature)).to_parquet(tmp_path / f"{name}.parquet")
    task = Task(train="train.parquet", test="test.parquet", text=("text",), label="labels", kind="multi_label",
                metric="f1_micro", holdout={"size": 10})  # fmt: skip
    splits = read_splits(task, *(str(tmp_path / f"{name}.parquet") for name in ("train", "test")), 0)
    assert splits.label_names == ("x", "y", "z") and splits.labels["test"][1] == [0.0, 1.0, 0.0]


def test_a_new_classifier_starts_with_the_log_odds_of_the_labels(tmp_path):
    """Otherwise the teacher's outputs would collapse if labels are rare. An existing classifier keeps its bias."""
    study = write_label_study(tmp_path)
    run = Run.of(Study.load(study), tmp_path / "runs")
    data = prepare_data(run)
    rows = np.asarray(data.train["labels"])
    kept, _ = load_classifier(run.study, str(tmp_path / "teacher"), data)
    make_teacher(outputs=5, vocab_size=kept.config.vocab_size).save_pretrained(tmp_path / "teacher")
    new, _ = load_classifier(run.study, str(tmp_path / "teacher"), data)
    assert kept.classifier.bias.abs().max() == 0.0
    assert probabilities(new.classifier.bias.detach().numpy()) == pytest.approx(rows.mean(axis=0), abs=0.01)


def test_nas_check_counts_the_rows_of_each_label(tmp_path, nas):
    study = write_label_study(tmp_path)
    found = look_at_rows(Run.of(Study.load(study), tmp_path / "runs"))
    assert found.label_word == "labels" and set(found.classes) == {"short", "low", "high"}
    rows = make_labelled(200, 1)
    assert found.classes["low"]["test"] == sum("low" in labels for labels in rows["labels"])
    assert found.metric == "f1_macro" and 0.0 < found.standard_error < 0.1
    printed, _ = nas("check", study, "--runs", tmp_path / "runs")
    assert "labels: 3; in the training set: " in printed


@pytest.mark.slow
def test_an_export_gives_the_same_labels_in_the_pipeline_and_in_infer(tmp_path, nas, simulated_times):
    """Thresholds are chosen on the search set and stored in the export."""
    from transformers import pipeline

    study = write_label_study(tmp_path)
    nas("run", study, "--runs", tmp_path / "runs")
    run = Run.of(Study.load(study), tmp_path / "runs")
    folder = run.export("only")
    found, config = (read_json(folder / name, DataError) for name in ("verification.json", "config.json"))
    assert config["problem_type"] == "multi_label_classification" and len(config["thresholds"]) == 3
    assert config["thresholds"] != [0.5] * 3
    assert 0.005 < found["accuracy_standard_error"] < 0.08
    assert (
        found["metric"] == "f1_macro"
        and found["labels"]["short"]["f1"] > 0.8
        and found["agreement_with_hugging_face"] > 0.98
    )
    assert np.mean([figures["f1"] for figures in found["labels"].values()]) == pytest.approx(found["accuracy"])
    classify, classifier = (
        pipeline("text-classification", model=str(folder), trust_remote_code=True),
        Classifier(folder),
    )
    for text in ("w1 w2 w3", "w40 w50 w55 w3 w4 w5 w6 w44", ""):
        expected = {answer["label"]: answer["score"] for answer in classify(text, top_k=None, truncation=True)}
        given = dict(classifier.classify(text, every=True))
        assert given == pytest.approx(expected, abs=0.02) and list(given.values()) == sorted(
            given.values(), reverse=True
        )
        limits = dict(zip(config["id2label"].values(), config["thresholds"], strict=True))
        assert dict(classifier.classify(text)) == {
            name: value for name, value in given.items() if value >= limits[name]
        }
    command = [sys.executable, str(folder / "infer.py"), "w1 w2 w3", "w40 w50 w55 w3 w4 w5 w6 w44"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert len(done.stdout.split("\n")) == 3
    page = (run.folder / "report.html").read_text()
    assert "F1 per label" in page and ">high<" in page
    card = (folder / "README.md").read_text()
    assert "Labels texts with any of high, low or short" in card and "top_k=None" in card and "`thresholds`" in card
