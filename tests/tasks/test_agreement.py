"""`agreement` of embedding tasks: the teacher's embeddings are the labels, and similarities are compared with them."""

from __future__ import annotations

import random
import sys

import numpy as np
import pyarrow.parquet
import pytest
import torch
from datasets import Dataset
from scipy.stats import spearmanr
from tiny import WORDS, make_texts, write_agreement_study, write_embedding_study
from tolerance import assert_same
from transformers import AutoConfig, AutoModel

from nas.data import read_sets, truth_of
from nas.errors import DataError, StudyError
from nas.evaluate.accuracy import logits_of
from nas.evaluate.spread import standard_error
from nas.files import digest, file_digest, read_json, write_json
from nas.model.tokenizer import load_tokenizer
from nas.pipeline import Run
from nas.pipeline.commands import prepare_teacher
from nas.pipeline.data import splits
from nas.pipeline.rows import look_at_rows
from nas.pipeline.sources import data_inputs
from nas.pipeline.teachers import load_teacher
from nas.study import Study, Task
from nas.tasks import GROUP, Agreement, agreement, in_groups

METRIC = Agreement("agreement")


def read(folder, train, test, **changes):
    for name, texts in (("train", train), ("test", test)):
        Dataset.from_dict({"text": texts}).to_parquet(folder / f"{name}.parquet")
    given = {"kind": "embedding", "metric": "agreement", "train": "train.parquet", "test": "test.parquet"}
    task = Task(**given | {"text": ("text",)} | changes)
    return read_sets(task, {name: (str(folder / f"{name}.parquet"),) for name in ("train", "test")}, 0)


def test_the_search_set_is_held_out_of_the_training_texts(tmp_path):
    train = [f"w{number}" for number in range(20)]
    found = read(tmp_path, [*train, "W3"], ["w19", "a", "b", "A "], holdout={"size": 6})
    (search,), (rest,) = found.texts["search"], found.texts["train"]
    assert found.in_test == 1 and found.texts["test"] == [["w19", "a", "b"]], "each text once"
    assert 5 <= len(search) <= 6 and sorted([*search, *rest], key=str.casefold) == sorted(
        [*train[:19], *(["W3"] if "w3" in rest else [])], key=str.casefold
    )
    assert not {text.casefold() for text in search} & {text.casefold() for text in rest}
    assert list(found.more["test"][GROUP]) == [0, 1, 2] and "train" not in found.labels


@pytest.mark.parametrize(
    ("train", "test", "message"),
    [
        (["a", "b", "c"], ["C", "B", "a"], "every row also occurs in .*test.parquet; give a different test set"),
        (["a", "b", "c", "d"], ["x", "y", "z"], "train.parquet: the search set needs at least 3 texts .* but has 1"),
        ([f"w{number}" for number in range(20)], ["x", "y", "X"], "test.parquet: the test set needs at least 3 texts"),
        (["a", None, "c"], ["x", "y", "z"], "column 'text' must hold texts, but row 1 holds None"),
    ],
)
def test_sets_without_enough_texts_are_refused(tmp_path, train, test, message):
    with pytest.raises(DataError, match=message):
        read(tmp_path, train, test)


def test_each_text_is_paired_with_those_at_fixed_distances():
    labels = in_groups(np.zeros((5, 2)), np.array([30, 10, 20, 50, 40]))  # in their order: rows 1, 2, 0, 4, 3
    first, second = agreement.pairs(labels)
    assert list(zip(first.tolist(), second.tolist(), strict=True)) == [
        (1, 2), (2, 0), (0, 4), (4, 3), (3, 1),  # distance 1
        (1, 0), (2, 4), (0, 3), (4, 1), (3, 2),  # distance 2
    ]  # fmt: skip
    for count, distances in ((2, 0), (3, 1), (16, 3), (17, 4), (1000, 8)):
        found = [pair.tolist() for pair in agreement.pairs(in_groups(np.zeros((count, 1)), np.arange(count)))]
        pairs = {frozenset(pair) for pair in zip(*found, strict=True)}
        assert len(pairs) == len(found[0]) == distances * count, "no pair occurs twice, and no text with itself"


def test_the_score_is_the_correlation_of_similarities():
    """Four texts have four pairs: 0-1, 1-2, 2-3 and 3-0. The teacher's angles are 10, 20, 30 and 60 degrees."""
    teacher = _at_degrees([0, 10, 30, 60])
    labels = in_groups(teacher, np.arange(4))
    assert METRIC.score(7.0 * teacher, labels) == pytest.approx(1.0)
    # The network's angles are 30, 20, 10 and 60 degrees: ranks 2, 3, 4, 1 instead of 4, 3, 2, 1.
    assert METRIC.score(_at_degrees([0, 30, 50, 60]), labels) == pytest.approx(0.2)
    assert METRIC.score(np.ones((4, 3)), labels) == 0.0


