"""The networks of a cohort are trained together, and those that lose at a rung are dropped."""

from __future__ import annotations

import copy
from contextlib import contextmanager
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny import make_teacher, make_tokenizer, prepare_rows, randomise
from tolerance import assert_same
from transformers import TrainerCallback

from nas.architecture import compress_all
from nas.errors import TrainingError
from nas.model import CompactBert
from nas.model.stock import from_stock
from nas.supernet import BertSupernet, rates, training
from nas.supernet.cohort import Goal, Halving, kept_of
from nas.supernet.distillation import LossWeights
from nas.supernet.loops import Schedule, Watchers
from nas.supernet.scale import Scale
from nas.supernet.training import CohortTrainer, Distillation
from nas.tasks import task_kind


@pytest.fixture
def data(tmp_path):
    return prepare_rows(tmp_path, 400, 50)


@pytest.fixture
def teacher(config):
    return randomise(CompactBert(config)).eval()


def _networks(teacher, space):
    """Return the smallest network, the largest one, and the smallest one in int8."""
    supernet = BertSupernet(teacher)
    chosen = (space.smallest(), space.largest(), compress_all(space.smallest(), "int8"))
    return [supernet.extract(architecture) for architecture in chosen]


def _training(teacher, data, folder, steps=12, rate=1e-3):
    schedule = Schedule(rate, 32, steps=steps, checkpoint_steps=5)
    return Distillation(
        copy.deepcopy(teacher),
        data.train,
        make_tokenizer(),
        schedule,
        LossWeights(),
        folder,
        0,
        {},
        task_kind("classification"),
        replaced_tokens=0.2,
    )


