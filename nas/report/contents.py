"""What a report is made from: plain values, read by whoever knows where they lie."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from nas.budget import Budget
from nas.device import Device
from nas.report.loading import Snippet
from nas.space import Shape

Record = Mapping[str, Any]
"""A JSON object as it was read from a file of the run."""


def on_device(found: Record, device: str) -> Record:
    """What a measured candidate or a verification says of one of its devices; nothing of another."""
    known: Mapping[str, Record] = found.get("devices") or {found.get("device", device): found}
    return known.get(device, {})


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
    """Verifications of the exports, by the budget's name, or `trial-<number>` for single candidates."""
    snippets: Mapping[str, Sequence[Snippet]] = field(default_factory=dict)
    """How each export is loaded, by its name."""
    profiles: Mapping[str, Record] = field(default_factory=dict)
    """Latency profiles, by the device's name."""
    supernet_log: Sequence[Record] = ()
    """What the supernet's training logged; entries with `step` and `loss` or `eval_accuracy` count."""
    teacher_log: Sequence[Record] = ()
    """What the teacher's fine-tuning logged."""
    export_logs: Mapping[str, Sequence[Record]] = field(default_factory=dict)
    """What the fine-tuning of each export logged, by its name."""
    rank_correlation: Record | None = None
    """How well inherited weights rank sub-networks, where `scripts/bench/rank_correlation` asked."""
    seeds: Mapping[str, Record] = field(default_factory=dict)
    """Each budget's test accuracies over several seeds, where the study was run with several."""
    separate_teacher: Record | None = None
    """The teacher of a student and its accuracy; None if what is compressed is the teacher itself."""
    student: str = ""
    """The student's model, if there is one."""
    unlabelled: str = ""
    """How many texts without labels were read and left out, in one line; empty if the study has none."""
    seconds: Mapping[str, float] = field(default_factory=dict)
    """How long each finished step took."""
    sample: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """The texts of some rows of the test set, by the rows' numbers."""
    missed: Mapping[str, str] = field(default_factory=dict)
    """Why budgets have no export, as far as that is known, by the budget's name."""
    older: str = ""
    """What was made for an older form of the study, in one line."""

    @property
    def is_empty(self) -> bool:
        """Whether there is no result that a page could show."""
        return not (self.front or self.baselines or self.exports or self.profiles or self.supernet_log)

    @property
    def searched_devices(self) -> list[str]:
        """The devices that the search predicted latencies for."""
        known = self.front["teacher_p50_ms"] if self.front and self.front["candidates"] else {}
        return [device.name for device in self.devices if device.name in known]

    def exports_on(self, device: str) -> dict[str, Record]:
        """The exports that were measured on a device, with its figures."""
        asked = {budget.name for budget in self.budgets if budget.on(device)}
        found = {
            name: {**export, **on_device(export, device)}
            for name, export in self.exports.items()
            if (name in asked or not export["budget"]) and device in export["predicted_ms"]
        }
        return {name: export for name, export in found.items() if on_device(export, device).get("p50_ms") is not None}

    def uniform_on(self, device: str) -> dict[str, Record]:
        """The best uniform network of each budget that limits a device, with its figures there."""
        known = (self.front or {}).get("uniform", {})
        asked = (budget.name for budget in self.budgets if budget.on(device))
        return {name: {**known[name], **on_device(known[name], device)} for name in asked if known.get(name)}

    def teacher_p50_ms(self, device: str) -> float | None:
        """The teacher's median latency on a device, from the profile or else from the search."""
        if device in self.profiles:
            return float(self.profiles[device]["teacher"]["p50_ms"])
        known = self.front["teacher_p50_ms"] if self.front else {}
        return float(known[device]) if device in known else None
