"""The built-in task: sentences from docstrings, with a gap for one of their words."""

from __future__ import annotations

import random

import pytest
from datasets import Dataset
from transformers import AutoTokenizer, BertForSequenceClassification

from nas import embedded
from nas.errors import DataError
from nas.model.stock import shape_of
from nas.study import Study

SOURCE = '''
def f(x):
    """Return the length of the list in the given order. Other lines are not prose: x=1.

    It is read from the file and is kept for later use with care.
    """
'''


def test_sentences_are_taken_from_docstrings_outside_test_folders(tmp_path):
    (tmp_path / "module.py").write_text(SOURCE)
    (tmp_path / "broken.py").write_bytes(b"\xff\xfe not text")
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests" / "other.py").write_text(SOURCE.replace("length", "width"))
    found = embedded.sentences({"package": tmp_path})
    assert set(found) == {
        "return the length of the list in the given order",
        "it is read from the file and is kept for later use with care",
    }
    assert set(found.values()) == {"package/module.py"}


def test_each_gap_replaces_the_word_of_the_row_s_label():
    texts = ["return the length of the list in the given order", "it is read from the file and is kept for later use"]
    rows = embedded.gaps(texts, random.Random(0))
    assert len(rows) == 2
    for (row, label), text in zip(rows, texts, strict=True):
        assert row.replace(embedded.GAP, embedded.WORDS[label]) == text


def test_too_few_sentences_are_refused(tmp_path, monkeypatch):
    (tmp_path / "module.py").write_text(SOURCE)
    monkeypatch.setattr(embedded, "source_folders", lambda: {"package": tmp_path})
    with pytest.raises(DataError, match="5000 training rows are needed"):
        embedded.build(tmp_path / "out", 0)


@pytest.mark.slow
def test_the_built_in_task_and_its_teacher_match_the_quickstart_study(tmp_path):
    embedded.build(tmp_path, 0)
    train, test = (Dataset.from_parquet(str(tmp_path / f"{name}.parquet")) for name in ("train", "test"))
    assert len(train) >= 20_000 and len(test) >= 1_500
    assert not set(train["text"]) & set(test["text"])
    shares = [test["label"].count(label) / len(test) for label in range(len(embedded.WORDS))]
    assert max(shares) < 0.25, "a constant answer would be too good"
    teacher = BertForSequenceClassification.from_pretrained(tmp_path / "teacher")
    study = Study.load("quickstart")
    assert shape_of(teacher.config) == study.space.teacher
    tokens = AutoTokenizer.from_pretrained(tmp_path / "teacher")(train["text"][0])["input_ids"]
    assert tokens.count(embedded.SPECIAL_TOKENS.index(embedded.GAP)) == 1 and max(tokens) < teacher.config.vocab_size
