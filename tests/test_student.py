"""A student is compressed, and learns from a teacher that may belong to another family."""

from __future__ import annotations

import json
import re
import shutil

import numpy as np
import pytest
import torch
from datasets import Dataset
from hub_server import folder_files
from safetensors.numpy import load_file
from tiny import (
    HUB_STUDY,
    LABEL_STUDY,
    PAIR_STUDY,
    TINY_STUDY,
    WORDS,
    fill_hub,
    make_rows,
    make_tokenizer,
    write_label_study,
    write_pair_study,
)
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    BertConfig,
    PreTrainedTokenizerFast,
    RobertaConfig,
    T5Config,
)

from nas.data.files import values_of
from nas.errors import StudyError, TeacherError
from nas.model.any_classifier import AnyClassifier
from nas.pipeline import Run, snapshots
from nas.pipeline.commands import prepare_teacher
from nas.pipeline.data import read_task, splits
from nas.pipeline.runner import bring_up_to_date
from nas.pipeline.separate_teacher import about_separate_teacher, logits_inputs, separate_teacher_inputs, teacher_logits
from nas.pipeline.sources import data_inputs, teacher_inputs
from nas.pipeline.steps import steps_of
from nas.pipeline.supernets import distillation, supernet_inputs
from nas.report.numbers import accuracies
from nas.study import Study
from nas.supernet.loops import Schedule
from nas.tasks.multi_label import LabelMetric

TUNED = "fine_tune = { epochs = 2.0, learning_rate = 2e-3 }\n"
WITH_STUDENT = TINY_STUDY.replace("[teacher]", '[teacher]\nmodel = "./mpnet"\n\n[student]')
"""The tiny study in which the same model is compressed but learns from another one."""
BOTH_TUNED = WITH_STUDENT.replace('"./mpnet"', '"./mpnet"\nfine_tune = { epochs = 4.0, learning_rate = 1e-2 }')


def write_mpnet(folder, names=("0", "1"), seed=3):
    """Write a small MPNet whose tokenizer numbers the words in reverse order; return its folder."""
    special = ["<s>", "<pad>", "</s>", "<unk>"]
    words = {word: number for number, word in enumerate([*special, *reversed(WORDS)])}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> </s> $B </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="<unk>", pad_token="<pad>", cls_token="<s>", sep_token="</s>",
        model_max_length=40, model_input_names=["input_ids", "attention_mask"],
    ).save_pretrained(folder)  # fmt: skip
    torch.manual_seed(seed)
    config = AutoConfig.for_model(
        "mpnet", vocab_size=len(words), hidden_size=24, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=48, max_position_embeddings=42, id2label=dict(enumerate(names)),
        label2id={name: number for number, name in enumerate(names)}, initializer_range=0.1,
    )  # fmt: skip
    AutoModelForSequenceClassification.from_config(config).save_pretrained(folder)
    return folder


@pytest.fixture
def study(tiny_study):
    write_mpnet(tiny_study.parent / "mpnet")
    tiny_study.write_text(WITH_STUDENT)
    return tiny_study


@pytest.fixture
def run(study, tmp_path):
    return Run.of(Study.load(study), tmp_path / "runs")


def _with_new_settings(run):
    return Run(Study.load(run.study.path), run.folder)


def _logits_of(folder, texts):
    """Return the logits of a classifier of transformers, computed text by text."""
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
    with torch.no_grad():
        return np.concatenate(
            [model(**tokenizer(text, truncation=True, max_length=32, return_tensors="pt")).logits for text in texts]
        )


def _texts(run, *names):
    """Return the texts of some splits of the tiny data, restored from their token ids."""
    rows = [row for name in names for row in values_of(splits(run).splits[name], "input_ids")]
    return [" ".join(WORDS[token - 4] for token in row[1:-1]) for row in rows]


