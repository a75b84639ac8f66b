"""Training of a supernet, of a single sub-network or of a cohort, by distillation from the teacher.

The pipeline describes a training run as a `Distillation` and calls its methods, such as `train_supernet` and
`train_cohort`. `DistillationTrainer` and `CohortTrainer` compute the steps.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar, cast

import numpy as np
import torch
from datasets import Dataset, concatenate_datasets
from torch import distributed, nn
from transformers import (
    DataCollatorWithPadding,
    PreTrainedTokenizerBase,
    TrainerCallback,
    TrainerControl,
    TrainerState,
)

from nas.architecture import Architecture
from nas.data.truth import groups_of
from nas.errors import TrainingError
from nas.model import CompactBert, CompactBertConfig
from nas.supernet.augmentation import TokenReplacement
from nas.supernet.checkpoints import replaces
from nas.supernet.cohort import Cohort, Halving
from nas.supernet.distillation import Knowledge, LossWeights, distillation_loss, recorded_projections
from nas.supernet.loops import Schedule, run_trainer, training_arguments
from nas.supernet.orders import ByGroup
from nas.supernet.outputs import TeacherOutputs
from nas.supernet.rates import default_learning_rate
from nas.supernet.sampling import Draws
from nas.supernet.scale import STANDARD, Scale
from nas.supernet.side_by_side import SideBySideTrainer, Work, balanced, split
from nas.supernet.speed import seconds_per_step
from nas.supernet.supernet import BertSupernet
from nas.tasks import GROUP, TaskKind
from nas.threads import replica

_FIXED_TOKENS = 256
"""The fixed time of a forward or backward pass, expressed as the number of tokens that take equally long to compute."""
_PART_TOKENS = 1024
"""A batch is split into about one part per this many tokens, but at least into half as many parts as there are threads.
More parts would take longer, because each part has a fixed cost.
"""
AccuracyOf = Callable[[CompactBert], float]
"""A function that returns the accuracy of a network."""
Student = tuple[int, Architecture]
"""A sub-network to train: the index of the network that holds its weights, and its architecture."""

T = TypeVar("T", bound="DistillationTrainer")
_ACCURACY_PREFIX = "accuracy_"
"""The prefix of the log keys of accuracies. For example, the key `accuracy_2` holds the accuracy of the network with
index 2.
"""


class DistillationTrainer(SideBySideTrainer):
    """A Trainer that distils the teacher into students. `students` returns the students of a step, given its number.

    `model` is a network whose weights the students share, such as a supernet, or a `Cohort`. With `rates_by_size`, each
    network of `model` is trained with its own `default_learning_rate` instead of the Trainer's learning rate. If the
    texts have `labels`, these are logits (batch, num_labels) from which the students learn instead of the logits of
    `teacher`. If the texts have a column `GROUP`, the texts of a group are kept together, because the kind of task
    compares them with each other.
    """

    rates_by_size = False

    def __init__(
        self,
        *,
        model: nn.Module,
        teacher: CompactBert,
        students: Callable[[int], list[Student]],
        losses: LossWeights,
        kind: TaskKind,
        replacement: TokenReplacement | None = None,
        outputs: TeacherOutputs | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(model=model, **kwargs)
        self.replacement = replacement
        self.outputs = outputs
        # On a CPU, the backward pass of fused attention is several times slower for short texts.
        attention = "eager" if self.args.device.type == "cpu" else "sdpa"
        self.supernets = [
            [BertSupernet(network, attention) for network in _networks(replica)] for replica in self.replicas
        ]
        teacher.config._attn_implementation = attention
        teacher.eval().requires_grad_(False)
        nn.Module.to(teacher, self.args.device)
        self.teachers = [teacher, *(replica(teacher) for _ in self.replicas[1:])]
        self.students = students
        self.losses = replace(losses, relative_hidden=teacher.config.norm_first)
        self.kind = kind

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        optimizer = super().create_optimizer(model)
        if self.rates_by_size:
            groups = []
            for network in _networks(cast(nn.Module, self.model)):
                rate, parameters = default_learning_rate(network), set(network.parameters())
                groups += [
                    group | {"params": [each for each in group["params"] if each in parameters], "lr": rate}
                    for group in optimizer.param_groups
                ]
            optimizer.param_groups[:] = groups
        return optimizer

    def order(self, mega_batch_size: int) -> Any:
        groups = groups_of(cast(Dataset, self.train_dataset))
        if groups is None:
            return super().order(mega_batch_size)
        return ByGroup(groups, self._lengths, mega_batch_size, self.args.seed, self.epoch)

    @replaces
    def _set_signature_columns_if_needed(self) -> None:
        super()._set_signature_columns_if_needed()
        self._signature_columns: Any = [*dict.fromkeys((*self._signature_columns, GROUP))]

    def gradients(self, inputs: dict[str, Any]) -> torch.Tensor:
        """Compute the gradients of a step and return its loss. Both are averaged over all processes."""
        return self._averaged_over_processes(super().gradients(inputs))

    def work_of_threads(self, inputs: dict[str, torch.Tensor]) -> list[list[Work]]:
        if self.replacement:
            inputs = self.replacement(inputs, self.state.global_step)
        count, tokens = len(self.replicas), inputs["input_ids"].numel()
        # The work on one part can be divided evenly among only about two threads, so more threads need more parts.
        parts = split(inputs, min(count, max(-(-count // 2), tokens // _PART_TOKENS)))
        students, config = self.students(self.state.global_step), self.teachers[0].config
        teaching, distilling = list[tuple[float, Work]](), list[tuple[float, Work]]()
        for part, share in parts:
            target, length = Future[Knowledge](), _FIXED_TOKENS + share * tokens
            logits, groups = part.pop("labels", None), part.pop(GROUP, None)
            teacher_cost = 0.0 if self.outputs else length * _cost(config, config.architecture)
            teaching.append((teacher_cost, partial(self._teach, part, logits, target)))
            for student in students:
                # A backward pass takes twice as long as a forward pass.
                cost = 3 * length * _cost(config, student[1])
                weight = share * self.weight(len(students))
                distilling.append((cost, partial(self._distil, student, part, groups, target, weight)))
        return balanced(teaching, distilling, count)

    def _teach(
        self, inputs: dict[str, torch.Tensor], logits: torch.Tensor | None, target: Future[Knowledge], number: int
    ) -> None:
        """Set the result of `target` to the teacher's outputs for a part of the batch.

        If `logits` is not None, it replaces the teacher's logits.
        """
        try:
            knowledge = self.outputs.recall(inputs) if self.outputs else None
            knowledge = knowledge or self._teacher_knowledge(self.teachers[number], inputs)
            target.set_result(knowledge if logits is None else replace(knowledge, logits=(logits,)))
        except BaseException as problem:
            target.set_exception(problem)
            raise

    def _teacher_knowledge(self, teacher: CompactBert, inputs: dict[str, torch.Tensor]) -> Knowledge:
        # Relations need all tokens of the last layer; the other losses need only the tokens of the readout.
        options = {"output_hidden_states": True, "every_token": self.losses.relations > 0, "details": True}
        with torch.no_grad(), self.accelerator.autocast(), recorded_projections(teacher) as projections:
            return Knowledge.of(teacher(**inputs, **options), projections)

    def _distil(
        self,
        student: Student,
        inputs: dict[str, torch.Tensor],
        groups: torch.Tensor | None,
        target: Future[Knowledge],
        weight: float,
        number: int,
    ) -> torch.Tensor:
        """Multiply a student's loss on a part of the batch by `weight`, add the gradients, and return the product."""
        network, architecture = student
        supernet, every_token = self.supernets[number][network], self.losses.relations > 0
        with self.accelerator.autocast(), recorded_projections(supernet.skeleton(architecture)) as projections:
            output = supernet.run(architecture, **inputs, output_hidden_states=True, every_token=every_token)
            knowledge = Knowledge.of(output, projections)
            mask = inputs["attention_mask"]
            loss = distillation_loss(knowledge, target.result(), architecture, mask, self.losses, self.kind, groups)
        self.accelerator.backward(loss * weight)
        return loss.detach() * weight

    def weight(self, students: int) -> float:
        """Return the weight of each student's loss in a step with `students` students.

        In this class, the losses are averaged, because the sub-networks share weights.
        """
        return 1.0 / students

    def _averaged_over_processes(self, loss: torch.Tensor) -> torch.Tensor:
        """Replace the gradients and the loss with their means over all processes. Return the loss."""
        if self.accelerator.num_processes > 1:
            parameters = self.replicas[0].parameters()
            tensors = [loss, *(parameter.grad for parameter in parameters if parameter.grad is not None)]
            flat = torch.cat([tensor.flatten() for tensor in tensors])
            distributed.all_reduce(flat)
            flat /= self.accelerator.num_processes
            for tensor, mean in zip(tensors, flat.split([tensor.numel() for tensor in tensors]), strict=True):
                tensor.copy_(mean.view_as(tensor))
        return loss


