"""`nas init`: what is proposed for a teacher and its data, what is written, and what is refused."""

from __future__ import annotations

import json
import sys
import tomllib

import pytest
from datasets import Dataset
from tiny import make_pairs, make_rows, make_teacher, make_tokenizer
from transformers import BertConfig, BertForSequenceClassification

from nas.proposal import Columns
from nas.study import Study


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder with a teacher and data, where the command is given."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys.stdin, "isatty", lambda: False, raising=False)
    make_teacher(vocab_size=64).save_pretrained(tmp_path / "my-bert")
    make_tokenizer().save_pretrained(tmp_path / "my-bert")
    make_rows(300, 0).to_csv(tmp_path / "train.csv")
    make_rows(50, 1).to_csv(tmp_path / "test.csv")
    return tmp_path


GIVEN = ["--teacher", "my-bert", "--train", "train.csv", "--test", "test.csv"]


def test_what_is_written_is_checked_and_proposed_from_teacher_and_data(here, nas):
    code, output, error = nas("init", "mine", *GIVEN, "--budget", "40%", "--budget", "fast=0.5", "--json")
    assert code == 0, error
    assert json.loads(output.splitlines()[-1]) == {"written": ["mine/study.toml"], "search_space": "tiny"}
    study = Study.load("mine")
    assert study.space.name == "tiny" and study.task.text == ("text",) and study.task.label == "label"
    assert study.task.max_length == study.devices[0].sequence_length == 40 and study.task.holdout.size == 60
    assert {budget.name: budget.limits[0].p50_ms for budget in study.budgets} == {"40-percent": "40%", "fast": 0.5}
    assert study.teacher.fine_tune is None  # it has a classifier
    assert nas("check", "mine")[0] == 0
    code, _, error = nas("init", "mine", *GIVEN)
    assert code == 2 and "is there already" in error


def test_a_space_is_written_for_a_teacher_of_other_sizes_and_what_its_runtime_can_run(here, nas):
    sizes = {"hidden_size": 48, "num_hidden_layers": 5, "num_attention_heads": 6, "intermediate_size": 100}
    config = BertConfig(vocab_size=64, max_position_embeddings=64, **sizes)
    BertForSequenceClassification(config).save_pretrained(here / "odd")
    arguments = ["--teacher", "odd", *GIVEN[2:], "--runtime", "torch", "--fine-tune"]
    assert nas("init", *arguments)[0] == 0
    study = Study.load(".")
    assert (here / "search_space.toml").is_file() and study.space.teacher.model_dump() == sizes
    assert study.space.dimensions.intermediate_size[-1] == 100 and study.space.count() > 10_000
    assert study.teacher.fine_tune is not None and study.space.largest().choices == {"none"}


def test_pairs_and_regression_are_recognised():
    found = Columns.of(make_pairs(40, 0), make_pairs(4, 1))
    assert found.text == ("first", "second") and found.label == "label" and found.metric == "spearman"


def test_columns_are_told_apart():
    rows = {"id": ["a1", "b2", "c3"], "note": ["x y", "x y", "x y"], "body": ["a b", "b c", "c d"], "class": [0, 1, 0]}
    data = Dataset.from_dict(rows)
    found = Columns.of(data, data.remove_columns("id"))
    assert (
        found.names == ("note", "body", "class")
        and found.text == ("body",)
        and found.label == "class"
        and found.metric == "accuracy"
    )


def test_it_asks_on_a_terminal(here, nas, monkeypatch):
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True, raising=False)
    asked = []

    def answer(question, default, err):
        asked.append(question)
        assert err  # standard output is for the result
        return "30% tight=0.2" if "Budgets" in question else default

    monkeypatch.setattr("typer.prompt", answer)
    assert nas("init", "asked", *GIVEN)[0] == 0
    assert len(asked) == 8 and "Column of labels" in asked
    assert [budget.name for budget in Study.load("asked").budgets] == ["30-percent", "tight"]


