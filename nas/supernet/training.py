"""Training by distillation from the teacher: all sub-networks of a space at once, or one of them alone."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from torch import distributed, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import DataCollatorWithPadding, EarlyStoppingCallback, PreTrainedTokenizerBase

from nas.architecture import Architecture
from nas.errors import TrainingError
from nas.files import read_json
from nas.model import CompactBertConfig, CompactBertForSequenceClassification
from nas.space import SearchSpace
from nas.supernet.augmentation import TokenReplacement
from nas.supernet.distillation import Knowledge, LossWeights, distillation_loss, last_projections
from nas.supernet.loops import LOG_FILE, Schedule, run_trainer, training_arguments
from nas.supernet.sampling import Sampling, in_stages, sandwich
from nas.supernet.scale import STANDARD, Scale
from nas.supernet.side_by_side import SideBySideTrainer, Work, balanced, split
from nas.supernet.supernet import BertSupernet
from nas.threads import replica

_FIXED_TOKENS = 256
"""What a pass of a network takes however few the tokens, in tokens of that network."""
_PART_TOKENS = 1024
"""Parts of a batch of this many tokens are worth the work that is done once for each part."""
Judge = Callable[[CompactBertForSequenceClassification], float]
"""Tells a network's accuracy."""


class DistillationTrainer(SideBySideTrainer):
    """A Trainer whose step distils the teacher into the sub-networks that `architectures` names for it.

    After an epoch, if the Trainer's settings ask for it, `judge` tells the accuracy of the first of them.
    """

    def __init__(
        self,
        *,
        supernet: BertSupernet,
        teacher: CompactBertForSequenceClassification,
        architectures: Callable[[int], list[Architecture]],
        losses: LossWeights,
        replacement: TokenReplacement | None = None,
        judge: Judge | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(model=supernet.weights, **kwargs)
        self.judge = judge
        self.replacement = replacement
        self.supernet = supernet
        self.supernets = [supernet, *(BertSupernet(copy) for copy in self.replicas[1:])]  # type: ignore[arg-type]
        teacher.eval().requires_grad_(False)
        nn.Module.to(teacher, self.args.device)
        self.teachers = [teacher, *(replica(teacher) for _ in self.replicas[1:])]
        self.architectures = architectures
        self.losses = losses

    def gradients(
        self, model: nn.Module, inputs: dict[str, Any], num_items_in_batch: torch.Tensor | int | None
    ) -> torch.Tensor:
        """Add the gradients of the step's sub-networks, averaged over them; returns their mean loss."""
        with _attention_for_training(self.args.device):
            return self._averaged(super().gradients(model, inputs, num_items_in_batch))

    def lanes(self, inputs: dict[str, torch.Tensor]) -> list[list[Work]]:
        inputs.pop("labels")
        if self.replacement:
            inputs = self.replacement(inputs, self.state.global_step)
        count, tokens = len(self.replicas), inputs["input_ids"].numel()
        # Sub-networks differ in size, so that two threads are about as busy; more threads need parts of the batch.
        parts = split(inputs, min(count, max(-(-count // 2), tokens // _PART_TOKENS)))
        architectures, config = self.architectures(self.state.global_step), self.supernet.weights.config
        teaching, distilling = list[tuple[float, Work]](), list[tuple[float, Work]]()
        for part, share in parts:
            target, length = Future[Knowledge](), _FIXED_TOKENS + share * tokens
            teaching.append((length * _cost(config, config.architecture), partial(self._teach, part, target)))
            for architecture in architectures:
                # A backward pass takes twice as long as a forward pass.
                cost = 3 * length * _cost(config, architecture)
                weight = share / len(architectures)
                distilling.append((cost, partial(self._distil, architecture, part, target, weight)))
        return balanced(teaching, distilling, count)

    def _teach(self, inputs: dict[str, torch.Tensor], target: Future[Knowledge], number: int) -> None:
        """Compute what the sub-networks of a part of the batch are compared with."""
        teacher = self.teachers[number]
        # Relations are those between all tokens of the last layer, of which nothing else needs but the first.
        asked = {"output_hidden_states": True, "every_token": self.losses.relations > 0, "details": True}
        try:
            with torch.no_grad(), self.accelerator.autocast(), last_projections(teacher) as projections:
                target.set_result(Knowledge.of(teacher(**inputs, **asked), projections))
        except BaseException as problem:
            target.set_exception(problem)
            raise

    def _distil(
        self,
        architecture: Architecture,
        inputs: dict[str, torch.Tensor],
        target: Future[Knowledge],
        weight: float,
        number: int,
    ) -> torch.Tensor:
        """Add the gradients of a sub-network's loss on a part of the batch, times `weight`; returns that product."""
        supernet, every_token = self.supernets[number], self.losses.relations > 0
        with self.accelerator.autocast(), last_projections(supernet.skeleton(architecture)) as projections:
            output = supernet.run(architecture, **inputs, output_hidden_states=True, every_token=every_token)
            found = Knowledge.of(output, projections)
            loss = distillation_loss(found, target.result(), architecture, inputs["attention_mask"], self.losses)
        self.accelerator.backward(loss * weight)
        return loss.detach() * weight

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """The accuracy of the network as it would be extracted now, in the numbers that it is exported in."""
        assert self.judge
        model = self.supernet.extract(self.architectures(self.state.global_step)[0])
        with self.all_threads():
            metrics = {"eval_accuracy": self.judge(model.cpu())}
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def _averaged(self, loss: torch.Tensor) -> torch.Tensor:
        """Give every process the mean of all processes' gradients and losses; returns the loss."""
        if self.accelerator.num_processes > 1:
            parameters = self.supernet.weights.parameters()
            tensors = [loss, *(parameter.grad for parameter in parameters if parameter.grad is not None)]
            flat = torch.cat([tensor.flatten() for tensor in tensors])
            distributed.all_reduce(flat)
            flat /= self.accelerator.num_processes
            for tensor, mean in zip(tensors, flat.split([tensor.numel() for tensor in tensors]), strict=True):
                tensor.copy_(mean.view_as(tensor))
        return loss


def _cost(config: CompactBertConfig, architecture: Architecture) -> float:
    """About what the layers of a network compute per token: one for each weight, and half as much for quantisation."""
    hidden, total = architecture.hidden_size, 0.0
    for layer in architecture.resolved:
        width = layer.num_attention_heads * config.attention_head_size
        for choice, size in ((layer.attention, 4 * width), (layer.feed_forward, 2 * layer.intermediate_size)):
            total += hidden * size * (1.0 if choice == "none" else 1.5)
    return total


def _attention_for_training(device: torch.device) -> AbstractContextManager[None]:
    """Plain products and softmax on a CPU: its fused attention's backward pass is five times slower on short texts."""
    return sdpa_kernel(SDPBackend.MATH) if device.type == "cpu" else nullcontext()


@dataclass(frozen=True)
class Distillation:
    """What a training by distillation needs besides the student."""

    teacher: CompactBertForSequenceClassification
    train: Dataset
    tokenizer: PreTrainedTokenizerBase
    schedule: Schedule
    losses: LossWeights
    folder: Path
    seed: int
    origin: dict[str, Any]
    """What this training is made of, as JSON values: checkpoints of something else are refused."""
    replaced_tokens: float = 0.0
    """The mean share of a text's tokens that are replaced at random."""
    train_embeddings: bool = False
    """Whether the word table learns too; it is half of the weights of a small BERT and starts as the teacher's."""
    scale: Scale = STANDARD
    """That of a regression's outputs, which are standardised while the training lasts."""

    def train_supernet(
        self,
        weights: CompactBertForSequenceClassification,
        space: SearchSpace,
        random_subnets: int,
        sampling: Sampling,
        progressive: bool = False,
    ) -> None:
        """Train all sub-networks of a space at once, in place; if `progressive` the large ones first."""

        def draws(stage: SearchSpace) -> Callable[[int], list[Architecture]]:
            return sandwich(stage, random_subnets, sampling, self.seed)

        chosen = in_stages(space, self.schedule.steps, draws) if progressive else draws(space)
        self._train(weights, chosen, "Training the supernet")

    def train_subnetwork(
        self, model: CompactBertForSequenceClassification, title: str, judge: Judge | None = None
    ) -> list[float]:
        """Train one extracted sub-network, in place, without dropout as in the supernet.

        With `judge` it stops as soon as the schedule's patience is at its end, with the weights of the most accurate
        epoch; returns the accuracies after each epoch.
        """
        architecture = model.config.architecture
        self._train(model, lambda step: [architecture], title, judge)
        log = read_json(self.folder / LOG_FILE, TrainingError)
        return [entry["eval_accuracy"] for entry in log if "eval_accuracy" in entry]

    def _train(
        self,
        weights: CompactBertForSequenceClassification,
        architectures: Callable[[int], list[Architecture]],
        title: str,
        judge: Judge | None = None,
    ) -> None:
        table = weights.bert.embeddings.word_embeddings
        for matrix in table.parameters():  # what is as long as the vocabulary is frozen, a projection behind it is not
            matrix.requires_grad_(self.train_embeddings or matrix.shape[0] != table.rows)
        share, special = self.replaced_tokens, self.tokenizer.all_special_ids
        trainer = DistillationTrainer(
            supernet=BertSupernet(weights),
            teacher=self.teacher,
            architectures=architectures,
            losses=self.losses,
            replacement=TokenReplacement(self.train, special, share, self.seed) if share else None,
            judge=judge,
            args=training_arguments(weights, self.folder, self.schedule, self.seed),
            train_dataset=self.train,
            eval_dataset=self.train if judge else None,  # the Trainer insists; `judge` has its own
            callbacks=[EarlyStoppingCallback(self.schedule.patience)] if judge else None,
            data_collator=DataCollatorWithPadding(self.tokenizer),
            processing_class=self.tokenizer,
        )
        with self.scale.out_of(weights.classifier, self.teacher.classifier):
            run_trainer(trainer, title, self.folder, self.origin)
        weights.cpu().eval().requires_grad_(True)
