"""A study that is made from Python objects behaves like one from files, and is up to date if it is made again."""

from __future__ import annotations

import pandas
import pytest
import torch
from datasets import ClassLabel, Dataset
from tiny import SPECIAL, WORDS, make_rows, make_scored_pairs, make_teacher, make_texts, make_tokenizer
from transformers import AutoModel, BertConfig, BertForSequenceClassification

import nas
from nas.errors import DataError, NasError, StudyError, TeacherError
from nas.in_python import _as_toml
from nas.pipeline.commands import prepare_teacher
from nas.pipeline.sources import data_inputs, teacher_inputs
from nas.study import Study

VOCABULARY_SIZE = len(SPECIAL + WORDS)


@pytest.fixture
def model():
    torch.manual_seed(0)
    return make_teacher(vocab_size=VOCABULARY_SIZE)


def _tables(model, **task):
    return {
        "task": {"train": make_rows(300, 0), "test": make_rows(60, 1), "text": "text", "max_length": 16}
        | {"holdout": {"size": 60}}
        | task,
        "teacher": {"model": model, "tokenizer": make_tokenizer()},
        "budgets": ["fast=50%", "1pt"],
        "search_space": {"name": "tiny"},
    }


def test_a_run_contains_the_given_data_and_teacher(model, tmp_path):
    run = nas.run_of("mine", runs=tmp_path, **_tables(model))
    assert run.folder == tmp_path / "mine" and run.study.name == "mine"
    assert [budget.name for budget in run.study.budgets] == ["fast", "1-point"]
    (device,) = run.study.devices
    assert (device.name, device.runtime, device.threads, device.batch_size) == ("here", "onnxruntime", 1, 1)
    data = prepare_teacher(run)
    assert [len(split) for split in data.splits.values()] == [len(data.train), 60, 60]
    stored = nas.Study.load(run.folder / "given")
    assert stored == run.study  # so the command line can continue the run
    loaded = type(model).from_pretrained(run.teacher)
    for name, value in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value)


def test_steps_are_out_of_date_only_if_the_given_objects_change(model, tmp_path):
    run = nas.run_of("mine", runs=tmp_path, **_tables(model))
    before, folder = (data_inputs(run), teacher_inputs(run)), (run.folder / "given").stat().st_ino
    again = nas.run_of("mine", runs=tmp_path, **_tables(model))
    assert (data_inputs(again), teacher_inputs(again)) == before
    assert (run.folder / "given").stat().st_ino == folder, "the files are not written again"
    with torch.no_grad():
        model.classifier.bias.add_(1.0)
    other = nas.run_of("mine", runs=tmp_path, **_tables(model))
    assert data_inputs(other) == before[0] and teacher_inputs(other) != before[1]
    other = nas.run_of("mine", runs=tmp_path, **_tables(model, train=make_rows(300, 7)))
    assert data_inputs(other) != before[0]


def test_the_study_file_is_the_same_in_every_process():
    """The order of its keys is that of the arguments, and not that of a set of strings, which Python randomises."""
    values = {"name": "mine", "seed": 3, "a": True, "b": 0.5, "c": "x", "task": {"text": ["t"]}, "d": 1}
    written = "".join(_as_toml(values | {"budgets": [{"name": "fast"}], "e": 2}))
    assert written == (
        'name = "mine"\nseed = 3\na = true\nb = 0.5\nc = "x"\nd = 1\ne = 2\n'
        '\n[task]\n"text" = ["t"]\n\n[[budgets]]\n"name" = "fast"\n'
    )


def test_data_can_be_data_frames_data_sets_with_named_classes_and_files(model, tmp_path):
    rows = make_rows(300, 0).cast_column("label", ClassLabel(names=["few", "many"]))
    frame = make_rows(60, 1).to_pandas()
    frame["label"] = ["many" if label else "few" for label in frame["label"]]
    run = nas.run_of("mine", runs=tmp_path, **_tables(model, train=rows.shuffle(seed=1), test=frame))
    assert prepare_teacher(run).label_names == ("few", "many")
    make_rows(60, 1).to_parquet(tmp_path / "test.parquet")
    run = nas.run_of("other", runs=tmp_path, **_tables(model, test=tmp_path / "test.parquet"))
    assert run.study.task.test == str(tmp_path / "test.parquet")


