"""Data-parallel training on Ray Train: every worker computes its part of each batch, and gradients are averaged."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from pathlib import Path

import ray
import torch
from ray.train import RunConfig, ScalingConfig
from ray.train.torch import TorchConfig, TorchTrainer

from nas.errors import TrainingError


def train_on_workers(train: Callable[[], None], workers: int, storage: Path) -> None:
    """Run `train` in each of `workers` processes of one process group: gloo on CPUs, NCCL where there are GPUs.

    Joins the Ray cluster that this process is connected to, or starts a local one. `train` finds its files by absolute
    paths, on a file system that all workers share; Ray keeps its own notes in `storage`. Raises `TrainingError` if a
    worker fails.
    """
    started, gpu = not ray.is_initialized(), torch.cuda.is_available()
    if started:
        cores = max(workers, os.cpu_count() or 1)
        ray.init(num_cpus=cores, include_dashboard=False, logging_level=logging.ERROR, log_to_driver=False)
    trainer = TorchTrainer(
        train,
        scaling_config=ScalingConfig(num_workers=workers, use_gpu=gpu),
        torch_config=TorchConfig(backend="nccl" if gpu else "gloo"),
        run_config=RunConfig(storage_path=str(storage)),
    )
    try:
        trainer.fit()
    except Exception as problem:  # Ray has several, and wraps what the worker raised
        reason = str(problem).strip().splitlines()[-1]
        raise TrainingError(
            f"supernet.workers: a worker failed: {reason}; set supernet.workers = 1 to see it in this process"
        ) from problem
    finally:
        if started:
            ray.shutdown()
