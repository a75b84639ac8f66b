"""Checkpoints of a training run: safetensors and JSON files, and a record of the run's inputs.

`SafeTrainer` writes and loads the checkpoints of every training run in this package. `bind` and `refuse_others` ensure
that a training run resumes only from checkpoints that were written with the same inputs. The files are:

checkpoints/
    origin.json                 the inputs of the training run, and their digest
    checkpoint-<step>/
        model.safetensors       the weights, together with config.json if the model is a Hugging Face model
        optimizer.safetensors   the state of the optimiser: one tensor per parameter and moment
        trainer.json            parameter groups of the optimiser, and the learning-rate schedule
        random-<process>.json   the states of the random-number generators in one process
        trainer_state.json      written by transformers' Trainer: step, epoch, log
        complete                an empty file, written last
"""

from __future__ import annotations

import json
import random
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
import transformers
from datasets import Dataset
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import PreTrainedModel, Trainer
from transformers.trainer_callback import PrinterCallback
from transformers.trainer_pt_utils import LengthGroupedSampler

from nas.errors import TrainingError, counted
from nas.files import digest, read_json, write_json

F = TypeVar("F", bound=Callable[..., Any])
_COMPLETE = "complete"
_ORIGIN_FILE = "origin.json"
_WEIGHTS = "model.safetensors"
_FILES = (_WEIGHTS, "optimizer.safetensors", "trainer.json", "random-0.json", "trainer_state.json", _COMPLETE)
"""The files of a complete checkpoint. If a process is killed while the Trainer deletes a checkpoint, only some of them
are left.
"""
_MEGA_BATCH_MULT = 50
"""The Trainer of transformers sorts texts by length within sections of this many batches. If an epoch has fewer than
four such sections, it is divided into about four smaller sections instead.
"""


def replaces(method: F) -> F:
    """Decorate a method that replaces a private method of transformers' Trainer.

    Raises `TrainingError` if the Trainer has no method with the same name. Without this check, the replacement would
    silently have no effect if a version of transformers renamed the method.
    """
    if not hasattr(Trainer, method.__name__):
        raise TrainingError(
            f"transformers {transformers.__version__}: its Trainer must have the method {method.__name__}, which nas "
            "replaces, but lacks it; install the version that nas's constraints.txt requires"
        )
    return method


class _ByLength(LengthGroupedSampler):
    """A sampler that puts texts of similar length into the same batch.

    Its order depends only on the seed and the epoch. The sampler of transformers' Trainer draws from the global
    random-number generator, so a run that is resumed in a later epoch would repeat the order of the first epoch.
    """

    def __init__(self, batch_size: int, lengths: list[int], seed: int, epoch: Callable[[], int]) -> None:
        super().__init__(batch_size, lengths=lengths)
        self._seed, self._epoch = seed, epoch

    def __iter__(self) -> Iterator[int]:
        self.generator = torch.Generator().manual_seed(self._seed * 1_000_003 + self._epoch())
        return super().__iter__()


