"""Data-parallel training of the supernet on Ray Train.

Every worker computes its part of each batch, and the gradients are averaged over the workers. The pipeline calls
`train_on_workers` if a study asks for more than one worker (`supernet.workers`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import ray
from ray.train import FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchConfig, TorchTrainer
from ray.train.v2.api.exceptions import TrainingFailedError, WorkerGroupError

from nas.cluster import join
from nas.errors import NasError, TrainingError
from nas.progress import say


def train_on_workers(train: Callable[[], None], workers: int, storage: Path) -> None:
    """Run `train` in `workers` processes that form one process group (gloo on CPUs, NCCL if there are GPUs).

    `train` must find its files by absolute paths, on a file system that all workers share. Ray stores its own files in
    `storage`. Raises the `NasError` that a worker raised. Raises `TrainingError` if a worker failed for another reason,
    or if the cluster is too small.
    """
    started = join(workers, "supernet.workers")
    try:
        resources = ray.cluster_resources()
        kind = "GPU" if resources.get("GPU") else "CPU"
        units_of_nodes = [int(node["Resources"].get(kind, 0)) for node in ray.nodes() if node["Alive"]]
        units_per_worker = most_per_worker(units_of_nodes, workers)
        if not units_per_worker:
            raise TrainingError(
                f"supernet.workers: the cluster must have a {kind} per worker, but has {resources.get(kind, 0):.0f} "
                f"for {workers} workers; lower supernet.workers or add nodes"
            )
        say(f"Training the supernet on {workers} workers")
        no_retries = FailureConfig(controller_failure_limit=0)  # type: ignore[call-arg]  # mypy sees the class of Ray Train v1
        trainer = TorchTrainer(
            train,
            scaling_config=ScalingConfig(
                num_workers=workers,
                use_gpu=kind == "GPU",
                resources_per_worker={"GPU": 1} if kind == "GPU" else {"CPU": units_per_worker},
            ),
            torch_config=TorchConfig(backend="nccl" if kind == "GPU" else "gloo"),
            run_config=RunConfig(storage_path=str(storage), failure_config=no_retries),
        )
        trainer.fit()
    except TrainingFailedError as problem:
        raise _cause(problem) from problem
    finally:
        if started:
            ray.shutdown()


def most_per_worker(units_of_nodes: Sequence[int], workers: int) -> int:
    """Return the largest number of CPUs or GPUs that each worker can have, or 0 if there are more workers than units.

    `units_of_nodes` holds the number of units (CPUs or GPUs) of each node. All units of a worker must be on one node.
    """
    sizes = range(max(units_of_nodes, default=0), 0, -1)
    return next((size for size in sizes if sum(units // size for units in units_of_nodes) >= workers), 0)


def _cause(problem: TrainingFailedError) -> NasError:
    """Return the error to raise: the first `NasError` of a worker or, if there is none, a `TrainingError`.

    The `TrainingError` states the error of the failed worker with the lowest rank.
    """
    failures = problem.worker_failures if isinstance(problem, WorkerGroupError) else {0: problem}
    causes = [getattr(failure, "_base_exc", failure) for _, failure in sorted(failures.items())]
    nas_error = next((cause for cause in causes if isinstance(cause, NasError)), None)
    reason = str(causes[0]).strip().splitlines() or [type(causes[0]).__name__]
    return nas_error or TrainingError(
        f"supernet.workers: a worker failed: {reason[0]}; run the command again to resume from the last checkpoint, "
        "or set supernet.workers = 1 to see the error in this process"
    )
