"""Estimates of how many seconds steps take, from the settings, the texts and the measured speed of this machine."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from nas.architecture import Architecture
from nas.data import TaskData
from nas.model.precision import native_bf16
from nas.pipeline.rows import Rows
from nas.search.selection import WIDER
from nas.search.uniform import most_uniform
from nas.study import Study

_SMALL = 0.25
"""Share of the teacher's operations that an average candidate under budget takes."""
_TYPICAL_SHARE = 1 / 3
"""The length of a text as a share of max_length, for estimates when the rows are not on this machine."""
_UNSEEN_ROWS = 20_000
"""Training rows, for the same estimates."""
_MEASURED = 2.0
"""Seconds that measuring one candidate whole takes."""
_WRITING = 3.0
"""Seconds that an export takes beside what its verification does."""
_EFFICIENCY = 0.35
"""Share of the measured matrix rate that whole training and evaluation loops reach."""


@dataclass(frozen=True)
class Workload:
    """The number and length of a study's texts, the operations that they take, and the speed of this machine."""

    rows: int
    """Training rows."""
    tokens: float
    """Mean tokens of a text."""
    judged: int
    """Texts that a candidate is judged by."""
    operations: float
    """Operations of the teacher's layers for one token."""
    rate: float
    """Operations a second of a matrix product, as measured."""
    verified: float | None = None
    """Seconds that all baselines took, where they were made."""
    slowness: float = 1.0
    """How many times as long as estimated the devices' profiles took, where they were measured; at least 1."""
    unlabelled: int = 0
    """Texts without labels."""
    unlabelled_tokens: float = 0.0
    """Mean tokens of one of them."""
    teacher_operations: float = 0.0
    """Operations of a student's teacher for one token."""

    @classmethod
    def of(cls, study: Study, rows: Rows | None, rate: float, verified: float | None = None) -> Workload:
        """The workload of a study; typical numbers where its rows are not known."""
        train = rows.sets["train"] if rows else None
        more = rows.sets.get("unlabelled") if rows else None
        return cls(
            rows=train.rows if train else _UNSEEN_ROWS,
            tokens=max(8.0, train.mean if train else study.task.max_length * _TYPICAL_SHARE),
            judged=rows.judged if rows else study.task.holdout.size_of(_UNSEEN_ROWS),
            operations=_operations(study.space.largest(), study.space.teacher.head_size),
            rate=rate,
            verified=verified,
            unlabelled=more.rows if more else 0,
            unlabelled_tokens=more.mean if more else 0.0,
        )

    @classmethod
    def of_data(
        cls, study: Study, data: TaskData, rate: float, verified: float | None = None, unlabelled: Sequence[int] = ()
    ) -> Workload:
        """The workload of a study whose data is made. `unlabelled` are the lengths of its texts without labels."""
        lengths = data.train["length"]
        return cls(
            rows=len(lengths),
            tokens=max(8.0, sum(lengths) / len(lengths)),
            judged=len(data.search),
            operations=_operations(study.space.largest(), study.space.teacher.head_size),
            rate=rate,
            verified=verified,
            unlabelled=len(unlabelled),
            unlabelled_tokens=sum(unlabelled) / max(1, len(unlabelled)),
        )

    @property
    def distilled(self) -> Workload:
        """The workload with all texts of the distillation in place of the training rows."""
        texts = self.rows + self.unlabelled
        tokens = (self.rows * self.tokens + self.unlabelled * self.unlabelled_tokens) / texts
        return replace(self, rows=texts, tokens=tokens, unlabelled=0)

    @property
    def by_teacher(self) -> Workload:
        """The workload with the operations of a student's teacher in place of the student's."""
        return replace(self, operations=self.teacher_operations or self.operations)

    def seconds(self, texts: float) -> float:
        """Seconds of the teacher's forward pass over so many texts; with the backward pass, three times as many."""
        return texts * self.tokens * self.operations / (self.rate * _EFFICIENCY)


def embedded(study: Study, work: Workload) -> float:
    """Building the embedded task."""
    return 15.0


def data(study: Study, work: Workload) -> float:
    """Reading, splitting and tokenising the rows."""
    return 1.0 + work.rows * work.tokens / 1e5


