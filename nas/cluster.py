"""Connections to Ray: to an existing cluster, or to a local cluster that is started on this machine.

The modules that run work on Ray (`nas.search.ray_executor`, `nas.supernet.ray_training` and `nas.latency.ray_worker`)
use this module, as do the option `--address` and `nas doctor`.
"""

from __future__ import annotations

import logging
import math
import os
import socket

import ray

from nas.errors import ClusterError, first_line

_TIMEOUT_S = 10.0
"""The timeout, in seconds, for the check that a program listens at the address of a cluster."""


def connect(address: str, setting: str) -> None:
    """Connect this process to the Ray cluster at `address`, which is HOST:PORT or `auto`.

    `auto` is the cluster to which this machine belongs. Raises `ClusterError` if the connection fails. The message
    begins with `setting`, the name of the setting that needs the cluster.
    """
    if ray.is_initialized():
        return
    host, _, port = address.removeprefix("ray://").rpartition(":")
    try:
        if host and port.isdigit():  # without this check, Ray would retry for minutes
            socket.create_connection((host, int(port)), timeout=_TIMEOUT_S).close()
        ray.init(address=address, logging_level=logging.ERROR, log_to_driver=False)
    except OSError:
        place = "on this machine" if address == "auto" else f"at {address!r}"
        raise ClusterError(
            f"{setting}: needs a Ray cluster, but none was found {place}; start one with `ray start --head`, or "
            "give the address of a running one with RAY_ADDRESS or --address"
        ) from None
    except (RuntimeError, ValueError) as problem:
        raise ClusterError(
            f"{setting}: cannot join the Ray cluster at {address!r}: {first_line(problem)}; this machine must be one "
            "of its nodes (`ray start --address=...`), with the same versions of Python and Ray"
        ) from None


def cpu_count() -> int:
    """Return the number of CPUs in the cluster to which this process is connected."""
    return int(ray.cluster_resources().get("CPU", 0.0))


def connect_for_device(device: str) -> None:
    """Connect this process to the Ray cluster that contains a device: the one at `RAY_ADDRESS`, or this machine's own.

    Raises `ClusterError` if the connection fails.
    """
    connect(os.environ.get("RAY_ADDRESS", "auto"), f"devices.{device}")


def join(cpus: float, setting: str) -> bool:
    """Connect this process to Ray. Return whether a local cluster was started for this purpose.

    If `RAY_ADDRESS` is set, the process joins the cluster at this address. Otherwise, it starts a local cluster with at
    least `cpus` CPUs, which the caller must shut down. Raises `ClusterError` if the process cannot join the cluster.
    The message begins with `setting`, the name of the setting that needs the cluster.
    """
    if ray.is_initialized():
        return False
    if address := os.environ.get("RAY_ADDRESS"):
        connect(address, setting)
        return False
    ray.init(
        address="local",
        num_cpus=max(math.ceil(cpus), os.cpu_count() or 1),
        include_dashboard=False,
        logging_level=logging.ERROR,
        log_to_driver=False,
    )
    return True
