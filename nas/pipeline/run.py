"""The folder of a run: where the results of each step lie, and whether they are up to date.

    runs/<study>/
        study.json            the study's settings, as read by the last command that wrote to the run
        hub.json              commits of the models and the data set that were taken from the Hugging Face hub
        steps/<step>.json     a step's mark: digest of its inputs, when it finished, how long it took, its notes
        given/                study and files of a run that was made in Python
        embedded/             data and teacher of the built-in task, if the study uses it
        data/                 train.parquet, search.parquet, test.parquet (tokenised), labels.json, sample.json (some
                              texts); if the vocabulary is pruned also tokenizer/ and vocabulary.json, the rows of the
                              teacher's token embeddings that are kept
        unlabelled/           unlabelled texts, if the study has some: texts.parquet (tokenised), counts.json
        teacher/              the fine-tuned teacher, or the student if there is one: Hugging Face folder
        separate-teacher/     the fine-tuned teacher of a student: Hugging Face folder
        teacher-logits/       what a student learns from: logits.safetensors, and the teacher's accuracy in about.json
        supernet/             the trained weights: Hugging Face folder of the largest sub-network
        supernet/ordered/     the teacher with its units in order of importance
        supernet/outputs/     the teacher's logits and hidden states for all training texts; deleted after the final
                              training
        profiles/             <device>.json, the latency profile of a device; <device>.samples.json, its measurements
        search/journal.log    Optuna's storage, unless the study names a database
        search/journal.log.drivers/  a locked file for each process that evaluates candidates
        search/front.json     the Pareto front, with measured latencies
        evaluations/          accuracies of candidates, which later searches of the same supernet reuse
        baselines/<device>/   the teacher, its int8 form and a static model, written and verified like exports
        finalists/            final training of the best candidates: finalists.json with their accuracies, the log, and
                              a Hugging Face folder for each of them, named by its architecture's digest
        fine-tuning/<export>/ the same for a candidate that is trained by itself when it is exported, because it was no
                              finalist or was dropped in the final training
        missed/<budget>.json  digests of architectures that missed a budget on an off-cluster device
        exports/<export>/     Hugging Face folder that loads anywhere, onnx/model.onnx, infer.py, README.md,
                              architecture.json, verification.json; an export is named by its budget, or trial-<number>
        */tensorboard/        logs of trainings, if TensorBoard or tensorboardX is installed
        report.html, front.svg, architectures.svg
        log.jsonl             events with their times: steps, messages, evaluations; only ever appended to

A step marks its start and its end. If it is interrupted and run again from the same inputs, it resumes; from other
inputs it starts from scratch.
"""

from __future__ import annotations

import fcntl
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from nas.errors import NasError, StudyError
from nas.files import read_json, write_json
from nas.limits import working_on
from nas.progress import Listener, Stopwatch, log, logged, notifying, say
from nas.study import Study

if TYPE_CHECKING:
    from transformers import TrainerCallback

LOG_FILE = "log.jsonl"
T = TypeVar("T")


