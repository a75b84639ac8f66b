"""Sub-networks are drawn and distilled as configured, and an interrupted training resumes."""

from __future__ import annotations

import copy
import math
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tiny import forbid_fused_attention, make_teacher, make_tokenizer, mixed_space, prepare_rows, randomise
from tolerance import assert_same
from transformers.integrations.integration_utils import is_tensorboard_available

from nas.architecture import compress_all
from nas.data import batches_by_length
from nas.errors import TrainingError
from nas.evaluate.accuracy import forward_of, predict
from nas.files import read_json
from nas.model import CompactBert
from nas.model.stock import from_stock
from nas.supernet import BertSupernet, SupernetWeights
from nas.supernet.checkpoints import last_complete, replaces
from nas.supernet.distillation import (
    Knowledge,
    LossWeights,
    distillation_loss,
    hidden_loss,
    recorded_projections,
    relation_loss,
)
from nas.supernet.loops import LOG_FILE, FineTuning, Schedule, Watchers
from nas.supernet.ray_training import most_per_worker
from nas.supernet.sampling import in_stages, near_budgets, sandwich
from nas.supernet.training import Distillation, DistillationTrainer
from nas.tasks import task_kind

KIND = task_kind("classification")


@pytest.fixture
def data(tmp_path):
    return prepare_rows(tmp_path, 400, 50)


def _loss(*compared):
    return distillation_loss(*compared, KIND)


def _distillation(weights, data, folder, steps, origin=None):
    schedule = Schedule(1e-3, 32, steps=steps, checkpoint_steps=6, watchers=Watchers(("tensorboard",)))
    teacher, losses = copy.deepcopy(weights), LossWeights(relations=0.5)
    return Distillation(teacher, data.train, make_tokenizer(), schedule, losses, folder, 0, origin or {}, KIND, 1.0)


def _knowledge(model, batch, every_token=True):
    with recorded_projections(model) as projections:
        return Knowledge.of(
            model(**batch, output_hidden_states=True, every_token=every_token, details=True), projections
        )


def _known(states, positions=None):
    return Knowledge((torch.zeros(5, 3),), states, positions or (None,) * len(states))


def test_sandwich_draws_contain_the_largest_and_the_smallest_and_depend_only_on_seed_and_step(space):
    first, second = sandwich(space, 3, "spread", 0), sandwich(space, 3, "spread", 0)
    for step in (0, 7, 1000):
        drawn = first(step)
        assert drawn[0] == space.largest() and drawn[1] == space.smallest() and len(drawn) == 5
        assert second(step) == drawn and all(space.contains(architecture) for architecture in drawn)
    assert first(0) != first(1) and sandwich(space, 3, "spread", 1)(0) != first(0)


def test_spread_draws_reach_both_ends_while_each_dimension_stays_uniform(space):
    def draws(sampling):
        at_step = sandwich(space, 1, sampling, 0)
        return [at_step(step)[-1] for step in range(3000)]

    def extremes(drawn):
        """Return how many draws have the fewest neurons in all layers, or the most in all layers."""
        ends = (space.dimensions.intermediate_size[0], space.dimensions.intermediate_size[-1])
        return sum({layer.intermediate_size for layer in item.layers} in ({ends[0]}, {ends[1]}) for item in drawn)

    spread, uniform = draws("spread"), draws("uniform")
    assert extremes(spread) > 1.3 * extremes(uniform)
    for size in space.dimensions.hidden_size:
        share = sum(item.hidden_size == size for item in spread) / len(spread)
        assert share == pytest.approx(1 / len(space.dimensions.hidden_size), abs=0.03)  # 3 standard errors


def _size(architecture):
    """Return approximately the number of weights in the layers, as a cost that needs no profile."""
    layers = architecture.layers
    return architecture.hidden_size * sum(layer.intermediate_size + 16 * layer.num_attention_heads for layer in layers)


