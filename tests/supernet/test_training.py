"""Distillation, the sandwich rule, and training that resumes."""

from __future__ import annotations

import copy

import pytest
import torch
from tiny import make_rows, make_tokenizer, randomise

from nas.data import prepare
from nas.errors import TrainingError
from nas.model import CompactBertForSequenceClassification
from nas.space import compress_all
from nas.study import Task
from nas.supernet import BertSupernet
from nas.supernet.distillation import distillation_loss, hidden_loss, logits_loss
from nas.supernet.training import Distillation, Schedule, sandwich


@pytest.fixture
def data(tmp_path):
    make_rows(400, 0).to_parquet(tmp_path / "train.parquet")
    make_rows(50, 1).to_parquet(tmp_path / "test.parquet")
    task = Task(train="train.parquet", test="test.parquet", text=("text",), max_length=16, holdout={"size": 50})
    files = (str(tmp_path / "train.parquet"), str(tmp_path / "test.parquet"))
    return prepare(task, *files, make_tokenizer(), 0)


def _distillation(weights, data, folder, steps):
    schedule = Schedule(1e-3, 32, steps=steps, checkpoint_steps=6)
    return Distillation(copy.deepcopy(weights), data.train, make_tokenizer(), schedule, 1.0, folder, 0)


def test_sandwich_holds_the_ends_and_depends_on_the_step_alone(space):
    first, second = sandwich(space, 3, 0), sandwich(space, 3, 0)
    for step in (0, 7, 1000):
        named = first(step)
        assert named[0] == space.largest() and named[1] == space.smallest() and len(named) == 5
        assert second(step) == named and all(space.contains(architecture) for architecture in named)
    assert first(0) != first(1) and sandwich(space, 3, 1)(0) != first(0)


def test_loss_is_zero_for_the_teacher_itself(space, supernet_weights, batch):
    with torch.no_grad():
        output = supernet_weights(**batch, output_hidden_states=True)
        loss = distillation_loss(output, output, space.largest(), batch["attention_mask"], 1.0)
    assert loss.item() == pytest.approx(0.0, abs=1e-6)


def test_hidden_states_are_compared_with_what_the_next_kept_layer_expects(space, supernet_weights, batch):
    """Layers 0 and 2 of 3: the first one's output is held against the input of layer 2."""
    with torch.no_grad():
        states = supernet_weights(**batch, output_hidden_states=True).hidden_states
        kept = [item for item in space.layer_sets if item == (0, 2)]
        architecture = next(
            a for a in (sandwich(space, 20, seed)(0)[number] for seed in range(20) for number in range(22))
            if tuple(layer.source for layer in a.layers) == kept[0] and a.hidden_size == 32
        )  # fmt: skip
        matching = (states[0], states[2], states[3])
        assert hidden_loss(matching, states, architecture, batch["attention_mask"]).item() == 0.0
        shifted = (states[0], states[1], states[3])
        expected = ((states[1] - states[2]) * batch["attention_mask"][:, :, None]).square().sum()
        expected = expected / (batch["attention_mask"].sum() * 32) / 3
        found = hidden_loss(shifted, states, architecture, batch["attention_mask"])
        assert found.item() == pytest.approx(expected.item(), rel=1e-5)


def test_padding_does_not_count(space, supernet_weights, batch):
    with torch.no_grad():
        states = supernet_weights(**batch, output_hidden_states=True).hidden_states
        spoilt = tuple(state + 100.0 * (1 - batch["attention_mask"][:, :, None]) for state in states)
        assert hidden_loss(spoilt, states, space.largest(), batch["attention_mask"]).item() == 0.0


def test_logits_loss_is_a_divergence_or_an_error():
    logits = torch.tensor([[1.0, 2.0], [0.0, 0.5]])
    p, q = torch.tensor([[0.0, 0.0], [1.0, 1.0]]).log_softmax(-1), logits.log_softmax(-1)
    expected = (q.exp() * (q - p)).sum(-1).mean()
    assert logits_loss(p, logits).item() == pytest.approx(expected.item(), rel=1e-5)
    assert logits_loss(torch.tensor([[1.0]]), torch.tensor([[3.0]])).item() == 4.0


@pytest.mark.slow
def test_training_brings_the_smallest_closer_to_the_teacher(space, config, data, tmp_path, batch):
    weights = randomise(CompactBertForSequenceClassification(config))
    student = copy.deepcopy(weights)
    _distillation(weights, data, tmp_path / "run", 40).train_supernet(student, space, 2)

    def distance(model):
        with torch.no_grad():
            target = weights(**batch, output_hidden_states=True)
            found = BertSupernet(model).run(space.smallest(), **batch, output_hidden_states=True)
            return distillation_loss(found, target, space.smallest(), batch["attention_mask"], 1.0).item()

    assert distance(student) < 0.9 * distance(weights)


@pytest.mark.slow
def test_interrupted_training_ends_with_the_same_weights(space, config, data, tmp_path, monkeypatch):
    weights = randomise(CompactBertForSequenceClassification(config))
    straight = copy.deepcopy(weights)
    _distillation(weights, data, tmp_path / "straight", 14).train_supernet(straight, space, 1)

    class Killed(BaseException):
        """What a signal would do."""

    from nas.supernet.training import DistillationTrainer

    step = DistillationTrainer.training_step

    def stops_at_nine(self, *arguments, **keywords):
        if self.state.global_step == 9:
            raise Killed
        return step(self, *arguments, **keywords)

    broken = copy.deepcopy(weights)
    training = _distillation(weights, data, tmp_path / "broken", 14)
    monkeypatch.setattr(DistillationTrainer, "training_step", stops_at_nine)
    with pytest.raises(Killed):
        training.train_supernet(broken, space, 1)
    monkeypatch.setattr(DistillationTrainer, "training_step", step)
    half_written = tmp_path / "broken" / "checkpoints" / "checkpoint-8"
    half_written.mkdir()
    (half_written / "trainer_state.json").write_text('{"global_st')
    resumed = copy.deepcopy(weights)
    training.train_supernet(resumed, space, 1)
    for name, parameter in straight.named_parameters():
        torch.testing.assert_close(resumed.get_parameter(name), parameter, atol=1e-5, rtol=0, msg=name)


def test_a_loss_that_is_no_number_stops_the_training(space, config, data, tmp_path):
    weights = randomise(CompactBertForSequenceClassification(config))
    weights.classifier.weight.data.fill_(float("inf"))
    with pytest.raises(TrainingError, match="lower the learning_rate"):
        _distillation(weights, data, tmp_path / "run", 30).train_supernet(weights, space, 1)


@pytest.mark.slow
def test_a_single_sub_network_is_trained_alone(space, config, data, tmp_path):
    weights = randomise(CompactBertForSequenceClassification(config))
    model = BertSupernet(weights).extract(compress_all(space.smallest(), "int8"))
    before = copy.deepcopy(model.state_dict())
    _distillation(weights, data, tmp_path / "one", 5).train_subnetwork(model, "Fine-tuning")
    assert any(not torch.equal(before[name], value) for name, value in model.state_dict().items())