REFUSED = {
    "no logits": ("steps = 30", "steps = 30\nlogits_weight = 0.0", "logits_weight: must be above 0 if there is"),
    "replaced tokens": ("steps = 30", "steps = 30\nreplaced_tokens = 0.1", "replaced_tokens: .* got 0.1; remove"),
    "an embedded teacher": ("./mpnet", "embedded", r"teacher.model: .embedded. \(the teacher of the built-in task\)"),
    "a pruned teacher": ('"./mpnet"', '"./mpnet"\nprune_vocabulary = true', "set student.prune_vocabulary instead"),
    "an embedded student": ("./teacher", "embedded", "student.model: .* must both be 'embedded', or neither"),
}  # fmt: skip


@pytest.mark.parametrize(("old", "new", "words"), REFUSED.values(), ids=REFUSED)
def test_settings_that_contradict_a_student_are_refused(study, old, new, words):
    study.write_text(WITH_STUDENT.replace(old, new))
    with pytest.raises(StudyError, match=words):
        Study.load(study)


def test_no_tokens_are_replaced_if_there_is_a_student(study, tiny_study):
    found = Study.load(study)
    assert (found.supernet.replaced_tokens, found.replaced_tokens) == (0.15, 0.0)
    study.write_text(TINY_STUDY)
    assert Study.load(study).replaced_tokens == 0.15


def test_a_student_is_prepared_like_a_teacher_that_is_compressed(run, study):
    of_student = data_inputs(run), teacher_inputs(run), supernet_inputs(run)
    study.write_text(TINY_STUDY)
    alone = _with_new_settings(run)
    assert (data_inputs(alone), teacher_inputs(alone)) == of_student[:2]
    assert supernet_inputs(alone) != of_student[2]
    assert not {"separate-teacher", "teacher-logits"} & {step.name for step in steps_of(alone)}


def test_a_separate_teacher_is_identified_by_its_content_not_by_its_path(run, study):
    digests = separate_teacher_inputs(run), logits_inputs(run), supernet_inputs(run)
    (study.parent / "mpnet").rename(study.parent / "other")
    study.write_text(WITH_STUDENT.replace("./mpnet", "./other"))
    moved = _with_new_settings(run)
    assert (separate_teacher_inputs(moved), logits_inputs(moved), supernet_inputs(moved)) == digests
    write_mpnet(study.parent / "other", seed=4)
    other = _with_new_settings(run)
    assert not {separate_teacher_inputs(other), logits_inputs(other), supernet_inputs(other)} & set(digests)
    assert teacher_inputs(other) == teacher_inputs(run)


@pytest.mark.parametrize("names", [("0", "1"), ("1", "0"), ("LABEL_0", "LABEL_1")])
def test_stored_logits_are_in_the_order_of_the_texts_and_of_the_labels(run, study, names, monkeypatch):
    monkeypatch.setattr("nas.pipeline.separate_teacher._TEXTS_PER_PART", 100)
    folder = write_mpnet(study.parent / "mpnet", names)
    more = [f"w{number} w{number + 1} w3 w3 w3 w3 w3 w3 w3 w3 w3 w3 w3" for number in range(30)]
    Dataset.from_dict({"text": more}).to_parquet(study.parent / "more.parquet")
    study.write_text(WITH_STUDENT.replace("max_length", 'unlabelled = ["more.parquet"]\nmax_length'))
    run = _with_new_settings(run)
    bring_up_to_date(run, steps_of(run), "teacher-logits")
    found = teacher_logits(run)
    expected = _logits_of(folder, [*_texts(run, "train"), *more])
    expected = expected[:, ::-1] if names == ("1", "0") else expected
    assert found.dtype == np.float32 and np.ptp(expected, axis=0).min() > 0.05
    np.testing.assert_allclose(found, expected, atol=1e-5)
    about = about_separate_teacher(run)
    labels = np.asarray(splits(run).test["labels"])
    own = _logits_of(folder, _texts(run, "test"))
    right = (own[:, ::-1] if names == ("1", "0") else own).argmax(axis=1) == labels
    assert about["test_accuracy"] == pytest.approx(right.mean()) and about["texts"] == len(expected)
    assert not (run.teacher_logits / "parts").exists()