def test_draws_are_near_each_budget_in_turn_and_depend_only_on_the_step(space, shipped_pool):
    smallest, largest = _size(space.smallest()), _size(space.largest())
    limits = (largest / 8, largest / 2)
    assert smallest <= limits[0] / 2

    def violations():
        return [lambda architecture, limit=limit: _size(architecture) / limit - 1.0 for limit in limits]

    first, second = (near_budgets(space, violations(), 3, seed=0) for _ in range(2))
    drawn = [first(step) for step in range(400)]
    assert drawn[7] == second(7) and drawn[7] != drawn[8] and all(len(step) == 3 for step in drawn)
    every = [architecture for step in drawn for architecture in step]
    assert all(space.contains(architecture) for architecture in every)
    for turn, limit in enumerate(limits):
        taken = [_size(architecture) / limit for architecture in every[turn::2]]
        assert 0.5 <= min(taken) < 0.7 and 1.1 < max(taken) <= 1.3
        assert len(set(every[turn::2])) > 50


def test_draws_have_any_size_if_a_budget_has_no_limit_or_no_sub_network_near_it(space):
    for violation in (lambda one: 9.0, None):
        drawn = near_budgets(space, [violation], 2, seed=0)
        sizes = sorted(_size(one) for step in range(200) for one in drawn(step))
        assert sizes[0] < 1.2 * _size(space.smallest()) and sizes[-1] > 0.8 * _size(space.largest())


def test_draws_are_spread_over_the_reachable_part_of_the_range_of_a_budget(space, shipped_pool):
    """The smallest network uses three quarters of the limit, so only the range above it can be reached."""
    limit = 4 / 3 * _size(space.smallest())
    drawn = near_budgets(space, [lambda one: _size(one) / limit - 1.0], 4, seed=0)
    taken = [_size(one) / limit for step in range(300) for one in drawn(step)]
    assert min(taken) > 0.7 and max(taken) <= 1.3 and sum(each < 0.8 for each in taken) < 0.5 * len(taken)


def test_sub_networks_near_a_budget_are_found_even_if_they_are_rare(space, shipped_pool):
    wanted = _size(space.smallest())
    drawn = near_budgets(space, [lambda one: 0.0 if _size(one) == wanted else 5.0], 2, seed=0)
    assert {_size(one) for step in range(50) for one in drawn(step)} == {wanted}


def test_each_stage_varies_more_dimensions(space):
    drawn = in_stages(space, 300, lambda stage: sandwich(stage, 2, "uniform", 0))
    found = [[item for step in range(start, start + 100) for item in drawn(step)] for start in (0, 100, 200)]
    hidden, heads, depths = (
        [set(map(size, stage)) for stage in found]
        for size in (
            lambda item: item.hidden_size,
            lambda item: min(layer.num_attention_heads for layer in item.layers),
            lambda item: len(item.layers),
        )
    )
    assert hidden == [{32}, {32}, {16, 24, 32}]
    assert heads == [{4}, {1, 2, 4}, {1, 2, 4}]
    assert depths == [{1, 2, 3}] * 3
    assert drawn(299)[1] == drawn(1000)[1] == space.smallest()


def test_loss_is_zero_for_the_teacher_itself(space, supernet_weights, batch):
    with torch.no_grad():
        known = _knowledge(supernet_weights, batch)
        loss = _loss(known, known, space.largest(), batch["attention_mask"], LossWeights(1.0, 1.0, 1.0))
    assert_same(loss, 0.0, size=known.logits[0].square().mean())


def test_hidden_states_are_compared_with_the_teachers_input_of_the_next_kept_layer(space, batch):
    """Of 3 layers, 0 and 2 are kept, so the output of layer 0 is compared with the input of layer 2."""
    layers, mask = space.largest().layers, batch["attention_mask"]
    architecture = replace(space.largest(), layers=(layers[0], layers[2]))
    states = tuple(torch.full((5, 11, 32), float(number)) for number in range(4))

    def loss(output_of_layer_0):
        return hidden_loss(_known((states[0], output_of_layer_0, states[3])), _known(states), architecture, mask)

    assert loss(states[2]).item() == 0.0
    assert_same(loss(states[1]), 1 / 3)  # an error of 1 in one of three states
    changed = states[2].clone()
    changed[3, 0] += 2.0
    assert_same(loss(changed), 1 / 15)  # an error of 4 in one of 4 tokens, one of 5 texts and one of 3 states


