"""The Ray cluster: one that is named is joined, else a local one is started."""

from __future__ import annotations

import logging
import math
import os
import socket

import ray

from nas.errors import ClusterError

_PATIENCE_S = 10.0


def connect(address: str, wanted: str) -> None:
    """Connect this process to a cluster: `auto` for the one that this machine belongs to, or HOST:PORT.

    Raises `ClusterError`, which begins with who wanted it, if there is none.
    """
    if ray.is_initialized():
        return
    host, _, port = address.removeprefix("ray://").rpartition(":")
    try:
        if host and port.isdigit():  # Ray itself would try for minutes
            socket.create_connection((host, int(port)), timeout=_PATIENCE_S).close()
        ray.init(address=address, logging_level=logging.ERROR, log_to_driver=False)
    except OSError:
        raise ClusterError(
            f"{wanted}: needs a Ray cluster, but none is found at {address!r}; start one with `ray start --head`, or "
            "give its address by RAY_ADDRESS or --address"
        ) from None
    except (RuntimeError, ValueError) as problem:
        reason = str(problem).strip().partition("\n")[0] or type(problem).__name__
        raise ClusterError(
            f"{wanted}: cannot join the Ray cluster at {address!r}: {reason}; this machine must be one of its nodes "
            "(`ray start --address=...`), with the same Python and Ray"
        ) from None


def processors() -> int:
    """How many processors the cluster has that this process is connected to."""
    return int(ray.cluster_resources().get("CPU", 0.0))


def attach(device: str) -> None:
    """Connect this process to the cluster that a device belongs to. Raises `ClusterError` if there is none."""
    connect(os.environ.get("RAY_ADDRESS", "auto"), f"devices.{device}")


def join(cpus: float, wanted: str) -> bool:
    """Connect this process to Ray; returns whether a local cluster was started, which the caller shuts down.

    `RAY_ADDRESS` names a cluster to join. A local one offers at least so many processors.
    """
    if ray.is_initialized():
        return False
    if address := os.environ.get("RAY_ADDRESS"):
        connect(address, wanted)
        return False
    ray.init(
        address="local",
        num_cpus=max(math.ceil(cpus), os.cpu_count() or 1),
        include_dashboard=False,
        logging_level=logging.ERROR,
        log_to_driver=False,
    )
    return True
