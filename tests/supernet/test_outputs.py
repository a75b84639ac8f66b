"""The teacher's outputs are stored on disk, and training on them gives the same result as running the teacher."""

from __future__ import annotations

import copy

import pytest
import torch
from tiny import make_teacher, make_tokenizer, prepare_rows, randomise
from tolerance import assert_same
from transformers import DataCollatorWithPadding

from nas.errors import TrainingError
from nas.model.stock import from_stock
from nas.supernet.distillation import Knowledge, LossWeights
from nas.supernet.loops import Schedule
from nas.supernet.outputs import TeacherOutputs, remove, size_in_bytes, stored_inputs, write
from nas.supernet.sampling import sandwich
from nas.supernet.training import Distillation
from nas.tasks import task_kind

HALF = 2.0**-10
"""The allowed relative error of a number in half precision: twice the largest rounding error."""


@pytest.fixture
def data(tmp_path):
    return prepare_rows(tmp_path, 120, 40)


@pytest.fixture
def ordered():
    return from_stock(randomise(make_teacher())).eval()


def _padded(train, rows):
    texts = train.remove_columns("length").select(rows)
    return dict(DataCollatorWithPadding(make_tokenizer())([texts[row] for row in range(len(rows))]))


def test_recalled_outputs_equal_those_that_the_teacher_computes_for_padded_texts(data, ordered, tmp_path):
    folder = tmp_path / "outputs"
    write(folder, ordered, data.train, {"form": 1}, bf16=False)
    batch = _padded(data.train, [3, 77, 5, 3, 40])
    labels = batch.pop("labels")
    assert len({int(length) for length in batch["attention_mask"].sum(dim=1)}) > 1 and len(labels) == 5
    recalled = TeacherOutputs(folder, data.train).recall(batch)
    with torch.no_grad():
        computed = Knowledge.of(ordered(**batch, output_hidden_states=True, details=True), [])
    assert_same(recalled.logits[0], computed.logits[0])
    mask = batch["attention_mask"].bool()
    assert len(recalled.states) == len(computed.states) == 4
    for number, (found, expected) in enumerate(zip(recalled.states, computed.states, strict=True)):
        assert found.shape == expected.shape
        real = mask if number < 3 else torch.ones(5, 1, dtype=torch.bool)
        assert not found[~real].any()
        torch.testing.assert_close(found[real], expected[real], rtol=HALF, atol=1e-5)


def test_outputs_of_texts_that_were_not_stored_are_not_recalled(data, ordered, tmp_path):
    folder = tmp_path / "outputs"
    write(folder, ordered, data.train, {"form": 1}, bf16=False)
    outputs = TeacherOutputs(folder, data.train)
    batch = _padded(data.train, [0, 1])
    changed = batch["input_ids"].clone()
    changed[0, 1] = 4 if changed[0, 1] != 4 else 5
    changed[0, 2] = 60
    changed[0, 3] = 61
    assert outputs.recall(batch) is not None
    assert outputs.recall({**batch, "input_ids": changed}) is None
    assert stored_inputs(folder) == {"form": 1} and stored_inputs(tmp_path / "nowhere") is None
    with pytest.raises(TrainingError, match="must belong to the 40 training texts"):
        TeacherOutputs(folder, data.search)


def test_outputs_whose_deletion_was_interrupted_are_not_used_but_written_again(data, ordered, tmp_path, monkeypatch):
    folder = tmp_path / "outputs"
    write(folder, ordered, data.train, {"form": 1}, bf16=False)

    def dies(folder, **_):
        (folder / "states-2.npy").unlink()
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("nas.supernet.outputs.shutil.rmtree", dies)
        remove(folder)
    assert folder.exists() and stored_inputs(folder) is None
    write(folder, ordered, data.train, {"form": 1}, bf16=False)
    assert stored_inputs(folder) == {"form": 1} and (folder / "states-2.npy").exists()
    remove(folder)
    assert not folder.exists()


def test_the_size_on_disk_is_predicted_exactly(data, ordered, tmp_path):
    folder = tmp_path / "outputs"
    write(folder, ordered, data.train, {}, bf16=False)
    written = sum(path.stat().st_size for path in folder.glob("*.npy") if path.name != "rows.npy")
    headers = 128 * 5
    assert written - headers == size_in_bytes(ordered.config, data.train)


@pytest.mark.parametrize("threads", [1, 2])
def test_training_on_stored_outputs_learns_the_same_without_the_teacher(space, data, ordered, tmp_path, threads):
    write(tmp_path / "outputs", ordered, data.train, {}, bf16=False)
    other = from_stock(randomise(make_teacher(), seed=1))
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    teachers_run = []
    try:
        weights = []
        for name, outputs in (("computed", None), ("stored", TeacherOutputs(tmp_path / "outputs", data.train))):
            student = copy.deepcopy(other)
            teacher = copy.deepcopy(ordered)
            teacher.register_forward_hook(lambda *_, name=name: teachers_run.append(name))
            training = Distillation(
                teacher,
                data.train,
                make_tokenizer(),
                Schedule(1e-3, 16, steps=8),
                LossWeights(),
                tmp_path / name,
                0,
                {},
                task_kind("classification"),
                outputs=outputs,
            )
            training.train_supernet(student, sandwich(space, 2, "spread", 0))
            weights.append(student.state_dict())
    finally:
        torch.set_num_threads(before)
    assert "computed" in teachers_run and "stored" not in teachers_run
    start, computed, stored = (
        torch.cat([value.flatten() for value in state.values()]) for state in (other.state_dict(), *weights)
    )
    # AdamW takes full steps even for the smallest gradients, so rounding errors show in a few weights.
    assert (computed - stored).norm() < 0.02 * (computed - start).norm()
