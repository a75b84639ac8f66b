"""Labels are checked, ordered, and numbered like those of the teacher; f1 is computed for a chosen class."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
from datasets import ClassLabel, Dataset, Features, Value
from sklearn.metrics import f1_score
from tiny import make_rows, prepare

from nas.data import TaskData, read_splits
from nas.data.files import write_table
from nas.errors import DataError, StudyError, TeacherError
from nas.files import validate
from nas.study import Task
from nas.tasks import ClassMetric, Head, LabelColumn, task_kind
from nas.tasks.labels import class_names, classes_of, targets_of
from nas.tasks.numbering import numbering

TASK = Task(train="train.csv", test="test.csv", text=("text",), max_length=16, holdout={"size": 5})


def _column(labels, classes=None):
    return LabelColumn("a.csv", "label", labels, classes)


@pytest.mark.parametrize(
    ("labels", "names"),
    [
        ([str(number) for number in range(12)] * 2, [str(number) for number in range(12)]),
        (list(range(12)), [str(number) for number in range(12)]),
        ([1.0, 0.0, 10.0, 2.0], ["0", "1", "2", "10"]),
        (["-1", "1", "0.5"], ["-1", "0.5", "1"]),
        (["01", "1", "2"], ["01", "1", "2"]),
        (["9", "10", "1e999999999999999999999"], ["10", "1e999999999999999999999", "9"]),
        (["9", "10", "1e-999999999999999999999"], ["10", "1e-999999999999999999999", "9"]),
        (["10", "9", "b"], ["10", "9", "b"]),
        (["None", "hate", "NA"], ["NA", "None", "hate"]),
        (["0.0", "10.0", "2.0"], ["0", "2", "10"]),
        (["0.0", "1"], ["0.0", "1"]),
        (["-0.0", "1.0", "-2.0"], ["-2", "0", "1"]),
        ([True, False], ["False", "True"]),
        ([2**63 - 1, -(2**63)], [str(-(2**63)), str(2**63 - 1)]),
    ],
)
def test_classes_are_ordered_as_numbers_or_else_as_texts(labels, names):
    column = _column(labels)
    classes = classes_of(column)
    assert list(class_names(column, classes)) == names
    assert len(set(classes)) == len(set(labels))


@pytest.mark.parametrize(
    ("labels", "declared", "message"),
    [
        (["a", "", "b", " "], None, r"row 1 \(counted from 0\) has no label \(2 of 4 rows have none\)"),
        ([0, 1, None], None, r"row 2 .* has no label \(1 of 3 rows"),
        ([0.0, float("nan"), 1.0], None, "row 1 .* has no label"),
        ([0, -1, -1], ("a", "b"), r"row 1 .* has no label \(2 of 3 .* labels are public"),
        (
            [0, 2, 1],
            ("a", "b"),
            r"row 1 .* the class number 2, but the file declares only 2 classes \('a', 'b'\)",
        ),
        (
            [0.0, 0.5],
            None,
            r"classes must be whole numbers or strings, but row 1 .* holds 0\.5; correct the column, or set kind = 're",
        ),
        ([0.0, float("inf")], None, r"but row 1 .* holds inf; correct the column$"),
        ([[0], [1]], None, "must hold one label per row, but holds lists or records"),
        ([{"a": 1}, {"a": 2}], None, "must hold one label per row, but holds lists or records"),
        ([b"a", b"b"], None, "classes must be whole numbers or strings, but row 0 .* holds b'a'; correct the column$"),
        ([3, 3, 3], None, r"needs 2 to 1000 classes, but found 1 \('3'\)"),
        (list(range(1001)), None, "needs 2 to 1000 classes, but found 1001"),
    ],
)
def test_labels_that_cannot_be_classes_are_refused(labels, declared, message):
    column = _column(labels, declared)
    with pytest.raises(DataError, match=f"a.csv: column 'label'.*{message}"):
        class_names(column, classes_of(column))


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (["3.5", "1e3", "x"], r"row 2 \(counted from 0\) holds 'x'; correct the column"),
        (["3.5", "3,5"], "row 1 .* holds '3,5'; write a decimal point instead of the comma"),
        (["1", "1_000"], "row 1 .* holds '1_000'"),
        (["1", "nan"], "row 1 .* holds 'nan'"),
        (["1", "1e39"], "row 1 .* holds '1e39'; correct the column$"),
        ([0.5, float("inf")], "row 1 .* holds inf"),
        ([0.5, float("nan")], "row 1 .* holds nan"),
        ([True, False], "row 0 .* holds True"),
        (["1", "", "2"], r"row 1 .* has no label \(1 of 3"),
        ([1.0, None], r"row 1 .* has no label \(1 of 2"),
        (["2", "2.0", "2"], "all 3 targets are 2, so there is nothing to predict"),
        ([[0.5], [1.5]], "must hold one label per row"),
        ([1.6e9, 1.6e9 + 50], "deviation is 25 and the precision at this size is 128; subtract a constant"),
    ],
)
def test_labels_that_cannot_be_targets_are_refused(labels, message):
    with pytest.raises(DataError, match=f"a.csv: column 'label'.*{message}"):
        targets_of(_column(labels))


def test_targets_are_read_as_numbers():
    assert targets_of(_column(["3.5", " -1 ", "1e3", ".5", "2."])) == [3.5, -1.0, 1000.0, 0.5, 2.0]
    assert targets_of(_column([3, -(10**6)])) == [3.0, -1e6]
    for targets in ([1e-12, 2e-12], [1e30, 2e30], [2000.0, 2001.0], [0.0, 1e-30], [5.0]):
        assert targets_of(_column(targets)) == targets


@pytest.mark.parametrize(
    ("names", "teacher_names", "found", "numbers", "note"),
    [
        # Labels are matched by name, in any order and case.
        (["neg", "pos"], ["pos", "neg"], ["pos", "neg"], [1, 0], ""),
        (["negative", "positive"], ["POSITIVE", "NEGATIVE"], ["POSITIVE", "NEGATIVE"], [1, 0], ""),
        (["0", "1"], ["1", "0"], ["1", "0"], [1, 0], ""),
        (["1", "2", "3"], ["3", "2", "1"], ["3", "2", "1"], [2, 1, 0], ""),
        (["A", "a"], ["a", "A"], ["a", "A"], [1, 0], ""),
        # Numbers are those of the teacher's outputs.
        (["0", "1"], ["NEGATIVE", "POSITIVE"], ["NEGATIVE", "POSITIVE"], [0, 1], "classes: '0' is 'NEGATIVE'"),
        (["0", "1", "2"], ["LABEL_0", "LABEL_1", "LABEL_2"], ["0", "1", "2"], [0, 1, 2], ""),
        # If the teacher has more classes than the data, its numbers are kept.
        (["neg", "pos"], ["neg", "neutral", "pos"], ["neg", "neutral", "pos"], [0, 2], "2 of the .*neutral"),
        (["0", "2"], ["LABEL_0", "LABEL_1", "LABEL_2"], ["0", "1", "2"], [0, 2], "2 of the teacher's .*'1'"),
        (["LABEL_0", "LABEL_1"], ["LABEL_0", "LABEL_1", "LABEL_2"], ["LABEL_0", "LABEL_1", "LABEL_2"], [0, 1], "2 of"),
        (["0", "2"], ["a", "b", "c"], ["a", "b", "c"], [0, 2], "2 of the teacher's .*'b'"),
        # If the names do not match but the number does, labels are matched by position, with a note.
        (["1", "2"], ["LABEL_0", "LABEL_1"], ["1", "2"], [0, 1], "by position: '1' is 0, '2' is 1"),
        (["-1", "1"], ["NEG", "POS"], ["NEG", "POS"], [0, 1], "by position: '-1' is 'NEG', '1' is 'POS'"),
        (["bad", "good"], ["LABEL_0", "LABEL_1"], ["bad", "good"], [0, 1], "by position: 'bad' is 0"),
    ],
)  # fmt: skip
def test_labels_get_the_numbers_of_the_teacher(names, teacher_names, found, numbers, note):
    said = numbering(names, Head("bert", tuple(teacher_names)))
    assert said.names == tuple(found) and [said.numbers[name] for name in names] == numbers
    assert bool(said.note) == bool(note)
    assert re.search(note, said.note)


@pytest.mark.parametrize(
    ("names", "teacher_names", "message"),
    [
        (["a", "b"], ["c", "d"], "has 2 labels: 'c', 'd', but the data has 2 labels: 'a', 'b'"),
        (["a", "b"], ["a", "b2"], "use the teacher's names for the labels of the data"),
        (["a", "b", "c"], ["a", "b"], "has 2 labels: 'a', 'b', but the data has 3"),
        (["0", "1", "2"], ["LABEL_0", "LABEL_1"], "has 2 labels, but the data has 3"),
        (["a", "b"], ["LABEL_0", "LABEL_1", "LABEL_2"], "has 3 labels, but the data has 2"),
        (["0", "1"], ["LABEL_0", "LABEL_1", "LABEL_2"], "has 3 labels, but the data has 2 labels: '0', '1'"),
        (
            ["0", "1"],
            ["entailment", "neutral", "contradiction"],
            "'contradiction', but the data has 2 labels: '0', '1'",
        ),
        (["Yes", "yes"], ["YES", "no"], "has 2 labels"),
        (["0", "1"], ["LABEL_0"], "outputs one number, but the task has 2 classes"),
        (["0", "9" * 5000], ["a", "b", "c"], "has 3 labels: 'a', 'b', 'c', but the data has 2 labels: '0', '999"),
    ],
)
def test_a_teacher_with_other_classes_is_refused(names, teacher_names, message):
    with pytest.raises(TeacherError, match=message):
        numbering(names, Head("bert", tuple(teacher_names)))


@pytest.mark.parametrize(
    ("names", "teacher_names", "found"),
    [
        (["neg", "pos"], ["pos", "neg"], ["pos", "neg"]),  # the training continues with its head
        (["neg", "pos"], ["neg", "neutral", "pos"], ["neg", "pos"]),
        (["0", "1"], ["entailment", "contradiction"], ["0", "1"]),
        (["a", "b", "c"], ["LABEL_0", "LABEL_1"], ["a", "b", "c"]),
        (["0", "1"], ["LABEL_0"], ["0", "1"]),
    ],
)
def test_a_retrained_classifier_keeps_its_order_if_it_has_the_same_names(names, teacher_names, found):
    assert numbering(names, Head("bert", tuple(teacher_names), is_retrained=True)).names == tuple(found)


def _write_files(folder, labels):
    paths = []
    for name, count, seed in (("train", 40, 0), ("test", 20, 1)):
        rows = make_rows(count, seed)
        lines = [json.dumps({"text": row["text"], "label": labels[row["label"]]}) for row in rows]
        (folder / f"{name}.jsonl").write_text("\n".join(lines))
        paths.append(str(folder / f"{name}.jsonl"))
    return paths


def test_labels_of_all_splits_get_the_numbers_of_the_teacher(tmp_path):
    train, test = _write_files(tmp_path, ["good", "bad"])
    plain, turned = (read_splits(TASK, train, test, 0, head) for head in (None, Head("bert", ("Good", "Bad"))))
    assert plain.label_names == ("bad", "good") and turned.label_names == ("Good", "Bad")
    for name in ("train", "search", "test"):
        assert [1 - label for label in plain.labels[name]] == turned.labels[name]


def test_declared_classes_of_the_test_set_are_matched_by_name(tmp_path):
    train, _ = _write_files(tmp_path, ["good", "bad"])
    features = Features({"text": Value("string"), "label": ClassLabel(names=["good", "bad"])})
    write_table(Dataset.from_dict({"text": ["w1", "w2"], "label": [0, 1]}, features=features), tmp_path / "t.parquet")
    assert read_splits(TASK, train, str(tmp_path / "t.parquet"), 0).labels["test"] == [1, 0]


@pytest.mark.parametrize(
    ("trained", "tested", "shown", "similar"),
    [
        (["a", "caf\u00e9"], ["a", "cafe\u0301"], "'cafe\\u0301'", "'caf\\xe9'"),
        (["a", "neg"], ["a", "neg\u200b"], "'neg\\u200b'", "'neg'"),
        (["False", "True"], ["False", "true"], "'true'", "'True'"),
        (["caf\u00e9", "neg"], ["caf\u00e9", "th\u00e9"], "'th\u00e9'", "'caf\u00e9'"),
        (["1", "2"], ["1", "3"], "3", "'1'"),
    ],
)
def test_the_error_for_an_unknown_label_shows_how_a_similar_class_differs(tmp_path, trained, tested, shown, similar):
    train, _ = _write_files(tmp_path, trained)
    (tmp_path / "other").mkdir()
    _, test = _write_files(tmp_path / "other", tested)
    with pytest.raises(DataError) as caught:
        read_splits(TASK, train, test, 0)
    assert f"label {shown} is not a class of {train}, which has 2 classes such as {similar}; use" in str(caught.value)


def test_a_regression_needs_a_teacher_with_one_output(tmp_path):
    task = TASK.model_copy(update={"kind": "regression", "metric": "pearson"})
    train, test = _write_files(tmp_path, [0.5, 1.5])
    with pytest.raises(TeacherError, match="has 2 labels, but the task is a regression to one number"):
        read_splits(task, train, test, 0, Head("bert", ("LABEL_0", "LABEL_1")))
    assert read_splits(task, train, test, 0, Head("bert", ("LABEL_0",))).label_names == ()


def test_empty_texts_are_accepted_with_a_message(tmp_path, capsys):
    train, test = _write_files(tmp_path, ["a", "b"])
    with open(train, "a") as stream:  # noqa: PTH123
        stream.write('\n{"text": "", "label": "a"}\n{"text": " ", "label": "b"}')
    read_splits(TASK, train, test, 0)
    assert "column 'text': 2 of 42 texts are empty, the first in row 40 (counted from 0)" in capsys.readouterr().err


def test_white_space_around_a_label_is_ignored_but_its_case_is_not(tmp_path, capsys):
    train, test = _write_files(tmp_path, [" good", "bad "])
    assert read_splits(TASK, train, test, 0).label_names == ("bad", "good")
    assert "differ only in case" not in capsys.readouterr().err
    train, test = _write_files(tmp_path, ["Good", "good"])
    assert read_splits(TASK, train, test, 0).label_names == ("Good", "good")
    assert "the classes 'Good' and 'good' differ only in case; if they are the same" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (["neg", "neg\u200b"], r"classes 'neg' and 'neg\u200b' differ only in case, invisible characters or"),
        (["cafe\u0301", "caf\u00e9"], r"classes 'cafe\u0301' and 'caf\xe9' differ only in case, invisible"),
        (["a", "nan"], "'nan' is treated as a class; if it means that a row has no label, drop such rows"),
    ],
)
def test_classes_that_look_alike_or_like_a_missing_label_are_reported(tmp_path, capsys, labels, message):
    read_splits(TASK, *_write_files(tmp_path, labels), 0)
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("metric", ["f1", "recall", "precision", "roc_auc", "matthews_correlation"])
def test_a_set_on_which_a_metric_is_undefined_is_refused(tmp_path, metric):
    train, _ = _write_files(tmp_path, ["a", "b"])
    test = tmp_path / "only.jsonl"
    test.write_text("".join(json.dumps({"text": f"only {row}", "label": "a"}) + "\n" for row in range(9)))
    task = TASK.model_copy(update={"metric": metric})
    with pytest.raises(
        DataError, match=r"only\.jsonl: the test set needs texts of .* its 9 texts (is of this|are of the same) class"
    ):
        read_splits(task, train, str(test), 0)
    assert read_splits(TASK, train, str(test), 0).label_names == ("a", "b")


@pytest.mark.parametrize(
    ("kind", "metric", "train_labels", "test_label", "message"),
    [
        ("multi_label", "f1_micro", [["a"], ["b"]], [], "texts with labels for f1_micro, but none of its 9 texts has"),
        ("tagging", "span_f1", [["O", "B-a"], ["B-a", "O"]], ["O", "O"], "texts with spans for span F1, but all words"),
    ],
)
def test_a_set_without_any_label_or_span_is_refused(tmp_path, kind, metric, train_labels, test_label, message):
    paths = []
    for name, labels in (("train", train_labels * 20), ("test", [test_label] * 9)):
        texts = [[f"{name}{row}", "w1"] if kind == "tagging" else f"{name}{row}" for row in range(len(labels))]
        lines = [json.dumps({"text": text, "label": label}) for text, label in zip(texts, labels, strict=True)]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(lines))
        paths.append(str(tmp_path / f"{name}.jsonl"))
    task = TASK.model_copy(update={"kind": kind, "metric": metric})
    with pytest.raises(DataError, match=rf"test\.jsonl: the test set needs {message}"):
        read_splits(task, *paths, 0)
    if kind == "tagging":
        read_splits(task.model_copy(update={"metric": "accuracy"}), *paths, 0)


def test_a_search_set_with_equal_targets_is_refused_for_correlations(tmp_path):
    targets = [*[1.0] * 39, 0.0]
    for name, values in (("train", targets), ("test", [0.0, 1.0, 2.0])):
        lines = [json.dumps({"text": f"{name}{row}", "label": value}) for row, value in enumerate(values)]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(lines))
    task = TASK.model_copy(update={"kind": "regression", "metric": "spearman"})
    with pytest.raises(DataError, match="the search set needs texts with different targets for spearman, but the targ"):
        read_splits(task, *(str(tmp_path / f"{name}.jsonl") for name in ("train", "test")), 0)


@pytest.mark.parametrize(("value", "labels"), [(1, [0, 1]), ("1.0", [0.0, 1.0]), (True, [False, True])])
def test_the_positive_class_may_be_a_number_or_a_boolean(tmp_path, value, labels):
    task = validate(
        Task, TASK.model_dump(exclude_unset=True) | {"positive": value, "metric": "f1"}, tmp_path, StudyError
    )
    names = read_splits(task, *_write_files(tmp_path, labels), 0).label_names
    assert _metric(task, names).label == f"f1 of {names[1]!r}"


@pytest.mark.parametrize("columns", [{"text": ["text", "text"]}, {"text": ["label"]}, {"text": ["text", "label"]}])
def test_a_column_may_be_named_only_once(tmp_path, columns):
    with pytest.raises(StudyError, match=r"text: must (name distinct columns|not contain the label column)"):
        validate(Task, TASK.model_dump(exclude_unset=True) | columns, tmp_path, StudyError)


def _metric(task, names=()):
    return task_kind(task.kind).metric(task, names)


@pytest.mark.parametrize(
    ("labels", "head", "is_reported"),
    [
        ([-1, 0, 1, 2], None, True),
        (["n/a", "good", "bad"], Head("bert", ("a", "b"), is_retrained=True), True),
        ([-1, 1], None, False),
        ([-1, 0, 1], Head("bert", ("-1", "0", "1")), False),
        ([0, 1, 2], None, False),
    ],
)
def test_a_class_that_may_mean_a_missing_label_is_reported(labels, head, is_reported):
    column = LabelColumn("train.csv", "label", labels)
    notes = task_kind("classification").read([column], [column], head).notes
    assert any(f"train.csv: {str(labels[0])!r} is treated as a class" in note for note in notes) == is_reported


def test_f1_is_computed_for_the_named_class_or_averaged_over_all():
    names, task = ("hate", "normal"), TASK.model_copy(update={"metric": "f1"})
    logits, labels = np.array([[2.0, 0], [0, 1], [0, 1], [3, 1], [4, 1]]), np.array([0, 1, 0, 0, 0])
    predictions = logits.argmax(axis=1)
    by_default, hate = _metric(task, names), _metric(task.model_copy(update={"positive": "Hate"}), names)
    assert (by_default.label, hate.label) == ("f1 of 'normal'", "f1 of 'hate'")
    assert by_default.score(logits, labels) == ClassMetric("f1").score(logits, labels) == f1_score(labels, predictions)
    assert hate.score(logits, labels) == f1_score(labels, predictions, pos_label=0) != f1_score(labels, predictions)
    three = np.pad(logits, ((0, 0), (0, 1)), constant_values=-1.0)
    macro = _metric(task, ("a", "b", "c"))
    assert macro.label == "macro f1"
    assert macro.score(three, labels) == f1_score(labels, predictions, average="macro")
    assert _metric(task).label == "f1" and _metric(TASK, names).label == "accuracy"
    with pytest.raises(DataError, match="must name one of the classes, but got 'hatred'; use one of 'hate', 'normal'"):
        _metric(task.model_copy(update={"positive": "hatred"}), names)


def test_a_positive_class_is_refused_for_accuracy(tmp_path):
    with pytest.raises(
        StudyError,
        match="only f1, precision, recall and roc_auc can be computed for a single class, but the metric is 'accuracy'",
    ):
        validate(Task, TASK.model_dump() | {"positive": "hate"}, tmp_path, StudyError)


def test_a_stored_split_is_read_when_it_is_first_used_and_only_once(tmp_path):
    train, test = _write_files(tmp_path, ["a", "b"])
    data = prepare(TASK, train, test)
    data.save(tmp_path / "data")
    found = TaskData.load(tmp_path / "data")
    assert found.label_names == ("a", "b")
    searched = found.search
    for name in ("train", "search"):
        (tmp_path / "data" / f"{name}.parquet").unlink()
    again = TaskData.load(tmp_path / "data")
    assert again.search is searched and again.test["labels"] == data.test["labels"]
    data.save(tmp_path / "data")
    assert TaskData.load(tmp_path / "data").search is not searched