def test_relative_errors_of_hidden_states_do_not_depend_on_the_size_of_the_states(space, batch):
    """A student whose states are all zero has the relative error 1. The teacher's states of padding are zero."""
    mask, generator = batch["attention_mask"], torch.Generator().manual_seed(0)
    layers = [torch.randn(5, 11, 32, generator=generator) * mask[:, :, None] for _ in range(4)]
    for sizes in ((1.0, 1.0, 1.0, 1.0), (1.0, 20.0, 200.0, 2000.0)):
        teacher = _known(tuple(size * layer for size, layer in zip(sizes, layers, strict=True)))
        for share in (0.0, 0.5):
            student = _known(tuple(share * state for state in teacher.states))
            loss = hidden_loss(student, teacher, space.largest(), mask, relative=True)
            assert_same(loss, (1.0 - share) ** 2)


@pytest.mark.parametrize("kind", ["bert", "modernbert"])
def test_hidden_states_are_compared_by_relative_errors_if_blocks_normalise_their_input(kind, data, tmp_path):
    teacher = from_stock(make_teacher(kind))
    training = _distillation(teacher, data, tmp_path / "run", 1)
    trainer = training._trainer(DistillationTrainer, teacher, students=lambda step: [])
    assert trainer.losses == LossWeights(relations=0.5, relative_hidden=kind == "modernbert")


def test_the_last_state_has_only_the_first_token_unless_every_token_is_requested(supernet_weights, space, batch):
    with torch.no_grad():
        few, all_of_them = (_knowledge(supernet_weights, batch, every_token) for every_token in (False, True))
    assert few.states[-1].shape[1] == 1 and all_of_them.states[-1].shape[1] == batch["input_ids"].shape[1]
    assert_same(few.states[-1], all_of_them.states[-1][:, :1])
    assert_same(few.logits[0], all_of_them.logits[0])
    assert hidden_loss(few, few, space.largest(), batch["attention_mask"]).item() == 0.0


def test_kept_tokens_are_compared_with_the_teachers_tokens_at_the_same_positions(space, supernet_weights, batch):
    first, *others = space.largest().layers
    dropping = replace(space.largest(), layers=(replace(first, keep_tokens=4), *others))
    mask = batch["attention_mask"]
    with torch.no_grad():
        teacher = _knowledge(supernet_weights, batch)
        found = _knowledge(BertSupernet(supernet_weights).extract(dropping), batch)
        positions = found.positions[1]
        assert [state.shape[1] for state in found.states] == [11, 4, 4, 4]
        assert (positions[:, 0] == 0).all() and all(len(set(row.tolist())) == 4 for row in positions)
        assert (mask.gather(1, positions)[mask.sum(dim=1) >= 4] == 1).all()
        # The first layer itself does not differ, so the tokens that it keeps are equal to the teacher's.
        exact = (teacher.states[0], teacher.states[1].gather(1, positions[:, :, None].expand(-1, -1, 32)))
        assert_same(found.states[1], exact[1])
        loss = _loss(found, teacher, dropping, mask, LossWeights(0.0, 1.0, 0.5))
    assert loss.isfinite() and loss > 0


def test_relations_are_compared_if_the_last_layer_shares_its_attention(space, supernet_weights, batch):
    *others, last = space.largest().layers
    architecture = replace(space.largest(), layers=(*others, replace(last, attention="share", num_attention_heads=0)))
    with torch.no_grad():
        found = _knowledge(BertSupernet(supernet_weights).extract(architecture), batch)
        teacher = _knowledge(supernet_weights, batch)
        loss = _loss(found, teacher, architecture, batch["attention_mask"], LossWeights(0.0, 0.0, 1.0))
    assert loss.isfinite() and loss > 0


