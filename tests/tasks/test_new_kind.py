"""A new kind of task needs only a class and a line in the registry."""

from __future__ import annotations

import runpy
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from tiny import make_rows, write_tiny_study

from nas.errors import DataError
from nas.files import read_json
from nas.pipeline import Run
from nas.study import Study
from nas.tasks import REGISTRY, Metric, TaskKind, TaskLabels


@dataclass(frozen=True)
class Agreement(Metric):
    """The share of texts whose output has the sign of the label."""

    @property
    def is_share(self):
        return True

    def score(self, logits, labels):
        return float(self.is_correct(logits, labels).mean())

    def answers(self, logits, labels):
        return logits[:, 0] > 0.0

    def is_correct(self, logits, labels):
        return self.answers(logits, labels) == (labels > 0.0)

    def simulated(self, labels, outputs, share, rng):
        return np.where(rng.random(len(labels)) < share, labels, -labels)[:, None]


class Signs(TaskKind):
    """Predict a direction, up or down, from the sign of one output."""

    name = "signs"
    metrics = ("agreement",)
    problem_type = "regression"
    why_no_exits = "a sign has no confidence"
    examples = ({"label": ["up", "down", "down", "up", "up"]},)

    def metric(self, settings, names=()):
        return Agreement(settings.metric)

    def read(self, train, test, head):
        words = {"down": -1.0, "up": 1.0}
        for (column,) in (train, test):
            if not set(column.values) <= words.keys():
                raise DataError(f"{column.place}: must hold up or down; use one of the two")
        return TaskLabels(
            {"train": [words[value] for value in train[0].values], "test": [words[value] for value in test[0].values]},
            ("direction",),
        )

    def accepts(self, problem_type, outputs):
        return outputs == 1

    def counts(self, labels, names):
        return {"direction": len(labels)}

    def divergence(self, student, teacher, groups=None, mask=None):
        return (student.float().tanh() - teacher.float().tanh()).square().mean()


@pytest.fixture
def kind(monkeypatch):
    monkeypatch.setitem(REGISTRY, "signs", Signs())
    return REGISTRY["signs"]


def test_a_new_kind_passes_the_contract_suite(kind, tmp_path):
    suite = runpy.run_path(str(Path(__file__).parents[1] / "contracts" / "test_task_kind.py"))
    suite["test_metrics_and_problem_type_are_valid"](kind)
    suite["test_labels_are_read_alike_from_both_files_and_do_not_change_on_disk"](kind, kind.examples[0], tmp_path)
    suite["test_a_perfect_network_scores_one_and_a_worse_one_less"](kind, "agreement")
    suite["test_a_metric_survives_pickling_and_its_methods_agree_with_its_score"](kind, "agreement")
    suite["test_the_distillation_loss_is_a_mean_over_texts_and_zero_for_equal_logits"](kind)
    suite["test_classifiers_of_transformers_and_of_nas_have_the_same_loss_for_stored_labels"](kind, kind.examples[0])
    suite["test_rows_of_each_label_are_counted"](kind)


@pytest.mark.slow
def test_a_study_with_a_new_kind_runs_end_to_end(kind, tmp_path, nas, simulated_times):
    study = write_tiny_study(tmp_path)
    for name, count, seed in (("train", 1200, 0), ("test", 200, 1)):
        rows = make_rows(count, seed)
        labels = [["down", "up"][label] for label in rows["label"]]
        rows.remove_columns("label").add_column("label", labels).to_parquet(tmp_path / f"{name}.parquet")
    text = study.read_text().replace("max_length = 32", 'kind = "signs"\nmetric = "agreement"\nmax_length = 32')
    study.write_text(text[: text.index('[[budgets]]\nname = "small"')] + text[text.index("[supernet]") :])
    nas("run", study, "--runs", tmp_path / "runs")
    run = Run.of(Study.load(study), tmp_path / "runs")
    found = read_json(run.export("large") / "verification.json", DataError)
    config = read_json(run.export("large") / "config.json", DataError)
    assert found["metric"] == "agreement" and found["accuracy"] > 0.55 and found["accuracy_standard_error"] > 0.0
    assert found["agreement_with_hugging_face"] > 0.98 and config["id2label"] == {"0": "direction"}
    assert "agreement on the test set" in (run.folder / "report.html").read_text()
