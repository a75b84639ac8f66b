"""Regressions train in the same way on any scale of targets, and their outputs have the scale of the data."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from datasets import Dataset
from tiny import PAIR_STUDY, make_teacher, write_pair_study
from torch import nn
from transformers import AutoModelForSequenceClassification

from nas.data import TaskData, batches_by_length
from nas.data.files import write_table
from nas.evaluate import Evaluator, predict
from nas.evaluate.accuracy import forward_of
from nas.model.stock import from_stock
from nas.pipeline.commands import prepare_teacher
from nas.pipeline.run import Run
from nas.pipeline.supernets import distillation
from nas.pipeline.teachers import scale_of
from nas.study import Study
from nas.supernet import BertSupernet, SupernetWeights
from nas.supernet.loops import Schedule
from nas.supernet.scale import STANDARD, Scale, last_linear
from nas.tasks import Correlation

SCALES = [(1000.0, 5000.0), (1e-4, -0.01)]


def test_a_scale_can_be_restored_in_a_layer_and_removed_again():
    layer, values = nn.Linear(4, 1), torch.randn(100, 4)
    before = layer(values).detach()
    scale = Scale.of([4000.0, 5000.0, 6000.0])
    assert scale == Scale(5000.0, pytest.approx(816.496581))
    scale.restore_in(layer)
    torch.testing.assert_close(layer(values), before * 816.496581 + 5000.0)
    with scale.removed_from(layer):
        torch.testing.assert_close(layer(values), before, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(layer(values), before * 816.496581 + 5000.0)
    assert Scale.of([3.0, 3.0]) == Scale(3.0, 1.0) and Scale(3.0, 2.0).standardised([5.0, 1.0]) == [1.0, -1.0]


def test_equal_values_have_the_deviation_1_even_if_their_mean_is_rounded():
    assert np.std([3.3] * 7) > 0.0
    assert Scale.of([3.3] * 7) == Scale(pytest.approx(3.3), 1.0)


def test_a_scale_can_be_restored_for_a_while_without_changing_any_bit_of_the_layer():
    layer, values = nn.Linear(4, 1), torch.randn(100, 4)
    before, parameters = layer(values).detach(), [each.detach().clone() for each in layer.parameters()]
    with Scale(0.3, 0.7).restored_in(layer):
        torch.testing.assert_close(layer(values), before * 0.7 + 0.3)
    assert all(torch.equal(found, expected) for found, expected in zip(layer.parameters(), parameters, strict=True))
    with Scale(0.3, 0.7).restored_in(None), STANDARD.restored_in(layer):
        assert torch.equal(layer(values), before)


@pytest.mark.parametrize("kind", ["bert", "roberta", "distilbert", "electra"])
def test_scaling_the_last_linear_layer_scales_the_outputs(kind):
    model = make_teacher(kind, 1).eval()
    ids = torch.randint(4, 90, (3, 7))
    with torch.no_grad():
        before = model(ids).logits
        Scale(-20.0, 8.0).restore_in(last_linear(model))
        torch.testing.assert_close(model(ids).logits, before * 8.0 - 20.0)


def _outputs(model, data):
    return predict(forward_of(model.eval()), batches_by_length(data.search))[:, 0]


def _study(folder, factor, shift):
    """Write a study of a regression over pairs, with scaled targets, and return its file."""
    study = write_pair_study(folder / "pairs")
    study.write_text(PAIR_STUDY.replace("epochs = 4.0", "epochs = 2.0"))
    for name in ("train", "test"):
        path = study.parent / f"{name}.parquet"
        rows = Dataset.from_parquet(str(path), keep_in_memory=True)
        targets = [label * factor + shift for label in rows["label"]]
        write_table(rows.remove_columns("label").add_column("label", targets), path)
    return study


def _trained(folder, factor, shift):
    """Fine-tune a teacher on scaled targets, and train a sub-network to imitate it.

    Returns the run, its data, the outputs of both networks, and the Pearson correlation of the teacher.
    """
    run = Run.of(Study.load(_study(folder, factor, shift)), folder / "runs")
    data = prepare_teacher(run)
    teacher = AutoModelForSequenceClassification.from_pretrained(run.teacher)
    space = run.study.space
    weights = SupernetWeights.of(from_stock(teacher), space.dimensions.hidden_size, space.compression, False)
    weights.save_pretrained(run.ordered_teacher)
    small = BertSupernet(weights).extract(space.smallest())
    training = distillation(run, Schedule(2e-3, 16, steps=20), folder / "training", {})
    training.train_subnetwork(small, "small")
    found = Evaluator(BertSupernet(weights), data.search, Correlation("pearson")).evaluate(space.largest())
    return run, data, _outputs(teacher, data), _outputs(small, data), found.accuracy


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    return _trained(tmp_path_factory.mktemp("plain"), 1.0, 0.0)


@pytest.mark.parametrize(("factor", "shift"), SCALES)
def test_targets_of_any_scale_train_alike_and_outputs_have_their_scale(plain, factor, shift, tmp_path):
    _, data, teacher, small, pearson = plain
    assert pearson > 0.3 and np.corrcoef(small, teacher)[0, 1] > 0.3  # both have learnt something
    _, _, scaled_teacher, scaled_small, scaled_pearson = _trained(tmp_path, factor, shift)
    spread = np.std(data.search["labels"])
    for expected, found in ((teacher, scaled_teacher), (small, scaled_small)):
        np.testing.assert_allclose((found - shift) / factor, expected, atol=0.05 * spread)
    assert scaled_pearson == pytest.approx(pearson, abs=0.01)


def test_the_scale_of_a_run_is_that_of_the_teachers_outputs(plain):
    run, data, teacher, *_ = plain
    scale = scale_of(run)
    assert (scale.mean, scale.deviation) == pytest.approx((teacher.mean(), teacher.std()), rel=1e-4)
    assert abs(scale.mean - np.mean(TaskData.load(run.data).train["labels"])) < 0.5 * np.std(data.search["labels"])


def test_a_trained_head_is_reused_for_targets_on_another_scale(plain, tmp_path):
    first, *_ = plain
    study = _study(tmp_path, -1000.0, 70.0)
    study.write_text(
        study.read_text().replace("epochs = 2.0, learning_rate = 3e-3", "epochs = 0.01, learning_rate = 1e-9")
    )
    AutoModelForSequenceClassification.from_pretrained(first.teacher).save_pretrained(study.parent / "teacher")
    run = Run.of(Study.load(study), tmp_path / "runs")
    data = prepare_teacher(run)
    taken, labels = AutoModelForSequenceClassification.from_pretrained(run.teacher), data.search["labels"]
    found = _outputs(taken, data)
    assert abs(np.corrcoef(found, labels)[0, 1]) > 0.9
    assert (found.mean(), found.std()) == pytest.approx((np.mean(labels), np.std(labels)), rel=0.1)


def test_uninformative_outputs_are_not_magnified():
    targets = np.linspace(0.0, 1.0, 200)
    noise = np.random.default_rng(0).normal(size=200)
    assert Scale.to_remove(7.0 + 1e-3 * targets, targets).deviation == pytest.approx(1e-3 * targets.std())
    assert Scale.to_remove(7.0 + 1e-3 * noise, targets) == Scale(pytest.approx(7.0, abs=1e-3), 1.0)
    assert Scale.to_remove(9.0 * noise, targets).deviation == pytest.approx(9.0, rel=0.2)
    assert Scale.to_remove(np.full(200, 5.0), targets) == Scale(5.0, 1.0)


def test_a_teacher_that_is_not_fine_tuned_keeps_its_scale_with_a_warning(tmp_path, capsys):
    study = write_pair_study(tmp_path / "pairs")
    study.write_text(PAIR_STUDY.replace("fine_tune", "# fine_tune"))
    run = Run.of(Study.load(study), tmp_path / "runs")
    prepare_teacher(run)
    assert "are on a different scale from the labels (2." in capsys.readouterr().err
    given, taken = (
        AutoModelForSequenceClassification.from_pretrained(folder) for folder in (study.parent / "teacher", run.teacher)
    )
    assert all(torch.equal(taken.state_dict()[name], value) for name, value in given.state_dict().items())


def test_the_standard_scale_changes_no_weights():
    layer = nn.Linear(4, 3)
    weight = layer.weight.detach().clone()
    with STANDARD.removed_from(layer):
        assert torch.equal(layer.weight, weight)
    assert torch.equal(layer.weight, weight)
