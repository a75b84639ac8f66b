"""The step that builds the supernet: it orders the teacher's units by importance, then trains the shared weights.

Units are attention heads, neurons of feed-forward blocks, and hidden units. This module also collects the inputs of
distillation, for both this step and the final training in `finalists.py`.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from accelerate import PartialState

from nas.architecture import Architecture
from nas.budget import Budget
from nas.files import digest, draft_folder, write_folder
from nas.model import CompactBert
from nas.model.tokenizer import load_tokenizer
from nas.pipeline.data import splits
from nas.pipeline.division import TIMED_STEPS, WARM_UP_STEPS, supernet_seconds, training_steps
from nas.pipeline.outputs import drop_outputs, keep_outputs, outputs_of
from nas.pipeline.profiles import costs_of
from nas.pipeline.run import Run, once
from nas.pipeline.separate_teacher import logits_inputs, teacher_logits
from nas.pipeline.sources import task_identity, teacher_identity, teacher_inputs
from nas.pipeline.teachers import load_teacher, scale_of
from nas.pipeline.unlabelled import distilled_texts, unlabelled_inputs
from nas.pipeline.watching import watchers_of
from nas.progress import Stopwatch, busy, say, tracked
from nas.report.numbers import duration
from nas.search.costs import Costs
from nas.space import SearchSpace
from nas.study import Export, Study, Supernet
from nas.supernet import SupernetWeights
from nas.supernet.checkpoints import refuse_others, remove_checkpoints
from nas.supernet.distillation import LossWeights
from nas.supernet.importance import measure_importance, reorder
from nas.supernet.loops import Schedule, labelled_batches
from nas.supernet.sampling import Draws, in_stages, near_budgets, sandwich
from nas.supernet.training import Distillation
from nas.tasks import task_kind

_RESULT_VERSION = 4
"""Increase this when the weights or the `_origin` of supernets change, so that older supernets are rebuilt."""


@once
def supernet_inputs(run: Run) -> str:
    """Return the digest of everything that the supernet's weights depend on."""
    return digest(_origin(run))


def _origin(run: Run) -> dict[str, Any]:
    study = run.study
    # Digests of older runs do not contain `progressive`.
    unused = {"workers"} if study.supernet.progressive else {"workers", "progressive"}
    unused |= {"steps"} if study.training.hours else set()
    return {
        "form": _RESULT_VERSION,
        "task": task_identity(run),
        "teacher": teacher_identity(run),
        "files": teacher_inputs(run),
        "search_space": study.space.definition,
        "supernet": study.supernet.model_dump(mode="json", exclude=unused),
        "seed": study.seed,
        **({"unlabelled": unlabelled_inputs(run)} if study.task.unlabelled else {}),
        **({"separate_teacher": logits_inputs(run)} if study.student else {}),
        **({"hours": study.training.hours} if study.training.hours else {}),
        **(_near_budget_settings(study) if study.is_near_budgets else {}),
    }


def _near_budget_settings(study: Study) -> dict[str, Any]:
    """Return the settings that determine which sub-networks are near the budgets: the budgets' limits and devices."""
    limited_budgets = [budget for budget in study.budgets if not budget.has_floor]
    device_names = {device for budget in limited_budgets for device in budget.devices}
    limits = {
        budget.name: [limit.model_dump(mode="json", exclude_none=True) for limit in budget.limits]
        for budget in limited_budgets
    }
    return {
        "budgets": [limits.get(budget.name) for budget in study.budgets],
        "devices": [
            device.model_dump(mode="json", exclude={"repeats"})
            for device in study.devices
            if device.name in device_names
        ],
    }


def _training_origin(run: Run) -> dict[str, Any]:
    """Return the settings and inputs of the supernet's training. Training is resumed only if these are unchanged.

    If the study sets `training.hours`, the result includes the number of steps that was chosen to fit the time.
    """
    if not run.study.training.hours:
        return _origin(run)
    return _origin(run) | {"steps": decided(run, "supernet")}


