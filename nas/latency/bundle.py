"""Archives with which networks are measured on a device outside the cluster.

An archive contains the networks as ONNX files, the program that measures them (`runner.py`), and a file that lists the
measurements (`job.json`). The program needs only Python, numpy and onnxruntime, and writes `result.json`. `Job.write`
creates the archive for `nas device bundle`. `Job.read` reads the result for `nas device import`. The result is only
parsed and validated. Nothing in it is ever executed.
"""

from __future__ import annotations

import json
import tempfile
import zipfile
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, ValidationError

from nas.device import Device
from nas.errors import DeviceError, counted
from nas.files import Flag, Positive, Real, Settings, write_atomically
from nas.latency.measure import Network, Texts, grouped, item_of, on_one_scale, records_of
from nas.latency.record import LatencyRecord
from nas.progress import track
from nas.runtimes import runner, runtime_of

VERSION = 2
_MAX_RESULT_BYTES = 2**28
_MEMORY = "memory/"
"""In `job.json` and `result.json`, the names of networks whose peak memory is measured begin with this prefix."""
_README = """These commands measure {count} networks for `nas` on this device:

    pip install numpy {package}
    python run.py

The program writes result.json to this folder. Run nothing else on the device in the meantime. If the program is
interrupted, start it again; it resumes where it stopped. When it has finished, copy result.json to the folder in
which you ran `nas device bundle`, and run this command there:

    {command}
"""
Milliseconds = Annotated[float, Field(gt=1e-5, lt=1e6, strict=True, allow_inf_nan=False)]