def unlabelled(study: Study, work: Workload) -> float:
    """Reading the rows again, and reading and tokenising text without labels."""
    return data(study, work) + work.unlabelled * work.unlabelled_tokens / 1e5


def teacher(study: Study, work: Workload) -> float:
    """Loading or fine-tuning the teacher."""
    tuning = study.compressed.fine_tune
    return 3 * work.seconds(work.rows) * tuning.epochs_on(work.rows) if tuning else 5.0


def separate_teacher(study: Study, work: Workload) -> float:
    """Fine-tuning the teacher of a student."""
    tuning = study.teacher.fine_tune
    return 3 * work.by_teacher.seconds(work.rows) * tuning.epochs_on(work.rows) if tuning else 0.0


def teacher_logits(study: Study, work: Workload) -> float:
    """Tokenising all texts for the teacher of a student, and asking for its answers."""
    if not study.teacher.is_loaded:
        return unlabelled(study, work)
    texts = work.distilled
    return unlabelled(study, work) + texts.by_teacher.seconds(texts.rows)


def supernet(study: Study, work: Workload) -> float:
    """Training the supernet."""
    settings = study.supernet
    # A step: the teacher forward; forward and backward (3 passes) of sub-networks near the budgets, or of the largest
    # and of random ones of half its size.
    near = _SMALL * (settings.random_subnets + 2)
    passes = 1 + 3 * (near if study.is_near_budgets else 1 + 0.5 * settings.random_subnets)
    return work.distilled.seconds(settings.steps * settings.batch_size) * passes


def profile(study: Study, work: Workload) -> float:
    """Measuring the profile of one device."""
    space = study.space
    blocks = len(space.attention_options) + len(space.feed_forward_options)
    return 20 + 0.4 * blocks * len(space.dimensions.hidden_size)


def search(study: Study, work: Workload) -> float:
    """Evaluating the candidates."""
    return study.search.evaluations * evaluation(study, work)


def evaluation(study: Study, work: Workload) -> float:
    """Evaluating one candidate."""
    return _SMALL * work.seconds(work.judged)


def front(study: Study, work: Workload) -> float:
    """Measuring the best candidates, judging the teacher, and evaluating the uniform networks.

    With hours the search evaluates those of budgets without a floor, and counts them.
    """
    measured = (_times_candidates(study) * study.export.candidates + len(study.budgets)) * _MEASURED
    uniform = most_uniform(study.space, sum(budget.has_floor or not study.training.hours for budget in study.budgets))
    return measured * work.slowness + work.seconds(work.judged) + uniform * evaluation(study, work)


def baselines(study: Study, work: Workload) -> float:
    """Writing and verifying the baselines of one device."""
    return 15.0


def static(study: Study, work: Workload) -> float:
    """Fitting and measuring the static model of one device."""
    return 10.0


def finalists(study: Study, work: Workload) -> float:
    """The final training; on average half of the finalists are trained."""
    settings, work = study.export, work.distilled
    passes = 1 + 3 * _SMALL * _times_candidates(study) * settings.finalists / 2
    return passes * work.seconds(study.final_steps(work.rows) * settings.batch_size)


def export(study: Study, work: Workload) -> float:
    """Writing and verifying the export for one budget: it is smaller than the two baselines of each device."""
    return 15.0 if work.verified is None else _WRITING + work.verified / 2


def _times_candidates(study: Study) -> int:
    """How often all budgets together take the candidates and finalists of one."""
    return sum(WIDER if budget.has_floor else 1 for budget in study.budgets)


def measured_rate() -> float:
    """Operations a second of a matrix product, as training uses it."""
    kind = torch.bfloat16 if native_bf16("cpu") else torch.float32
    matrix = torch.ones(768, 768, dtype=kind)
    matrix @ matrix
    started = time.perf_counter()
    for _ in range(10):
        matrix @ matrix
    return 10 * 2 * 768**3 / (time.perf_counter() - started)


def _operations(architecture: Architecture, head_size: int) -> float:
    """Operations for one token, matrix products of the layers only."""
    hidden = architecture.hidden_size
    return sum(
        2.0 * hidden * (4 * layer.num_attention_heads * head_size + 2 * layer.intermediate_size)
        for layer in architecture.resolved
    )