def decided(run: Run, step: str) -> int | None:
    """Return the number of training steps or evaluations that was chosen for a stage of the study.

    The number is chosen to fit `training.hours`. Return None if it has not been chosen yet.
    """
    return run.get_note(step, "steps") if run.is_started(step) else None


def refuse_other_training(run: Run) -> None:
    """Raise `TrainingError` if the inputs have changed since an unfinished training of the supernet began.

    The pipeline makes this check before it runs any step. If the training has finished, its checkpoints are removed
    first.
    """
    if run.is_finished("supernet"):
        remove_checkpoints(run.supernet)
    refuse_others(run.supernet / "checkpoints", _training_origin(run))


def make_supernet(run: Run, stopwatch: Stopwatch) -> None:
    """Order the teacher's units by importance, then train the supernet from the ordered teacher."""
    workers = run.study.supernet.workers
    torch.manual_seed(run.study.seed)
    if not run.ordered_teacher.exists():
        teacher = load_teacher(run)
        order(run, teacher)
        write_folder(run.ordered_teacher, untrained(run, teacher).save_pretrained)
    stopwatch.end("ordering")
    keep_outputs(run, distilled_texts(run), load_ordered(run))  # before training, so that workers need not do it
    stopwatch.end("outputs")
    if run.study.training.hours and decided(run, "supernet") is None:
        _decide_steps(run, stopwatch)
    origin = _training_origin(run)
    if workers == 1:
        _train_ordered(run, origin)
    else:
        from nas.supernet.ray_training import train_on_workers

        train_on_workers(partial(_train_ordered, run, origin), workers, run.supernet / "ray")
        shutil.rmtree(run.supernet / "ray", ignore_errors=True)
    if not run.study.export.fine_tune:
        drop_outputs(run)


def _decide_steps(run: Run, stopwatch: Stopwatch) -> None:
    """Time a few training steps, and record how many steps fit into the supernet's share of the time left."""
    study, settings = run.study, run.study.supernet
    with busy("Measuring the time per training step"), to_be_timed(run, settings) as training:
        seconds_per_step = training.time_supernet(
            load_ordered(run), draws_of(run, WARM_UP_STEPS + TIMED_STEPS), WARM_UP_STEPS
        )
    stopwatch.end("timing")
    steps = training_steps(supernet_seconds(stopwatch.left, study.export.fine_tune), seconds_per_step)
    run.add_note("supernet", steps=steps, hours=study.training.hours)
    say(
        f"The supernet: {steps:,} steps of {seconds_per_step:.2f} s each "
        f"(time left for training and search: {duration(max(0.0, stopwatch.left))})"
    )


@contextmanager
def to_be_timed(run: Run, settings: Supernet | Export) -> Iterator[Distillation]:
    """Yield a short distillation for measuring the speed. Its temporary folder is removed after the `with` block."""
    schedule = Schedule(settings.learning_rate, settings.batch_size, steps=WARM_UP_STEPS + TIMED_STEPS)
    with draft_folder(run.folder / "timing") as folder:
        yield distillation(run, schedule, folder, {})


def draws_of(run: Run, steps: int) -> Draws:
    """Return a function that draws the sub-networks to train in a step, given the number of the step.

    `steps` is the total number of training steps. If `study.is_near_budgets`, the sub-networks are near the budgets.
    Otherwise, sub-networks of all sizes are drawn.
    """
    study, settings = run.study, run.study.supernet
    if study.is_near_budgets:
        violations = [
            None if budget.has_floor else partial(_violation, costs_of(run), budget) for budget in study.budgets
        ]
        return near_budgets(study.space, violations, settings.random_subnets + 2, study.seed)

    def sandwich_draws(space: SearchSpace) -> Draws:
        sampling: Literal["spread", "uniform"] = "uniform" if settings.sampling == "uniform" else "spread"
        return sandwich(space, settings.random_subnets, sampling, study.seed)

    return in_stages(study.space, steps, sandwich_draws) if settings.progressive else sandwich_draws(study.space)


