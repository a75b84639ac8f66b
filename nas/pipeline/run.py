"""The folder of a run: where each step's results lie, and whether they are up to date.

    runs/<study>/
        study.json            the study as the last command that wrote to the run read it
        hub.json              commits of the hub's teacher and data set that the run is made from
        steps/<step>.json     what a step was made from, when it finished, how long it took, what was decided for it
        given/                study and files of a run that was made in Python
        embedded/             data and teacher of the embedded task, if the study uses it
        data/                 train.parquet, search.parquet, test.parquet (tokenised), labels.json, sample.json (some
                              texts); if the vocabulary is pruned also tokenizer/ and vocabulary.json, the rows of the
                              teacher's table that stay
        unlabelled/           text without labels, if the study has some: texts.parquet (tokenised), counts.json
        teacher/              the fine-tuned teacher, or student where there is one: Hugging Face folder
        separate-teacher/     the fine-tuned teacher of a student: Hugging Face folder
        teacher-logits/       what a student is taught: logits.safetensors, and about.json, the teacher's accuracy
        supernet/             the trained weights: Hugging Face folder of the largest sub-network
        supernet/ordered/     the teacher with its units in order of importance
        supernet/outputs/     the teacher's logits and hidden states for all training texts, until the final training
                              has ended
        profiles/<device>.json  and .samples.json, all that was measured for it
        search/journal.log    Optuna's storage, unless the study names a database
        search/journal.log.drivers/  a locked file for each process that evaluates candidates
        search/front.json     the Pareto front, with measured latencies
        evaluations/          accuracies that the next search of the same supernet need not find anew
        baselines/<device>/   the teacher and the int8 teacher, written and verified like exports
        finalists/            finalists.json: what the final training of the best candidates came to; its log; and a
                              Hugging Face folder for each of them, named by its architecture's digest
        fine-tuning/<export>/ the same for candidates that were not among them, each trained alone when it is exported;
                              also for a single candidate (`nas export --trial`) that was dropped in the final training
        missed/<budget>.json  digests of what missed a budget on a device elsewhere
        exports/<export>/     Hugging Face folder that loads anywhere, onnx/model.onnx, infer.py, README.md,
                              architecture.json, verification.json; an export is named by its budget, or trial-<number>
        */tensorboard/        logs of trainings, where TensorBoard or tensorboardX is installed
        report.html, front.svg, architectures.svg
        log.jsonl             what happened when: steps, what was said, each evaluation; only ever appended to

A step leaves its mark when it starts and when it ends. A step that was started from the same inputs goes on
where it stopped; from other inputs it starts anew.
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
from nas.progress import Laps, Listener, heard_by, log, logged, say
from nas.study import Study

if TYPE_CHECKING:
    from transformers import TrainerCallback

LOG_FILE = "log.jsonl"
T = TypeVar("T")


class Run:
    """One study's folder."""

    def __init__(self, study: Study, folder: Path) -> None:
        self.study = study
        self.folder = folder
        self.callbacks: list[TrainerCallback] = []
        """What transformers' Trainer calls in each training of this process."""
        self._listeners: list[Listener] = []
        self._known: dict[Callable[..., Any], Any] | None = None

    def __reduce__(self) -> tuple[type[Run], tuple[Study, Path]]:
        return Run, (self.study, self.folder)  # a worker looks for itself

    @classmethod
    def of(cls, study: Study, root: Path) -> Run:
        """The run of a study below `root`, whether or not it is there yet."""
        return cls(study, root.resolve() / study.name)

    def listen(self, listener: Listener) -> Run:
        """Have a function called with each event of what is done on this run in this process; returns the run.

        An event is a mapping with its name as `event`: `started`, `finished` and `stopped` with the `step`; `progress`
        with `title`, `done`, `total` and a `note`; `said` with the `message`; `evaluated`, of each candidate of the
        search, with its `trial`, `architecture`, `accuracy`, `predicted_ms` by device, and whether it was `complete`;
        `searched` at the search's end. What the function raises ends the work, which can be resumed.
        """
        self._listeners.append(listener)
        return self

    def add_callback(self, callback: TrainerCallback) -> Run:
        """Have transformers' Trainer call a callback in each training of this process; returns the run."""
        self.callbacks.append(callback)
        return self

    @property
    def embedded(self) -> Path:
        """Data and teacher of the embedded task."""
        return self.folder / "embedded"

    @property
    def data(self) -> Path:
        """Tokenised splits."""
        return self.folder / "data"

    @property
    def unlabelled(self) -> Path:
        """Tokenised texts without labels."""
        return self.folder / "unlabelled"

    @property
    def teacher(self) -> Path:
        """The fine-tuned teacher."""
        return self.folder / "teacher"

    @property
    def separate_teacher(self) -> Path:
        """The fine-tuned teacher of a student."""
        return self.folder / "separate-teacher"

    @property
    def teacher_logits(self) -> Path:
        """What the teacher of a student answers to each text."""
        return self.folder / "teacher-logits"

    @property
    def supernet(self) -> Path:
        """The trained supernet."""
        return self.folder / "supernet"

    @property
    def ordered_teacher(self) -> Path:
        """The teacher with ordered units."""
        return self.supernet / "ordered"

    @property
    def outputs(self) -> Path:
        """What the ordered teacher says of the training texts, while trainings need it."""
        return self.supernet / "outputs"

    @property
    def journal(self) -> Path:
        """Optuna's storage."""
        return self.folder / "search" / "journal.log"

    def evaluations(self, of: str) -> Path:
        """The accuracies that are known of a supernet, named by a digest of it and of what it is judged by."""
        return self.folder / "evaluations" / f"{of}.jsonl"

    @property
    def front(self) -> Path:
        """The Pareto front with measured latencies."""
        return self.folder / "search" / "front.json"

    def profile(self, device: str) -> Path:
        """The profile of a device."""
        return self.folder / "profiles" / f"{device}.json"

    def export(self, budget: str) -> Path:
        """The export for a budget."""
        return self.folder / "exports" / budget

    def baselines(self, device: str) -> Path:
        """The teacher as it is served on a device."""
        return self.folder / "baselines" / device

    @property
    def finalists(self) -> Path:
        """The final training of the best candidates of all budgets."""
        return self.folder / "finalists"

    def trainings(self, export: str) -> Path:
        """Where candidates for an export that are no finalists are trained, each in a folder named by its digest."""
        return self.folder / "fine-tuning" / export

    def missed(self, budget: str) -> Path:
        """Architectures that were exported for a budget and missed it on a device elsewhere."""
        return self.folder / "missed" / f"{budget}.json"

    @property
    def snapshots(self) -> Path:
        """The commits of what comes from the hub."""
        return self.folder / "hub.json"

    def _mark(self, step: str) -> Path:
        return self.folder / "steps" / f"{step}.json"

    def is_started(self, step: str, inputs: str | None = None) -> bool:
        """Whether the step was started, on just these inputs if they are given."""
        mark = self._mark(step)
        return mark.exists() and inputs in (None, read_json(mark, StudyError)["inputs"])

    def is_done(self, step: str, inputs: str) -> bool:
        """Whether the step ended on just these inputs."""
        return self.is_finished(step) and bool(read_json(self._mark(step), StudyError)["inputs"] == inputs)

    def is_finished(self, step: str) -> bool:
        """Whether the step ended, on whatever inputs, and its result is still there."""
        mark = self._mark(step)
        if not mark.exists():
            return False
        known = read_json(mark, StudyError)
        return known["finished"] is not None and (self.folder / known["result"]).exists()

    @contextmanager
    def step(self, step: str, inputs: str, result: Path, *aside: Path, allowed: float = float("inf")) -> Iterator[Laps]:
        """Mark a step as started, and as finished when the block ends; the block may say what its time was spent on.

        Its result, and what it needs aside, are removed first if they were begun from other inputs. What is left of
        the seconds that it is `allowed`, those before an interruption included, is told to the block.
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
        elif not result.exists():  # somebody took it away: half of the next one must not count as finished
            known["finished"] = None
            write_json(mark, known)
        started, finished = time.monotonic(), known["finished"]
        laps = Laps(known.get("parts", {}), allowed - known["seconds"])
        self._forget()
        with logged(self.folder / LOG_FILE):
            log("started", step=step)
            if replaces:
                say(f"{step}: its settings, its files or nas itself changed since it was made; rebuilding it")
            try:
                yield laps
                finished = datetime.now(UTC).isoformat()
            except BaseException as problem:
                log("stopped", step=step, problem=f"{type(problem).__name__}: {problem}")
                raise
            finally:
                seconds = round(known["seconds"] + time.monotonic() - started, 1)
                parts = {part: round(taken, 1) for part, taken in laps.items()}
                known = read_json(mark, StudyError)  # with what the block has noted
                write_json(mark, known | {"finished": finished, "seconds": seconds, "parts": parts})
                self._forget()
            log("finished", step=step, seconds=seconds, parts=parts)

    def note(self, step: str, **facts: Any) -> None:
        """Add to the mark of a step that was started."""
        write_json(self._mark(step), read_json(self._mark(step), StudyError) | facts)

    def noted(self, step: str, fact: str) -> Any:
        """What was added to the mark of a step that was started; None where nothing was."""
        return read_json(self._mark(step), StudyError).get(fact)

    def seconds(self, order: Sequence[str] = ()) -> dict[str, float]:
        """How long each finished step took: those of a list in its order, then others."""
        steps = sorted(mark.stem for mark in (self.folder / "steps").glob("*.json"))
        steps.sort(key=lambda step: order.index(step) if step in order else len(order))
        return {step: read_json(self._mark(step), StudyError)["seconds"] for step in steps if self.is_finished(step)}

    def parts(self) -> dict[str, dict[str, float]]:
        """What the seconds of finished steps were spent on; nothing where a step does not say."""
        return {step: read_json(self._mark(step), StudyError).get("parts", {}) for step in self.seconds()}

    @contextmanager
    def remembering(self) -> Iterator[None]:
        """Keep what functions marked `once` find in the block, until a step is begun or ended; tell listeners of it."""
        before = self._known
        self._known = {} if before is None else before
        try:
            with heard_by(self._listeners):
                yield
        finally:
            self._known = before

    def _forget(self) -> None:
        if self._known is not None:
            self._known.clear()

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the run: two commands that write to one run would spoil each other's steps."""
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
                    f"{self.folder}: another nas command is working on this run; wait for it, help it with "
                    "nas search --join, or use another --runs"
                ) from None
            yield


def once(find: Callable[[Run], T]) -> Callable[[Run], T]:
    """Wrap a function of a run that is asked for the same thing by several steps: see `Run.remembering`."""

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