def _with_mpnet(study, text, names):
    write_mpnet(study.parent / "mpnet", names)
    study.write_text(text.replace("[teacher]", '[teacher]\nmodel = "./mpnet"\n\n[student]'))
    run = Run.of(Study.load(study), study.parent / "runs")
    bring_up_to_date(run, steps_of(run), "teacher-logits")
    return run


def test_logits_of_a_regression_over_pairs_are_standardised(tmp_path):
    run = _with_mpnet(write_pair_study(tmp_path), PAIR_STUDY, ("score",))
    found, data = teacher_logits(run)[:, 0], splits(run)
    assert len(found) == len(data.train) and found.mean() == pytest.approx(0, abs=1e-5)
    assert found.std() == pytest.approx(1, abs=1e-5)
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "mpnet").eval()
    tokenizer = PreTrainedTokenizerFast.from_pretrained(tmp_path / "mpnet")
    task = read_task(run).splits.texts["train"]
    with torch.no_grad():
        own = [
            model(**tokenizer(*pair, truncation=True, max_length=32, return_tensors="pt")).logits.item()
            for pair in zip(*task, strict=True)
        ]
    assert np.corrcoef(found, own)[0, 1] == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize(
    ("settings", "longest"),
    [(RobertaConfig(max_position_embeddings=66), 64), (BertConfig(max_position_embeddings=66), 66), (T5Config(), 512)],
)
def test_texts_are_truncated_to_the_positions_of_a_teacher_whose_tokenizer_has_no_limit(settings, longest):
    tokenizer = make_tokenizer()
    tokenizer.model_max_length = 10**30  # as transformers sets it if the files name no limit
    teacher = AnyClassifier("", settings, tokenizer)
    assert (teacher.longest(512), teacher.longest(32)) == (longest, 32)


def test_thresholds_of_several_labels_are_chosen_on_the_search_set(tmp_path):
    """The test set must not choose its own thresholds."""
    names = ("short", "high", "low")
    run = _with_mpnet(write_label_study(tmp_path), LABEL_STUDY, names)
    data, about = splits(run), about_separate_teacher(run)
    order = [names.index(name) for name in data.label_names]
    logits = {name: _logits_of(tmp_path / "mpnet", _texts(run, name))[:, order] for name in ("search", "test")}
    np.testing.assert_allclose(
        teacher_logits(run), _logits_of(tmp_path / "mpnet", _texts(run, "train"))[:, order], atol=1e-5
    )
    metric = LabelMetric("f1_macro", thresholds=None)
    labels = {name: np.asarray(data.splits[name]["labels"]) for name in logits}
    settled = metric.calibrated(logits["search"], labels["search"])
    assert about["search_accuracy"] == pytest.approx(settled.score(logits["search"], labels["search"]))
    assert about["test_accuracy"] == pytest.approx(settled.score(logits["test"], labels["test"]))
    assert about["test_accuracy"] < metric.score(logits["test"], labels["test"])


GIVEN = TINY_STUDY.replace(
    "[teacher]", '[teacher]\nmodel = "a large one"\noutputs = { 0 = "low", 1 = "high" }\n\n[student]'
).replace("max_length", 'unlabelled = ["more.csv"]\nmax_length')


def _with_outputs(folder):
    """Write the tiny data with columns of outputs that contain the number of the row; return the training texts."""
    rows = make_rows(1200, 0)
    rows = rows.add_column("low", [float(number) for number in range(1200)])
    rows.add_column("high", [-0.5 * number for number in range(1200)]).to_parquet(folder / "train.parquet")
    new = [f"w{number} w1 w2 w3 w4 w5 w6 w7 w8 w9 w10 w11 w12" for number in range(20)]
    lines = [f"{text},{5000 + number},{-number}" for number, text in enumerate([rows["text"][0], *new])]
    (folder / "more.csv").write_text("\n".join(["text,low,high", *lines, ""]))
    return rows["text"]


