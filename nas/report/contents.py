"""What a report is made from: plain values, read by whoever knows where they lie."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from nas.budget import Budget
from nas.device import Device
from nas.space import Shape

Record = Mapping[str, Any]
"""A JSON object as it was read from a file of the run."""


def on_device(found: Record, device: str) -> Record:
    """What a measured candidate or a verification says of one of its devices."""
    own: Record = found.get("devices", {}).get(device, found)
    return own


@dataclass(frozen=True, kw_only=True)
class Contents:
    """One run. Every part may be missing; its section is then left out of the page."""

    study: str
    metric: str
    teacher: Shape
    devices: Sequence[Device] = ()
    budgets: Sequence[Budget] = ()
    front: Record | None = None
    """`front.json`: candidates, front, each budget's measured candidates."""
    baselines: Mapping[str, Record] = field(default_factory=dict)
    """Verifications of the teachers, by `<device>/<kind>`."""
    exports: Mapping[str, Record] = field(default_factory=dict)
    """Verifications of the exports, by the budget's name."""
    folders: Mapping[str, str] = field(default_factory=dict)
    """Where each export lies, by the budget's name."""
    profiles: Mapping[str, Record] = field(default_factory=dict)
    """Latency profiles, by the device's name."""
    supernet_log: Sequence[Record] = ()
    """What the supernet's training logged; entries with `step` and `loss` count."""
    teacher_log: Sequence[Record] = ()
    """What the teacher's fine-tuning logged."""
    seconds: Mapping[str, float] = field(default_factory=dict)
    """How long each finished step took."""

    @property
    def is_empty(self) -> bool:
        """Whether there is no result that a page could show."""
        return not (self.front or self.baselines or self.exports or self.profiles or self.supernet_log)

    @property
    def searched_devices(self) -> list[str]:
        """The devices that the search predicted latencies for."""
        known = self.front["teacher_p50_ms"] if self.front and self.front["candidates"] else {}
        return [device.name for device in self.devices if device.name in known]

    def teacher_p50_ms(self, device: str) -> float | None:
        """The teacher's median latency on a device, from the profile or else from the search."""
        if device in self.profiles:
            return float(self.profiles[device]["teacher"]["p50_ms"])
        known = self.front["teacher_p50_ms"] if self.front else {}
        return float(known[device]) if device in known else None
