"""Estimates how many seconds each step takes, from the settings, the texts and the measured speed of this machine.

`nas check` shows the estimates. If a study sets `training.hours`, the estimates also determine how much time is left
for training and search.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from nas.data import TaskData
from nas.evaluate.recipe import judged_by
from nas.model.precision import native_bf16
from nas.pipeline.rows import Rows
from nas.search.selection import FLOOR_FACTOR
from nas.search.uniform import most_uniform
from nas.study import Study

_CANDIDATE_SHARE = 0.25
"""Assumed operations of an average candidate that meets a budget, as a fraction of the largest network's."""
_TYPICAL_LENGTH_SHARE = 1 / 3
"""Assumed mean text length as a fraction of `max_length`, if the rows are not on this machine."""
_ASSUMED_ROWS = 20_000
"""Assumed number of training rows, if the rows are not on this machine."""
_MEASUREMENT_SECONDS = 2.0
"""Seconds that the end-to-end measurement of one candidate takes."""
_WRITING_SECONDS = 3.0
"""Seconds that an export takes in addition to its verification."""
_EFFICIENCY = 0.35
"""The speed of training and evaluation loops as a fraction of the measured speed of matrix products."""


@dataclass(frozen=True)
class Workload:
    """The quantities from which the time of each step is estimated: texts, tokens, operations and machine speed."""

    rows: int
    """Number of training rows."""
    tokens: float
    """Mean number of tokens per training text."""
    judged: int
    """Number of texts on which each candidate is evaluated."""
    operations: float
    """Operations per token in the layers of the search space's largest network, counting only matrix products."""
    rate: float
    """Operations per second that this machine reached in a measured matrix product."""
    baselines_seconds: float | None = None
    """Seconds that were needed to write and measure the baselines of all devices; None until all baselines exist."""
    slowness: float = 1.0
    """The time that the slowest device profile took, relative to its estimate; at least 1, and 1 without a profile."""
    unlabelled: int = 0
    """Number of unlabelled texts."""
    unlabelled_tokens: float = 0.0
    """Mean number of tokens per unlabelled text."""
    judged_tokens: float = 0.0
    """Mean number of tokens per text on which candidates are evaluated. If it is 0 (unknown), `tokens` is used."""
    teacher_operations: float = 0.0
    """Operations per token of the separate teacher from which the study's `[student]` learns.

    The value is 0 if no separate teacher has to be run, or if the number of operations is unknown.
    """

    @classmethod
    def of(cls, study: Study, rows: Rows | None, rate: float) -> Workload:
        """Return the workload of a study, given a description of its rows. If `rows` is None, assume typical data."""
        training_set = rows.sets["train"] if rows else None
        assumed_judged = study.task.holdout.size_of(_ASSUMED_ROWS)
        unlabelled_set = rows.sets.get("unlabelled") if rows else None
        return cls(
            rows=training_set.rows if training_set else _ASSUMED_ROWS,
            tokens=max(8.0, training_set.mean if training_set else study.task.max_length * _TYPICAL_LENGTH_SHARE),
            judged=rows.judged if rows else min(assumed_judged, study.search.examples or assumed_judged),
            judged_tokens=rows.sets["search"].mean if rows else 0.0,
            operations=2.0 * study.space.teacher.layer_weights,
            rate=rate,
            unlabelled=unlabelled_set.rows if unlabelled_set else 0,
            unlabelled_tokens=unlabelled_set.mean if unlabelled_set else 0.0,
        )

    @classmethod
    def of_data(cls, study: Study, data: TaskData, rate: float, unlabelled: Sequence[int]) -> Workload:
        """Return the workload of a study, given its tokenised data.

        `unlabelled` holds the number of tokens of each unlabelled text.
        """
        judged = judged_by(data.search, study.search.examples, study.search.least_tokens)
        lengths, judged_lengths = data.train["length"], judged["length"]
        return cls(
            rows=len(lengths),
            tokens=max(8.0, sum(lengths) / len(lengths)),
            judged=len(judged_lengths),
            judged_tokens=sum(judged_lengths) / len(judged_lengths),
            operations=2.0 * study.space.teacher.layer_weights,
            rate=rate,
            unlabelled=len(unlabelled),
            unlabelled_tokens=sum(unlabelled) / max(1, len(unlabelled)),
        )

    @property
    def distilled(self) -> Workload:
        """The workload of the distillation: a copy in which `rows` counts both labelled and unlabelled texts."""
        texts = self.rows + self.unlabelled
        tokens = (self.rows * self.tokens + self.unlabelled * self.unlabelled_tokens) / texts
        return replace(self, rows=texts, tokens=tokens, unlabelled=0)

    @property
    def by_teacher(self) -> Workload:
        """A copy of the workload whose `operations` are those of the separate teacher, if they are known."""
        return replace(self, operations=self.teacher_operations or self.operations)

    def seconds(self, texts: float) -> float:
        """Estimate the seconds that a forward pass of the largest network takes on `texts` texts of mean length.

        Training on these texts takes three times as long.
        """
        return texts * self.tokens * self.operations / (self.rate * _EFFICIENCY)

    @property
    def judging_seconds(self) -> float:
        """The estimated seconds that the largest network needs for the texts on which candidates are evaluated."""
        return replace(self, tokens=max(8.0, self.judged_tokens or self.tokens)).seconds(self.judged)


def embedded(study: Study, work: Workload) -> float:
    """Estimate the seconds needed to create the built-in task."""
    return 15.0


