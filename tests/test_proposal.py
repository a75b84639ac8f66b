"""`nas init` proposes a study for a teacher and its data, asks for what is unclear, and refuses invalid options."""

from __future__ import annotations

import json
import sys
import tomllib

import pytest
from datasets import Dataset
from tiny import make_labelled, make_ranked, make_rows, make_teacher, make_tokenizer, save_teacher
from transformers import BertConfig, BertForSequenceClassification

from nas.proposal import fitting_space
from nas.space import SearchSpace
from nas.study import Study
from nas.tasks import REGISTRY, Classification


@pytest.fixture
def here(tmp_path, monkeypatch):
    """Return the working directory, which contains a teacher and data."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys.stdin, "isatty", lambda: False, raising=False)
    save_teacher(tmp_path / "my-bert")
    make_rows(300, 0).to_csv(tmp_path / "train.csv")
    make_rows(50, 1).to_csv(tmp_path / "test.csv")
    return tmp_path


GIVEN = ["--teacher", "my-bert", "--train", "train.csv", "--test", "test.csv"]
GIVEN_ODD = ["--teacher", "odd", *GIVEN[2:], "--fine-tune"]
"""The options for the teacher of `odd_sizes`."""


@pytest.fixture
def odd_sizes(here):
    """Save a teacher `odd` whose sizes no shipped search space has. Return its sizes."""
    sizes = {"hidden_size": 48, "num_hidden_layers": 5, "num_attention_heads": 6, "intermediate_size": 100}
    config = BertConfig(vocab_size=64, max_position_embeddings=64, **sizes)
    BertForSequenceClassification(config).save_pretrained(here / "odd")
    make_tokenizer().save_pretrained(here / "odd")
    return sizes


def test_the_study_is_proposed_from_the_teacher_and_the_data_and_passes_the_check(here, nas):
    output, _ = nas("init", "mine", *GIVEN, "--budget", "40%", "--budget", "fast=0.5", "--json")
    assert json.loads(output.splitlines()[-1]) == {"written": ["mine/study.toml"], "search_space": "tiny"}
    study = Study.load("mine")
    assert study.space.name == "tiny" and study.task.text == ("text",) and study.task.label == "label"
    assert study.task.max_length == study.devices[0].sequence_length == 40 and study.task.holdout.size == 60
    assert {budget.name: budget.limits[0].p50_ms for budget in study.budgets} == {"40-percent": "40%", "fast": 0.5}
    assert study.teacher.fine_tune is None  # it has a classifier
    nas("check", "mine")
    _, error = nas("init", "mine", *GIVEN, code=2)
    assert "study.toml: already exists" in error


def test_the_commented_line_for_vocabulary_pruning_names_the_kind_of_tokenizer(here, nas):
    nas("init", "mine", *GIVEN)
    path = here / "mine" / "study.toml"
    line = next(line for line in path.read_text().splitlines() if "prune_vocabulary" in line)
    assert line.startswith("# prune_vocabulary = true") and "(this is WordPiece)" in line
    path.write_text(path.read_text().replace(line, line.removeprefix("# ")))
    assert Study.load("mine").teacher.prune_vocabulary
    nas("check", "mine")


def test_relative_paths_of_unlabelled_texts_become_relative_to_the_study(here, nas):
    make_rows(20, 3).remove_columns("label").to_csv(here / "more.csv")
    nas("init", "mine", *GIVEN, "--unlabelled", "more.csv", "--unlabelled", here / "train.csv")
    study = Study.load("mine")
    assert study.task.unlabelled == ("../more.csv", str(here / "train.csv"))
    output, _ = nas("check", "mine")
    assert "of 320 unlabelled texts are new; left out: " in output
    _, error = nas("init", "other", *GIVEN, "--unlabelled", "none.csv", code=2)
    assert "none.csv: no such data file" in error and not (here / "other").exists()


def test_a_search_space_is_written_for_a_teacher_of_other_sizes_and_for_the_runtime(here, odd_sizes, nas):
    nas("init", *GIVEN_ODD, "--runtime", "torch")
    study = Study.load(".")
    assert (here / "search_space.toml").is_file() and study.space.teacher.model_dump() == odd_sizes
    assert study.space.dimensions.intermediate_size[-1] == 100 and study.space.count() > 10_000
    assert study.teacher.fine_tune is not None and study.space.largest().choices == {"none"}


@pytest.mark.parametrize(("runtime", "method"), [("onnxruntime", "int8"), ("openvino", "static_int8")])
def test_a_written_search_space_offers_the_8_bit_method_of_the_runtime(odd_sizes, nas, runtime, method):
    nas("init", *GIVEN_ODD, "--runtime", runtime)
    study = Study.load(".")
    assert {choices for _, choices in study.space.compression} == {("none", method)}
    assert study.devices[0].runtime == runtime and not study.search_space.exclude_compression


def test_a_shipped_space_is_proposed_whose_methods_the_runtimes_support():
    shape = SearchSpace.load("bert-base").teacher
    assert fitting_space(shape, ["onnxruntime"]) == "bert-base"
    assert (
        fitting_space(shape, ["openvino"]) == fitting_space(shape, ["openvino", "onnxruntime"]) == "bert-base-openvino"
    )
    assert fitting_space(shape, ["torch"]) == "bert-base", "no space suits, so int8 will be excluded"
    assert fitting_space(shape.model_copy(update={"hidden_size": 48}), ["openvino"]) is None


def test_an_additional_kind_for_the_same_labels_does_not_change_the_proposal(here, nas, monkeypatch):
    monkeypatch.setitem(REGISTRY, "balanced", type("Balanced", (Classification,), {"name": "balanced"})())
    nas("init", "mine", *GIVEN)
    assert Study.load("mine").task.kind == "classification"


def test_missing_settings_are_asked_for_on_a_terminal(here, nas, monkeypatch):
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True, raising=False)
    questions = []

    def answer(question, default, err):
        questions.append(question)
        assert err  # standard output is for the result
        return "30% tight=0.2" if "Budgets" in question else default

    monkeypatch.setattr("typer.prompt", answer)
    nas("init", "asked", *GIVEN)
    assert len(questions) == 8 and "Column of labels" in questions
    assert [budget.name for budget in Study.load("asked").budgets] == ["30-percent", "tight"]


def test_a_study_with_data_on_the_hub_needs_columns_and_a_search_space(here, nas):
    arguments = ["--teacher", "someone/bert", "--hub", "nyu-mll/glue", "--config", "mrpc", "--train", "train"]
    arguments += ["--test", "validation", "--text", "sentence1", "--text", "sentence2"]
    _, error = nas("init", "hub", *arguments, code=2)
    assert "--space" in error and "bert-base" in error and "Looking" not in error
    output, _ = nas("init", "hub", *arguments, "--space", "bert-base")
    assert "assumed: --label label, --kind classification; give other values if" in output
    task = tomllib.loads((here / "hub" / "study.toml").read_text())["task"]
    assert task["hub"] == "nyu-mll/glue" and task["text"] == ["sentence1", "sentence2"] and task["train"] == "train"
    given = ("--space", "bert-base", "--label", "label", "--metric", "f1")
    output, _ = nas("init", "given", *arguments, *given)
    assert "data set: nyu-mll/glue (not inspected)" in output and "assumed" not in output


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (GIVEN[2:], ["--teacher", "must be given"]),
        (["--teacher", "./nobody", *GIVEN[2:]], ["./nobody", "no folder"]),
        (["--teacher", "my-bert", "--train", "no.csv", "--test", "test.csv"], ["no.csv", "no such data file"]),
        (
            ["--teacher", "my-bert", "--train", "my-bert/config.json", "--test", "test.csv"],
            ["config.json", ".parquet, .csv or .jsonl"],
        ),
        ([*GIVEN[:4], "--test", "no.csv"], ["no.csv", "no such data file"]),
        ([*GIVEN, "--label", "lable"], ["no column 'lable'", "text, label"]),
        ([*GIVEN, "--budget", "much"], ["--budget much", "percentage"]),
        ([*GIVEN, "--budget", "inf"], ["--budget inf", "4.0"]),
        ([*GIVEN, "--metric", "bleu"], ["'bleu'", "accuracy"]),
        ([*GIVEN, "--sequence-length", "64"], ["devices.here.sequence_length", "40", "64"]),
        ([*GIVEN, "--space", "bert-base"], ["12 layers", "3 layers"]),
        ([*GIVEN, "--runtime", "tflite"], ["--runtime tflite", "onnxruntime, torch, openvino", "use one"]),
    ],
)
def test_invalid_options_are_refused_and_nothing_is_written(here, nas, arguments, words):
    output, error = nas("init", "deep/mine", *arguments, code=2)
    last = error.splitlines()[-1]
    assert output == "" and last.startswith("error: ") and all(word in last for word in words), error
    assert not (here / "deep").exists()
    (here / "own").mkdir()
    nas("init", "own", *arguments, code=2)
    assert not list((here / "own").iterdir())


def test_the_name_of_a_data_file_may_begin_with_a_tilde(here, nas):
    for name in ("train.csv", "test.csv"):
        (here / f"~{name}").write_bytes((here / name).read_bytes())
    arguments = ["~" + value if value in ("train.csv", "test.csv") else value for value in GIVEN]
    nas("init", "own", *arguments)
    study = Study.load("own")
    assert study.resolve(study.task.train) == (here / "~train.csv").resolve()


def test_column_names_may_contain_spaces_and_are_typed_with_commas(here, nas, monkeypatch):
    for name, start in (("train.csv", 0), ("test.csv", 9)):
        texts = [f"x {number}" for number in range(start, start + 9)]
        Dataset.from_dict({"the text": texts, "the other": texts, "label": [0, 1, 0] * 3}).to_csv(name)
    _, error = nas("init", "found", *GIVEN, code=2)
    assert error.endswith(
        "several columns look like texts: give --text with one of the text, the other (twice for a text pair)\n"
    )
    assert not (here / "found").exists()
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True, raising=False)
    questions = []

    def answer(question, default, err):
        questions.append(question)
        return "the other , the text" if question.startswith("Column of texts") else default

    monkeypatch.setattr("typer.prompt", answer)
    nas("init", "typed", *GIVEN)
    assert Study.load("typed").task.text == ("the other", "the text")
    assert "(several columns look like texts: the text, the other)" in questions[0]


def test_texts_are_truncated_no_shorter_than_the_sequence_length_of_the_device(here, nas):
    arguments = ["--hub", "nyu-mll/glue", "--train", "train", "--test", "validation", "--text", "sentence"]
    for length, cut in (("64", 128), ("256", 256), ("task", 128)):
        given = ["--teacher", "someone/bert", "--space", "bert-base", "--sequence-length", length]
        nas("init", length, *given, *arguments)
        assert Study.load(length).task.max_length == cut


def _write(folder, **columns):
    """Write rows to train.csv, and the same rows without the first one to test.csv."""
    for name, first in (("train.csv", 0), ("test.csv", 1)):
        Dataset.from_dict({key: values[first:] for key, values in columns.items()}).to_csv(folder / name)


TEXTS = [f"w{number} w1 w2 w3" for number in range(60)]


def test_all_settings_that_are_unclear_are_named_at_once_with_their_options(here, nas):
    _write(here, title=TEXTS, body=TEXTS[::-1], stars=[number % 5 + 1 for number in range(60)])
    output, error = nas("init", "mine", *GIVEN, code=2)
    assert output == ""
    assert error.splitlines()[-1] == (
        "error: several columns look like texts: give --text with one of title, body (twice for a text pair); "
        "column stars holds 5 different numbers from 1 to 5: classes or a scale? Give --kind classification or --kind "
        "regression"
    )
    answers = ["--text", "title", "--text", "body", "--kind", "regression", "--fine-tune"]
    output, _ = nas("init", "mine", *GIVEN, *answers)
    task = Study.load("mine").task
    assert (task.text, task.label, task.kind, task.metric) == (("title", "body"), "stars", "regression", "spearman")
    assert "text: title, body; label: stars (regression, numbers from 1 to 5)\n" in output


def test_a_teacher_with_another_number_of_classes_needs_fine_tuning(here, nas):
    _write(here, text=TEXTS, label=["a", "b", "c"] * 20)
    _, error = nas("init", "mine", *GIVEN, code=2)
    assert not (here / "mine").exists()
    assert "the teacher's classifier has 2 outputs, but 'label' has 3 classes: give --fine-tune" in error
    nas("init", "mine", *GIVEN, "--no-fine-tune", code=2)
    output, _ = nas("init", "mine", *GIVEN, "--fine-tune")
    assert Study.load("mine").teacher.fine_tune is not None
    assert "label: label (3 classes: a, b, c)\n" in output


def test_a_multi_label_teacher_or_one_with_one_output_does_not_imply_classification(here, nas):
    config = here / "my-bert" / "config.json"
    values = json.loads(config.read_text())
    config.write_text(json.dumps(values | {"problem_type": "multi_label_classification"}))
    output, _ = nas("init", "several", *GIVEN)
    assert "so it is fine-tuned first" in output
    make_teacher(outputs=1, vocab_size=64).save_pretrained(here / "my-bert")
    _, error = nas("init", "one", *GIVEN, code=2)
    assert "2 different numbers from 0 to 1, and the teacher has 1 output: classes or a scale?" in error
    nas("init", "one", *GIVEN, "--kind", "regression")


def _write_multi_label(folder, teacher_outputs=3, **config):
    """Write JSONL data with a column of lists and a column for each label; replace the teacher; return the options."""
    files = {}
    for name, count, seed in (("train", 60, 0), ("test", 30, 1)):
        rows = make_labelled(count, seed)
        for label in ("high", "low"):
            rows = rows.add_column(label, [int(label in labels) for labels in rows["labels"]])
        files[name] = str(folder / f"{name}.jsonl")
        rows.to_json(files[name])
    teacher = make_teacher(outputs=teacher_outputs, vocab_size=64)
    teacher.config.id2label = {number: f"LABEL_{number}" for number in range(teacher_outputs)}
    for key, value in config.items():
        setattr(teacher.config, key, value)
    teacher.save_pretrained(folder / "my-bert")
    return ["--teacher", "my-bert", "--train", "train.jsonl", "--test", "test.jsonl"]


def _write_queries(folder, outputs=None):
    """Write data of queries with several passages, and a teacher with that many outputs or without a classifier."""
    for name, count, seed in (("train", 60, 0), ("test", 20, 1)):
        make_ranked(count, seed).to_csv(folder / f"{name}.csv")
    make_teacher(outputs=outputs or 2, vocab_size=64).save_pretrained(folder / "my-bert")
    if outputs is None:
        config = folder / "my-bert" / "config.json"
        config.write_text(json.dumps(json.loads(config.read_text()) | {"architectures": ["BertModel"]}))


def test_data_of_queries_with_several_passages_can_be_ranked_or_classified(here, nas):
    _write_queries(here)
    _, error = nas("init", "mine", *GIVEN, code=2)
    assert "label may hold the relevance of several passages for each question_id" in error
    assert "Give --kind ranking or --kind classification" in error and not (here / "mine").exists()
    output, _ = nas("init", "mine", *GIVEN, "--kind", "ranking")
    assert "label: label (2 grades of relevance: 0, 1); query: question_id" in output
    study = Study.load("mine")
    assert (study.task.kind, study.task.metric, study.task.query) == ("ranking", "ndcg@10", "question_id")
    assert study.task.text == ("question", "answer") and study.teacher.fine_tune is not None
    assert (
        "batch_size = 1  # pairs per inference; k if you rank lists of k passages"
        in (here / "mine" / "study.toml").read_text()
    )
    nas("check", "mine")
    nas("init", "by-metric", *GIVEN, "--metric", "map")
    assert Study.load("by-metric").task.kind == "ranking"
    nas("init", "classes", *GIVEN, "--kind", "classification")
    assert Study.load("classes").task.query is None
    _, error = nas("init", "other", *GIVEN, "--kind", "ranking", "--query", "question_ids", code=2)
    assert "no column 'question_ids'" in error
    _, error = nas("init", "other", *GIVEN, "--kind", "classification", "--query", "question_id", code=2)
    assert "classification, which evaluates each row separately, but got 'question_id'; remove query" in error


def test_the_outputs_of_the_teacher_decide_between_ranking_and_classification(here, nas):
    _write_queries(here, outputs=1)
    output, _ = nas("init", "mine", *GIVEN)
    assert "query: question_id" in output
    study = Study.load("mine")
    assert study.task.kind == "ranking" and study.teacher.fine_tune is None
    _write_queries(here, outputs=2)
    nas("init", "classes", *GIVEN)
    assert Study.load("classes").task.kind == "classification"
    _, error = nas("init", "other", *GIVEN, "--kind", "ranking", code=2)
    assert "the teacher's classifier has 2 outputs, but a ranking needs 1" in error


def test_a_column_of_lists_of_labels_makes_a_multi_label_task(here, nas):
    given = _write_multi_label(here, problem_type="multi_label_classification")
    output, _ = nas("init", "mine", *given, "--label", "labels")
    assert "label: labels (3 labels: high, low, short)" in output
    study = Study.load("mine")
    assert (study.task.kind, study.task.metric, study.task.label) == ("multi_label", "f1_micro", "labels")
    assert study.teacher.fine_tune is None and 'threshold = "search"' in (here / "mine" / "study.toml").read_text()
    nas("init", "macro", *given, "--label", "labels", "--metric", "f1_macro")
    assert (Study.load("macro").task.kind, Study.load("macro").task.metric) == ("multi_label", "f1_macro")
    _, error = nas("init", "other", *given, "--label", "labels", "--kind", "classification", code=2)
    assert "--label labels: a task of kind classification cannot have lists of labels; give a different --kind" in error
    _, error = nas("init", "other", *given, "--label", "low", "--kind", "multi_label", code=2)
    assert "--label low: a task of kind multi_label cannot have one label per row; give a different --kind" in error


def test_several_label_columns_make_a_multi_label_task(here, nas):
    given = _write_multi_label(here, 2, problem_type="multi_label_classification")
    output, _ = nas("init", "mine", *given, "--label", "low", "--label", "high")
    assert "label: low, high (2 labels: low, high)" in output
    task = Study.load("mine").task
    assert (task.kind, task.label) == ("multi_label", ("low", "high"))
    nas("check", "mine")
    _, error = nas("init", "other", *given, "--label", "low", "--label", "hig", code=2)
    assert "no column 'hig'" in error


def test_a_single_label_teacher_is_fine_tuned_and_one_with_other_labels_is_refused(here, nas):
    given = _write_multi_label(here, problem_type="single_label_classification")
    output, _ = nas("init", "mine", *given, "--label", "labels")
    assert "so it is fine-tuned first" in output
    given = _write_multi_label(here, 4, problem_type="multi_label_classification")
    _, error = nas("init", "other", *given, "--label", "labels", code=2)
    assert "the teacher's classifier has 4 outputs, but 'labels' has 3 labels" in error


def test_missing_values_are_counted_and_options_that_do_not_suit_the_labels_are_refused(here, nas):
    _write(here, text=TEXTS, label=[None, *["no", "yes"] * 29, "no"], tags=["['a']", "['b', 'a']"] * 30)
    output, _ = nas("init", "mine", *GIVEN)
    assert "(2 classes: no, yes); missing values: 1; " in output
    assert Study.load("mine").task.kind == "classification"
    for arguments, words in (
        (["--label", "tags"], "--label tags: the column holds lists, but not lists of labels"),
        (["--kind", "poetry"], "--kind poetry: is not a kind of task; use one of classification, regression"),
        (["--kind", "regression"], "--label label: regression needs numbers, but the column holds 'no'"),
        (["--kind", "classification", "--metric", "pearson"], "'pearson' is not a metric of classification"),
    ):
        _, error = nas("init", "other", *GIVEN, *arguments, code=2)
        assert words in error and not (here / "other").exists(), error
    _, error = nas("init", "other", *GIVEN, "--label", "tags", code=2)
    assert error.rstrip().endswith("; use one of text, label")


def test_the_same_file_for_training_and_test_is_refused(here, nas):
    (here / "copy.csv").write_bytes((here / "train.csv").read_bytes())
    for test in ("./train.csv", "copy.csv"):
        _, error = nas("init", "mine", *GIVEN[:4], "--test", test, code=2)
        assert "has the same content as --train train.csv" in error


@pytest.mark.parametrize(
    ("folder", "name"),
    [
        ("my study", "my-study"),
        ("\u00fcbung 1", "ubung-1"),
        ("a/b", "b"),
        ("con", "con"),
        ("-x (2)", "x-2"),
        ("\u7814\u7a76", "study"),
        ("..b", "b"),
        (".", "at-home"),
    ],
)
def test_a_study_gets_a_valid_name_from_any_folder_name(here, nas, monkeypatch, folder, name):
    home = here / "at home"
    home.mkdir()
    monkeypatch.chdir(home)
    given = ["--teacher", "../my-bert", "--train", "../train.csv", "--test", "../test.csv", "--", folder]
    output, _ = nas("init", *given)
    study = Study.load(home / folder)
    assert study.name == name and (f"name: {name} (a name can" in output) == (name != study.path.parent.name)
    if name != study.path.parent.name:  # the name is in the study file
        assert tomllib.loads(study.path.read_text())["name"] == name
        study.path.write_text(study.path.read_text().replace(f'name = "{name}"', "", 1))
        assert Study.load(home / folder).name == name


def test_a_folder_that_is_a_file_or_has_too_long_a_name_is_refused(here, nas):
    for folder, words in (
        ("train.csv", "train.csv: is a file"),
        ("x" * 300, "the name is too long; use a shorter one"),
    ):
        output, error = nas("init", folder, *GIVEN, code=2)
        assert output == "" and words in error and error.count("\n") == 1, error


def test_an_interrupted_init_leaves_nothing_and_a_killed_one_can_be_repeated(here, odd_sizes, nas, monkeypatch):
    def interrupt(*arguments):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("nas.proposal.study_file.check_sources", interrupt)
        nas("init", "deep/mine", *GIVEN_ODD, code=130)
    assert not (here / "deep").exists()
    nas("init", "mine", *GIVEN_ODD)
    (here / "mine" / "study.toml").unlink()  # as if killed between the two files
    nas("init", "mine", *GIVEN_ODD)
    assert Study.load("mine").space.teacher.hidden_size == 48
    (here / "mine" / "study.toml").unlink()
    (here / "mine" / "search_space.toml").write_text("mine")
    _, error = nas("init", "mine", *GIVEN_ODD, code=2)
    assert "search_space.toml: already exists" in error
    assert (here / "mine" / "search_space.toml").read_text() == "mine" and not (here / "mine" / "study.toml").exists()


@pytest.mark.parametrize(
    ("begin", "rest", "metric"),
    [("B-x", "I-x", "span_f1"), ("NOUN", "VERB", "accuracy"), ("U-x", "L-x", None), ("b-x", "i-x", None)],
)
def test_the_tags_decide_the_metric(here, nas, begin, rest, metric):
    rows = [{"tokens": ["w1", f"w{number}", "w3"], "tags": [begin, rest, "O"]} for number in range(40)]
    for name, part in (("train", rows), ("test", rows[:9])):
        (here / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in part))
    given = ["--teacher", "my-bert", "--train", "train.jsonl", "--test", "test.jsonl"]
    _, error = nas("init", "mine", *given, code=0 if metric else 2)
    if metric:
        assert Study.load("mine").task.metric == metric
    else:
        assert "convert the tags to IOB2, or give --metric accuracy" in error
        assert not (here / "mine").exists()


def test_files_without_a_header_line_are_refused(here, nas):
    for name, seed in (("train", 2), ("test", 3)):
        table = [f"{row['text']} w1 w2,{row['label']}" for row in make_rows(80, seed)]
        (here / f"{name}.csv").write_text("\n".join(table))
    _, error = nas("init", "mine", *GIVEN, code=2)
    assert "must have the same columns as train.csv" in error and "add a header line" in error
    for name, seed in (("train", 2), ("test", 3)):
        table = [f"{row['text']},{row['label']}" for row in make_rows(80, seed)]
        (here / f"{name}.csv").write_text("\n".join(["w1 w2 w3 w4,1", *table]))
    _, error = nas("init", "mine", *GIVEN, code=2)
    assert "seems to be a row with the text 'w1 w2 w3 w4' and the label '1'" in error


def test_the_names_of_columns_may_have_white_space_around_them(here, nas):
    for name in ("train", "test"):
        path = here / f"{name}.csv"
        path.write_text(path.read_text().replace("text,label", " text , label", 1))
    nas("init", "mine", *GIVEN)
    assert Study.load("mine").task.text == (" text ",) and Study.load("mine").task.label == " label"


@pytest.mark.parametrize(
    ("budget", "message"),
    [
        ("-1", "must be a percentage"),
        ("a/b=20%", "consist of letters"),
        ("20% 10%", "must be a percentage"),
        ("0", "a percentage"),
    ],
)
def test_budgets_that_make_no_sense_are_refused_by_name(here, nas, budget, message):
    _, error = nas("init", "mine", *GIVEN, f"--budget={budget}", code=2)
    assert f"--budget {budget}: " in error and message in error


def test_init_accepts_budgets_in_points_of_accuracy(here, nas):
    options = [*GIVEN, "--fine-tune"]
    nas("init", "mine", *options, "--budget", "1pt", "--budget", "close=0.5pt", "--budget", "20%")
    assert [(budget.name, budget.accuracy_loss) for budget in Study.load("mine").budgets] == [
        ("1-point", 1.0), ("close", 0.5), ("20-percent", None),
    ]  # fmt: skip
    written = tomllib.loads((here / "mine" / "study.toml").read_text())["budgets"][0]
    assert written == {"name": "1-point", "device": "here", "accuracy_loss": 1.0}
    output, _ = nas("check", "mine")
    assert "accuracy >= the teacher's minus 0.5 points" in output and "is less than the standard" in output
    _, error = nas("init", "other", *options, "--budget", "manypt", code=2)
    assert "1pt" in error


def test_data_without_a_column_of_texts_needs_an_option(here, nas):
    _write(here, a=["x y"] * 9, b=["x y"] * 9, label=[0, 1, 0] * 3)
    _, error = nas("init", "mine", *GIVEN, code=2)
    assert "no column looks like texts: give --text with one of a, b, label" in error