def test_outputs_of_a_teacher_without_a_model_are_read_from_columns(nas, tiny_study, tmp_path, capsys):
    texts = _with_outputs(tiny_study.parent)
    tiny_study.write_text(GIVEN)
    output, _ = nas("check", tiny_study, "--runs", tmp_path / "runs")
    assert "teacher: a large one (its outputs are read from columns of the data)" in output
    run = Run.of(Study.load(tiny_study), tmp_path / "runs")
    bring_up_to_date(run, steps_of(run), "teacher-logits")
    assert "separate-teacher" not in [step.name for step in steps_of(run)]
    found, trained = teacher_logits(run), _texts(run, "train")
    assert len(found) == len(trained) + 20
    assert [texts[int(number)] for number in found[: len(trained), 0]] == trained
    np.testing.assert_array_equal(found[: len(trained), 1], -0.5 * found[: len(trained), 0])
    np.testing.assert_array_equal(found[len(trained) :, 0], np.arange(5001, 5021))
    about = about_separate_teacher(run)
    labels = np.asarray(splits(run).search["labels"])
    assert about["model"] == "a large one" and about["test_accuracy"] is None
    assert about["search_accuracy"] == pytest.approx((labels == 0).mean())
    assert accuracies(about) == f"accuracy {about['search_accuracy']:.4f} on the search set"


WRONG_OUTPUTS = {
    "no such column": ('"high"', '"none"', "no column 'none'; use one of"),
    "no such label": ("1 =", "2 =", "teacher.outputs: its keys must be exactly the labels '0', '1', but got"),
    "not a number": ('"high"', '"text"', "an output of the teacher must be a finite number, but row 0 .* holds 'w"),
    "fine-tuning": (
        "outputs",
        "fine_tune = {}\noutputs",
        "teacher.fine_tune: .* is then not loaded; remove teacher.fine_tune",
    ),
    "outputs of the student": (
        "[student]",
        '[student]\noutputs = { 0 = "low" }',
        "student.outputs: must not be set, because .* set teacher.outputs instead",
    ),
}


@pytest.mark.parametrize(("old", "new", "words"), WRONG_OUTPUTS.values(), ids=WRONG_OUTPUTS)
def test_invalid_columns_of_teacher_outputs_are_refused(nas, tiny_study, tmp_path, old, new, words):
    _with_outputs(tiny_study.parent)
    tiny_study.write_text(GIVEN.replace(old, new, 1))
    _, error = nas("check", tiny_study, "--runs", tmp_path / "runs", code=2)
    assert re.search(words, error), error


def test_a_teacher_that_is_compressed_needs_a_model_not_only_outputs(tiny_study):
    tiny_study.write_text(TINY_STUDY.replace("[teacher]", '[teacher]\noutputs = { 0 = "low", 1 = "high" }'))
    with pytest.raises(
        StudyError, match=r"teacher.outputs: may be set only together .* add \[student\], or remove teacher.outputs"
    ):
        Study.load(tiny_study)


def test_an_interruption_loses_at_most_one_part_of_the_logits(run, monkeypatch):
    from nas.pipeline import separate_teacher

    monkeypatch.setattr(separate_teacher, "_TEXTS_PER_PART", 100)
    predict, computed, interrupted_after = separate_teacher.predict, [], 4

    def predict_or_stop(forward, batches):
        if len(computed) == interrupted_after:
            raise KeyboardInterrupt
        computed.append(sum(len(batch.rows) for batch in batches))
        return predict(forward, batches)

    monkeypatch.setattr(separate_teacher, "predict", predict_or_stop)
    with pytest.raises(KeyboardInterrupt):
        bring_up_to_date(run, steps_of(run), "teacher-logits")
    assert computed == [100] * 4 and logits_are_absent(run)
    interrupted_after = None
    bring_up_to_date(run, steps_of(run), "teacher-logits")
    data = splits(run)
    assert sum(computed) == len(data.train) + len(data.search) + len(data.test), "no text is computed twice"
    assert len(teacher_logits(run)) == len(data.train)