def _at_degrees(angles):
    return np.stack([np.cos(np.deg2rad(angles)), np.sin(np.deg2rad(angles))], axis=1)


def test_a_bootstrap_sample_contains_a_pair_as_often_as_its_texts_were_drawn():
    rng = np.random.default_rng(0)
    teacher, own = rng.standard_normal((5, 3)), rng.standard_normal((5, 3))
    labels = in_groups(teacher, np.arange(5))
    pairs = [(0, 1)] * 4 + [(1, 2)] * 2 + [(0, 2)] * 2  # text 0 is drawn twice, text 1 twice, and text 2 once
    cosines = [[a[i] @ a[j] / np.sqrt((a[i] @ a[i]) * (a[j] @ a[j])) for i, j in pairs] for a in (teacher, own)]
    found = METRIC.bootstrap_scores(own, labels, [np.arange(5), np.array([0, 0, 1, 1, 2]), np.array([4] * 5)])
    assert found == pytest.approx([METRIC.score(own, labels), spearmanr(*cosines).statistic, 0.0])


def test_the_standard_error_covers_the_choice_of_texts():
    """It is close to the deviation of the score over sets of other texts of the same kind, and not below it."""

    def simulated(seed):
        rng = np.random.default_rng(seed)
        labels = METRIC.simulated_labels(in_groups(np.zeros((200, 0)), np.arange(200)), rng)
        return METRIC.simulated(labels, 1, 0.8, rng), labels

    samples = [simulated(seed) for seed in range(60)]
    scores = [METRIC.score(*sample) for sample in samples]
    assert np.mean(scores) == pytest.approx(0.8, abs=0.05)
    errors = [standard_error(METRIC, *sample) for sample in samples[:10]]
    assert 0.9 * np.std(scores) < np.mean(errors) < 2.0 * np.std(scores)


@pytest.fixture
def prepared(tmp_path):
    """A run of the tiny study whose data and teacher are prepared, with a pruned vocabulary."""
    study = write_agreement_study(tmp_path)
    study.write_text(study.read_text().replace('"./teacher"', '"./teacher"\nprune_vocabulary = true'))
    path = tmp_path / "teacher" / "tokenizer.json"
    values = read_json(path, DataError)
    vocabulary = values["model"]["vocab"]
    for piece in ("w", *(f"##{digit}" for digit in range(10))):  # they spell the words that are removed
        vocabulary[piece] = len(vocabulary)
    write_json(path, values)
    config = AutoConfig.from_pretrained(tmp_path / "teacher", vocab_size=len(vocabulary))
    AutoModel.from_config(config).save_pretrained(tmp_path / "teacher")
    rng = random.Random(0)
    texts = [" ".join(rng.choices(WORDS[:40], k=6)) for _ in range(600)]
    Dataset.from_dict({"text": texts}).to_parquet(tmp_path / "train.parquet")
    run = Run.of(Study.load(study), tmp_path / "runs")
    prepare_teacher(run)
    return run


def test_the_teachers_embeddings_are_stored_as_labels(prepared):
    """They are those of the given teacher, even if the vocabulary of the compressed teacher is pruned."""
    folder, texts = prepared.study.path.parent, make_texts(100, 3)
    model, tokenizer = AutoModel.from_pretrained(folder / "teacher"), load_tokenizer(folder / "teacher")
    expected = []
    for text in texts:
        inputs = tokenizer(text, truncation=True, max_length=16, return_tensors="pt")
        with torch.no_grad():
            mean = model(**inputs).last_hidden_state.mean(dim=1)
        expected.append(torch.nn.functional.normalize(mean)[0].numpy())
    data = splits(prepared)
    assert_same(truth_of(data.test)["label"], np.stack(expected))
    stored = pyarrow.parquet.read_schema(prepared.data / "test.parquet")
    assert stored.field("labels").type.value_type == "float" and "labels" not in data.train.column_names
    assert len(data.search) == 120 and truth_of(data.search)["label"].shape == (120, 32)


def test_the_teacher_agrees_with_itself_except_for_words_that_were_pruned(prepared):
    """The words from w40 on occur in the test set, but in no training text."""
    assert "Teacher: agreement 1.000 on 120 texts of the search set" in (prepared.folder / "log.jsonl").read_text()
    teacher, data = load_teacher(prepared), splits(prepared)
    scores = [METRIC.score(logits_of(teacher, split), truth_of(split)) for split in (data.search, data.test)]
    assert scores[0] == pytest.approx(1.0, abs=1e-4) and 0.3 < scores[1] < 0.99


