"""Teachers are loaded or fine-tuned, and unsuitable ones are refused in one line."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from datasets import ClassLabel, Dataset
from safetensors.torch import load_file, save_file
from tiny import POSITIONS, TEACHERS, TINY_STUDY, make_tokenizer, write_pair_study, write_tiny_study
from tolerance import assert_same
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BertForSequenceClassification,
    BertModel,
)

from nas.data import TaskData, batches_by_length
from nas.errors import TeacherError
from nas.evaluate import predict
from nas.evaluate.accuracy import forward_of
from nas.files import read_json
from nas.model.tokenizer import load_tokenizer
from nas.pipeline.commands import prepare_teacher
from nas.pipeline.data import metric_of
from nas.pipeline.run import Run
from nas.pipeline.teachers import load_teacher
from nas.space import shipped_spaces
from nas.study import FineTuningSettings, Study
from nas.supernet.loops import LOG_FILE, FineTuning
from nas.tasks import ClassMetric

FINE_TUNED = TINY_STUDY.replace("fine_tune = { epochs = 2.0, learning_rate = 2e-3 }", "")


def _prepare(study, tmp_path):
    run = Run.of(Study.load(study), tmp_path / "runs")
    prepare_teacher(run)
    return run


def _bare_encoder(folder):
    BertModel(AutoConfig.from_pretrained(folder)).save_pretrained(folder)


def _other_labels(folder):
    model = BertForSequenceClassification.from_pretrained(folder)
    model.config.id2label = {0: "good", 1: "poor"}
    model.save_pretrained(folder)


def _truncated(folder):
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])


def _no_tokenizer(folder):
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).unlink()


def _odd_number_of_heads(folder):
    text = (folder / "config.json").read_text()
    (folder / "config.json").write_text(text.replace('"num_attention_heads": 4', '"num_attention_heads": 5'))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (_bare_encoder, "not a fine-tuned classifier"),
        (_other_labels, "has 2 labels: 'good', 'poor', but the data has 2 labels: 'bad', 'good'"),
        (_truncated, "cannot be loaded"),
        (_no_tokenizer, "has no tokenizer"),
        (_odd_number_of_heads, "num_attention_heads"),
    ],
)
def test_an_unsuitable_teacher_is_refused(tiny_study, tmp_path, spoil, message):
    for name in ("train", "test"):
        path = tiny_study.parent / f"{name}.parquet"
        rows = Dataset.from_parquet(str(path), keep_in_memory=True)
        rows.cast_column("label", ClassLabel(names=["bad", "good"])).to_parquet(path)
    tiny_study.write_text(FINE_TUNED)
    spoil(tiny_study.parent / "teacher")
    with pytest.raises(TeacherError, match=message):
        _prepare(tiny_study, tmp_path)


@pytest.mark.parametrize("kind", TEACHERS)
def test_a_fine_tuned_teacher_is_used_unchanged(kind, tmp_path):
    study = write_tiny_study(tmp_path / "tiny", kind)
    study.write_text(FINE_TUNED)
    run = _prepare(study, tmp_path)
    given = AutoModelForSequenceClassification.from_pretrained(study.parent / "teacher").eval()
    used = AutoModelForSequenceClassification.from_pretrained(run.teacher)
    assert all((used.state_dict()[name] == value).all() for name, value in given.state_dict().items())
    compact, test = load_teacher(run), TaskData.load(run.data).test
    assert ("token_type_ids" in test.column_names) == ("token_type_ids" in compact.config.input_names)
    expected, found = (predict(forward_of(model), batches_by_length(test)) for model in (given, compact))
    assert_same(found, expected)


def test_a_teacher_that_is_no_better_than_a_constant_answer_causes_a_warning(tiny_study, tmp_path, capsys):
    tiny_study.write_text(FINE_TUNED)
    model = BertForSequenceClassification.from_pretrained(tiny_study.parent / "teacher")
    model.classifier.weight.data.zero_()
    model.save_pretrained(tiny_study.parent / "teacher")
    run = _prepare(tiny_study, tmp_path)
    labels = TaskData.load(run.data).search["labels"]
    share = max(labels.count(label) for label in set(labels)) / len(labels)
    said = capsys.readouterr().err
    assert f"does not score higher than a baseline that gives every text the same answer ({share:.3f}); give" in said


@pytest.mark.slow
def test_a_trained_teacher_is_reported_with_its_accuracy_and_no_warning(tiny_study, tmp_path, capsys):
    tiny_study.write_text(TINY_STUDY.replace("epochs = 2.0", "epochs = 12.0"))
    _prepare(tiny_study, tmp_path)
    said = capsys.readouterr().err
    assert "Teacher: accuracy" in said and "on 200 texts of the search set" in said and "Warning" not in said


@pytest.mark.slow
def test_without_a_number_of_epochs_the_best_of_at_most_ten_is_kept(tiny_study, tmp_path):
    """The tiny study has so few training rows that ten epochs are the maximum."""
    tiny_study.write_text(TINY_STUDY.replace("epochs = 2.0, learning_rate = 2e-3", "learning_rate = 5e-3"))
    run = _prepare(tiny_study, tmp_path)
    log = read_json(run.teacher / LOG_FILE, TeacherError)
    judged = [entry["eval_accuracy"] for entry in log if "eval_accuracy" in entry]
    best = judged.index(max(judged)) + 1
    assert len(judged) == min(10, best + 3)
    search, metric = TaskData.load(run.data).search, ClassMetric("accuracy")
    logits = predict(forward_of(load_teacher(run)), batches_by_length(search))
    assert metric.score(logits, np.asarray(search["labels"])) == pytest.approx(max(judged))


def test_a_regression_is_evaluated_on_the_scale_of_the_labels_while_it_is_fine_tuned(tmp_path, monkeypatch):
    study, found = write_pair_study(tmp_path), []
    text = study.read_text().replace("epochs = 4.0, ", "").replace('"spearman"', '"sklearn.metrics:r2_score"')
    study.write_text(text)
    monkeypatch.setattr(FineTuning, "tune", lambda training, model: found.append(training.accuracy_of(model)))
    run = _prepare(study, tmp_path)
    search, metric = TaskData.load(run.data).search, metric_of(run)
    logits = predict(forward_of(load_teacher(run)), batches_by_length(search))
    assert found == [pytest.approx(metric.score(logits, np.asarray(search["labels"])), rel=1e-3)]


@pytest.mark.parametrize(("rows", "epochs"), [(100, 10), (5_000, 10), (8_000, 7), (20_000, 3), (62_000, 2), (10**6, 2)])
def test_smaller_training_sets_get_more_epochs(rows, epochs):
    assert FineTuningSettings().epochs_on(rows) == epochs and FineTuningSettings(epochs=1.5).epochs_on(rows) == 1.5


@pytest.mark.parametrize("kind", ["bert", "roberta"])
def test_max_length_is_limited_by_the_positions_of_the_teacher(nas, kind, tmp_path):
    study = write_tiny_study(tmp_path / "tiny", kind)
    for length, code in ((POSITIONS, 0), (POSITIONS + 1, 2)):
        study.write_text(TINY_STUDY.replace("max_length = 32", f"max_length = {length}"))
        _, error = nas("check", study, "--runs", tmp_path / "runs", code=code)
        assert code == 0 or "task.max_length: must be at most" in error


def test_an_unsupported_family_is_refused_in_one_line(nas, tiny_study, tmp_path):
    config = tiny_study.parent / "teacher" / "config.json"
    config.write_text(config.read_text().replace('"model_type": "bert"', '"model_type": "albert"'))
    output, error = nas("check", tiny_study, "--runs", tmp_path / "runs", code=2)
    assert output == "" and error.count("\n") == 1
    assert error.startswith(
        "error: teacher.model: model_type must be bert, roberta, xlm-roberta, camembert, distilbert"
    )
    assert "'albert'" in error and not (tmp_path / "runs").exists()


def test_code_of_a_teacher_is_never_run_and_the_user_is_not_asked_to_allow_it(nas, tiny_study, tmp_path, monkeypatch):
    config = tiny_study.parent / "teacher" / "config.json"
    own = '"auto_map": {"AutoConfig": "own.Config"}, "model_type": "own"'
    config.write_text(config.read_text().replace('"model_type": "bert"', own))
    (config.parent / "own.py").write_text(f"open({str(tmp_path / 'run')!r}, 'w')")
    questions = []
    monkeypatch.setattr("builtins.input", lambda question: questions.append(question) or "y")
    for verb in (["check", str(tiny_study)], ["init", str(tmp_path / "new"), "--teacher", str(config.parent)]):
        _, error = nas(*verb, code=2)
        assert not questions and not (tmp_path / "run").exists()
        assert error.splitlines()[-1].startswith("error: teacher.model: model_type must be bert, ") and "'own'" in error


@pytest.mark.parametrize("files", [("vocab.txt",), ("vocab.json", "merges.txt")])
def test_a_tokenizer_without_its_files_is_refused(files, tmp_path):
    for name in files:
        with pytest.raises(TeacherError, match="has no tokenizer; add its tokenizer"):
            load_tokenizer(tmp_path)
        (tmp_path / name).write_text("{}")


def test_a_rank_of_the_token_embeddings_must_suit_their_own_width(nas, tmp_path):
    """ELECTRA's token embeddings are narrower than its layers."""
    study = write_tiny_study(tmp_path / "tiny", "electra")
    space = shipped_spaces()["tiny"].read_text().replace("embedding = [", 'embedding = ["low_rank(14)", ')
    (study.parent / "mine.toml").write_text(space.replace("hidden_size = [16, 24, 32]", "hidden_size = [32]"))
    study.write_text(study.read_text().replace('name = "tiny"', 'name = "mine.toml"'))
    _, before = nas("check", study)
    assert before == ""
    text = (study.parent / "mine.toml").read_text()
    (study.parent / "mine.toml").write_text(text.replace("low_rank(14)", "low_rank(17)"))
    _, error = nas("check", study, code=2)
    assert "'low_rank(17)' cannot compress the teacher's token embeddings (64 by 20), or would not make them" in error