def _violation(costs: Costs, budget: Budget, architecture: Architecture) -> float:
    """Return by which fraction a sub-network is predicted to exceed a budget; at most 0 if the budget is met.

    If the network has early exits, equally many texts are assumed to exit after each layer.
    """
    depth = len(architecture.layers)
    return costs.cautious_violation(architecture, budget, (1.0 / depth,) * depth if architecture.exit_threshold else ())


def supernet_steps(run: Run) -> int:
    """Return the number of steps of the supernet's training.

    Without `training.hours`, the study sets this number. With `training.hours`, the number is chosen to fit the time
    left, just before training starts.
    """
    decided_steps = decided(run, "supernet") if run.study.training.hours else None
    return decided_steps or run.study.supernet.steps


def _train_ordered(run: Run, origin: dict[str, Any]) -> None:
    """Train the supernet from the ordered teacher, and save the trained weights.

    If the training has several workers, each worker's process calls this function, and the main process saves the
    weights.
    """
    settings = run.study.supernet
    schedule = Schedule(
        settings.learning_rate,
        settings.batch_size,
        steps=supernet_steps(run),
        checkpoint_steps=settings.checkpoint_steps,
        watchers=watchers_of(run),
    )
    weights = load_ordered(run)
    training = distillation(run, schedule, run.supernet, origin)
    training.train_supernet(weights, draws_of(run, schedule.steps))
    if PartialState().is_main_process:
        weights.save_pretrained(run.supernet)


def distillation(run: Run, schedule: Schedule, folder: Path, origin: dict[str, Any]) -> Distillation:
    """Return the inputs of a distillation run, which stores its checkpoints in `folder`."""
    teacher, texts = load_ordered(run), distilled_texts(run)
    return Distillation(
        teacher=teacher,
        train=texts,
        tokenizer=load_tokenizer(run.teacher),
        schedule=schedule,
        losses=loss_weights(run),
        folder=folder,
        seed=run.study.seed,
        origin=origin,
        kind=run.study.task.variant,
        scale=scale_of(run),
        replaced_tokens=run.study.replaced_tokens,
        logits=teacher_logits(run),
        train_embeddings=run.study.supernet.train_embeddings,
        outputs=outputs_of(run, texts, teacher),
    )


def loss_weights(run: Run) -> LossWeights:
    """Return the weights of the terms of the study's distillation loss."""
    settings = run.study.supernet
    return LossWeights(settings.logits_weight, settings.hidden_weight, settings.relation_weight)


def load_ordered(run: Run) -> SupernetWeights:
    """Load the teacher whose units are ordered by importance. The supernet's training starts from this model."""
    return SupernetWeights.from_pretrained(run.ordered_teacher).eval()


def order(run: Run, model: CompactBert) -> None:
    """Reorder a model's units in place, by their importance for the study's task."""
    reorder(model, measure_importance(model, ranking_batches(run, "Measuring the importance of units")))


def untrained(run: Run, largest: CompactBert) -> SupernetWeights:
    """Return an untrained supernet of the study's space with the weights of `largest`, its largest sub-network."""
    space = run.study.space
    has_exits = bool(space.dimensions.exit_threshold)
    weights = SupernetWeights.of(largest, space.dimensions.hidden_size, space.compression, has_exits)
    weights.fit(ranking_batches(run, "Fitting small sub-networks"))
    return weights


def ranking_batches(run: Run, title: str) -> Iterator[dict[str, torch.Tensor]]:
    """Return batches of the training set, to rank units or to fit small sub-networks before the training.

    Iterating over them shows a progress bar with the title `title`.
    """
    settings, tokenizer = run.study.supernet, load_tokenizer(run.teacher)
    count, size, has_words = settings.importance_batches, settings.batch_size, task_kind(run.study.task.kind).has_words
    batches = labelled_batches(splits(run).train, tokenizer, count, size, run.study.seed, has_words)
    return tracked(list(batches), title)
