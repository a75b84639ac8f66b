"""The time per training step is measured on a few steps with batches of all text lengths."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from tiny import make_rows, make_teacher, make_tokenizer
from transformers import DataCollatorWithPadding

from nas.supernet import speed
from nas.supernet.loops import Schedule, training_arguments
from nas.supernet.side_by_side import SideBySideTrainer
from nas.supernet.speed import seconds_per_step


@pytest.fixture
def trainer(tmp_path):
    tokenizer, rows = make_tokenizer(), make_rows(400, 0)
    tokenised = [tokenizer(text) for text in rows["text"]]
    data = {
        "input_ids": [each["input_ids"] for each in tokenised],
        "attention_mask": [each["attention_mask"] for each in tokenised],
    }
    data |= {"labels": list(rows["label"]), "length": [len(each["input_ids"]) for each in tokenised]}
    torch.manual_seed(0)
    model = make_teacher()
    arguments = training_arguments(model.config, tmp_path, Schedule(1e-3, 4, steps=8), 0)
    return SideBySideTrainer(
        model=model,
        args=arguments,
        train_dataset=type(rows).from_dict(data),
        data_collator=DataCollatorWithPadding(tokenizer),
        processing_class=tokenizer,
    )


def test_timed_batches_cover_all_lengths_and_the_first_ones_also_warm_up(trainer):
    order = list(trainer._get_train_sampler())
    trainer.spread(2, 6)
    rows = list(trainer._get_train_sampler())
    batches = [rows[at : at + 4] for at in range(0, len(rows), 4)]
    assert len(batches) == 8 and batches[:2] == batches[2:4]
    assert all(batch == order[order.index(batch[0]) :][:4] for batch in batches), "batches are those of an epoch"
    lengths = list(trainer.train_dataset["length"])
    timed = [lengths[row] for row in rows[8:]]
    assert max(timed) >= max(lengths) - 2 and min(timed) <= min(lengths) + 2
    assert abs(sum(timed) / len(timed) - sum(lengths) / 400) < 1.0


def test_the_time_per_step_is_measured_without_writing_files(trainer, tmp_path, monkeypatch):
    """Of eight steps, two warm up. The clock shows the ends of all steps: the timed ones take 16 s in all."""
    ends = iter([10.0, 19.0, 20.0, 22.0, 25.0, 30.0, 32.0, 35.0])
    monkeypatch.setattr(speed, "time", SimpleNamespace(perf_counter=lambda: next(ends)))
    assert seconds_per_step(trainer, 2) == pytest.approx(16.0 / 6)
    assert trainer.state.global_step == 8
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]