class SafeTrainer(Trainer):
    """A Trainer that raises an error if the loss is not finite, and whose checkpoints contain no pickled objects.

    Subclasses define `gradients`. The logs of transformers are not printed, because `nas` shows the progress itself.
    A batch has `per_device_train_batch_size` texts in total, regardless of how many processes or GPUs share it. A
    resumed training run uses the same batches as an uninterrupted one. The last batch of an epoch is left out if it is
    incomplete, unless it is the only batch.
    """

    def __init__(self, *, train_dataset: Dataset, **kwargs: Any) -> None:
        super().__init__(train_dataset=train_dataset, **kwargs)
        self.remove_callback(PrinterCallback)
        self.args._n_gpu = min(1, self.args.n_gpu)  # each of several GPUs needs its own process
        self._lengths = list(train_dataset["length"])
        self._restricted_rows: list[int] | None = None
        self.args.dataloader_drop_last = len(self._lengths) >= self.args.train_batch_size

    @replaces
    def _init_training_state(self, *arguments: Any) -> tuple[int, int]:
        start: tuple[int, int] = super()._init_training_state(*arguments)
        if self.state.best_global_step:  # the folder may have been moved since the checkpoint was written
            best = Path(str(self.args.output_dir), f"checkpoint-{self.state.best_global_step}")
            self.state.best_model_checkpoint = str(best)
        # A training run that has stopped early stays stopped. Transformers would forget this and train one more epoch.
        return (self.state.num_train_epochs, 0) if self.control.should_training_stop else start

    def spread(self, warm_up: int, batches: int) -> None:
        """Restrict training to `batches` batches that cover all text lengths, preceded by `warm_up` warm-up batches.

        The `batches` batches are chosen at equal distances from the first `_MEGA_BATCH_MULT` batches of an epoch, which
        are sorted by length, longest texts first. The warm-up uses the first `warm_up` of the chosen batches.
        """
        size, order = self.args.train_batch_size, list(self._get_train_sampler())
        mega_batch = [order[at : at + size] for at in range(0, min(len(order), _MEGA_BATCH_MULT * size), size)]
        full_batches = [batch for batch in mega_batch if len(batch) == len(mega_batch[0])]
        chosen = [full_batches[(2 * number + 1) * len(full_batches) // (2 * batches)] for number in range(batches)]
        self._restricted_rows = [row for batch in (*chosen[:warm_up], *chosen) for row in batch]

    @replaces
    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        if self._restricted_rows is not None:
            return self._restricted_rows
        return self.order(_MEGA_BATCH_MULT * self.args.train_batch_size)

    def order(self, mega_batch_size: int) -> Any:
        """Return a sampler that yields the row numbers of the training texts.

        Each epoch is divided at random into sections of `mega_batch_size` texts, which are sorted by length.
        """
        return _ByLength(self.args.train_batch_size, self._lengths, self.args.seed, self.epoch)

    def epoch(self) -> int:
        """Return the index of the epoch to which the next step belongs. The first epoch has the index 0."""
        return self.state.global_step // max(1, len(self._lengths) // self.args.train_batch_size)

    def training_step(
        self, model: nn.Module, inputs: dict[str, Any], num_items_in_batch: torch.Tensor | int | None = None
    ) -> torch.Tensor:
        loss = self.gradients(inputs)
        if not torch.isfinite(loss):
            raise TrainingError(
                f"{self.args.output_dir}: the loss must be finite, but is {loss.item()} at step "
                f"{self.state.global_step + 1}; lower the learning_rate of this training, remove this folder of "
                "checkpoints and run the command again"
            )
        return loss

    def gradients(self, inputs: dict[str, Any]) -> torch.Tensor:
        """Compute the loss of one step, add its gradients to the parameters' `grad` tensors, and return the loss."""
        raise NotImplementedError

    @replaces
    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        if self.args.should_save:
            assert self.model is not None and output_dir
            if isinstance(self.model, PreTrainedModel):
                self.model.save_pretrained(output_dir)
            else:  # frozen weights do not change, so they are not saved
                folder = Path(output_dir)
                folder.mkdir(parents=True, exist_ok=True)
                weights = {name: value.detach().contiguous() for name, value in _trained(self.model).items()}
                save_file(weights, folder / _WEIGHTS)

    @replaces
    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        model = model or self.model
        if isinstance(model, PreTrainedModel):
            super()._load_from_checkpoint(resume_from_checkpoint, model)
        else:
            assert model is not None
            saved, trained = load_file(Path(resume_from_checkpoint) / _WEIGHTS), _trained(model)
            if differing := saved.keys() ^ trained.keys():
                raise TrainingError(
                    f"{resume_from_checkpoint}: the checkpoint must contain exactly the weights that are trained, but "
                    f"differs from them in {counted(len(differing), 'weight')}; remove the folder to start again"
                )
            model.load_state_dict(saved, strict=False)

    @replaces
    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        if not self.args.should_save:
            return
        assert self.optimizer is not None and self.lr_scheduler is not None
        state = self.optimizer.state_dict()
        tensors = {
            f"{parameter}.{name}": value.contiguous()
            for parameter, moments in state["state"].items()
            for name, value in moments.items()
        }
        save_file(tensors, Path(output_dir) / "optimizer.safetensors")
        values = {"optimizer": state["param_groups"], "scheduler": self.lr_scheduler.state_dict()}
        write_json(Path(output_dir) / "trainer.json", values)

    @replaces
    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if checkpoint is None:
            return
        assert self.optimizer is not None and self.lr_scheduler is not None
        values = read_json(Path(checkpoint) / "trainer.json", TrainingError)
        state: dict[int, dict[str, torch.Tensor]] = {}
        for key, tensor in load_file(Path(checkpoint) / "optimizer.safetensors").items():
            parameter, name = key.split(".")
            state.setdefault(int(parameter), {})[name] = tensor
        self.optimizer.load_state_dict({"state": state, "param_groups": values["optimizer"]})
        self.lr_scheduler.load_state_dict(values["scheduler"])

    def _random_states(self, checkpoint: str) -> Path:
        return Path(checkpoint) / f"random-{self.args.process_index}.json"

    @replaces
    def _save_rng_state(self, output_dir: str) -> None:
        kind, keys, *rest = np.random.get_state(legacy=True)
        states = {
            "python": random.getstate(),
            "numpy": [kind, np.asarray(keys).tolist(), *rest],
            "torch": torch.random.get_rng_state().tolist(),
            "cuda": [state.tolist() for state in torch.cuda.get_rng_state_all()] if torch.cuda.is_available() else [],
        }
        write_json(self._random_states(output_dir), states)
        self.accelerator.wait_for_everyone()  # next, the first process marks the checkpoint as complete

    @replaces
    def _load_rng_state(self, checkpoint: str | None) -> None:
        # A run that resumes with more processes than before has no states for some of them.
        if checkpoint is None or not self._random_states(checkpoint).exists():
            return
        states = read_json(self._random_states(checkpoint), TrainingError)
        version, inner, gauss = states["python"]
        random.setstate((version, tuple(inner), gauss))
        kind, keys, *rest = states["numpy"]
        np.random.set_state((kind, np.array(keys, dtype=np.uint32), *rest))
        torch.random.set_rng_state(torch.tensor(states["torch"], dtype=torch.uint8))
        for device, state in zip(range(torch.cuda.device_count()), states["cuda"], strict=False):
            torch.cuda.set_rng_state(torch.tensor(state, dtype=torch.uint8), device)


def _trained(model: nn.Module) -> dict[str, nn.Parameter]:
    """Return the parameters that are not frozen, keyed by name."""
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


def mark_complete(checkpoint: Path, model: nn.Module) -> None:
    """Mark a checkpoint as complete by creating the file `complete`. Do nothing if some weights are not finite."""
    if all_finite(model):
        (checkpoint / _COMPLETE).touch()


def all_finite(model: nn.Module) -> bool:
    """Whether all weights of a model are finite."""
    return all(bool(torch.isfinite(parameter).all()) for parameter in model.parameters())


def last_complete(checkpoints: Path) -> Path | None:
    """Remove incomplete checkpoints. Return the folder of the latest complete checkpoint, or None if there is none."""
    last = None
    for folder in sorted(checkpoints.glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1])):
        if all((folder / name).exists() for name in _FILES):
            last = folder
        else:
            shutil.rmtree(folder)
    return last