@pytest.mark.parametrize("every_token", [True, False])
@pytest.mark.parametrize("choice", ["int8", "low_rank(4)", "low_rank(4)+int8"])
def test_compressed_projections_of_the_last_layer_are_recorded_in_training(choice, every_token, teacher, batch):
    """Inputs are quantised once for query, key and value, but these modules must still run, because they have hooks."""
    space = mixed_space()
    weights = SupernetWeights.of(from_stock(teacher), space.dimensions.hidden_size, space.compression)
    weights.fit([batch])
    supernet = BertSupernet(weights)
    layers = tuple(replace(layer, attention=choice) for layer in space.largest().layers)
    architecture = replace(space.largest(), layers=layers)
    with recorded_projections(supernet.skeleton(architecture)) as projections:
        output = supernet.run(architecture, **batch, output_hidden_states=True, every_token=every_token)
        found = Knowledge.of(output, projections)
    tokens = batch["input_ids"].shape[1]
    assert [tuple(part.shape) for part in projections[-3:]] == [
        (5, tokens if every_token else 1, 32),
        (5, tokens, 32),
        (5, tokens, 32),
    ]
    assert len(found.projections) == 3
    if every_token:
        with torch.no_grad():
            known = _knowledge(weights, batch)
        _loss(found, known, architecture, batch["attention_mask"], LossWeights(0.0, 0.0, 1.0)).backward()
        attention = supernet.weights.layers[-1].attention.self
        for part in (attention.query, attention.key, attention.value):
            assert any(value.grad is not None and value.grad.abs().sum() > 0 for value in part.parameters())


def test_hidden_states_of_padding_do_not_affect_the_loss(space, supernet_weights, batch):
    with torch.no_grad():
        states = _knowledge(supernet_weights, batch).states
        spoilt = tuple(state + 100.0 * (1 - batch["attention_mask"][:, :, None]) for state in states)
        assert hidden_loss(_known(spoilt), _known(states), space.largest(), batch["attention_mask"]).item() == 0.0


def _relation_loss(student, teacher, mask):
    """Return the loss of one projection of the student against one of the teacher, each (texts, tokens, features)."""
    return relation_loss(*(Knowledge((), (), (None, None), [each]) for each in (student, teacher)), mask)


@pytest.mark.parametrize("features", [1, 4])
def test_relations_are_compared_by_their_divergence_for_any_number_of_features(features):
    """The student relates two tokens equally. In the teacher, the second one is related to itself three times as much.

    The divergence is 0 for the first token. For the second one, it is 1/4 log(1/2) + 3/4 log(3/2) = 0.130812.
    """
    teacher = torch.zeros(1, 2, features)
    teacher[0, 1] = (math.log(3.0) / features**0.5) ** 0.5  # its scaled product with itself is log 3
    found = _relation_loss(torch.zeros(1, 2, 1), teacher, torch.ones(1, 2, dtype=torch.long))
    assert_same(found, 0.065406)


def test_relations_do_not_depend_on_padding():
    generator = torch.Generator().manual_seed(0)
    student, teacher = (torch.randn(2, 5, features, generator=generator) for features in (8, 16))
    mask = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]])
    texts = ((slice(0, 1), slice(5)), (slice(1, 2), slice(3)))
    without_padding = sum(_relation_loss(student[text], teacher[text], mask[text]) for text in texts) / 2
    assert_same(_relation_loss(student, teacher, mask), without_padding)
    student[1, 3:], teacher[1, 3:] = -50.0, 50.0
    assert_same(_relation_loss(student, teacher, mask), without_padding)


def test_the_loss_of_a_batch_is_the_mean_of_the_losses_of_its_halves(space, supernet_weights, batch):
    """Several processes can therefore train like a single one."""
    batch = {name: tensor[:4] for name, tensor in batch.items()}
    smallest = BertSupernet(supernet_weights).extract(space.smallest())

    def loss(part):
        with torch.no_grad():
            found, target = _knowledge(smallest, part), _knowledge(supernet_weights, part)
            weights = LossWeights(1.0, 1.0, 1.0)
            return _loss(found, target, space.smallest(), part["attention_mask"], weights).item()

    halves = [loss({name: tensor[start : start + 2] for name, tensor in batch.items()}) for start in (0, 2)]
    assert_same(loss(batch), sum(halves) / 2)