def _configure(folder, **changes):
    values = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(values | changes))


def _multi_label(folder):
    _configure(folder, problem_type="multi_label_classification")


def _one_output(folder):
    config = AutoConfig.from_pretrained(folder)
    config.num_labels = 1
    BertForSequenceClassification(config).save_pretrained(folder)


def _one_name_too_few(folder):
    _configure(folder, id2label={"0": "bad"})


def _misshapen(name, *shape):
    def spoil(folder):
        weights = load_file(folder / "model.safetensors") | {name: torch.zeros(shape)}
        save_file(weights, folder / "model.safetensors", {"format": "pt"})

    return spoil


def _quantised(folder):
    _configure(folder, quantization_config={"load_in_8bit": True})


def _token_without_embedding(folder):
    tokenizer = make_tokenizer()
    tokenizer.pad_token = "<none>"
    tokenizer.save_pretrained(folder)


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (_bare_encoder, "it is not a fine-tuned classifier; give a fine-tuned model, or set teacher.fine_tune"),
        (_truncated, "model.safetensors cannot be loaded"),
        (_no_tokenizer, "has no tokenizer; add its tokenizer.json"),
        (
            _multi_label,
            "problem_type is multi_label_classification with 2 labels, but a task of kind",
        ),
        (_one_output, "problem_type is regression with 1 label, but a task of kind 'classification' needs"),
        (_one_name_too_few, "id2label names 1 label, but the classifier has 2 outputs; correct id2label"),
        (_misshapen("classifier.bias", 3), "classifier.bias has the shape [3], but config.json requires [2], so the"),
        (_misshapen("classifier.weight", 2, 48), "classifier.weight has the shape [2, 48], but config.json requires ["),
        (_misshapen("classifier.weight", 0, 32), "classifier.weight has the shape [0, 32], but config.json requires ["),
        (_misshapen("bert.pooler.dense.weight", 8, 32), "bert.pooler.dense.weight has the shape [8, 32], but config"),
        (_quantised, "quantization_config must be absent or false"),
        (_token_without_embedding, "the token '<none>', number 64, but the model has embeddings for only 64 tokens"),
    ],
)
def test_check_refuses_the_teachers_that_training_would_refuse(nas, tiny_study, tmp_path, spoil, words):
    tiny_study.write_text(FINE_TUNED)
    spoil(tiny_study.parent / "teacher")
    for verb in ("check", "train"):
        _, error = nas(verb, tiny_study, "--runs", tmp_path / "runs", code=2)
        assert words in error and "Traceback" not in error
        assert error.splitlines()[-1].startswith("error: teacher.model: ")
    nas("doctor", tiny_study, code=2)
    assert not (tmp_path / "runs" / "tiny" / "teacher").exists()


