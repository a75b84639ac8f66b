"""The Ray cluster: joined if there is one, else a local one is started."""

from __future__ import annotations

import logging
import os
import socket

import ray

from nas.errors import DeviceError

_PATIENCE_S = 10.0


def attach(device: str) -> None:
    """Connect this process to the cluster that a device belongs to. Raises `DeviceError` if there is none."""
    if ray.is_initialized():
        return
    address = os.environ.get("RAY_ADDRESS", "auto")
    host, _, port = address.rpartition(":")
    try:
        if host and port.isdigit():  # Ray itself would try for minutes
            socket.create_connection((host, int(port)), timeout=_PATIENCE_S).close()
        ray.init(address=address, logging_level=logging.ERROR, log_to_driver=False)
    except OSError:
        raise DeviceError(
            f"devices.{device}: is a node of a Ray cluster, but none is found at {address!r}; start one with "
            "`ray start --head`, or set RAY_ADDRESS"
        ) from None


def join(workers: int) -> bool:
    """Connect this process to Ray; returns whether a local cluster was started, which the caller shuts down.

    `RAY_ADDRESS` names a cluster to join. A local one offers at least `workers` processors.
    """
    if ray.is_initialized():
        return False
    local = not os.environ.get("RAY_ADDRESS")
    ray.init(
        num_cpus=max(workers, os.cpu_count() or 1) if local else None,
        include_dashboard=False if local else None,
        logging_level=logging.ERROR,
        log_to_driver=False,
    )
    return local