class CohortTrainer(DistillationTrainer):
    """A Trainer that trains each network of a cohort independently, until `halving` drops the network.

    `accuracy_of` returns the accuracy of a network in its current state. The accuracies at rungs are stored in the
    Trainer's log, so that a resumed training run drops the same networks as an uninterrupted one.
    """

    def __init__(self, *, model: Cohort, halving: Halving, accuracy_of: AccuracyOf, **kwargs: Any) -> None:
        super().__init__(model=model, students=self._remaining_students, **kwargs)
        self.halving, self.accuracy_of = halving, accuracy_of
        self.add_callback(_RungCallback(self))

    def accuracies(self) -> list[dict[int, float]]:
        """Return one dictionary per rung reached so far: the accuracies of the networks, keyed by network index."""
        return [
            {
                int(key.removeprefix(_ACCURACY_PREFIX)): value
                for key, value in entry.items()
                if key.startswith(_ACCURACY_PREFIX)
            }
            for entry in self.state.log_history
            if any(key.startswith(_ACCURACY_PREFIX) for key in entry)
        ]

    def remaining(self) -> list[int]:
        """Return the indices of the networks that have not been dropped."""
        return sorted(set().union(*self.halving.kept(self.accuracies())))

    def measure_remaining(self) -> None:
        """Measure the accuracies of the networks that have not been dropped, and write them to the Trainer's log."""
        with self.all_threads():
            self.log(
                {f"{_ACCURACY_PREFIX}{number}": self.accuracy_of(self._network(number)) for number in self.remaining()}
            )

    def stop(self, number: int) -> None:
        """Stop training a network by setting its gradients to None.

        If the gradients were zero instead, the optimiser would still change the weights, because of its moments and the
        weight decay.
        """
        for model in self.replicas:
            _networks(model)[number].zero_grad(set_to_none=True)

    def weight(self, students: int) -> float:
        return 1.0

    def _remaining_students(self, step: int) -> list[Student]:
        return [(number, self._network(number).config.architecture) for number in self.remaining()]

    def _network(self, number: int) -> CompactBert:
        assert isinstance(self.model, Cohort)
        return self.model.networks[number]

    @replaces
    def _clip_grad_norm(self, model: nn.Module) -> torch.Tensor:
        """Clip the gradient norm of each network separately. Return the norm over all networks."""
        norms = [
            self.accelerator.clip_grad_norm_(self._network(number).parameters(), self.args.max_grad_norm)
            for number in self.remaining()
        ]
        return torch.stack([norm for norm in norms if norm is not None]).norm()