class Run:
    """The folder with one study's results, and the marks that say which steps are up to date."""

    def __init__(self, study: Study, folder: Path) -> None:
        self.study = study
        self.folder = folder
        self.callbacks: list[TrainerCallback] = []
        """Callbacks for transformers' Trainer in every training of this process."""
        self._listeners: list[Listener] = []
        self._known: dict[Callable[..., Any], Any] | None = None

    def __reduce__(self) -> tuple[type[Run], tuple[Study, Path]]:
        return Run, (self.study, self.folder)  # listeners, callbacks and cached values stay in this process

    @classmethod
    def of(cls, study: Study, root: Path) -> Run:
        """Return the run of a study: the folder with the study's name below `root`, which need not exist yet."""
        return cls(study, root.resolve() / study.name)

    def listen(self, listener: Listener) -> Run:
        """Call `listener` with each event of the work that this process does on the run; return the run.

        An event is a mapping whose `event` is one of

        - `started`, `finished`, `stopped`: a step; with the `step`
        - `progress`: with `title`, `done`, `total` and `note`
        - `said`: a message for the user; with the `message`
        - `evaluated`: a candidate of the search; with its `trial`, `architecture`, `accuracy`, `predicted_ms` by
          device, and whether the evaluation was `complete`
        - `searched`: the end of the search

        An exception that the listener raises stops the work, which can be resumed.
        """
        self._listeners.append(listener)
        return self

    def add_callback(self, callback: TrainerCallback) -> Run:
        """Add a callback for transformers' Trainer in every training of this process; return the run."""
        self.callbacks.append(callback)
        return self

    @property
    def embedded(self) -> Path:
        """The folder of the built-in task's data and teacher."""
        return self.folder / "embedded"

    @property
    def data(self) -> Path:
        """The folder of the tokenised splits."""
        return self.folder / "data"

    @property
    def unlabelled(self) -> Path:
        """The folder of the tokenised unlabelled texts."""
        return self.folder / "unlabelled"

    @property
    def teacher(self) -> Path:
        """The folder of the model that is compressed: the fine-tuned teacher or, if the study has one, the student."""
        return self.folder / "teacher"

    @property
    def separate_teacher(self) -> Path:
        """The folder of a student's separate teacher, if that is fine-tuned in this run."""
        return self.folder / "separate-teacher"

    @property
    def teacher_logits(self) -> Path:
        """The folder of the logits that a student's separate teacher outputs for each text."""
        return self.folder / "teacher-logits"

    @property
    def supernet(self) -> Path:
        """The folder of the trained supernet."""
        return self.folder / "supernet"

    @property
    def ordered_teacher(self) -> Path:
        """The folder of the teacher with its units in order of importance, from which the supernet starts."""
        return self.supernet / "ordered"

    @property
    def outputs(self) -> Path:
        """The folder of the ordered teacher's outputs for the training texts, kept only while trainings need them."""
        return self.supernet / "outputs"

    @property
    def journal(self) -> Path:
        """The file of Optuna's storage, unless the study names a database."""
        return self.folder / "search" / "journal.log"

    def evaluations(self, of: str) -> Path:
        """Return the file of known accuracies for `of`, a digest of a supernet and of how accuracy is measured."""
        return self.folder / "evaluations" / f"{of}.jsonl"

    @property
    def front(self) -> Path:
        """The file of the Pareto front with measured latencies."""
        return self.folder / "search" / "front.json"

    def profile(self, device: str) -> Path:
        """Return the file of a device's latency profile."""
        return self.folder / "profiles" / f"{device}.json"

    def export(self, budget: str) -> Path:
        """Return the folder of an export, given the name of its budget, or `trial-<number>` for a single candidate."""
        return self.folder / "exports" / budget

    def baselines(self, device: str) -> Path:
        """Return the folder of a device's baselines: the teacher, its int8 form and the static model."""
        return self.folder / "baselines" / device

    @property
    def finalists(self) -> Path:
        """The folder of the final training, in which the best candidates of all budgets take part."""
        return self.folder / "finalists"

    def trainings(self, export: str) -> Path:
        """Return the folder of candidates that were trained separately for an export, each in a subfolder."""
        return self.folder / "fine-tuning" / export

    def missed(self, budget: str) -> Path:
        """Return the file that lists architectures whose export missed a budget on an off-cluster device."""
        return self.folder / "missed" / f"{budget}.json"

    @property
    def snapshots(self) -> Path:
        """The file of the commits of models and data set that come from the Hugging Face hub."""
        return self.folder / "hub.json"

    def _mark(self, step: str) -> Path:
        return self.folder / "steps" / f"{step}.json"

    def is_started(self, step: str, inputs: str | None = None) -> bool:
        """Whether the step was started; if `inputs` are given, whether it was started from exactly these."""
        mark = self._mark(step)
        return mark.exists() and inputs in (None, read_json(mark, StudyError)["inputs"])

    def is_done(self, step: str, inputs: str) -> bool:
        """Whether the step finished from exactly these inputs and its result still exists."""
        return self.is_finished(step) and bool(read_json(self._mark(step), StudyError)["inputs"] == inputs)

    def is_finished(self, step: str) -> bool:
        """Whether the step finished, whatever its inputs were, and its result still exists."""
        mark = self._mark(step)
        if not mark.exists():
            return False
        known = read_json(mark, StudyError)
        return known["finished"] is not None and (self.folder / known["result"]).exists()

    @contextmanager
    def step(
        self, step: str, inputs: str, result: Path, *aside: Path, allowed: float = float("inf")
    ) -> Iterator[Stopwatch]:
        """Mark a step as started, and as finished if the `with` block ends without an error.

        If an earlier attempt had other inputs, its result and the files `aside` are removed first. The block gets a
        `Stopwatch`, in which it may record what its time was spent on. The stopwatch also tells how many of the
        `allowed` seconds are left; time spent before an interruption is deducted.
        """
        mark = self._mark(step)
        known: dict[str, Any] = read_json(mark, StudyError) if mark.exists() else {}
        replaces = bool(known) and known["inputs"] != inputs
        if known.get("inputs") != inputs:
            mark.unlink(missing_ok=True)
            for output in (result, *aside):
                if output.is_dir():
                    shutil.rmtree(output)
                else:
                    output.unlink(missing_ok=True)
            name = result.relative_to(self.folder).as_posix()
            known = {"inputs": inputs, "result": name, "finished": None, "seconds": 0.0}
            write_json(mark, known)
        elif not result.exists():  # the result was deleted: a new one that is half made must not count as finished
            known["finished"] = None
            write_json(mark, known)
        started, finished = time.monotonic(), known["finished"]
        stopwatch = Stopwatch(known.get("parts", {}), allowed - known["seconds"])
        self._forget()
        with logged(self.folder / LOG_FILE):
            log("started", step=step)
            if replaces:
                say(f"{step}: its settings, its files or nas itself have changed since it was made; rebuilding it")
            try:
                yield stopwatch
                finished = datetime.now(UTC).isoformat()
            except BaseException as problem:
                log("stopped", step=step, problem=f"{type(problem).__name__}: {problem}")
                raise
            finally:
                seconds = round(known["seconds"] + time.monotonic() - started, 1)
                parts = {part: round(taken, 1) for part, taken in stopwatch.items()}
                known = read_json(mark, StudyError)  # read again, as the block may have added notes
                write_json(mark, known | {"finished": finished, "seconds": seconds, "parts": parts})
                self._forget()
            log("finished", step=step, seconds=seconds, parts=parts)

    def add_note(self, step: str, **facts: Any) -> None:
        """Add facts to the mark of a step that was started; `get_note` returns them."""
        write_json(self._mark(step), read_json(self._mark(step), StudyError) | facts)

    def get_note(self, step: str, fact: str) -> Any:
        """Return a fact that was added to the mark of a step that was started; None if it was not added."""
        return read_json(self._mark(step), StudyError).get(fact)

    def seconds(self, order: Sequence[str] = ()) -> dict[str, float]:
        """Return the seconds that each finished step took: first the steps in `order`, then all others by name."""
        steps = sorted(mark.stem for mark in (self.folder / "steps").glob("*.json"))
        steps.sort(key=lambda step: order.index(step) if step in order else len(order))
        return {step: read_json(self._mark(step), StudyError)["seconds"] for step in steps if self.is_finished(step)}

    def parts(self) -> dict[str, dict[str, float]]:
        """Return what the seconds of each finished step were spent on; empty for a step that did not record it."""
        return {step: read_json(self._mark(step), StudyError).get("parts", {}) for step in self.seconds()}

    @contextmanager
    def remembering(self) -> Iterator[None]:
        """Cache the results of functions marked `once` during the block, and pass its events to the listeners.

        The cache is cleared whenever a step starts or ends.
        """
        before = self._known
        self._known = {} if before is None else before
        try:
            with notifying(self._listeners):
                yield
        finally:
            self._known = before

    def _forget(self) -> None:
        if self._known is not None:
            self._known.clear()

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Lock the run during the block, since two commands that write to one run would corrupt each other's steps.

        Also writes `study.json`. Raises `NasError` if another command holds the lock.
        """
        with working_on(self.folder), self._lock(), self.remembering():
            write_json(self.folder / "study.json", self.study.model_dump(mode="json"))
            yield

    @contextmanager
    def _lock(self) -> Iterator[None]:
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / ".lock").open("w") as handle:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise NasError(
                    f"{self.folder}: another nas command is working on this run; wait until it ends, join its search "
                    "with nas search --join, or choose another folder with --runs"
                ) from None
            yield


def once(find: Callable[[Run], T]) -> Callable[[Run], T]:
    """Wrap a function of a run whose result several steps need, so that it is cached; see `Run.remembering`."""

    @wraps(find)
    def found(run: Run) -> T:
        known = run._known
        if known is None:
            return find(run)
        if find not in known:
            known[find] = find(run)
        value: T = known[find]
        return value

    return found