def data(study: Study, work: Workload) -> float:
    """Estimate the seconds needed to read, split and tokenise the rows.

    If the teacher's outputs serve as labels, the estimate includes the time to compute these outputs, and assumes that
    the test set is as large as the search set.
    """
    return _reading(work) + (2 * work.judging_seconds if study.task.evaluated_on == "texts" else 0.0)


def _reading(work: Workload) -> float:
    return 1.0 + work.rows * work.tokens / 1e5


def unlabelled(study: Study, work: Workload) -> float:
    """Estimate the seconds needed to read the rows again, and to read and tokenise the unlabelled texts."""
    return _reading(work) + work.unlabelled * work.unlabelled_tokens / 1e5


def teacher(study: Study, work: Workload) -> float:
    """Estimate the seconds needed to load the teacher or, if the study asks for fine-tuning, to fine-tune it."""
    tuning = study.compressed.fine_tune
    return 3 * work.seconds(work.rows) * tuning.epochs_on(work.rows) if tuning else 5.0


def separate_teacher(study: Study, work: Workload) -> float:
    """Estimate the seconds needed to fine-tune the separate teacher from which the study's `[student]` learns."""
    tuning = study.teacher.fine_tune
    return 3 * work.by_teacher.seconds(work.rows) * tuning.epochs_on(work.rows) if tuning else 0.0


def teacher_logits(study: Study, work: Workload) -> float:
    """Estimate the seconds needed to compute the logits of the separate teacher from which a `[student]` learns.

    The estimate includes the time to tokenise all texts for that teacher. If the study reads the logits from columns of
    the data, the estimate covers only the time to read the data.
    """
    if not study.teacher.is_loaded:
        return unlabelled(study, work)
    distilled = work.distilled
    return unlabelled(study, work) + distilled.by_teacher.seconds(distilled.rows)


def supernet(study: Study, work: Workload) -> float:
    """Estimate the seconds needed to train the supernet."""
    settings = study.supernet
    # Each step has one forward pass of the teacher, and a forward and a backward pass of each sub-network, which count
    # as three forward passes. The sub-networks are either near the budgets, or they are the largest one and random ones
    # of about half its size.
    networks_near_budgets = _CANDIDATE_SHARE * (settings.random_subnets + 2)
    passes = 1 + 3 * (networks_near_budgets if study.is_near_budgets else 1 + 0.5 * settings.random_subnets)
    return work.distilled.seconds(settings.steps * settings.batch_size) * passes


def profile(study: Study, work: Workload) -> float:
    """Estimate the seconds needed to measure the latency profile of one device."""
    space = study.space
    blocks = len(space.options("attention")) + len(space.options("feed_forward"))
    return 20 + 0.4 * blocks * len(space.dimensions.hidden_size)


def search(study: Study, work: Workload) -> float:
    """Estimate the seconds needed to evaluate all candidates of the search."""
    return study.search.evaluations * evaluation(study, work)


def evaluation(study: Study, work: Workload) -> float:
    """Estimate the seconds needed to evaluate one candidate."""
    return _CANDIDATE_SHARE * work.judging_seconds


def front(study: Study, work: Workload) -> float:
    """Estimate the seconds needed to measure the best candidates, and to evaluate the teacher and uniform baselines.

    If the study sets `training.hours`, the estimate leaves out the uniform baselines of budgets without an accuracy
    floor, because the search has already evaluated these baselines.
    """
    measuring_seconds = (
        _count_candidate_lists(study) * study.export.candidates + len(study.budgets)
    ) * _MEASUREMENT_SECONDS
    uniform_networks = most_uniform(
        study.space, sum(budget.has_floor or not study.training.hours for budget in study.budgets)
    )
    return measuring_seconds * work.slowness + work.judging_seconds + uniform_networks * evaluation(study, work)


def baselines(study: Study, work: Workload) -> float:
    """Estimate the seconds needed to write and verify one device's baselines: the teacher, and the teacher in int8."""
    return 15.0


def static(study: Study, work: Workload) -> float:
    """Estimate the seconds needed to fit and measure one device's static model, a classifier of averaged embeddings."""
    return 10.0


def finalists(study: Study, work: Workload) -> float:
    """Estimate the seconds of the final training, assuming that on average half of the finalists are being trained."""
    settings, work = study.export, work.distilled
    passes = 1 + 3 * _CANDIDATE_SHARE * _count_candidate_lists(study) * settings.finalists / 2
    return passes * work.seconds(study.final_steps(work.rows) * settings.batch_size)


def export(study: Study, work: Workload) -> float:
    """Estimate the seconds needed to write and verify the export for one budget.

    Once the baselines exist, the verification is assumed to take half as long as the baselines took, since each device
    has two large baselines.
    """
    return 15.0 if work.baselines_seconds is None else _WRITING_SECONDS + work.baselines_seconds / 2


def _count_candidate_lists(study: Study) -> int:
    """Return the number of budgets, counting each budget with an accuracy floor `FLOOR_FACTOR` times."""
    return sum(FLOOR_FACTOR if budget.has_floor else 1 for budget in study.budgets)


def measured_rate() -> float:
    """Measure the operations per second of a matrix product, in the precision that training on the CPU uses."""
    dtype = torch.bfloat16 if native_bf16("cpu") else torch.float32
    matrix = torch.ones(768, 768, dtype=dtype)
    matrix @ matrix
    started = time.perf_counter()
    for _ in range(10):
        matrix @ matrix
    return 10 * 2 * 768**3 / (time.perf_counter() - started)