@pytest.mark.slow
def test_training_brings_the_smallest_sub_network_closer_to_the_teacher(space, config, data, tmp_path, batch):
    weights = randomise(CompactBert(config))
    student = copy.deepcopy(weights)
    _distillation(weights, data, tmp_path / "run", 40).train_supernet(student, sandwich(space, 2, "spread", 0))

    def distance(model):
        with torch.no_grad():
            target, found = _knowledge(weights, batch), _knowledge(BertSupernet(model).extract(space.smallest()), batch)
            return _loss(found, target, space.smallest(), batch["attention_mask"], LossWeights()).item()

    assert distance(student) < 0.9 * distance(weights)


def test_training_on_a_cpu_does_not_use_fused_attention(space, config, data, tmp_path, monkeypatch):
    forbid_fused_attention(monkeypatch)
    weights = randomise(CompactBert(config))
    _distillation(weights, data, tmp_path / "run", 1).train_supernet(weights, sandwich(space, 1, "spread", 0))


@pytest.mark.slow
def test_interrupted_training_resumes_and_ends_with_the_same_weights(space, config, data, tmp_path, monkeypatch):
    weights = randomise(CompactBert(config))
    straight = copy.deepcopy(weights)
    _distillation(weights, data, tmp_path / "straight", 17).train_supernet(straight, sandwich(space, 1, "spread", 0))

    class Killed(BaseException):
        """Ends the training as a signal would."""

    step = DistillationTrainer.gradients

    def stops_in_the_second_epoch(self, *arguments, **keywords):
        if self.state.global_step == 15:
            raise Killed
        return step(self, *arguments, **keywords)

    broken = copy.deepcopy(weights)
    training = _distillation(weights, data, tmp_path / "broken", 17)
    monkeypatch.setattr(DistillationTrainer, "gradients", stops_in_the_second_epoch)
    with pytest.raises(Killed):
        training.train_supernet(broken, sandwich(space, 1, "spread", 0))
    monkeypatch.setattr(DistillationTrainer, "gradients", step)
    half_written = tmp_path / "broken" / "checkpoints" / "checkpoint-13"
    half_written.mkdir()
    (half_written / "trainer_state.json").write_text('{"global_st')
    resumed = copy.deepcopy(weights)
    training.train_supernet(resumed, sandwich(space, 1, "spread", 0))
    for name, parameter in straight.named_parameters():
        assert_same(resumed.get_parameter(name), parameter, of=name)


@pytest.mark.slow
def test_a_loss_that_is_not_finite_stops_the_training_and_leaves_the_last_good_checkpoint(
    space, config, data, tmp_path, monkeypatch
):
    weights = randomise(CompactBert(config))
    step = DistillationTrainer.gradients

    def spoilt_at_nine(self, *arguments):
        return step(self, *arguments) * (float("nan") if self.state.global_step == 8 else 1.0)

    monkeypatch.setattr(DistillationTrainer, "gradients", spoilt_at_nine)
    with pytest.raises(TrainingError, match=r"nan at step 9; lower the learning_rate"):
        _distillation(weights, data, tmp_path / "run", 30).train_supernet(weights, sandwich(space, 1, "spread", 0))
    checkpoints = tmp_path / "run" / "checkpoints"
    assert last_complete(checkpoints) == checkpoints / "checkpoint-6"
    kept = CompactBert.from_pretrained(checkpoints / "checkpoint-6")
    assert all(torch.isfinite(parameter).all() for parameter in kept.parameters())


@pytest.mark.slow
def test_checkpoints_of_another_space_are_refused_with_the_difference(space, config, data, tmp_path):
    weights = randomise(CompactBert(config))
    begun = {"search_space": {"dimensions": {"hidden_size": [16, 32]}}}
    _distillation(weights, data, tmp_path / "run", 6, begun).train_supernet(weights, sandwich(space, 1, "spread", 0))
    other = {"search_space": {"dimensions": {"hidden_size": [32]}}}
    with pytest.raises(TrainingError, match=r"search_space.dimensions.hidden_size = \[16, 32\], which is \[32\] now"):
        _distillation(weights, data, tmp_path / "run", 6, other).train_supernet(
            weights, sandwich(space, 1, "spread", 0)
        )


