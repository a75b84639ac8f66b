"""The input of the report: `Contents` holds all values that the page shows about one run.

`nas.pipeline.reports` fills it from the files of the run; `nas.report.page` and the charts read it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from nas.budget import Budget
from nas.device import Device
from nas.report.loading import Snippet
from nas.space import Shape

Record = Mapping[str, Any]
"""A JSON object as read from a file of the run."""


def on_device(record: Record, device: str) -> Record:
    """Return the measurements of a candidate or export on one device; empty if it was not measured there."""
    records_by_device: Mapping[str, Record] = record.get("devices") or {record.get("device", device): record}
    return records_by_device.get(device, {})


@dataclass(frozen=True, kw_only=True)
class Contents:
    """The results of one run. If an optional part is missing, its section is left out of the page."""

    study: str
    metric: str
    teacher: Shape
    metric_note: str = ""
    """Sentences that explain the metric; empty if its name says enough."""
    devices: Sequence[Device] = ()
    budgets: Sequence[Budget] = ()
    front: Record | None = None
    """The content of `front.json`: all candidates, the Pareto front, and the measured candidates of each budget."""
    baselines: Mapping[str, Record] = field(default_factory=dict)
    """Verifications of the teacher and the other baselines, by `<device>/<kind>`."""
    exports: Mapping[str, Record] = field(default_factory=dict)
    """Verifications of the exports, by the name of the budget, or `trial-<number>` for single candidates."""
    snippets: Mapping[str, Sequence[Snippet]] = field(default_factory=dict)
    """Code that loads each export, by the name of the export."""
    profiles: Mapping[str, Record] = field(default_factory=dict)
    """Latency profiles, by the name of the device."""
    supernet_log: Sequence[Record] = ()
    """Log of the supernet's training; only entries with `step` and with `loss` or `eval_accuracy` are drawn."""
    teacher_log: Sequence[Record] = ()
    """Log of the teacher's fine-tuning, with the same keys."""
    export_logs: Mapping[str, Sequence[Record]] = field(default_factory=dict)
    """Log of the final training of each export, with the same keys, by the name of the export."""
    rank_correlation: Record | None = None
    """The rank correlation of the supernet's accuracies; None unless `scripts/bench/rank_correlation` was run."""
    seeds: Mapping[str, Record] = field(default_factory=dict)
    """Test accuracies with several seeds, by the name of the budget; empty if the study was run with one seed."""
    separate_teacher: Record | None = None
    """The student's teacher and its accuracy; None if the teacher itself is compressed."""
    student: str = ""
    """Path or hub id of the student; empty if the teacher itself is compressed."""
    unlabelled: str = ""
    """A line with the numbers of unlabelled texts that were read and left out; empty if the study has none."""
    seconds: Mapping[str, float] = field(default_factory=dict)
    """Duration of each finished step, in seconds."""
    sample: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """The texts of some rows of the test set, by row number."""
    missed: Mapping[str, str] = field(default_factory=dict)
    """The reason why a budget has no export, by the name of the budget, if the reason is known."""
    outdated: str = ""
    """A line that lists the results of an older version of the study; empty if there are none."""

    @property
    def is_empty(self) -> bool:
        """Whether the run has no result yet that the page could show."""
        return not (self.front or self.baselines or self.exports or self.profiles or self.supernet_log)

    @property
    def searched_devices(self) -> list[str]:
        """The names of the devices for which the search predicted latencies."""
        teacher_latencies = self.front["teacher_p50_ms"] if self.front and self.front["candidates"] else {}
        return [device.name for device in self.devices if device.name in teacher_latencies]

    def exports_on(self, device: str) -> dict[str, Record]:
        """Return the exports that have a measured latency on a device, by name, with their measurements on it."""
        limited_budgets = {budget.name for budget in self.budgets if budget.on(device)}
        exports = {
            name: {**export, **on_device(export, device)}
            for name, export in self.exports.items()
            if (name in limited_budgets or not export["budget"]) and device in export["predicted_ms"]
        }
        return {name: export for name, export in exports.items() if on_device(export, device).get("p50_ms") is not None}

    def uniform_on(self, device: str) -> dict[str, Record]:
        """Return the best uniform network of each budget with limits on a device, with its measurements on it."""
        uniform = (self.front or {}).get("uniform", {})
        limited_budgets = (budget.name for budget in self.budgets if budget.on(device))
        return {
            name: {**uniform[name], **on_device(uniform[name], device)} for name in limited_budgets if uniform.get(name)
        }

    def teacher_p50_ms(self, device: str) -> float | None:
        """Return the teacher's median latency on a device in ms, from its profile or else from the search.

        None if neither has one.
        """
        if device in self.profiles:
            return float(self.profiles[device]["teacher"]["p50_ms"])
        latencies = self.front["teacher_p50_ms"] if self.front else {}
        return float(latencies[device]) if device in latencies else None
