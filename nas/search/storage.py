"""Persistent storage of a search's trials, in a journal file or in a database with a given URL.

A driver is a process that runs the search. `Trials` (`sampler.py`) writes everything that must survive the death of a
driver to a `Storage`. Several drivers may share a storage. Each driver sees the trials that the other drivers start and
finish, and detects the trials that a dead driver left unfinished.
"""

from __future__ import annotations

import os
import uuid
import warnings
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import optuna
from optuna.exceptions import UpdateFinishedTrialError
from optuna.storages import JournalStorage
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from nas.errors import SearchError
from nas.search.database import connect, file_path, printable, translated_errors
from nas.search.drivers import DRIVER, Drivers, Heartbeats, LockFiles
from nas.search.journal import Journal

optuna.logging.set_verbosity(optuna.logging.WARNING)


class Storage:
    """The stored trials of one search, shared by all drivers (processes that run the search).

    Methods raise `SearchError` if the database fails or the journal file is damaged.
    """

    def __init__(self, where: Path | str, name: str, inputs: str, values: Sequence[str]) -> None:
        """Open the journal file (a path) or the database (a URL) at `where`, and create it if it does not exist.

        `name` is the name of the study. `inputs` is a digest of everything that the results of the search depend on. A
        database may contain several searches, each with a different pair of `name` and `inputs`. A journal file
        contains only one search. `values` lists the names of a trial's values: the first value is maximised, and all
        others are minimised.
        """
        self._where = where
        with translated_errors(self._where), warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            self._journal = Journal(where) if isinstance(where, Path) else None
            self._storage = JournalStorage(self._journal) if self._journal else connect(str(where))
            stored = self._storage.get_all_studies() if isinstance(where, Path) else []
            study = optuna.create_study(
                storage=self._storage,
                study_name=stored[0].study_name if stored else f"{name}-{inputs}",
                directions=[StudyDirection.MAXIMIZE, *[StudyDirection.MINIMIZE] * (len(values) - 1)],
                load_if_exists=True,
            )
            self._name = study.study_name
            self._study_id = self._storage.get_study_id_from_name(self._name)
            self.record_dependency("inputs", inputs)
            if not study.metric_names:
                study.set_metric_names(list(values))
        file = file_path(where)
        self._drivers: Drivers = (
            LockFiles(file.with_name(f"{file.name}.drivers")) if file else Heartbeats(self._storage, self._study_id)
        )
        self._driver_id = uuid.uuid4().hex[:12]
        self._unfinished: dict[int, FrozenTrial] = {}
        self.count = 0
        """The number of different trials that `changes` has returned so far."""

    def record_dependency(self, name: str, digest: str) -> None:
        """Record the digest of an input on which results depend, such as the supernet's weights.

        Raises `SearchError` if a different digest was recorded under the same `name` before.
        """
        with translated_errors(self._where):
            if name not in self._storage.get_study_user_attrs(self._study_id):
                self._storage.set_study_user_attr(self._study_id, name, digest)
            recorded = self._storage.get_study_user_attrs(self._study_id)[name]  # another driver may have been first
        if recorded != digest:
            remedy = (
                "remove this file"
                if isinstance(self._where, Path)
                else f"run `optuna delete-study --study-name {self._name} --storage URL` with the URL of this database"
            )
            raise SearchError(
                f"{printable(self._where)}: the search was started with different {name} (digest {recorded}, "
                f"now {digest}); restore the original ones, or {remedy} to start a new search"
            )

    def changes(self) -> list[FrozenTrial]:
        """Return the trials that any driver has started or finished since the last call.

        Running trials that have not changed may be returned again.
        """
        with translated_errors(self._where):
            trials = self._changes_in_journal(self._journal) if self._journal else self._changes_in_database()
        for trial in trials:
            if trial.state.is_finished():
                self._unfinished.pop(trial.number, None)
            else:
                self._unfinished[trial.number] = trial
        return trials

    def _changes_in_database(self) -> list[FrozenTrial]:
        trials = self._storage.get_all_trials(self._study_id, deepcopy=False)
        known_count, self.count = self.count, len(trials)
        return [*(trials[number] for number in self._unfinished), *trials[known_count:]]

    def _changes_in_journal(self, journal: Journal) -> list[FrozenTrial]:
        """Return the trials affected by new lines of the journal. Listing all trials each time would take too long."""
        self._storage.get_study_id_from_name(self._name)  # reads the new lines, and raises an error if one is invalid
        new_ids = list[int]()
        with suppress(KeyError):  # there are no more trials
            while True:
                new_ids.append(self._storage.get_trial_id_from_study_id_trial_number(self._study_id, self.count))
                self.count += 1
        changed_ids, journal.written = journal.written, set()
        older_ids = [trial._trial_id for trial in self._unfinished.values() if trial._trial_id in changed_ids]
        return [self._storage.get_trial(trial) for trial in (*older_ids, *new_ids)]

    def abandoned(self) -> list[FrozenTrial]:
        """Return the trials that are stored as running although their driver is dead."""
        running = [trial for trial in self._unfinished.values() if trial.state == TrialState.RUNNING]
        drivers = {trial.user_attrs.get(DRIVER, "") for trial in running} - {self._driver_id}
        with translated_errors(self._where):
            dead = {driver for driver in drivers if not self._drivers.is_alive(driver)}
        return [trial for trial in running if trial.user_attrs.get(DRIVER, "") in dead]

    def add(self, trial: FrozenTrial) -> int:
        """Store a trial in one write, and return its number. An unfinished trial is assigned to this driver."""
        if not trial.state.is_finished():
            trial.set_user_attr(DRIVER, self._driver_id)
        with translated_errors(self._where):
            self._drivers.join(self._driver_id)
            return self._storage.get_trial_number_from_id(self._storage.create_new_trial(self._study_id, trial))

    def finish(self, number: int, values: Sequence[float], trial: FrozenTrial) -> None:
        """Finish the running trial `number`: first store the attributes of `trial`, and then store `values`.

        Does nothing if another driver has already finished the trial or given it up.
        """
        self._set_finished(number, TrialState.COMPLETE, trial.user_attrs, trial.system_attrs, values)

    def give_up(self, number: int, **attributes: str) -> None:
        """Mark the running trial `number` as failed, and store `attributes` with it."""
        self._set_finished(number, TrialState.FAIL, attributes, {}, None)

    def _set_finished(
        self,
        number: int,
        state: TrialState,
        user_attrs: Mapping[str, Any],
        system_attrs: Mapping[str, Any],
        values: Sequence[float] | None,
    ) -> None:
        with translated_errors(self._where), suppress(UpdateFinishedTrialError):
            trial = self._storage.get_trial_id_from_study_id_trial_number(self._study_id, number)
            for key, value in user_attrs.items():
                self._storage.set_trial_user_attr(trial, key, value)
            for key, value in system_attrs.items():
                self._storage.set_trial_system_attr(trial, key, value)
            self._storage.set_trial_state_values(trial, state, values)

    def leave(self) -> None:
        """Announce that this driver has ended, so that other drivers can take over its running trials at once."""
        self._drivers.leave()
        if isinstance(self._where, Path):
            with self._where.open() as journal:
                os.fsync(journal)