def test_a_hub_study_needs_columns_and_a_space(here, nas):
    arguments = ["--teacher", "someone/bert", "--hub", "nyu-mll/glue", "--config", "mrpc", "--train", "train"]
    arguments += ["--test", "validation", "--text", "sentence1", "--text", "sentence2"]
    code, _, error = nas("init", "hub", *arguments)
    assert code == 2 and "--space" in error and "bert-base" in error and "Looking" not in error
    assert nas("init", "hub", *arguments, "--space", "bert-base")[0] == 0
    task = tomllib.loads((here / "hub" / "study.toml").read_text())["task"]
    assert task["hub"] == "nyu-mll/glue" and task["text"] == ["sentence1", "sentence2"] and task["train"] == "train"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (GIVEN[2:], ["--teacher", "give it"]),
        (["--teacher", "./nobody", *GIVEN[2:]], ["./nobody", "no folder"]),
        (["--teacher", "my-bert", "--train", "no.csv", "--test", "test.csv"], ["no.csv", "no such data file"]),
        (
            ["--teacher", "my-bert", "--train", "my-bert/config.json", "--test", "test.csv"],
            ["config.json", ".parquet, .csv, .jsonl"],
        ),
        ([*GIVEN[:4], "--test", "no.csv"], ["no.csv", "no such data file"]),
        ([*GIVEN, "--label", "lable"], ["no column 'lable'", "text, label"]),
        ([*GIVEN, "--budget", "much"], ["--budget much", "share"]),
        ([*GIVEN, "--budget", "inf"], ["--budget inf", "4.0"]),
        ([*GIVEN, "--metric", "bleu"], ["'bleu'", "accuracy"]),
        ([*GIVEN, "--sequence-length", "64"], ["devices.here.sequence_length", "40", "64"]),
        ([*GIVEN, "--space", "bert-base"], ["12 layers", "3 layers"]),
        ([*GIVEN, "--runtime", "tflite"], ["--runtime tflite", "onnxruntime, torch, openvino", "use one"]),
    ],
)
def test_wrong_answers_leave_nothing(here, nas, arguments, words):
    code, output, error = nas("init", "deep/mine", *arguments)
    last = error.splitlines()[-1]
    assert code == 2 and output == "" and last.startswith("error: ") and all(word in last for word in words), error
    assert not (here / "deep").exists()
    (here / "own").mkdir()
    assert nas("init", "own", *arguments)[0] == 2 and not list((here / "own").iterdir())


def test_columns_may_have_spaces_and_are_typed_with_commas(here, nas, monkeypatch):
    texts, numbers = [f"x {number}" for number in range(9)], [0, 1, 0] * 3
    for name in ("train.csv", "test.csv"):
        Dataset.from_dict({"the text": texts, "the other": texts, "label": numbers}).to_csv(name)
    assert nas("init", "found", *GIVEN)[0] == 0 and Study.load("found").task.text == ("the text", "the other")
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True, raising=False)
    said = {"Column of texts, or two for pairs with a comma between": "the other , the text"}
    monkeypatch.setattr("typer.prompt", lambda question, default, err: said.get(question, default))
    assert nas("init", "typed", *GIVEN)[0] == 0 and Study.load("typed").task.text == ("the other", "the text")


def test_texts_are_cut_no_shorter_than_the_device_is_measured_with(here, nas):
    arguments = ["--hub", "nyu-mll/glue", "--train", "train", "--test", "validation", "--text", "sentence"]
    for length, cut in (("64", 128), ("256", 256), ("task", 128)):
        given = ["--teacher", "someone/bert", "--space", "bert-base", "--sequence-length", length]
        assert nas("init", length, *given, *arguments)[0] == 0 and Study.load(length).task.max_length == cut


def test_unclear_columns_are_asked_for(here, nas):
    Dataset.from_dict({"a": ["x y"] * 9, "b": ["x y"] * 9, "label": [0, 1, 0] * 3}).to_csv("unclear.csv")
    code, _, error = nas("init", "mine", "--teacher", "my-bert", "--train", "unclear.csv", "--test", "unclear.csv")
    assert code == 2 and "--text" in error and "a, b, label" in error