@pytest.mark.slow
def test_checkpoints_need_no_unpickling_and_only_the_last_two_are_kept(space, config, data, tmp_path):
    weights = randomise(CompactBert(config))
    _distillation(weights, data, tmp_path / "run", 20).train_supernet(weights, sandwich(space, 1, "spread", 0))
    folders = sorted(path.name for path in (tmp_path / "run" / "checkpoints").glob("checkpoint-*"))
    assert folders == ["checkpoint-18", "checkpoint-20"]
    files = [path for path in (tmp_path / "run" / "checkpoints").rglob("*") if path.is_file()]
    assert {path.suffix for path in files if path.name != "complete"} == {".safetensors", ".json"}
    boards = list((tmp_path / "run" / "tensorboard").glob("events.*"))
    assert bool(boards) == is_tensorboard_available() and all(b"train/loss" in path.read_bytes() for path in boards)


@pytest.mark.slow
def test_a_single_sub_network_can_be_trained_separately(space, config, data, tmp_path):
    weights = randomise(CompactBert(config))
    model = BertSupernet(weights).extract(compress_all(space.smallest(), "int8"))
    before = copy.deepcopy(model.state_dict())
    _distillation(weights, data, tmp_path / "one", 5).train_subnetwork(model, "Fine-tuning")
    assert any(not torch.equal(before[name], value) for name, value in model.state_dict().items())


@pytest.mark.slow
@pytest.mark.parametrize("killed", ["never", "in the third epoch", "after the end", "after the end, then moved"])
def test_fine_tuning_keeps_the_best_epoch_and_stops_when_patience_is_exhausted(data, tmp_path, monkeypatch, killed):
    """Four of five epochs run, and the weights of the second one are kept, even if the training is killed once."""
    judged, kills = [], []

    class Killed(BaseException):
        """Ends the training as a signal would."""

    def kill(when):
        if killed.startswith(when) and not kills:
            kills.append(True)
            raise Killed

    def all_finite(model):
        kill("after the end")
        return True

    def judge(network):
        if len(judged) == 2:
            kill("in the third epoch")
        judged.append({name: value.clone() for name, value in network.state_dict().items()})
        return (0.6, 0.9, 0.8, 0.7, 0.95)[len(judged) - 1]

    monkeypatch.setattr("nas.supernet.loops.all_finite", all_finite)
    steps = len(data.train) // 64  # per epoch
    schedule = Schedule(1e-3, 64, epochs=5.0, checkpoint_steps=steps, patience=2)
    folder = tmp_path / "run"
    training = FineTuning(data.train, make_tokenizer(), schedule, folder, 0, {}, judge)
    if killed != "never":
        with pytest.raises(Killed):
            training.tune(_stock())
    if killed.endswith("moved"):
        folder = folder.rename(tmp_path / "moved")
    model = _stock()
    replace(training, folder=folder).tune(model)
    log = read_json(folder / LOG_FILE, TrainingError)
    assert [(entry["epoch"], entry["eval_accuracy"]) for entry in log if "eval_accuracy" in entry] == [
        (1, 0.6), (2, 0.9), (3, 0.8), (4, 0.7),
    ]  # fmt: skip
    for name, value in model.state_dict().items():
        assert_same(value, judged[1][name], of=name)
    assert any(not torch.equal(judged[0][name], value) for name, value in judged[1].items())


def _stock():
    torch.manual_seed(0)
    return make_teacher("bert", 2)


def test_a_checkpoint_that_was_partly_deleted_is_not_used(tmp_path):
    for step in (10, 20):
        folder = tmp_path / f"checkpoint-{step}"
        folder.mkdir()
        for name in (
            "model.safetensors", "optimizer.safetensors", "trainer.json", "random-0.json", "trainer_state.json",
            "complete",
        ):  # fmt: skip
            (folder / name).touch()
    assert last_complete(tmp_path) == tmp_path / "checkpoint-20"
    (tmp_path / "checkpoint-20" / "trainer.json").unlink()
    assert last_complete(tmp_path) == tmp_path / "checkpoint-10"
    assert not (tmp_path / "checkpoint-20").exists()


