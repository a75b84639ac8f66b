"""The exceptions of `nas`: each is one clear line for the user, with exit code 2."""

from __future__ import annotations


class NasError(Exception):
    """A condition that the user can mend. The message states the rule, the value and the remedy."""

    exit_code = 2


class MachineError(NasError):
    """A limit of the machine: space, permission, open files or memory. Nothing that was given is wrong."""


class SearchSpaceError(NasError):
    """A search-space file, or an architecture that does not belong to its space."""


class StudyError(NasError):
    """A study file, or a combination of settings in it."""


class DataError(NasError):
    """A data set that cannot be read or does not have what the study asks of it."""


class TeacherError(NasError):
    """A teacher that cannot be loaded or does not fit the search space."""


class TrainingError(NasError):
    """A training whose loss is no longer a number, whose checkpoints are of another one, or whose workers failed."""


class DeviceError(NasError):
    """A device or runtime that cannot measure what it was asked to."""


class ClusterError(NasError):
    """A Ray cluster that is not there, or that this machine cannot join."""


class InfeasibleBudgetError(NasError):
    """A budget that no architecture of the search space can meet."""


class SearchError(NasError):
    """A search that cannot start or go on."""


class ExportError(NasError):
    """A sub-network that cannot be exported, or an export that failed its verification."""


class MissedBudgetsError(ExportError):
    """Budgets that have no export. `reasons` says why, by the budget's name."""

    def __init__(self, reasons: dict[str, str]) -> None:
        super().__init__("; ".join(reasons.values()))
        self.reasons = reasons