@dataclass(frozen=True)
class Job:
    """The networks to measure on a device outside the cluster.

    `digest` identifies the job: a result is accepted only if it contains the same digest.
    """

    device: Device
    digest: str
    groups: list[tuple[dict[str, Network], int]]
    """Groups of networks whose measurements are interleaved, each with its number of rounds.

    A group is a dictionary of networks, keyed by name, with the reference network first. Every name except `REFERENCE`
    occurs in only one group.
    """
    texts: Texts
    tokens: Mapping[str, int] = field(default_factory=dict)
    """The text length of each network that is fed texts of only one length, keyed by network name."""
    memory: dict[str, Network] = field(default_factory=dict)
    """The networks whose peak memory is measured, keyed by name."""

    def write(self, path: Path, command: str) -> None:
        """Write the archive atomically. Its README tells the user to import the result with `command`."""
        write_atomically(path, lambda draft: self._write_archive(draft, command))

    def _write_archive(self, path: Path, command: str) -> None:
        groups = [(part, rounds) for networks, rounds in self.groups for part in grouped(networks)]
        count = sum(len(networks) for networks, _ in groups) + len(self.memory)
        with tempfile.TemporaryDirectory(prefix="nas-bundle-") as folder, track("Writing networks", count) as progress:
            networks_archive = Path(folder) / "networks.zip"
            with zipfile.ZipFile(networks_archive, "w", zipfile.ZIP_DEFLATED) as archive:
                numbers = iter(range(1, count + 1))

                def items(networks: Mapping[str, Network]) -> list[dict[str, Any]]:
                    entries = []
                    for name, network in networks.items():
                        number = next(numbers)
                        draft = Path(folder) / "draft.onnx"
                        item = item_of(self.device, name, network, draft, self.texts, self.tokens)
                        archive.write(item["file"], f"{number}.onnx")
                        entries.append(item | {"file": f"{number}.onnx"})
                        progress(number)
                    return entries

                job = {
                    "version": VERSION,
                    "digest": self.digest,
                    "device": self.device.model_dump(mode="json"),
                    "groups": [{"networks": items(networks), "rounds": rounds} for networks, rounds in groups],
                    "memory": items({f"{_MEMORY}{name}": network for name, network in self.memory.items()}),
                }
            with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
                archive.write(networks_archive, "networks.zip")
                archive.write(runner.__file__, "run.py")
                archive.writestr("job.json", json.dumps(job))
                package = runtime_of(self.device).package
                archive.writestr("README.txt", _README.format(count=count, package=package, command=command))

    def read(self, path: Path) -> tuple[dict[str, LatencyRecord], dict[str, float]]:
        """Read the result file `path`. Return its latency records and peak memories, both keyed by network name.

        Peak memories are in 10^6 bytes. Raises `DeviceError` if the file is not a valid result of this job.
        """
        result = _Result.read(path)
        if result.job != self.digest:
            raise DeviceError(
                f"{path}: was measured for a different bundle (digest {result.job}, but now {self.digest}), because "
                "the study, the teacher or the device has changed; write the bundle again, and run it on the device"
            )
        expected = {name for networks, _ in self.groups for name in networks}
        counts = Counter(name for group in result.groups for name in group.samples_ms)
        references = {next(iter(networks)) for networks, _ in self.groups}
        if repeated := sorted(name for name, count in counts.items() if count > 1 and name not in references):
            raise DeviceError(
                f"{path}: must contain each network exactly once, but {repeated[0]!r} is repeated; run run.py "
                "on the device again"
            )
        expected_memory = {f"{_MEMORY}{name}" for name in self.memory}
        if counts.keys() != expected or result.peak_memory_mb.keys() != expected_memory:
            differing = sorted(expected ^ counts.keys()) or sorted(expected_memory ^ result.peak_memory_mb.keys())
            raise DeviceError(
                f"{path}: must contain exactly the networks of the bundle, but {differing[0]!r} is missing or "
                "unexpected; run run.py on the device again"
            )
        when = datetime.fromtimestamp(path.stat().st_mtime, UTC).isoformat(timespec="seconds")
        records: dict[str, LatencyRecord] = {}
        for networks, _ in self.groups:
            reference, *other_names = networks
            own_groups = [group for group in result.groups if group.samples_ms.keys() & set(other_names or networks)]
            for group in own_groups:
                self._check(path, group, reference)
            parts = [records_of(self.device, group.model_dump(), result.environment, when) for group in own_groups]
            records |= on_one_scale(parts, reference)
        peaks = {name.removeprefix(_MEMORY): peak for name, peak in result.peak_memory_mb.items() if peak is not None}
        return records, peaks

    def _check(self, path: Path, group: _Group, reference: str) -> None:
        """Raise `DeviceError` if a group lacks its reference network or has missing samples.

        Each network must have the same number of samples for each text length.
        """
        if reference not in group.samples_ms:
            raise DeviceError(
                f"{path}: each group must have its reference network, but one group has none; run run.py on the device "
                "again"
            )
        for name, samples_by_length in group.samples_ms.items():
            lengths = 1 if name in self.tokens else len(self.device.lengths)
            counts = {len(samples) for samples in samples_by_length}
            if len(samples_by_length) != lengths or 0 in counts or len(counts) != 1 or name not in group.spread:
                raise DeviceError(
                    f"{path}: {name!r} must have samples of {counted(lengths, 'sequence length')}, and equally many "
                    "of each, but does not; run run.py on the device again"
                )


class _Group(Settings):
    samples_ms: dict[str, tuple[tuple[Milliseconds, ...], ...]]
    spread: dict[str, Real]
    drift: Real
    noisy: Flag
    attempts: Positive


class _Result(Settings):
    job: str
    environment: dict[str, str | int | bool | None]
    groups: tuple[_Group, ...]
    peak_memory_mb: dict[str, Annotated[float, Field(gt=0, lt=1e7, allow_inf_nan=False)] | None]

    @classmethod
    def read(cls, path: Path) -> _Result:
        if not path.is_file():
            raise DeviceError(f"{path}: no such file; import the result.json that run.py wrote on the device")
        if path.stat().st_size > _MAX_RESULT_BYTES:
            raise DeviceError(
                f"{path}: is larger than {_MAX_RESULT_BYTES >> 20} MiB, so it is not a result; import the unmodified "
                "result.json that run.py wrote"
            )
        try:
            return cls.model_validate_json(path.read_bytes())
        except ValidationError as problem:
            first = problem.errors(include_url=False)[0]
            field = ".".join(str(part) for part in first["loc"]) or "file"
            raise DeviceError(
                f"{path}: {field}: {first['msg']}; import the unmodified result.json that run.py wrote"
            ) from None