@pytest.mark.parametrize(
    ("write", "left_out", "holdout", "teachers"),
    [
        # Runs with scored pairs stay up to date only if this digest is composed as in earlier versions.
        (write_embedding_study, {"unlabelled", "threshold", "query", "output_width"}, {"size": 5000, "by": "row"}, []),
        (
            write_agreement_study,
            {"unlabelled", "threshold", "query", "search", "pair", "output_width"},
            {"size": 120, "by": "row"},
            None,
        ),
    ],
)
def test_the_data_depends_on_the_teachers_weights_only_if_they_give_the_labels(
    tmp_path, write, left_out, holdout, teachers
):
    run = Run.of(Study.load(write(tmp_path)), tmp_path / "runs")
    task = run.study.task.model_dump(mode="json", exclude=left_out) | {"revision": None, "holdout": holdout}
    files = {path.stem: [".parquet", file_digest(path)] for path in tmp_path.glob("*.parquet")}
    settings = {"model": None, "revision": None, "prune_vocabulary": False, "tuned": False}
    tokenizer = {path.name: file_digest(path) for path in (tmp_path / "teacher").glob("*.json")}
    if teachers is None:
        weights = {"model.safetensors": file_digest(tmp_path / "teacher" / "model.safetensors")}
        form = {"network_type": "encoder", "readout": "mean", "normalize": True, "own_width": False}
        teachers = [[weights, form]]
    assert data_inputs(run) == digest([4, task | files, 0, settings, tokenizer, *teachers])


def test_nas_check_estimates_the_standard_error_before_the_teacher_was_run(tmp_path, nas):
    study = write_agreement_study(tmp_path)
    found = look_at_rows(Run.of(Study.load(study), tmp_path / "runs"))
    assert found.judged_by == "120 texts" and 0.0 < found.standard_error < 0.05
    assert {name: lengths.rows for name, lengths in found.sets.items()} == {"train": 480, "search": 120, "test": 100}
    printed, _ = nas("check", study, "--runs", tmp_path / "runs")
    assert "(assuming an agreement of 0.9)" in printed and "embedding, agreement" in printed


def test_nas_init_proposes_agreement_if_only_texts_are_given(tmp_path, nas, monkeypatch):
    monkeypatch.setattr(sys.stdin, "isatty", lambda: False, raising=False)
    write_agreement_study(tmp_path)
    files = [f"--{name}={tmp_path / name}.parquet" for name in ("train", "test")]
    given = ["--teacher", str(tmp_path / "teacher"), *files]
    for name, options in (("by-kind", ["--kind", "embedding"]), ("by-metric", ["--metric", "agreement"])):
        printed, _ = nas("init", tmp_path / name, *given, *options)
        assert "text: text; label: none (embedding, no labels)\n" in printed
        task = Study.load(tmp_path / name).task
        assert (task.kind, task.metric, task.text, task.pair) == ("embedding", "agreement", ("text",), ())
        assert (task.search, task.holdout.size, task.label_columns) == (None, 120, ())
        nas("check", tmp_path / name, "--runs", tmp_path / "runs")
    _, error = nas("init", tmp_path / "other", *given, "--kind", "embedding", "--metric", "spearman", code=2)
    assert "--search: must be given" in error and "none is needed with --metric agreement" in error
    _, error = nas("init", tmp_path / "other", *given, "--metric", "agreement", "--label", "text", code=2)
    assert "label: must not be set if the metric is agreement" in error


def test_unlabelled_texts_of_a_hub_data_set_need_the_metric(tmp_path, nas, monkeypatch):
    monkeypatch.setattr(sys.stdin, "isatty", lambda: False, raising=False)
    write_agreement_study(tmp_path)
    given = ["--teacher", str(tmp_path / "teacher"), "--hub", "someone/texts", "--train", "train", "--test", "test"]
    printed, _ = nas("init", tmp_path / "mine", *given, "--text", "text", "--metric", "agreement")
    assert "data set: someone/texts (not inspected); text: text; label: none (embedding)" in printed
    assert Study.load(tmp_path / "mine").task.evaluated_on == "texts"


def test_a_study_that_names_labels_for_agreement_is_refused(tmp_path):
    study = write_agreement_study(tmp_path)
    study.write_text(study.read_text().replace('metric = "agreement"', 'metric = "agreement"\nlabel = "text"'))
    with pytest.raises(
        StudyError, match=r"task.label: must not be set if the metric is agreement.* but got 'text'; remove label"
    ):
        Study.load(study)