@contextmanager
def _killed_after(steps):
    """Interrupt each training of a cohort after this many steps, while the block runs."""
    gradients = CohortTrainer.gradients

    def stops(trainer, *arguments):
        if trainer.state.global_step == steps:
            raise KeyboardInterrupt
        return gradients(trainer, *arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(CohortTrainer, "gradients", stops)
        yield


def _weights(networks):
    return [{name: value.clone() for name, value in network.state_dict().items()} for network in networks]


def test_each_rung_keeps_the_more_accurate_half_of_each_group():
    halving = Halving.of([[0, 1, 2], [2, 3], [4]], 100, (0.25, 0.5, 1.0))
    assert halving.rungs == (25, 50)
    assert halving.kept([]) == [{0, 1, 2}, {2, 3}, {4}]
    first = {0: 0.9, 1: 0.7, 2: 0.8, 3: 0.85, 4: 0.1}
    assert halving.kept([first]) == [{0, 2}, {3}, {4}]
    assert halving.kept([first, {0: 0.9, 2: 0.95, 3: 0.9, 4: 0.2}]) == [{2}, {3}, {4}]


def test_among_equally_accurate_networks_the_first_ones_are_kept():
    assert Halving(((frozenset({3, 1, 2}),)), (1,)).kept([{1: 0.5, 2: 0.5, 3: 0.5}]) == [{1, 2}]


def test_a_rung_at_the_last_step_is_left_out():
    assert Halving.of([[0, 1]], 3, (0.25, 0.5, 0.9)).rungs == (1, 2)


def test_a_group_with_a_goal_keeps_the_cheapest_networks_that_are_expected_to_reach_it():
    inherited = {0: 0.80, 1: 0.78, 2: 0.70, 3: 0.60, 4: 0.50, 5: 0.90}
    costs = {0: 5.0, 1: 4.0, 2: 3.0, 3: 2.0, 4: 1.0, 5: 9.0}
    halving = Halving.of([list(inherited)], 100, (0.25, 0.5), [Goal(0.835, inherited, costs)])
    # Half of the gain is expected after a quarter of the steps, so the accuracies at the end are expected to be
    # 0.84, 0.84, 0.84, 0.80, 0.60 and, for the network that gained nothing, 0.85.
    first = {0: 0.82, 1: 0.81, 2: 0.77, 3: 0.70, 4: 0.55, 5: 0.85}
    assert halving.kept([first]) == [{2, 1, 0}]
    second = {2: 0.78, 1: 0.80, 0: 0.83}  # expected: 0.813, 0.808, 0.842
    assert halving.kept([first, second]) == [{0, 2}], "the one that reaches the goal and the nearest one"
    assert halving.kept([first, {2: 0.84, 1: 0.84, 0: 0.84}]) == [{2, 1}], "the two cheapest ones"


def test_a_group_with_a_goal_keeps_at_least_two_networks():
    assert [kept_of(count) for count in (1, 2, 3, 6)] == [1, 1, 2, 3]
    assert [kept_of(count, has_goal=True) for count in (1, 2, 3, 6)] == [1, 2, 2, 3]
    goal = Goal(0.9, {0: 0.1, 1: 0.2}, {0: 1.0, 1: 2.0})
    halving = Halving.of([[0, 1], [0, 1]], 8, (0.25, 0.5), [None, goal])
    assert halving.kept([{0: 0.1, 1: 0.2}]) == [{1}, {0, 1}]


@pytest.mark.slow
def test_networks_trained_together_learn_the_same_as_when_trained_separately(space, teacher, data, tmp_path):
    together = _networks(teacher, space)
    accuracies = _training(teacher, data, tmp_path / "together").train_cohort(
        together, Halving(((frozenset({0, 1, 2}),)), ()), lambda network: 0.5, "Together"
    )
    assert accuracies == [{0: 0.5, 1: 0.5, 2: 0.5}]
    for number, network in enumerate(_networks(teacher, space)):
        before = _weights([network])[0]
        _training(teacher, data, tmp_path / f"alone-{number}").train_subnetwork(network, "Alone")
        assert any(not torch.equal(before[name], value) for name, value in network.state_dict().items())
        for name, value in network.state_dict().items():
            assert_same(together[number].state_dict()[name], value, of=name)


def test_the_default_learning_rate_decreases_with_the_size_of_large_networks():
    assert rates.rate_for(0) == rates.rate_for(5_000_000) == 5e-4
    assert rates.rate_for(80_000_000) == pytest.approx(6.25e-5)


@pytest.mark.slow
def test_each_network_of_a_cohort_is_trained_at_the_default_rate_of_its_size(
    space, teacher, data, tmp_path, monkeypatch
):
    networks = _networks(teacher, space)
    sizes = [sum(each.numel() for each in network.bert.encoder.parameters()) for network in networks]
    # The largest network has sixteen times as many parameters as a network that counts as small.
    monkeypatch.setattr(rates, "_SMALL", sizes[1] / 16)
    expected = [rates.rate_for(size) for size in sizes]
    assert expected[1] == pytest.approx(6.25e-5) and expected[0] == expected[2] > expected[1]
    never = Halving.never(3)
    _training(teacher, data, tmp_path / "sized", rate=None).train_cohort(networks, never, lambda network: 0.5, "Sized")
    for number, rate in enumerate(expected):
        alone = _networks(teacher, space)[number]
        _training(teacher, data, tmp_path / f"alone-{number}", rate=rate).train_subnetwork(alone, "Alone")
        for name, value in alone.state_dict().items():
            assert_same(networks[number].state_dict()[name], value, of=name)


@pytest.fixture
def threads():
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@pytest.mark.slow
@pytest.mark.parametrize(("count", "killed"), [(1, False), (1, True), (2, False)])
def test_networks_that_lose_at_a_rung_stop_learning_even_if_the_training_is_killed_later(
    space, teacher, data, tmp_path, monkeypatch, threads, count, killed
):
    """The first network is dropped after four steps, and the second one after eight. A kill comes in the tenth step.

    If there are two threads, each computes a part of the batch, so that both have gradients of each network.
    """
    threads(count)
    monkeypatch.setattr(training, "_PART_TOKENS", 64)
    halving, judged = Halving((frozenset({0, 1, 2}),), (4, 8)), list[int]()

    def judge(network):
        number = next(number for number, each in enumerate(networks) if each is network)
        judged.append(number)
        states.setdefault(number, []).append(_weights([network])[0])
        return 0.1 * number

    states, networks = dict[int, list](), _networks(teacher, space)
    run = _training(teacher, data, tmp_path / "run")
    if killed:
        with _killed_after(9), pytest.raises(KeyboardInterrupt):
            run.train_cohort(networks, halving, judge, "Together")
        networks = _networks(teacher, space)
    accuracies = run.train_cohort(networks, halving, judge, "Together")
    assert [sorted(rung) for rung in accuracies] == [[0, 1, 2], [1, 2], [2]]
    assert judged == [0, 1, 2, 1, 2, 2], "no network is judged twice at a rung"
    final, last = _weights(networks), {number: each[-1] for number, each in states.items()}
    for number in (0, 1):
        assert all(torch.equal(final[number][name], value) for name, value in last[number].items()), number
    assert any(not torch.equal(states[2][1][name], value) for name, value in final[2].items())


class _Events(TrainerCallback):
    def __init__(self):
        self.events = []

    def on_log(self, args, state, control, logs=None, **kwargs):
        self.events.append("log")

    def on_train_end(self, args, state, control, **kwargs):
        self.events.append("end")


def test_nothing_is_logged_after_the_integrations_of_a_training_have_ended(space, teacher, data, tmp_path):
    """Weights & Biases, for example, fails if values are logged after the end of its run."""
    watcher = _Events()
    run = _training(teacher, data, tmp_path / "run", steps=3)
    schedule = replace(run.schedule, watchers=Watchers(callbacks=(watcher,)))
    networks = _networks(teacher, space)[:2]
    accuracies = replace(run, schedule=schedule).train_cohort(
        networks, Halving((frozenset({0, 1}),), (1,)), lambda network: float(network is networks[0]), "Watched"
    )
    assert accuracies == [{0: 1.0, 1: 0.0}, {0: 1.0}]
    assert watcher.events[-1] == "end" and "log" in watcher.events


def test_the_outputs_of_a_regression_have_the_scale_of_the_data_whenever_they_are_judged(space, data, tmp_path):
    teacher = from_stock(make_teacher("bert", 1)).eval()
    with torch.no_grad():
        teacher.classifier.bias.fill_(500.0)
    network, biases = BertSupernet(teacher).extract(space.smallest()), []

    def judge(judged):
        biases.append(judged.classifier.bias.item())
        return 0.5

    training = replace(_training(teacher, data, tmp_path / "run", steps=2), kind=task_kind("regression"))
    halving = Halving((frozenset({0}),), (1,))
    replace(training, scale=Scale(500.0, 3.0)).train_cohort([network], halving, judge, "Judged")
    assert biases == [pytest.approx(500.0, abs=0.1)] * 2, "at the rung and at the end"


@pytest.mark.slow
def test_a_checkpoint_that_lacks_trained_weights_is_refused(space, teacher, data, tmp_path):
    training = _training(teacher, data, tmp_path / "run")
    with _killed_after(7), pytest.raises(KeyboardInterrupt):
        training.train_cohort(_networks(teacher, space), Halving.never(3), lambda network: 0.5, "Together")
    file = tmp_path / "run" / "checkpoints" / "checkpoint-5" / "model.safetensors"
    weights = load_file(file)
    weights.popitem()
    save_file(weights, file)
    message = "must contain exactly the weights that are trained, but differs from them in 1 weight;"
    with pytest.raises(TrainingError, match=message):
        training.train_cohort(_networks(teacher, space), Halving.never(3), lambda network: 0.5, "Together")
