"""The input of the report: `Contents` contains all values that the page shows about one run.

`nas.pipeline.reports` creates the `Contents` of a run from the run's files. `nas.report.page` and the charts draw them.
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
    """Return the measurements of a candidate or export on `device`; empty if there are no measurements on `device`."""
    records_by_device: Mapping[str, Record] = record.get("devices") or {record.get("device", device): record}
    return records_by_device.get(device, {})


@dataclass(frozen=True, kw_only=True)
class Contents:
    """The results of one run. If an optional field is empty, the page leaves out the section about this field."""

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
    """The `verification.json` of the teacher and of all other baselines, keyed by `<device>/<kind>`."""
    exports: Mapping[str, Record] = field(default_factory=dict)
    """The `verification.json` of each export, keyed by budget name or, for single candidates, by `trial-<number>`."""
    snippets: Mapping[str, Sequence[Snippet]] = field(default_factory=dict)
    """Code that loads each export, keyed by export name."""
    usage: str = ""
    """Notes on how to interpret the outputs of an export, as in the model card; empty if there are none."""
    profiles: Mapping[str, Record] = field(default_factory=dict)
    """Latency profiles, keyed by device name."""
    supernet_log: Sequence[Record] = ()
    """Log of the supernet's training; only entries with `step` and with `loss` or `eval_accuracy` are drawn."""
    teacher_log: Sequence[Record] = ()
    """Log of the teacher's fine-tuning. Its entries have the same keys as those of `supernet_log`."""
    export_logs: Mapping[str, Sequence[Record]] = field(default_factory=dict)
    """Log of each export's final training, keyed by export name. Entries have the same keys as in `supernet_log`."""
    rank_correlation: Record | None = None
    """The rank correlation between the accuracies of sub-networks before and after individual training.

    The value is None unless `scripts/bench/rank_correlation` was run.
    """
    seeds: Mapping[str, Record] = field(default_factory=dict)
    """Test accuracies of exports with several seeds, keyed by budget name; empty if only one seed was run."""
    separate_teacher: Record | None = None
    """The record of a student's separate teacher, which includes its accuracy; None if the study has no student."""
    student: str = ""
    """Path or hub id of the student; empty if the study has no student."""
    unlabelled: str = ""
    """A line that states how many unlabelled texts were read and left out; empty if the study has none."""
    seconds: Mapping[str, float] = field(default_factory=dict)
    """Duration of each finished step, in seconds."""
    sample: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """The texts of some rows of the test set, keyed by row number."""
    missed: Mapping[str, str] = field(default_factory=dict)
    """The reason why a budget has no export, keyed by budget name. Budgets without a known reason are left out."""
    outdated: str = ""
    """A line that lists the outdated results; empty if there are none."""

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
        """Return a record for each export whose latency was measured on `device`, keyed by export name.

        A record is the content of the export's `verification.json`, extended by the measurements on `device`.
        """
        limited_budgets = {budget.name for budget in self.budgets if budget.on(device)}
        return {
            name: {**export, **measurements}
            for name, export in self.exports.items()
            if (name in limited_budgets or not export["budget"])
            and device in export["predicted_ms"]
            and (measurements := on_device(export, device)).get("p50_ms") is not None
        }

    def uniform_on(self, device: str) -> dict[str, Record]:
        """Return a record of the best uniform network for each budget with limits on `device`, keyed by budget name.

        A record includes the network's measurements on `device`.
        """
        uniform = (self.front or {}).get("uniform", {})
        limited_budgets = (budget.name for budget in self.budgets if budget.on(device))
        return {
            name: {**uniform[name], **on_device(uniform[name], device)} for name in limited_budgets if uniform.get(name)
        }

    def teacher_p50_ms(self, device: str) -> float | None:
        """Return the teacher's median latency on a device, in ms, from the device's profile or else from the search.

        Return None if neither the profile nor the search contains this latency.
        """
        if device in self.profiles:
            return float(self.profiles[device]["teacher"]["p50_ms"])
        latencies = self.front["teacher_p50_ms"] if self.front else {}
        return float(latencies[device]) if device in latencies else None
