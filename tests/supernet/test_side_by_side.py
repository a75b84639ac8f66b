"""Training steps give the same result with several threads as with one, and are reproducible."""

from __future__ import annotations

import copy

import pytest
import torch
from tiny import make_teacher, make_tokenizer, prepare_rows, randomise
from torch.nn import functional
from transformers import DataCollatorWithPadding

from nas.model.stock import from_stock
from nas.supernet.distillation import LossWeights
from nas.supernet.loops import Schedule, training_arguments
from nas.supernet.sampling import sandwich
from nas.supernet.side_by_side import SeededDropout, SideBySideTrainer, balanced, split
from nas.supernet.training import DistillationTrainer, of_one
from nas.tasks import task_kind


@pytest.fixture
def data(tmp_path):
    return prepare_rows(tmp_path, 300, 30)


@pytest.fixture
def threads():
    """Return the function that sets the number of torch's threads. The number is restored after the test."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


def _settings(model, folder, data, steps=3):
    about = training_arguments(model.config, folder, Schedule(1e-3, 64, steps=steps), seed=0)
    about.save_strategy, about.logging_steps = "no", 1
    collator = DataCollatorWithPadding(make_tokenizer())
    return {"args": about, "train_dataset": data.train, "data_collator": collator}


def _distillation(weights, space, data, folder, random_subnets=2, teacher=None):
    """Return a trainer of a copy of the weights, and that copy."""
    model = copy.deepcopy(weights)
    trainer = DistillationTrainer(
        model=model,
        teacher=teacher or copy.deepcopy(weights),
        students=of_one(sandwich(space, random_subnets, "spread", 0)),
        losses=LossWeights(relations=0.5),
        kind=task_kind("classification"),
        **_settings(model, folder, data) | {"train_dataset": data.train.remove_columns("labels")},
    )
    return trainer, model


def _distil(weights, space, data, folder):
    """Train a copy of the weights for three steps, and return the weights and the losses."""
    trainer, model = _distillation(weights, space, data, folder)
    trainer.train()
    return model.state_dict(), [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


def _fine_tune(model, data, folder):
    model = copy.deepcopy(model)
    model.set_attn_implementation("eager")
    SideBySideTrainer(model=model, **_settings(model, folder, data)).train()
    return model.state_dict()


def _difference(found, expected):
    """Return the largest difference between weights, relative to the largest weight of the same name."""
    return max(float((found[name] - value).abs().max() / value.abs().max()) for name, value in expected.items())


@pytest.mark.parametrize("count", [2, 5])
def test_the_supernet_learns_the_same_with_any_number_of_threads(
    supernet_weights, space, data, tmp_path, threads, count
):
    threads(1)
    weights, losses = _distil(supernet_weights, space, data, tmp_path)
    assert _difference(supernet_weights.state_dict(), weights) > 1e-3
    threads(count)
    found, found_losses = _distil(supernet_weights, space, data, tmp_path)
    assert found_losses == pytest.approx(losses, rel=1e-4)
    # Adam divides gradients by their size, so rounding decides the direction of the step if a gradient is nearly zero.
    assert _difference(found, weights) < 1e-2


def test_a_step_of_several_threads_has_the_gradients_of_one_thread(supernet_weights, space, data, tmp_path, threads):
    texts = data.train.remove_columns(["length", "labels"])
    batch = DataCollatorWithPadding(make_tokenizer())([dict(texts[number]) for number in range(40)])

    def gradients(count):
        threads(count)
        trainer, model = _distillation(supernet_weights, space, data, tmp_path, random_subnets=3)
        assert len(trainer.work_of_threads(dict(batch))) == count
        with trainer.threads():
            loss = trainer.gradients(dict(batch))
        return loss, {name: value.grad for name, value in model.named_parameters() if value.grad is not None}

    (loss, expected), (other, found) = gradients(1), gradients(4)
    torch.testing.assert_close(other, loss, rtol=1e-5, atol=0.0)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert (found[name] - value).abs().max() <= 1e-5 * value.abs().max() + 1e-9, name


def test_fine_tuning_with_threads_is_reproducible_and_learns_the_same_without_dropout(data, tmp_path, threads):
    noisy = randomise(make_teacher("distilbert", 2))
    quiet = copy.deepcopy(noisy)
    for module in quiet.modules():
        for name in ("p", "dropout_prob"):
            if isinstance(getattr(module, name, None), float):
                setattr(module, name, 0.0)
    threads(1)
    expected = _fine_tune(quiet, data, tmp_path)
    threads(3)
    apart = _difference(_fine_tune(quiet, data, tmp_path), expected)
    assert apart < 1e-2
    first, second = _fine_tune(noisy, data, tmp_path), _fine_tune(noisy, data, tmp_path)
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert _difference(first, expected) > 3 * apart  # dropout has an effect


def test_an_error_in_a_thread_ends_the_training(supernet_weights, space, data, tmp_path, threads):
    threads(2)
    teacher = from_stock(randomise(make_teacher("bert", 3)))
    teacher.bert.embeddings.word_embeddings.register_forward_hook(lambda *_: 1 / 0)
    trainer, _ = _distillation(supernet_weights, space, data, tmp_path, teacher=teacher)
    with pytest.raises(ZeroDivisionError):
        trainer.train()


def test_threads_get_about_equal_work_and_begin_with_the_items_that_others_wait_for():
    def work(number):
        return None

    items = {cost: (cost, lambda number: None) for cost in (9.0, 4.0, 3.0, 2.0)}
    first = (1.0, work)
    shares = balanced([first], list(items.values()), 2)
    assert shares[0] == [work, items[4.0][1], items[3.0][1], items[2.0][1]]
    assert shares[1] == [items[9.0][1]]
    assert balanced([first], list(items.values()), 1) == [[work, *(items[cost][1] for cost in (9.0, 4.0, 3.0, 2.0))]]


def test_items_that_others_wait_for_come_first_in_each_thread_whatever_they_cost():
    """Otherwise, if the first item failed, a second one behind it would never run, and others would wait forever."""
    first, rest = [(0.0, lambda number, part=part: None) for part in range(3)], [(5.0, lambda number: None)] * 3
    assert [work[0] for work in balanced(first, rest, 3)] == [work for _, work in first]


def test_the_parts_of_a_batch_contain_each_text_once():
    inputs = {"input_ids": torch.arange(14).view(7, 2), "labels": torch.arange(7)}
    parts = split(inputs, 3)
    assert [len(part["labels"]) for part, _ in parts] == [2, 2, 3]
    assert torch.cat([part["input_ids"] for part, _ in parts]).equal(inputs["input_ids"])
    assert [share for _, share in parts] == pytest.approx([2 / 7, 2 / 7, 3 / 7])
    assert len(split(inputs, 0)) == 1 and len(split(inputs, 99)) == 7


@pytest.mark.parametrize("device", ["cpu", *(["cuda"] if torch.cuda.is_available() else [])])
def test_seeded_dropout_depends_only_on_its_seed(device):
    ones = torch.ones(10_000, device=device)

    def dropped(seed, **about):
        with SeededDropout(seed, device):
            return functional.dropout(ones, 0.2, **about)

    assert dropped(1).equal(dropped(1)) and not dropped(1).equal(dropped(2))
    assert set(dropped(1).tolist()) == {0.0, 1.25} and float(dropped(1).mean()) == pytest.approx(1.0, abs=0.02)
    assert dropped(1, training=False) is ones
