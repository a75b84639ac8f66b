"""Splits, batches and metrics of a task, and the error messages for unsuitable data."""

from __future__ import annotations

import random
import tracemalloc

import numpy as np
import pytest
from datasets import ClassLabel, Dataset
from tiny import make_rows, prepare

from nas.data import TaskData, batches_by_length
from nas.data.splits import held_out
from nas.errors import DataError
from nas.study import Task
from nas.tasks import ClassMetric, Correlation

SENTENCES = ["a fine film", "a fine", "fine film", "film", "A  Fine Film", "what a mess", "a mess", "the plot"]


def test_a_sentence_is_held_out_together_with_all_rows_that_it_contains():
    chosen = [held_out([SENTENCES], "sentence", 1, seed) for seed in range(20)]
    assert set(map(tuple, chosen)) == {(0, 1, 2, 3, 4), (5, 6), (7,)}


def test_no_held_out_row_is_also_a_training_row():
    searched = set(held_out([SENTENCES], "sentence", 5, 1))
    training = [text for number, text in enumerate(SENTENCES) if number not in searched]
    assert not {SENTENCES[number].lower() for number in searched} & {text.lower() for text in training}


def test_contained_rows_are_found_without_storing_all_word_spans():
    rng = random.Random(0)
    texts = [" ".join(rng.choices("abc", k=rng.randint(1, 9))) for _ in range(60)]
    long = " ".join(f"w{number}" for number in range(400))
    texts += [long, "w7 w8", "w399", "w398 w399 w400"]
    for size in (1, 20):
        chosen = {texts[number] for number in held_out([texts], "sentence", size, 3)}
        for text in chosen:
            contained = {other for other in texts if f" {other} " in f" {text} "}
            assert contained <= chosen
    tracemalloc.start()
    held_out([[long, "w7 w8"]], "sentence", 1, 0)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2e6  # the text has 80,000 word spans, which would take 70 MB


def test_rows_with_equal_texts_are_held_out_together():
    first, second = ["x", "x", "y", "z"], ["1", "1", "2", "3"]
    for seed in range(10):
        chosen = set(held_out([first, second], "row", 1, seed))
        assert len(chosen & {0, 1}) in (0, 2)


def _task(**changes):
    values = {"train": "train.parquet", "test": "test.parquet", "text": ("text",), "max_length": 16}
    return Task(**values | changes)


@pytest.fixture
def files(tmp_path):
    make_rows(300, 0).to_parquet(tmp_path / "train.parquet")
    make_rows(50, 1).to_parquet(tmp_path / "test.parquet")
    return str(tmp_path / "train.parquet"), str(tmp_path / "test.parquet")


def test_splits_are_disjoint_and_can_be_saved_and_loaded(files, tmp_path):
    data = prepare(_task(holdout={"size": 60}), *files)
    assert len(data.train) + len(data.search) == 300 and len(data.search) >= 60
    texts = [{tuple(ids) for ids in split["input_ids"]} for split in (data.train, data.search)]
    assert not texts[0] & texts[1]
    data.save(tmp_path / "data")
    again = TaskData.load(tmp_path / "data")
    assert again.search["input_ids"] == data.search["input_ids"] and again.label_names == ("0", "1")


def test_text_pairs_from_csv_and_jsonl_files_get_token_types_if_the_model_has_them(tmp_path):
    make_rows(80, 0).add_column("other", ["w1 w2"] * 80).to_csv(tmp_path / "train.csv", index=False)
    make_rows(80, 1).add_column("other", ["w1 w2"] * 80).to_json(tmp_path / "test.jsonl")
    task = _task(train="train.csv", test="test.jsonl", text=("text", "other"), holdout={"size": 10})
    data = prepare(task, str(tmp_path / "train.csv"), str(tmp_path / "test.jsonl"))
    assert all(max(types) == 1 for types in data.test["token_type_ids"])
    assert max(data.train["length"]) <= 16
    files = (str(tmp_path / "train.csv"), str(tmp_path / "test.jsonl"))
    typeless = prepare(task, *files, token_types=False)
    assert typeless.test["input_ids"] == data.test["input_ids"] and "token_type_ids" not in typeless.test.column_names
    assert set(next(batches_by_length(typeless.test)).inputs) == {"input_ids"}


def test_labels_of_regression_are_numbers(files):
    data = prepare(_task(kind="regression", metric="spearman", holdout={"size": 60}), *files)
    assert data.num_labels == 1 and isinstance(data.train["labels"][0], float)


def test_labels_are_matched_by_name_if_the_files_declare_them_in_different_orders(files, tmp_path):
    named = {"train": ["bad", "good"], "test": ["good", "bad"]}
    for (name, names), path in zip(named.items(), files, strict=True):
        rows = Dataset.from_parquet(path, keep_in_memory=True)
        rows.cast_column("label", ClassLabel(names=names)).to_parquet(tmp_path / f"{name}.parquet")
    paths = [str(tmp_path / f"{name}.parquet") for name in named]
    data = prepare(_task(holdout={"size": 60}), *paths)
    original = Dataset.from_parquet(files[1], keep_in_memory=True)["label"]
    assert data.label_names == ("bad", "good") and list(data.test["labels"]) == [1 - label for label in original]


def test_labels_that_are_lists_are_refused(files, tmp_path):
    path = str(tmp_path / "lists.parquet")
    Dataset.from_dict({"text": ["w1", "w2"], "label": [[0], [1]]}).to_parquet(path)
    for train, test in ((path, files[1]), (files[0], path)):
        with pytest.raises(DataError, match=r"lists\.parquet: column 'label' must hold one label per row"):
            prepare(_task(), train, test)