def logits_are_absent(run):
    return not run.is_finished("teacher-logits") and not (run.teacher_logits / "logits.safetensors").exists()


def test_the_training_uses_the_stored_logits_and_replaces_no_tokens(run):
    bring_up_to_date(run, steps_of(run), "teacher", "teacher-logits")
    shutil.copytree(run.teacher, run.folder / "unused")
    from nas.pipeline.supernets import load_teacher, order, untrained

    model = load_teacher(run)
    order(run, model)
    untrained(run, model).save_pretrained(run.ordered_teacher)
    training = distillation(run, Schedule(1e-3, 16, steps=1), run.folder / "none", {})
    assert training.replaced_tokens == 0.0
    np.testing.assert_array_equal(training.logits, load_file(run.teacher_logits / "logits.safetensors")["logits"])


def _name_labels(folder, *names):
    config = json.loads((folder / "config.json").read_text())
    config["id2label"] = dict(enumerate(names))
    config["label2id"] = {name: number for number, name in enumerate(names)}
    (folder / "config.json").write_text(json.dumps(config))


def _without_tokenizer(folder):
    for path in folder.glob("tokenizer*"):
        path.unlink()


def _as_clip(folder):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"model_type": "clip"}))


def _as_multi_label(folder):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"problem_type": "multi_label_classification"}))


BROKEN = {
    "another kind": (_as_multi_label, "problem_type is multi_label_classification with 2 label"),
    "other labels": (lambda folder: _name_labels(folder, "a", "b", "c"), "has 3 labels: 'a', 'b', 'c', but the data"),
    "no weights": (lambda folder: (folder / "model.safetensors").unlink(), "has no model.safetensors"),
    "no configuration": (lambda folder: (folder / "config.json").unlink(), "has no config.json"),
    "no tokenizer": (_without_tokenizer, "has no tokenizer; add its tokenizer.json"),
    "no classifier": (_as_clip, "transformers has no sequence classifier for model_type 'clip'"),
}


@pytest.mark.parametrize(("spoil", "words"), BROKEN.values(), ids=BROKEN)
def test_an_unusable_teacher_is_refused_before_the_student_is_trained(nas, study, tmp_path, spoil, words):
    spoil(study.parent / "mpnet")
    messages = set()
    for verb in ("check", "train"):
        _, error = nas(verb, study, "--runs", tmp_path / "runs", code=2)
        messages.add(error.splitlines()[-1])
        assert "teacher.model: " in error and words in error
    assert len(messages) == 1 and not (tmp_path / "runs" / "tiny" / "teacher").exists()


def test_errors_about_the_student_name_its_table(nas, study, tmp_path):
    (study.parent / "teacher" / "model.safetensors").unlink()
    _, error = nas("check", study, "--runs", tmp_path / "runs", code=2)
    assert "student.model: " in error and "teacher.model" not in error
    study.write_text(WITH_STUDENT.replace("./teacher", "./none"))
    _, error = nas("check", study, "--runs", tmp_path / "runs", code=2)
    assert "student.model: " in error and "is not a folder" in error
    output, _ = nas("doctor", study, code=2)
    assert "student" in output
    study.write_text(WITH_STUDENT)
    config = study.parent / "teacher" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"model_type": "t5"}))
    _, error = nas("check", study, "--runs", tmp_path / "runs", code=2)
    assert "student.model: model_type must be bert, " in error


def test_messages_about_the_student_do_not_call_it_the_teacher(run, capsys):
    """The tokenizer of this student has code of its own, and its classifier has too many labels."""
    folder = run.study.path.parent / "teacher"
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(
        json.dumps(settings | {"auto_map": {"AutoTokenizer": [None, "own.A"]}})
    )
    config = AutoConfig.from_pretrained(folder)
    config.num_labels = 5
    AutoModelForSequenceClassification.from_config(config).save_pretrained(folder)
    prepare_teacher(run)
    said = capsys.readouterr().err
    assert "Student: the custom code of its tokenizer" in said
    assert "Student: its classifier has 5 labels, but the task" in said
    assert "Teacher:" not in said and "the teacher" not in said