@pytest.mark.parametrize("generic", [None, {}, {"0": "LABEL_0", "1": "LABEL_1", "2": "LABEL_2"}])
def test_a_teacher_without_names_of_labels_has_as_many_labels_as_its_classifier(tiny_study, tmp_path, generic):
    tiny_study.write_text(FINE_TUNED)
    _configure(tiny_study.parent / "teacher", id2label=generic, label2id=None, num_labels=7)
    saved = AutoConfig.from_pretrained(_prepare(tiny_study, tmp_path).teacher)
    assert saved.num_labels == 2 and saved.problem_type == "single_label_classification"


def test_a_classifier_of_another_size_and_kind_is_replaced_with_a_message(tiny_study, tmp_path, capsys):
    folder = tiny_study.parent / "teacher"
    config = AutoConfig.from_pretrained(folder)
    config.num_labels, config.problem_type = 5, "multi_label_classification"
    given = BertForSequenceClassification(config)
    given.save_pretrained(folder)
    saved = AutoConfig.from_pretrained(_prepare(tiny_study, tmp_path).teacher)
    said = capsys.readouterr().err
    assert "Teacher: its classifier has 5 labels, but the task has 2; a new classifier is trained" in said
    assert "its problem_type is changed from multi_label_classification to single_label_classification" in said
    assert (saved.num_labels, saved.problem_type) == (2, "single_label_classification")