class _RungCallback(TrainerCallback):
    """A callback that compares the networks at each rung and stops the networks that `halving` drops."""

    def __init__(self, trainer: CohortTrainer) -> None:
        self.trainer = trainer

    def on_step_end(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if state.global_step in self.trainer.halving.rungs:
            before = self.trainer.remaining()
            self.trainer.measure_remaining()
            control.should_save = True
            for number in set(before) - set(self.trainer.remaining()):
                self.trainer.stop(number)


def of_one(architectures: Draws) -> Callable[[int], list[Student]]:
    """Return a `students` function for `DistillationTrainer`. All students use the weights of network 0."""
    return lambda step: [(0, architecture) for architecture in architectures(step)]


def _networks(model: nn.Module) -> list[CompactBert]:
    """Return the networks of a cohort, or only `model` itself if it is a single network."""
    if isinstance(model, Cohort):
        return model.networks
    assert isinstance(model, CompactBert)
    return [model]


def _cost(config: CompactBertConfig, architecture: Architecture) -> float:
    """Return the approximate cost per token of a network's layers.

    Each weight costs 1, or 1.5 if it is compressed.
    """
    hidden, total = architecture.hidden_size, 0.0
    for layer in architecture.resolved:
        width = layer.num_attention_heads * config.attention_head_size
        for choice, size in ((layer.attention, 4 * width), (layer.feed_forward, 2 * layer.intermediate_size)):
            total += hidden * size * (1.0 if choice == "none" else 1.5)
    return total


def _with_labels(texts: Dataset, labels: np.ndarray | None) -> Dataset:
    """Return tokenised texts whose labels are the rows of `labels`. If `labels` is None, they have no labels."""
    texts = texts.remove_columns([name for name in texts.column_names if name == "labels"])
    if labels is None:
        return texts
    if len(texts) != len(labels):
        raise TrainingError(
            f"the teacher's logits must be given for each of the {len(texts)} training texts, but there are logits for "
            f"{len(labels)} texts; compute the logits again"
        )
    return concatenate_datasets([texts, Dataset.from_dict({"labels": list(labels)})], axis=1)


@dataclass(frozen=True)
class Distillation:
    """All inputs to a distillation run, except the networks being trained."""

    teacher: CompactBert
    train: Dataset
    """Tokenised texts. Their labels are ignored. If the kind of task compares the texts of a group, they need the
    column `GROUP`.
    """
    tokenizer: PreTrainedTokenizerBase
    schedule: Schedule
    losses: LossWeights
    folder: Path
    seed: int
    origin: dict[str, Any]
    """The inputs of this training run as JSON values. Checkpoints that were written with different inputs are refused.
    """
    kind: TaskKind
    """The kind of task, which defines the loss of the logits."""
    replaced_tokens: float = 0.0
    """The mean fraction of a text's tokens that are replaced at random."""
    train_embeddings: bool = False
    """Whether the token embeddings are also trained. They start as the teacher's embeddings, and are half of the
    weights of a small BERT.
    """
    scale: Scale = STANDARD
    """The mean and standard deviation of a regression's outputs, which are standardised during training."""
    outputs: TeacherOutputs | None = None
    """The stored outputs of the teacher for the texts. If None, the teacher's outputs are computed in every step."""
    logits: np.ndarray | None = None
    """Logits (texts, num_labels) that the networks learn instead of the logits of `teacher`, or None. If outputs are
    standardised, these logits must be standardised too. If they are set, `replaced_tokens` must be 0.
    """

    def train_supernet(self, weights: CompactBert, draws: Draws) -> None:
        """Train the supernet in place. Each step trains the sub-networks that `draws` returns for that step."""
        self._run(self._supernet_trainer(weights, draws), [weights], "Training the supernet")

    def time_supernet(self, weights: CompactBert, draws: Draws, warm_up: int) -> float:
        """Return the mean number of seconds per step of `train_supernet`, measured after `warm_up` steps.

        The steps change `weights`, so discard `weights` after this call.
        """
        return self._timed_steps(self._supernet_trainer(weights, draws), [weights], warm_up)

    def _supernet_trainer(self, weights: CompactBert, draws: Draws) -> DistillationTrainer:
        return self._trainer(DistillationTrainer, weights, students=of_one(draws))

    def train_subnetwork(self, model: CompactBert, title: str) -> None:
        """Train one extracted sub-network in place, without dropout."""
        architecture = model.config.architecture
        self._run(
            self._trainer(DistillationTrainer, model, students=of_one(lambda step: [architecture])), [model], title
        )

    def train_cohort(
        self,
        networks: Sequence[CompactBert],
        halving: Halving,
        accuracy_of: AccuracyOf,
        title: str,
    ) -> list[dict[int, float]]:
        """Train several networks together in place, each of them until `halving` drops it.

        Each network is trained in the same way as by `train_subnetwork`. Returns one dictionary per rung and one for
        the end of training. Each dictionary holds the accuracies of the networks that had not been dropped before,
        keyed by network index.
        """

        def accuracy_at_rung(network: CompactBert) -> float:
            with self.scale.restored_in(network.classifier):
                return accuracy_of(network)

        trainer = self._trainer(CohortTrainer, Cohort(networks), halving=halving, accuracy_of=accuracy_at_rung)
        self._run(trainer, networks, title)
        # The Trainer's logging integrations have been closed, so the last accuracies are not written to its log.
        return [*trainer.accuracies(), {number: accuracy_of(networks[number]) for number in trainer.remaining()}]

    def time_cohort(self, networks: Sequence[CompactBert], warm_up: int) -> float:
        """Return the mean number of seconds per step of `train_cohort`, measured after `warm_up` steps.

        No network is dropped during the measurement. The steps change `networks`, so discard `networks` after this
        call.
        """
        students = [(number, network.config.architecture) for number, network in enumerate(networks)]
        trainer = self._trainer(DistillationTrainer, Cohort(networks), students=lambda step: students)
        return self._timed_steps(trainer, networks, warm_up)

    def _trainer(self, kind: type[T], model: nn.Module, **kwargs: Any) -> T:
        for network in _networks(model):
            table = network.bert.embeddings.word_embeddings
            for matrix in table.parameters():  # matrices without one row per token are always trained
                matrix.requires_grad_(self.train_embeddings or matrix.shape[0] != table.rows)
        share, special = self.replaced_tokens, self.tokenizer.all_special_ids
        trainer = kind(
            model=model,
            teacher=self.teacher,
            losses=self.losses,
            kind=self.kind,
            replacement=TokenReplacement(self.train, special, share, self.seed) if share else None,
            outputs=self.outputs,
            args=training_arguments(self.teacher.config, self.folder, self.schedule, self.seed),
            train_dataset=_with_labels(self.train, self.logits),
            data_collator=DataCollatorWithPadding(self.tokenizer),
            processing_class=self.tokenizer,
            **kwargs,
        )
        trainer.rates_by_size = self.schedule.learning_rate is None
        return trainer

    def _run(self, trainer: DistillationTrainer, networks: Sequence[CompactBert], title: str) -> None:
        with self._standardised(networks):
            run_trainer(trainer, title, self.folder, self.origin, self.schedule.watchers)
        for network in networks:
            network.cpu().eval().requires_grad_(True)

    def _timed_steps(self, trainer: DistillationTrainer, networks: Sequence[CompactBert], warm_up: int) -> float:
        with self._standardised(networks):
            return seconds_per_step(trainer, warm_up)

    def _standardised(self, networks: Sequence[CompactBert]) -> AbstractContextManager[None]:
        return self.scale.removed_from(*(network.classifier for network in networks), self.teacher.classifier)