def test_a_teacher_without_a_classifier_needs_fine_tuning(run, study):
    """The teacher is an encoder without a classifier, as sentence-transformers writes it."""
    folder = study.parent / "mpnet"
    AutoModelForSequenceClassification.from_pretrained(folder).mpnet.save_pretrained(folder)
    _name_labels(folder, "0", "1")
    with pytest.raises(
        TeacherError,
        match=r"lacks weights that the model needs: classifier.dense.* give a classifier, or set teacher.fine_tune",
    ):
        bring_up_to_date(run, steps_of(run), "teacher-logits")
    study.write_text(BOTH_TUNED)
    run = _with_new_settings(run)
    bring_up_to_date(run, steps_of(run), "teacher-logits")
    assert about_separate_teacher(run)["search_accuracy"] > 0.9
    saved = AutoConfig.from_pretrained(run.separate_teacher)
    assert saved.model_type == "mpnet" and list(saved.id2label.values()) == ["0", "1"]


def test_check_names_both_models_and_lists_the_steps_of_the_teacher(nas, study, tmp_path):
    study.write_text(BOTH_TUNED)
    output, _ = nas("check", study, "--runs", tmp_path / "runs", "--json")
    plan = json.loads(output.splitlines()[-1])
    assert plan["teacher"] == "./mpnet (to be fine-tuned)"
    assert plan["student"] == "./teacher (to be fine-tuned)" and "student: ./teacher" in output
    names = [step["step"] for step in plan["steps"]]
    assert names[:4] == ["data", "teacher", "separate-teacher", "teacher-logits"]


def test_a_run_names_both_models_and_is_up_to_date_afterwards(nas, study, tmp_path, simulated_times):
    study.write_text(BOTH_TUNED)
    command = ("run", str(study), "--runs", str(tmp_path / "runs"))
    _, error = nas(*command)
    assert "The student's teacher: accuracy 0." in error and "Student: accuracy 0." in error
    run = Run.of(Study.load(study), tmp_path / "runs")
    about = about_separate_teacher(run)
    for name in ("large", "small"):
        assert json.loads((run.export(name) / "verification.json").read_text())["separate_teacher"] == about
        card = (run.export(name) / "README.md").read_text()
        assert (
            "Student: teacher (3 layers" in card and "Teacher: mpnet, fine-tuned on the data first; accuracy 0." in card
        )
    page = (run.folder / "report.html").read_text()
    assert "The student ./teacher was compressed. Its sub-networks were distilled from ./mpnet, fine-tuned here" in page
    marks = {path: path.read_text() for path in (run.folder / "steps").glob("*.json")}
    nas(*command)
    assert marks == {path: path.read_text() for path in (run.folder / "steps").glob("*.json")}


def test_teacher_and_student_may_both_come_from_the_hub(hub, tmp_path):
    fill_hub(hub, tmp_path / "uploaded")
    hub.add("model", "someone/mpnet", folder_files(write_mpnet(tmp_path / "mpnet")))
    folder = tmp_path / "study"
    folder.mkdir()
    text = HUB_STUDY.replace("[teacher]", '[teacher]\nmodel = "someone/mpnet"\n\n[student]').replace(TUNED, "")
    (folder / "study.toml").write_text(text)
    run = Run.of(Study.load(folder), tmp_path / "runs")
    prepare_teacher(run)
    bring_up_to_date(run, steps_of(run), "teacher-logits")
    noted = json.loads(run.snapshots.read_text())
    assert {role: note["id"] for role, note in noted.items()} == {
        "model": "someone/bert", "separate teacher": "someone/mpnet", "dataset": "someone/words",
    }  # fmt: skip
    assert snapshots.commits(run).keys() == {"student", "teacher", "task"}
    assert about_separate_teacher(run)["commit"] == noted["separate teacher"]["commit"]