def test_a_teacher_in_half_precision_is_trained_and_saved_in_float32(tiny_study, tmp_path):
    folder = tiny_study.parent / "teacher"
    BertForSequenceClassification.from_pretrained(folder).half().save_pretrained(folder)
    assert json.loads((folder / "config.json").read_text())["dtype"] == "float16"
    tiny_study.write_text(TINY_STUDY.replace("epochs = 2.0", "epochs = 0.2"))
    run = _prepare(tiny_study, tmp_path)
    trained, given = (
        AutoModelForSequenceClassification.from_pretrained(at, dtype="auto") for at in (run.teacher, folder)
    )
    assert (
        trained.dtype == torch.float32 and json.loads((run.teacher / "config.json").read_text())["dtype"] == "float32"
    )
    # Changes far below the spacing of float16 are not lost.
    moved = trained.bert.pooler.dense.weight - given.bert.pooler.dense.weight.float()
    assert (moved != moved.half().float()).any() and not torch.equal(moved, torch.zeros_like(moved))


def test_the_saved_tokenizer_truncates_texts_as_in_the_evaluation(tiny_study, tmp_path):
    path = tiny_study.parent / "teacher" / "tokenizer_config.json"
    settings = json.loads(path.read_text()) | {"padding_side": "left", "truncation_side": "left"}
    path.write_text(json.dumps(settings))
    tiny_study.write_text(FINE_TUNED.replace("max_length = 32", "max_length = 8"))
    run = _prepare(tiny_study, tmp_path)
    saved = AutoTokenizer.from_pretrained(run.teacher)
    assert (saved.padding_side, saved.truncation_side, saved.model_max_length) == ("right", "left", 8)
    texts = Dataset.from_parquet(str(tiny_study.parent / "test.parquet"), keep_in_memory=True)["text"]
    assert saved(list(texts), truncation=True)["input_ids"] == list(TaskData.load(run.data).test["input_ids"])


def test_a_text_with_a_token_that_has_no_embedding_is_refused(nas, tiny_study, tmp_path):
    tokenizer = make_tokenizer()
    tokenizer.add_tokens(["<laugh>"])
    tokenizer.save_pretrained(tiny_study.parent / "teacher")
    tiny_study.write_text(FINE_TUNED)
    _prepare(tiny_study, tmp_path)
    path = tiny_study.parent / "train.parquet"
    rows = Dataset.from_parquet(str(path), keep_in_memory=True).to_list()
    Dataset.from_list([*rows, {"text": "w1 <laugh>", "label": 1}]).to_parquet(path)
    for verb in ("check", "train"):
        _, error = nas(verb, tiny_study, "--runs", tmp_path / "other", code=2)
        assert "uses the token '<laugh>', number 64, but the model has embeddings for only" in error
    assert not (tmp_path / "other" / "tiny" / "teacher").exists()


def test_vocabulary_pruning_drops_tokens_without_an_embedding(tiny_study, tmp_path):
    tokenizer = make_tokenizer()
    tokenizer.add_tokens(["<laugh>"])
    tokenizer.save_pretrained(tiny_study.parent / "teacher")
    tiny_study.write_text(FINE_TUNED.replace('model = "./teacher"', 'model = "./teacher"\nprune_vocabulary = true'))
    run = _prepare(tiny_study, tmp_path)
    saved = load_tokenizer(run.teacher)
    assert len(saved) == AutoConfig.from_pretrained(run.teacher).vocab_size <= 64