def test_the_error_tells_an_unknown_label_from_a_missing_one(files, tmp_path):
    named = {}
    for name, path in zip(("train", "test"), files, strict=True):
        rows = Dataset.from_parquet(path, keep_in_memory=True).cast_column("label", ClassLabel(names=["bad", "good"]))
        rows.to_parquet(named.setdefault(name, str(tmp_path / f"{name}-named.parquet")))
    with pytest.raises(
        DataError,
        match=r"test\.parquet: column 'label', row \d+ \(counted from 0\): label [01] is not a class of .*, "
        "which has 2 classes such as 'bad'; use",
    ):
        prepare(_task(holdout={"size": 60}), named["train"], files[1])
    hidden = Dataset.from_parquet(named["test"], keep_in_memory=True)
    hidden = Dataset.from_dict({"text": hidden["text"], "label": [-1] * len(hidden)}, features=hidden.features)
    hidden.to_parquet(tmp_path / "hidden.parquet")
    with pytest.raises(DataError, match=r"row 0 .* has no label \(50 of 50 rows have none\); .* labels are public"):
        prepare(_task(holdout={"size": 60}), named["train"], str(tmp_path / "hidden.parquet"))


def test_regression_needs_a_number_in_every_row(files, tmp_path):
    path = str(tmp_path / "words.csv")
    Dataset.from_dict({"text": ["w1", "w2"], "label": ["1.5", "high"]}).to_csv(path)
    task = _task(kind="regression", metric="spearman", holdout={"size": 60})
    with pytest.raises(DataError, match=r"words\.csv: column 'label': every row must hold a finite number, but row 1"):
        prepare(task, files[0], path)


@pytest.mark.parametrize("metric", ["pearson", "spearman"])
def test_a_correlation_needs_at_least_two_texts(files, tmp_path, metric):
    Dataset.from_dict({"text": ["w1 w2"], "label": [0.5]}).to_parquet(tmp_path / "one.parquet")
    task = _task(kind="regression", metric=metric, holdout={"size": 60})
    with pytest.raises(DataError, match=f"one.parquet: the test set needs at least 2 texts for {metric}, but has 1"):
        prepare(task, files[0], str(tmp_path / "one.parquet"))
    with pytest.raises(
        DataError, match=f"search.least_tokens.* needs at least 2 texts for {metric}, but has 1; give more texts"
    ):
        Correlation(metric).score(np.array([[0.5]]), np.array([0.5]))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"text": ("body",)}, "no column 'body'; use one of text, label"),
        ({"label": "gold"}, "no column 'gold'"),
        ({"holdout": {"size": 5000}}, "reduce task.holdout.size"),
        ({"text": ("label",), "label": "text"}, "column 'label' must hold"),
    ],
)
def test_data_that_does_not_match_the_study_is_refused(files, changes, message):
    with pytest.raises(DataError, match=message):
        prepare(_task(**{"holdout": {"size": 60}} | changes), *files)


@pytest.mark.parametrize(
    ("texts", "labels", "changes", "message"),
    [
        (["w1", None, "w2"], [0, 1, 0], {}, "row 1 holds None"),
        (
            ["1", "2", "3"],
            [0.5, float("nan"), 1.0],
            {"kind": "regression", "metric": "pearson"},
            "every row must hold a finite number",
        ),
    ],
)
def test_rows_with_missing_values_are_refused(files, tmp_path, texts, labels, changes, message):
    path = tmp_path / "holes.parquet"
    Dataset.from_dict({"text": texts, "label": labels}).to_parquet(path)
    with pytest.raises(DataError, match=message):
        prepare(_task(holdout={"size": 60}, **changes), files[0], str(path))


def test_training_rows_that_are_also_in_the_test_set_are_removed(files, tmp_path):
    tested = make_rows(300, 0).select(range(40))
    tested.to_parquet(tmp_path / "overlap.parquet")
    data = prepare(_task(holdout={"size": 60}), files[0], str(tmp_path / "overlap.parquet"))
    texts = [{tuple(ids) for ids in split["input_ids"]} for split in (data.train, data.search, data.test)]
    assert not texts[0] & texts[2] and not texts[1] & texts[2] and len(data.train) + len(data.search) <= 260


def test_a_file_whose_content_does_not_match_its_suffix_is_refused(files, tmp_path):
    broken = tmp_path / "broken.parquet"
    broken.write_text("no parquet")
    with pytest.raises(DataError, match=r"broken\.parquet"):
        prepare(_task(), str(broken), files[1])


def test_batches_need_no_padding_and_contain_each_row_once(files):
    data = prepare(_task(holdout={"size": 60}), *files)
    batches = list(batches_by_length(data.train, max_tokens=64))
    assert all(ids.numel() <= 64 and not (ids == 0).any() for ids in (batch.inputs["input_ids"] for batch in batches))
    assert sorted(np.concatenate([batch.rows for batch in batches])) == list(range(len(data.train)))


def test_metrics_equal_values_computed_by_hand():
    logits = np.array([[2.0, 0.0], [0.0, 1.0], [0.0, 1.0], [3.0, 1.0]])
    labels = np.array([0, 1, 0, 0])
    assert ClassMetric("accuracy").score(logits, labels) == 0.75
    assert ClassMetric("f1").score(logits, labels) == pytest.approx(2 / 3)
    assert ClassMetric("matthews_correlation").score(logits, labels) == pytest.approx(1 / np.sqrt(3))
    scores = np.array([[0.1], [0.4], [0.2], [0.9]])
    assert Correlation("spearman").score(scores, np.array([1.0, 3.0, 2.0, 4.0])) == pytest.approx(1.0)
    assert Correlation("pearson").score(np.zeros((4, 1)) + scores * 2, scores[:, 0]) == pytest.approx(1.0)
