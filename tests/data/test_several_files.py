"""Training rows may come from several files; errors name the file, and data is identified by its content."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from datasets import ClassLabel, Dataset
from tiny import make_ranked, make_rows, make_tagged, make_tokenizer, write_embedding_study, write_tiny_study

from nas.data import read_splits
from nas.data.files import values_of
from nas.errors import DataError, StudyError
from nas.files import given_path
from nas.pipeline import Run
from nas.pipeline.data import read_task
from nas.pipeline.given_outputs import read_outputs
from nas.pipeline.plan import check_sources
from nas.pipeline.rows import look_at_rows
from nas.pipeline.sources import check_distinct, data_inputs, task_identity
from nas.study import Study, Task

PARTS = (40, 80)
"""The numbers of rows of the two training files."""


def _task(**changes):
    given = {"train": ["a.parquet", "b.parquet"], "test": "test.parquet", "text": ("text",), "holdout": {"size": 20}}
    return Task(**given | changes)


def _write_files(folder, first, second, test=None):
    """Write two training files and a test file; return a tuple of the former's paths, and the latter's path."""
    rows = {"a": first, "b": second, "test": test or make_rows(30, 5)}
    for name, own in rows.items():
        own.to_parquet(folder / f"{name}.parquet")
    paths = [str(folder / f"{name}.parquet") for name in rows]
    return (paths[0], paths[1]), paths[2]


def _read(folder, first, second, test=None, **changes):
    train, test = _write_files(folder, first, second, test)
    return read_splits(_task(**changes), train, test, 0)


def _halves(rows):
    return rows.select(range(PARTS[0])), rows.select(range(PARTS[0], sum(PARTS)))


def _relabelled(rows, labels, **changes):
    return Dataset.from_dict({"text": values_of(rows, "text"), "label": labels} | changes)


def _with_value(rows, number, column, value):
    values = values_of(rows, column)
    values[number] = value
    return Dataset.from_dict({name: values_of(rows, name) for name in rows.column_names} | {column: values})


KINDS = {
    "classification": (make_rows, {}),
    "regression": (make_rows, {"kind": "regression", "metric": "spearman"}),
    "tagging": (make_tagged, {"kind": "tagging", "metric": "span_f1", "text": ("words",), "label": "tags"}),
    "ranking": (
        lambda count, seed: make_ranked(count, seed).select(range(count)),
        {"kind": "ranking", "metric": "map", "text": ("question", "answer"), "query": "question_id"},
    ),
}


@pytest.mark.parametrize("kind", KINDS)
def test_two_files_are_read_like_one_file_with_all_rows(tmp_path, kind):
    make, changes = KINDS[kind]
    rows, test = make(sum(PARTS), 0), make(40, 5)
    found = _read(tmp_path, *_halves(rows), test, **changes)
    rows.to_parquet(tmp_path / "all.parquet")
    expected = read_splits(_task(**changes), str(tmp_path / "all.parquet"), str(tmp_path / "test.parquet"), 0)
    assert found == expected and len(found.labels["search"]) >= 20


BAD_ROWS = {
    "a missing text": ("classification", "text", None, "column 'text' must hold texts, but row 3 holds None"),
    "a missing label": ("classification", "label", None, r"column 'label': row 3 .* has no label \(1 of 80 rows"),
    "not a number": ("regression", "label", "high", "column 'label': every row must .* row 3 .* holds 'high'"),
    "no tags": ("tagging", "tags", None, "column 'tags': row 3 .* has no label"),
    "too many tags": ("tagging", "tags", ["O"] * 40, "row 3 .* must have one tag per word"),
    "no query": ("ranking", "question_id", None, "column 'question_id' .* row 3 holds None"),
    "negative relevance": ("ranking", "label", -1, "column 'label': the relevance .* row 3 .* holds -1"),
}


@pytest.mark.parametrize("case", BAD_ROWS)
def test_an_error_names_the_file_and_the_row_in_that_file(tmp_path, case):
    kind, column, value, message = BAD_ROWS[case]
    make, changes = KINDS[kind]
    first, second = _halves(make(sum(PARTS), 0))
    if value == "high":
        first, second = (_relabelled(rows, list(map(str, values_of(rows, "label")))) for rows in (first, second))
    with pytest.raises(DataError, match=rf"^[^,]*b\.parquet: {message}"):
        _read(tmp_path, first, _with_value(second, 3, column, value), make(40, 5), **changes)


def test_an_error_in_one_of_several_label_columns_names_the_file_and_the_row(tmp_path):
    changes = {"kind": "multi_label", "metric": "f1_micro", "label": ["one", "two"]}

    def rows(count, seed, last="0"):
        ones = [str(number % 2) for number in range(count)]
        return (
            make_rows(count, seed).remove_columns("label").add_column("one", ones).add_column("two", [*ones[1:], last])
        )

    found = _read(tmp_path, rows(20, 0), rows(30, 1), rows(30, 2), **changes)
    assert found.label_names == ("one", "two") and len(found.labels["train"]) + len(found.labels["search"]) == 50
    with pytest.raises(DataError, match=r"^[^,]*b\.parquet: column 'two'.* row 29 .* holds 'x'"):
        _read(tmp_path, rows(20, 0), rows(30, 1, "x"), rows(30, 2), **changes)


def test_targets_that_are_equal_within_a_file_may_differ_between_files(tmp_path):
    first, second = _halves(make_rows(sum(PARTS), 0))
    low, high = _relabelled(first, [1.0] * PARTS[0]), _relabelled(second, [2.0] * PARTS[1])
    changes = {"kind": "regression", "metric": "spearman"}
    assert set(_read(tmp_path, low, high, **changes).labels["train"]) == {1.0, 2.0}
    with pytest.raises(DataError, match=r"a\.parquet, .*b\.parquet: column 'label': all 120 targets are 1"):
        _read(tmp_path, low, _relabelled(second, [1.0] * PARTS[1]), **changes)


def test_classes_that_files_declare_are_matched_by_name(tmp_path):
    first, second = _halves(make_rows(sum(PARTS), 0))
    given = [value for part in (first, second) for value in values_of(part, "label")]
    turned = _relabelled(second, [1 - label for label in values_of(second, "label")])
    declared = first.cast_column("label", ClassLabel(names=["bad", "good"]))
    other = turned.cast_column("label", ClassLabel(names=["good", "bad", "odd"]))
    test = make_rows(30, 5).cast_column("label", ClassLabel(names=["bad", "good"]))
    found = _read(tmp_path, declared, other, test)
    assert found.label_names == ("bad", "good", "odd")
    for name in ("train", "search"):
        assert list(found.labels[name]) == [given[row] for row in found.rows[name]]
    with pytest.raises(DataError, match=r"b\.parquet: column 'label': labels must have the same form .*'bad', 'good'"):
        _read(tmp_path, declared, second, test)


def test_a_text_of_the_test_set_is_removed_from_every_file(tmp_path):
    rows = make_rows(sum(PARTS), 0)
    found = _read(tmp_path, *_halves(rows), rows.select([0, 1, 105]))
    assert found.in_test >= 3 and not {0, 1, 105} & {*found.rows["train"], *found.rows["search"]}


@pytest.fixture
def study(tmp_path):
    """The tiny study, whose training rows are also stored in two files."""
    path = write_tiny_study(tmp_path)
    rows = make_rows(1200, 0)
    rows.select(range(500)).to_parquet(tmp_path / "first.parquet")
    rows.select(range(500, 1200)).to_parquet(tmp_path / "second.parquet")
    return path


def _run(path, train, **changes):
    text = path.read_text().replace('train = "train.parquet"', f"train = {json.dumps(train)}")
    for old, new in changes.items():
        assert old in text
        text = text.replace(old, new)
    other = path.with_name("other.toml")
    other.write_text(text)
    return Run(Study.load(other), path.parent / "runs")


def test_a_study_with_two_files_is_read_like_one_with_a_single_file(study):
    one, two = _run(study, "train.parquet"), _run(study, ["first.parquet", "second.parquet"])
    check_sources(two.study)
    found, expected = look_at_rows(two), look_at_rows(one)
    assert found == expected and found.sets["train"].rows + found.sets["search"].rows <= 1200
    assert read_task(two).splits == read_task(one).splits


def test_data_is_identified_by_the_content_and_the_order_of_its_files(study):
    parts = ["first.parquet", "second.parquet"]
    known = data_inputs(_run(study, parts))
    shutil.copyfile(study.parent / "first.parquet", study.parent / "renamed.parquet")
    assert data_inputs(_run(study, ["renamed.parquet", parts[1]])) == known
    assert data_inputs(_run(study, parts[::-1])) != known
    assert data_inputs(_run(study, ["train.parquet"])) == data_inputs(_run(study, "train.parquet"))


def test_the_identity_of_data_in_one_file_does_not_change_between_versions(study):
    found = task_identity(_run(study, "train.parquet"))
    assert set(found) == {
        *("hub", "config", "revision", "train", "test", "text", "label", "kind", "metric", "positive", "max_length"),
        "holdout",
    }
    assert found["train"][0] == ".parquet" and found["holdout"] == {"size": 200, "by": "row"}
    folder = study.parent / "sentences"
    pairs = Run(Study.load(write_embedding_study(folder)), folder / "runs")
    assert task_identity(pairs)["holdout"] == {"size": 5000, "by": "row"}


def test_outputs_of_a_teacher_are_read_from_all_files(study):
    first, second = (Dataset.from_parquet(str(study.parent / f"{name}.parquet")) for name in ("first", "second"))
    for name, rows, start in (("first", first, 0), ("second", second, 500)):
        columns = {"no": [float(start + number) for number in range(len(rows))], "yes": [0.5] * len(rows)}
        for column, values in columns.items():
            rows = rows.add_column(column, values)  # noqa: PLW2901
        rows.to_parquet(study.parent / f"{name}.parquet")
    table = '[teacher]\nmodel = "far"\noutputs = { 0 = "no", 1 = "yes" }\n\n[student]'
    run = _run(study, ["first.parquet", "second.parquet"], **{"[teacher]": table})
    task = read_task(run)
    found = read_outputs(run, task, None)
    for name in ("train", "search"):
        assert found[name][:, 0].tolist() == list(task.splits.rows[name]) and np.all(found[name][:, 1] == 0.5)
    broken = _with_value(Dataset.from_parquet(str(study.parent / "second.parquet")), 3, "yes", None)
    broken.to_parquet(study.parent / "second.parquet")
    with pytest.raises(DataError, match=r"^[^,]*second\.parquet: column 'yes': .* row 3 "):
        read_outputs(run, task, None)


REFUSED = {
    "no file": ([], "task.train"),
    "one file twice": (["a.csv", "b.csv", "a.csv"], "task.train.*'a.csv' occurs more than once; remove one"),
    "the test set": (["a.csv", "test.parquet"], "test: must differ from train, but both are 'test.parquet'"),
    "not a data file": (["a.csv", "b.txt"], "train: a data file must end in .*, but got 'b.txt'"),
    "the built-in task": (["embedded", "b.csv"], "train: a data file must end in .*, but got 'embedded'"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_invalid_lists_of_training_files_are_refused(study, case):
    names, message = REFUSED[case]
    with pytest.raises(StudyError, match=message):
        _run(study, names)


SAME = {
    "test and train": ("test.parquet", ["train.parquet"]),
    "test and one of two": ("test.parquet", ["first.parquet", "test2.parquet"]),
}


@pytest.mark.parametrize("case", SAME)
def test_sets_with_the_same_content_are_refused_under_any_names(study, nas, case):
    shutil.copyfile(study.parent / "test.parquet", study.parent / "test2.parquet")
    given, train = SAME[case]
    shutil.copyfile(study.parent / train[-1], study.parent / given)
    run = _run(study, train)
    message = rf"test\.parquet: has the same content as .*{train[-1]}, but the train set and the test set must be disj"
    with pytest.raises(DataError, match=message):
        check_sources(run.study)
    with pytest.raises(DataError, match=message):
        read_task(run)
    _, error = nas("check", study.with_name("other.toml"), "--runs", study.parent / "runs", code=2)
    assert "has the same content as" in error and "Traceback" not in error


def test_a_file_that_is_named_twice_by_different_paths_is_refused(study):
    (study.parent / "link.parquet").symlink_to("first.parquet")
    for other in ("./first.parquet", "link.parquet"):
        run = _run(study, ["first.parquet", "second.parquet", other])
        for read in (lambda run: check_sources(run.study), read_task):
            with pytest.raises(DataError, match=r"first\.parquet: task\.train names this file more than once, by "):
                read(run)


@pytest.mark.parametrize(("content", "message"), [("", "is empty"), ("text,label\n", "has no rows")])
def test_empty_files_are_not_reported_as_copies(tmp_path, content, message):
    for name in ("train", "test"):
        (tmp_path / f"{name}.csv").write_text(content)
    with pytest.raises(DataError, match=rf"test\.csv: {message}; give a"):
        check_distinct({name: [tmp_path / f"{name}.csv"] for name in ("train", "test")})


def test_links_that_form_a_loop_are_missing_files(tmp_path, nas):
    study = write_tiny_study(tmp_path)
    (tmp_path / "test.parquet").unlink()
    (tmp_path / "test.parquet").symlink_to("test.parquet")
    _, error = nas("check", study, code=2)
    assert "test.parquet: no such data file" in error and "Traceback" not in error


def test_a_path_in_the_home_directory_of_a_user_without_one_is_taken_literally(monkeypatch):
    monkeypatch.delenv("HOME")
    monkeypatch.setattr("os.getuid", lambda: 999_999)
    assert given_path("~/a.csv") == Path("~/a.csv")


@pytest.mark.parametrize(("rows", "size"), [(5432, 1086), (30_000, 5000), (4, 1), (25_000, 5000)])
def test_a_fifth_of_the_rows_but_at_most_5000_are_held_out(rows, size):
    assert _task(holdout={}).holdout.size_of(rows) == size
    assert _task(holdout={"size": 3000}).holdout.size_of(rows) == 3000


def test_a_study_without_a_size_holds_out_a_fifth(tmp_path):
    found = _read(tmp_path, make_rows(600, 0), make_rows(600, 1), holdout={})
    total = len(found.labels["train"]) + len(found.labels["search"])
    assert total // 5 <= len(found.labels["search"]) <= total // 5 + 20  # rows with the same text stay together
    assert len(found.encode(make_tokenizer(), 16).train) == len(found.labels["train"])
