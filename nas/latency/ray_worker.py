"""Measures networks on a device that is a Ray node.

`RayWorker` starts an actor on the node, and the actor owns a `LocalWorker` there. The actor occupies the Ray resource
that is named after the device, so that only one measurement runs on the node at a time.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayActorError, RayTaskError

from nas.cluster import connect_for_device
from nas.device import Device
from nas.errors import DeviceError
from nas.latency.workers import LocalWorker, MeasurementWorker, Rounds
from nas.progress import say
from nas.runtimes import runtime_of

_MAX_LOSSES = 5
_WAIT_TIMEOUT_S = 30.0
"""The number of seconds after which the worker prints a message if the node is missing.

On exit, the worker waits equally long for the actor to close.
"""


class _MeasurementActor:
    """The Ray actor: a process on the device's node that owns a `LocalWorker` there."""

    def __init__(self, device: Device) -> None:
        self._worker = LocalWorker(device.model_copy(update={"where": "here"}))

    def environment(self) -> dict[str, Any]:
        return self._worker.environment

    def measure(self, group: dict[str, Any], files: dict[str, bytes]) -> dict[str, Any]:
        with self._temporary_files(files):
            return self._worker.measure(self._with_local_paths(group), lambda done: None)

    def peak_memory_mb(self, item: dict[str, Any], files: dict[str, bytes]) -> float | None:
        with self._temporary_files(files):
            return self._worker.peak_memory_mb(self._with_local_paths({"networks": [item]})["networks"][0])

    def close(self) -> None:
        self._worker.__exit__()

    @contextmanager
    def _temporary_files(self, files: dict[str, bytes]) -> Iterator[None]:
        for name, content in files.items():
            (self._worker.folder / name).write_bytes(content)
        try:
            yield
        finally:
            for name in files:
                (self._worker.folder / name).unlink()

    def _with_local_paths(self, group: dict[str, Any]) -> dict[str, Any]:
        """Return a copy of the group in which all file paths are paths on this node.

        The new name of a file is the index of its network in the group, with the original suffix.
        """
        items = [
            item | {"file": str(self._worker.folder / f"{index}{Path(item['file']).suffix}")}
            for index, item in enumerate(group["networks"])
        ]
        return group | {"networks": items}


class RayWorker(MeasurementWorker):
    """Measures networks on the Ray node that offers a resource named after the device.

    The worker waits until there is such a node. If the node or its process is lost, the current group is measured again
    as soon as a node offers the resource again. Raises `DeviceError` if this node is a different machine, because the
    latencies of two machines cannot be compared.
    """

    def __init__(self, device: Device) -> None:
        self.device = device
        connect_for_device(device.name)
        self._temporary_folder = TemporaryDirectory(prefix="nas-latency-")
        self.folder = Path(self._temporary_folder.name)
        self._actor: Any = None
        self.environment: dict[str, Any] = {}
        try:
            self._call_actor("environment")
        except BaseException:
            self.__exit__()
            raise

    def measure(self, group: Mapping[str, Any], progress: Rounds) -> dict[str, Any]:
        items = group["networks"]
        measured: dict[str, Any] = self._call_actor("measure", dict(group), self._file_contents(items))
        progress(group["rounds"])
        return measured

    def peak_memory_mb(self, item: Mapping[str, Any]) -> float | None:
        peak: float | None = self._call_actor("peak_memory_mb", dict(item), self._file_contents([item]))
        return peak

    def _file_contents(self, items: Any) -> dict[str, bytes]:
        """Return the contents of all files that the runtime reads when it loads the networks.

        The contents are keyed by new file names. The new name of a file is the index of its network in `items`, with
        the original suffix.
        """
        files_of = runtime_of(self.device).files_of
        paths = [(index, path) for index, item in enumerate(items) for path in files_of(Path(item["file"]))]
        return {f"{index}{path.suffix}": path.read_bytes() for index, path in paths}

    def _call_actor(self, method: str, *arguments: Any) -> Any:
        """Call a method of the actor. If the actor is lost, start a new actor and repeat the call."""
        for _ in range(_MAX_LOSSES):
            try:
                if self._actor is None:
                    self._start_actor()
                return self._call_once(method, *arguments)
            except RayActorError as problem:
                origin = problem.args[0] if problem.args else None  # set if the actor's constructor failed
                if isinstance(cause := getattr(origin, "cause", None), DeviceError):
                    raise cause from problem
                say(f"{self.device.name}: its node or process was lost; measurements resume when it is available again")
                self._actor = None
        raise DeviceError(
            f"devices.{self.device.name}: its Ray node was lost {_MAX_LOSSES} times during measurements; look for "
            "the cause in Ray's logs"
        )

    def _start_actor(self) -> None:
        """Start an actor. Raises `DeviceError` if its machine differs from the machine of the first actor."""
        actor_class = ray.remote(num_cpus=0, resources={self.device.name: 1})(_MeasurementActor)
        self._actor = actor_class.remote(self.device)
        environment = self._call_once("environment")
        self.environment = self.environment or environment
        before, now = self.environment["fingerprint"], environment["fingerprint"]
        if now != before:
            ray.kill(self._actor)
            self._actor = None
            raise DeviceError(
                f"devices.{self.device.name}: the node that replaced the lost one is a different machine or has a "
                f"different runtime (fingerprint {now}, before {before}), so its latencies cannot be compared with "
                "earlier ones; start the first node again, or measure the profile again"
            )

    def _call_once(self, method: str, *arguments: Any) -> Any:
        """Call a method of the actor, and wait for the result without a time limit.

        Raises `RayActorError` if the actor is lost.
        """
        call = getattr(self._actor, method).remote(*arguments)
        while not ray.wait([call], timeout=_WAIT_TIMEOUT_S)[0]:
            if not ray.cluster_resources().get(self.device.name):
                say(f"{self.device.name}: waiting for a Ray node that offers the resource {self.device.name!r}")
        try:
            return ray.get(call)
        except RayTaskError as problem:
            raise DeviceError(str(problem.cause)) from problem

    def __exit__(self, *error: object) -> None:
        if self._actor is not None:
            with suppress(RayActorError, GetTimeoutError):
                ray.get(self._actor.close.remote(), timeout=_WAIT_TIMEOUT_S)
            ray.kill(self._actor)
        self._temporary_folder.cleanup()
