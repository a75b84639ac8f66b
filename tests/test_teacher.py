"""Teachers that cannot serve are refused with one clear line."""

from __future__ import annotations

import pytest
from datasets import ClassLabel, Dataset
from tiny import TINY_STUDY
from transformers import AutoConfig, BertForSequenceClassification, BertModel

from nas.errors import TeacherError
from nas.pipeline.prepare import prepare_teacher
from nas.pipeline.run import Run
from nas.study import Study

FINE_TUNED = TINY_STUDY.replace("fine_tune = { epochs = 2.0, learning_rate = 2e-3 }", "")


def _prepare(study, tmp_path):
    run = Run.of(Study.load(study), tmp_path / "runs")
    prepare_teacher(run)
    return run


def _bare_encoder(folder):
    BertModel(AutoConfig.from_pretrained(folder)).save_pretrained(folder)


def _other_labels(folder):
    model = BertForSequenceClassification.from_pretrained(folder)
    model.config.id2label = {0: "good", 1: "bad"}
    model.save_pretrained(folder)


def _truncated(folder):
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])


def _no_tokenizer(folder):
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).unlink()


def _half_a_head(folder):
    text = (folder / "config.json").read_text()
    (folder / "config.json").write_text(text.replace('"num_attention_heads": 4', '"num_attention_heads": 5'))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (_bare_encoder, "not a fine-tuned classifier"),
        (_other_labels, r"names its labels \['good', 'bad'\], the data \['bad', 'good'\]"),
        (_truncated, "cannot be loaded"),
        (_no_tokenizer, "has no tokenizer"),
        (_half_a_head, "num_attention_heads"),
    ],
)
def test_unfit_teachers(tiny_study, tmp_path, spoil, message):
    for name in ("train", "test"):
        path = tiny_study.parent / f"{name}.parquet"
        rows = Dataset.from_parquet(str(path), keep_in_memory=True)
        rows.cast_column("label", ClassLabel(names=["bad", "good"])).to_parquet(path)
    tiny_study.write_text(FINE_TUNED)
    spoil(tiny_study.parent / "teacher")
    with pytest.raises(TeacherError, match=message):
        _prepare(tiny_study, tmp_path)


def test_a_fine_tuned_teacher_is_taken_as_it_is(tiny_study, tmp_path):
    tiny_study.write_text(FINE_TUNED)
    run = _prepare(tiny_study, tmp_path)
    given = BertForSequenceClassification.from_pretrained(tiny_study.parent / "teacher").state_dict()
    taken = BertForSequenceClassification.from_pretrained(run.teacher).state_dict()
    assert all((taken[name] == given[name]).all() for name in given)