def test_the_teacher_can_be_a_sentence_encoder(tmp_path):
    sentence_transformers = pytest.importorskip("sentence_transformers")
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 64}
    config = BertConfig(vocab_size=VOCABULARY_SIZE, max_position_embeddings=40, **sizes)
    AutoModel.from_config(config).save_pretrained(tmp_path)
    make_tokenizer().save_pretrained(tmp_path)
    encoder = sentence_transformers.SentenceTransformer(str(tmp_path), device="cpu")
    task = {"train": Dataset.from_dict({"text": make_texts(200, 0)}), "unlabelled": [make_rows(50, 5)]}
    task |= {"search": make_scored_pairs(40, 1), "test": make_scored_pairs(40, 2), "pair": ["first", "second"]}
    task |= {"kind": "embedding", "metric": "spearman", "label": "score", "text": "text", "max_length": 16}
    run = nas.run_of("mine", runs=tmp_path / "runs", task=task, teacher={"model": encoder}, budgets=["50%"])
    assert run.study.search_space.name == "tiny" and run.study.task.unlabelled == ("unlabelled-1.parquet",)
    assert run.study.devices[0].sequence_length == 40
    assert len(prepare_teacher(run).search) == 80


def test_a_space_is_proposed_for_a_teacher_of_other_sizes(tmp_path):
    sizes = {"hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 96}
    settings = BertConfig(vocab_size=VOCABULARY_SIZE, max_position_embeddings=40, num_labels=2, **sizes)
    tables = _tables(BertForSequenceClassification(settings))
    del tables["search_space"]
    for key in ("max_length", "holdout"):
        del tables["task"][key]
    run = nas.run_of("mine", runs=tmp_path, **tables)
    assert run.study.task.max_length == 40 and run.study.task.holdout.size_of(300) == 60
    assert run.study.space.teacher.hidden_size == 48 and run.study.space.dimensions.layers == (1, 2)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"task": {"metric": "bleu"}}, StudyError, "mine/given/study.toml: task.metric: 'bleu' is not a metric of"),
        ({"task": {"text": "sentence"}}, DataError, ""),
        ({"tokenizer": None}, TeacherError, "teacher.tokenizer: a loaded model needs its tokenizer"),
        ({"tables": {"supernet": {"stepz": 3}}}, StudyError, "supernet.stepz: unknown key"),
        ({"tables": {"budgets": ["fast"]}}, StudyError, 'budgets: fast: must be a percentage ("20%") or'),
        ({"tables": {"budgets": []}}, StudyError, "budgets: "),
        ({"tables": {"teacher": "./my-bert"}}, StudyError, "teacher: must be a mapping with the settings of [teacher]"),
        ({"tables": {"student": pandas.DataFrame({"text": ["a"]})}}, StudyError, "student: must be a mapping"),
        ({"tables": {"seed": "one"}}, StudyError, "study.toml: seed: must be a whole number, but got 'one'"),
        ({"name": "a/b"}, StudyError, "name: must consist of letters, digits, dots"),
    ],
)
def test_invalid_settings_are_refused_and_leave_no_files(model, tmp_path, change, error, message):
    tables = _tables(model, **change.get("task", {})) | change.get("tables", {})
    if "tokenizer" in change:
        del tables["teacher"]["tokenizer"]
    with pytest.raises(NasError) as problem:
        prepare_teacher(nas.run_of(change.get("name", "mine"), runs=tmp_path, **tables))
    assert isinstance(problem.value, error) and message in str(problem.value) and "\n" not in str(problem.value)
    assert error is DataError or not list(tmp_path.iterdir())


def test_the_url_of_a_database_is_not_written_to_a_file(model, tmp_path):
    tables = _tables(model) | {"search": {"storage": "sqlite:///search.db", "evaluations": 5}}
    run = nas.run_of("mine", runs=tmp_path, **tables)
    assert run.study.search.storage.get_secret_value() == "sqlite:///search.db"
    assert "search.db" not in (run.folder / "given" / "study.toml").read_text()


def test_settings_of_all_types_keep_their_values(model, tmp_path):
    tables = _tables(model) | {
        "seed": 3,
        "devices": [{"name": "server", "threads": 2, "sequence_length": [8, 16], "repeats": 9}],
        "budgets": ["50%", {"name": "two", "limits": [{"device": "server", "p50_ms": 1.5, "size_mb": "90%"}]}],
        "supernet": {"learning_rate": 1e-5, "sampling": "spread"},
        "export": {"fine_tune": False},
    }
    study = nas.run_of("mine", runs=tmp_path, **tables).study
    assert isinstance(study, Study) and study.seed == 3
    assert study.devices[0].sequence_length == (8, 16) and study.budgets[0].devices == ("server",)
    assert study.supernet.learning_rate == 1e-5 and study.export.fine_tune is False