def test_each_worker_gets_as_many_units_as_all_nodes_have_room_for():
    assert most_per_worker([8, 4], 2) == 4, "with 6, only the first node would have room for a worker"
    assert most_per_worker([8, 4], 3) == 4 and most_per_worker([7], 3) == 2 and most_per_worker([1, 1], 2) == 1
    assert most_per_worker([2], 3) == most_per_worker([], 1) == 0


@pytest.mark.slow
def test_two_processes_train_like_a_single_one(finished_study, tmp_path, monkeypatch):
    """Two workers of Ray Train share each batch for more than an epoch: same loss, nearly the same weights."""
    # This starts one process fewer, and checks the workers more often than every two seconds.
    monkeypatch.setenv("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")
    monkeypatch.setenv("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.2")
    from nas.pipeline import Run, train
    from nas.study import Study

    study = Study.load(finished_study)
    shutil.copytree(finished_study.parent / "runs", tmp_path / "runs")  # with its teacher
    settings = study.supernet.model_copy(update={"workers": 2})
    two = Run.of(study.model_copy(update={"supernet": settings}), tmp_path / "runs")
    one = Run.of(study, finished_study.parent / "runs")  # trained in one process
    shutil.rmtree(two.supernet)
    train(two)
    losses = [read_json(run.supernet / LOG_FILE, TrainingError)[-1]["train_loss"] for run in (one, two)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
    # AdamW divides each gradient by its size, so rounding can move a weight with a tiny gradient as far as any other
    # weight. The largest difference is therefore meaningless, but few gradients are that small. Relative to the
    # distance that training moved all weights, their difference is 0.0004, even if the two workers use only SSE
    # instructions. It is 0.013 if gradients are summed instead of averaged, 0.12 if the batches come in another order,
    # and 0.15 if each worker keeps its own gradients.
    start, ends = _weights(one.ordered_teacher), [_weights(run.supernet) for run in (one, two)]
    assert (ends[0] - ends[1]).norm() < 0.01 * (ends[0] - start).norm()


def _weights(folder):
    """Return all weights in a folder as one vector."""
    return torch.cat([tensor.flatten() for _, tensor in sorted(load_file(folder / "model.safetensors").items())])


def test_given_logits_replace_those_of_the_teacher(supernet_weights, space, data, tmp_path):
    """The given logits contradict the teacher's own ones, so a student can learn them only from the given ones."""
    teacher = copy.deepcopy(supernet_weights)
    own = _answers(teacher, data.train)
    given = -3.0 * (own - own.mean(axis=0))
    schedule = Schedule(3e-3, 32, steps=60)
    kind, losses = task_kind("classification"), LossWeights(hidden=0.0)
    tokenizer = make_tokenizer()
    training = Distillation(teacher, data.train, tokenizer, schedule, losses, tmp_path, 0, {}, kind, logits=given)
    student = BertSupernet(supernet_weights).extract(space.largest())
    before = _agreement(_answers(student, data.train), given)
    training.train_subnetwork(student, "Training")
    assert before < 0.3 and _agreement(_answers(student, data.train), given) > 0.7


def test_given_logits_must_be_computed_for_the_training_texts(supernet_weights, space, data, tmp_path):
    logits = np.zeros((len(data.train) - 1, 3), dtype=np.float32)
    training = Distillation(
        copy.deepcopy(supernet_weights), data.train, make_tokenizer(), Schedule(1e-3, 32, steps=1), LossWeights(),
        tmp_path, 0, {}, task_kind("classification"), logits=logits,
    )  # fmt: skip
    with pytest.raises(TrainingError, match=f"logits must be given for each of the {len(data.train)} training"):
        training.train_subnetwork(BertSupernet(supernet_weights).extract(space.largest()), "Training")


def _answers(model, texts):
    return predict(forward_of(model.eval()), batches_by_length(texts))


def _agreement(one, other):
    return float((one.argmax(axis=1) == other.argmax(axis=1)).mean())


def test_replacing_a_method_that_transformers_trainer_lacks_is_refused():
    def _save_something_new(self):
        """The Trainer of transformers has no such method."""

    with pytest.raises(
        TrainingError, match="must have the method _save_something_new, which nas replaces, but lacks it"
    ):
        replaces(_save_something_new)
