"""The folder of a run: the files with each step's results, and the records that show which results are up to date.

    runs/<study>/
        study.json            the study's settings, as read by the last command that wrote to the run
        hub.json              commits of the models and the data set that come from the Hugging Face hub
        steps/<step>.json     a step's record: digest of its inputs, when it finished, how long it took, its notes
        given/                study file, data and models of a run that was created from Python objects
        embedded/             data and teacher of the built-in task, if the study uses it
        data/                 train.parquet, search.parquet, test.parquet (tokenised), labels.json, sample.json (some
                              texts); if the vocabulary is pruned also tokenizer/ and vocabulary.json, the rows of the
                              teacher's token embeddings that are kept
        unlabelled/           unlabelled texts, if the study has some: texts.parquet (tokenised), counts.json
        teacher/              the model to compress, after any fine-tuning: Hugging Face folder of the student if
                              the study has one, else of the teacher
        separate-teacher/     the fine-tuned teacher of a student: Hugging Face folder
        teacher-logits/       logits of a student's separate teacher in logits.safetensors, its accuracy in about.json
        supernet/             the trained weights: Hugging Face folder of the largest sub-network
        supernet/ordered/     the teacher with its units in order of importance
        supernet/outputs/     the teacher's logits and hidden states for all training texts; deleted after the final
                              training
        profiles/             <device>.json, the latency profile of a device; <device>.samples.json, its measurements
        search/journal.log    Optuna's storage, unless the study names a database
        search/journal.log.drivers/  a lock file for each process that runs the search
        search/front.json     the Pareto front, with measured latencies
        evaluations/          accuracies of candidates, which later searches of the same supernet reuse
        baselines/<device>/   the teacher, its int8 form and a static model, written and verified like exports
        finalists/            final training of the best candidates: finalists.json with their accuracies, the log, and
                              a Hugging Face folder for each candidate, named by its architecture's digest
        fine-tuning/<export>/ training of a candidate that is trained separately when it is exported, because it was
                              not a finalist or was dropped in the final training; same files as in finalists/
        missed/<budget>.json  digests of architectures that missed a budget on an off-cluster device
        exports/<export>/     Hugging Face folder that loads without nas, onnx/model.onnx, infer.py, README.md,
                              architecture.json, verification.json; an export is named by its budget, or trial-<number>
        */tensorboard/        training logs, if TensorBoard or tensorboardX is installed
        report.html, front.svg, architectures.svg
        log.jsonl             events with their times: steps, messages, evaluations; each command appends to it

The record of a step is written when the step starts, regularly while it is running, and when it ends. If an interrupted
step is run again with unchanged inputs, it resumes. If the inputs have changed, it starts from scratch.
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
from nas.progress import Event, Listener, Stopwatch, log, logged, notifying, say
from nas.study import Study

if TYPE_CHECKING:
    from transformers import TrainerCallback

LOG_FILE = "log.jsonl"
_SECONDS_BETWEEN_RECORDS = 10.0
"""The time between two updates of a running step's record. If the process is killed, only the time since the last
update is not recorded."""
T = TypeVar("T")


class Run:
    """A folder that holds the results of one study and the record of each step."""

    def __init__(self, study: Study, folder: Path) -> None:
        self.study = study
        self.folder = folder
        self.embedded = folder / "embedded"
        """The folder of the built-in task's data and teacher."""
        self.data = folder / "data"
        """The folder of the tokenised splits."""
        self.unlabelled = folder / "unlabelled"
        """The folder of the tokenised unlabelled texts."""
        self.teacher = folder / "teacher"
        """The folder of the model to compress: the student if the study has one, else the teacher."""
        self.separate_teacher = folder / "separate-teacher"
        """The folder of a student's separate teacher, used only if this run fine-tunes that teacher."""
        self.teacher_logits = folder / "teacher-logits"
        """The folder with the logits that a student's separate teacher computes for each text."""
        self.supernet = folder / "supernet"
        """The folder of the trained supernet."""
        self.ordered_teacher = self.supernet / "ordered"
        """The folder of the teacher with its units ordered by importance, from which the supernet's training starts."""
        self.outputs = self.supernet / "outputs"
        """The folder of the teacher's outputs for all training texts, deleted after the last training stage."""
        self.journal = folder / "search" / "journal.log"
        """The file in which Optuna stores the trials of the search, unless the study names a database."""
        self.front = folder / "search" / "front.json"
        """The file with the Pareto front and the measured candidates."""
        self.finalists = folder / "finalists"
        """The folder of the final training, in which the best candidates of all budgets are trained."""
        self.snapshots = folder / "hub.json"
        """The file with the commits of the models and the data set that come from the Hugging Face hub."""
        self.callbacks: list[TrainerCallback] = []
        """Callbacks for transformers' Trainer, used in every training stage of this process."""
        self._listeners: list[Listener] = []
        self._cache: dict[Callable[..., Any], Any] | None = None

    def __reduce__(self) -> tuple[type[Run], tuple[Study, Path]]:
        return Run, (self.study, self.folder)  # listeners, callbacks and cached values stay in this process

    @classmethod
    def of(cls, study: Study, root: Path) -> Run:
        """Return the run of a study. Its folder is `root / study.name`, which need not exist yet."""
        return cls(study, root.resolve() / study.name)

    def listen(self, listener: Listener) -> Run:
        """Call `listener` with each event of the work that this process does on the run; return the run.

        An event is a dictionary. Its key `event` holds one of the names below, which determines the other keys:

        - `started`, `finished` or `stopped`: a step has started, finished or failed; `step` is its name
        - `progress`: work has progressed; the keys include `title`, `done`, `total` and `note`
        - `said`: a message for the user; `message` is its text
        - `evaluated`: a candidate of the search has been evaluated; the keys include `trial`, `architecture`,
          `accuracy`, `predicted_ms` (keyed by device), and `complete` (whether all texts were evaluated)
        - `searched`: the search has ended

        An exception that the listener raises stops the work. The work can be resumed later.
        """
        self._listeners.append(listener)
        return self

    def add_callback(self, callback: TrainerCallback) -> Run:
        """Add a callback for transformers' Trainer to every training stage of this process; return the run."""
        self.callbacks.append(callback)
        return self

    def evaluations(self, identity: str) -> Path:
        """Return the path of a file with accuracies. `identity` is a digest of the evaluated weights and settings."""
        return self.folder / "evaluations" / f"{identity}.jsonl"

    def profile(self, device: str) -> Path:
        """Return the file of a device's latency profile."""
        return self.folder / "profiles" / f"{device}.json"

    def export(self, budget: str) -> Path:
        """Return the folder of the export for a budget. For a single candidate, `budget` is `trial-<number>`."""
        return self.folder / "exports" / budget

    def baselines(self, device: str) -> Path:
        """Return the folder of a device's baselines: the teacher, its int8 form and the static model."""
        return self.folder / "baselines" / device

    def trainings(self, export: str) -> Path:
        """Return the folder of candidates trained individually for an export. Each candidate has a subfolder."""
        return self.folder / "fine-tuning" / export

    def missed(self, budget: str) -> Path:
        """Return the file that lists the architectures whose exports missed a budget on an off-cluster device."""
        return self.folder / "missed" / f"{budget}.json"

    def _record_path(self, step: str) -> Path:
        return self.folder / "steps" / f"{step}.json"

    def _record(self, step: str) -> dict[str, Any]:
        """Return the record of a step; empty if the step was never started."""
        path = self._record_path(step)
        record: dict[str, Any] = read_json(path, StudyError) if path.exists() else {}
        return record

    def is_started(self, step: str, inputs: str | None = None) -> bool:
        """Whether the step was started and, if the digest `inputs` is given, was started with inputs of this digest."""
        record = self._record(step)
        return bool(record) and inputs in (None, record["inputs"])

    def is_done(self, step: str, inputs: str) -> bool:
        """Whether the step was finished with inputs whose digest is `inputs`, and its result still exists."""
        return self.is_finished(step) and bool(self._record(step)["inputs"] == inputs)

    def is_finished(self, step: str) -> bool:
        """Whether the step was finished, with any inputs, and its result still exists."""
        record = self._record(step)
        return bool(record) and record["finished"] is not None and (self.folder / record["result"]).exists()

    @contextmanager
    def step(
        self, step: str, inputs: str, result: Path, *other_outputs: Path, allowed: float = float("inf")
    ) -> Iterator[Stopwatch]:
        """Record that a step has started and, if the `with` block ends without an error, that it has finished.

        If an earlier attempt had different inputs, its `result` and `other_outputs` are removed first. Yields a
        `Stopwatch`, with which the block can record how its time was spent. The stopwatch's `left` is `allowed` minus
        the seconds spent so far, which include the time before an interruption. The seconds are recorded while the
        block reports its progress, so that they are not lost if the process is killed.
        """
        path, entry = self._record_path(step), self._record(step)
        replaces = bool(entry) and entry["inputs"] != inputs
        if entry.get("inputs") != inputs:
            path.unlink(missing_ok=True)
            for output in (result, *other_outputs):
                if output.is_dir():
                    shutil.rmtree(output)
                else:
                    output.unlink(missing_ok=True)
            name = result.relative_to(self.folder).as_posix()
            entry = {"inputs": inputs, "result": name, "finished": None, "seconds": 0.0}
            write_json(path, entry)
        elif not result.exists():  # the result was deleted: an incomplete new one must not count as finished
            entry["finished"] = None
            write_json(path, entry)
        started = recorded = time.monotonic()
        finished = entry["finished"]
        # `entry` is not changed from here on. The file is read again before it is written, because the `with` block may
        # have added notes.
        stopwatch = Stopwatch(entry.get("parts", {}), allowed - entry["seconds"])

        def spent() -> dict[str, Any]:
            seconds = round(entry["seconds"] + time.monotonic() - started, 1)
            return {"seconds": seconds, "parts": {part: round(value, 1) for part, value in stopwatch.items()}}

        def record_time(event: Event) -> None:
            nonlocal recorded
            if time.monotonic() - recorded >= _SECONDS_BETWEEN_RECORDS:
                write_json(path, entry | self._record(step) | spent())
                recorded = time.monotonic()

        self._clear_cache()
        with logged(self.folder / LOG_FILE), notifying([record_time]):
            log("started", step=step)
            if replaces:
                say(f"{step}: settings, files or nas itself have changed since this step was run; running it again")
            try:
                yield stopwatch
                finished = datetime.now(UTC).isoformat()
            except BaseException as problem:
                log("stopped", step=step, problem=f"{type(problem).__name__}: {problem}")
                raise
            finally:
                times = spent()
                write_json(path, entry | self._record(step) | {"finished": finished} | times)
                self._clear_cache()
            log("finished", step=step, **times)

    def add_note(self, step: str, **facts: Any) -> None:
        """Add facts to the record of a step that has been started. `get_note` returns these facts."""
        write_json(self._record_path(step), self._record(step) | facts)

    def get_note(self, step: str, fact: str) -> Any:
        """Return a fact that `add_note` added to the record of a started step; None if there is no such fact."""
        return self._record(step).get(fact)

    def seconds(self, order: Sequence[str] = ()) -> dict[str, float]:
        """Return the seconds that each finished step took, keyed by step name.

        The steps in `order` come first, and all other steps follow in alphabetical order.
        """
        steps = sorted(path.stem for path in (self.folder / "steps").glob("*.json"))
        steps.sort(key=lambda step: order.index(step) if step in order else len(order))
        return {step: self._record(step)["seconds"] for step in steps if self.is_finished(step)}

    def parts(self) -> dict[str, dict[str, float]]:
        """Return the seconds that each part of each finished step took, as nested dictionaries.

        The outer keys are step names, and the inner keys are names of parts. The inner dictionary is empty if the step
        recorded no parts.
        """
        return {step: self._record(step).get("parts", {}) for step in self.seconds()}

    @contextmanager
    def remembering(self) -> Iterator[None]:
        """During the `with` block, cache the results of functions decorated with `once`, and pass events to listeners.

        The cache is cleared whenever a step starts or ends.
        """
        outer_cache = self._cache
        self._cache = {} if outer_cache is None else outer_cache
        try:
            with notifying(self._listeners):
                yield
        finally:
            self._cache = outer_cache

    def _clear_cache(self) -> None:
        if self._cache is not None:
            self._cache.clear()

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Lock the run during the `with` block, so that no other command writes to the run at the same time.

        Also write `study.json`. Raise `NasError` if another command holds the lock.
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
                    "with nas search --join, or choose a different folder with --runs"
                ) from None
            yield


def once(compute: Callable[[Run], T]) -> Callable[[Run], T]:
    """Decorate a function of a run so that `Run.remembering` caches its result until a step starts or ends."""

    @wraps(compute)
    def cached(run: Run) -> T:
        cache = run._cache
        if cache is None:
            return compute(run)
        if compute not in cache:
            cache[compute] = compute(run)
        value: T = cache[compute]
        return value

    return cached