def bind(checkpoints: Path, origin: dict[str, Any]) -> None:
    """Write `origin`, the inputs of a training run, to the file `origin.json` in the folder `checkpoints`.

    Raises `TrainingError` under the same conditions as `refuse_others`.
    """
    refuse_others(checkpoints, origin)
    write_json(checkpoints / _ORIGIN_FILE, {"digest": digest(origin), "origin": origin})


def refuse_others(checkpoints: Path, origin: dict[str, Any]) -> None:
    """Raise `TrainingError` if the folder `checkpoints` holds a complete checkpoint from a run with different inputs.

    `origin` holds the inputs of the current run. The message names the first difference, if it is known.
    """
    if last_complete(checkpoints) is None:
        return
    try:
        stored_origin = read_json(checkpoints / _ORIGIN_FILE, TrainingError)["origin"]
    except TrainingError:
        raise TrainingError(
            f"{checkpoints}: holds an unfinished training run with unknown settings; remove the folder to start again"
        ) from None
    if stored_origin.get("form") != origin.get("form"):
        raise TrainingError(
            f"{checkpoints}: holds an unfinished training run that a different version of nas started; finish it with "
            "that version, or remove the folder to start again"
        )
    differences = list(_differences(stored_origin, json.loads(json.dumps(origin))))
    if differences:
        # If a setting differs, digests often differ too. The message names the setting, because a digest explains less.
        key, stored, current = min(differences, key=lambda difference: any(map(_is_digest, difference[1:])))
        change = f"{key} = {stored!r}, which is {current!r} now"
        if _is_digest(stored) or _is_digest(current):
            change = f"different inputs ({key}: its digest was {stored} and is {current} now)"
        raise TrainingError(
            f"{checkpoints}: holds an unfinished training run that was started with {change}; "
            "undo this change to resume it, or remove the folder to start again"
        )


def _is_digest(value: Any) -> bool:
    return isinstance(value, str) and re.fullmatch("[0-9a-f]{16}", value) is not None


def _differences(stored: Any, current: Any, key: str = "") -> Iterator[tuple[str, Any, Any]]:
    if isinstance(stored, dict) and isinstance(current, dict):
        for name in sorted({*stored, *current}):
            yield from _differences(stored.get(name), current.get(name), f"{key}.{name}" if key else name)
    elif stored != current:
        yield key, stored, current


def remove_checkpoints(folder: Path) -> None:
    """Remove the checkpoints from the folder of a completed training run."""
    shutil.rmtree(folder / "checkpoints", ignore_errors=True)
