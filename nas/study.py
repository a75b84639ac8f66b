"""Study files: one question, as frozen and validated settings.

A study file is TOML. Its paths are relative to its folder, and `${NAME}` stands for a variable that the study
declares under `[variables]` and the user gives with `--set NAME=value` or in the environment.
"""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Mapping
from functools import cached_property
from importlib import resources
from itertools import combinations
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, SecretStr, field_validator, model_validator

from nas.budget import Budget
from nas.compression import REGISTRY, compression
from nas.device import NAME, Device, Name
from nas.errors import StudyError
from nas.files import Flag, Positive, Real, Settings, Whole, digest, given_path, read_toml, validate
from nas.space import SearchSpace, Shape, shipped_spaces
from nas.tasks import task_kind

DATA_SUFFIXES = (".parquet", ".csv", ".jsonl")
_VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")

Probability = Annotated[float, Field(gt=0.0, lt=1.0, strict=True, allow_inf_nan=False)]
PositiveReal = Annotated[float, Field(gt=0.0, strict=True, allow_inf_nan=False)]

_TEXTS_OF_TEACHER, _EPOCHS = 50_000, (2, 10)
"""A teacher is fine-tuned on at least so many texts, each counted as often as it is read, in no fewer and no more
epochs than these, unless the study gives them. SST-2's 62,000 rows take two; 8,000 rows of 60 classes take eight."""


class FineTuning(Settings):
    """Fine-tuning of a teacher that has not seen the task yet."""

    epochs: PositiveReal | None = None
    """Left out: by the number of training rows, and the epoch that is best on the search set is kept."""
    learning_rate: PositiveReal = 8e-5
    batch_size: Positive = 64

    def epochs_on(self, rows: int) -> float:
        """How often so many training rows are read, at most."""
        few, many = _EPOCHS
        return self.epochs or min(many, max(few, -(-_TEXTS_OF_TEACHER // rows)))


class Teacher(Settings):
    """A model that the user brings."""

    model: str = Field(min_length=1)
    """A folder or a hub id of a model of a family that `nas` knows; `embedded` for the BERT that `nas` makes. Of a
    teacher that is not compressed itself any model that transformers can classify texts with."""
    revision: str | None = Field(default=None, min_length=1)
    """Branch, tag or commit of a hub model; its main branch if it is left out."""
    fine_tune: FineTuning | None = None
    """Left out, or false, for a teacher that is fine-tuned already; true is a table without settings."""
    prune_vocabulary: Flag = False
    """Whether tokens that the training texts never use are dropped; words are then cut into smaller pieces. For
    WordPiece, BPE and Unigram tokenizers."""
    outputs: dict[str, str] | None = None
    """Of the teacher of a student: the columns of the training data, and of text without labels, that hold its logits,
    by label. It is not loaded then, and `model` is only its name."""

    @field_validator("fine_tune", mode="before")
    @classmethod
    def _as_table(cls, given: Any) -> Any:
        if isinstance(given, bool):
            return {} if given else None
        if given is not None and not isinstance(given, Mapping | FineTuning):
            raise ValueError(
                f"must be true, false or a table such as {{ epochs = 2.0 }}, but got {given!r}; correct it"
            )
        return given

    @property
    def is_loaded(self) -> bool:
        """Whether it is there itself, and not only its outputs."""
        return self.outputs is None


_HELD_OUT, _ONE_IN = 5000, 5
"""Search sets have at most so many rows, and at most one in so many training rows, unless the study gives a size."""


def held_out_size(rows: int) -> int:
    """The size of the search set of so many training rows, where the study does not give it."""
    return max(1, min(_HELD_OUT, rows // _ONE_IN))


class Holdout(Settings):
    """How the search set is held out of the training rows."""

    size: Positive | None = None
    """Rows of the search set; see `held_out_size` where it is left out."""
    by: Literal["row", "sentence"] = "row"
    """`sentence`: whole texts go, together with every training row whose text is contained in one of them. A task that
    judges rows in groups holds out whole groups, and this is not set."""

    def size_of(self, rows: int) -> int:
        """How many of so many training rows are held out."""
        return self.size or held_out_size(rows)


class Task(Settings):
    """The data, the columns to read and the metric."""

    hub: str | None = None
    """A hub id; `train` and `test` are then names of its splits. Without it they are files."""
    config: str | None = None
    revision: str | None = Field(default=None, min_length=1)
    """Branch, tag or commit of a hub data set; its main branch if it is left out."""
    train: str | Annotated[tuple[str, ...], Field(min_length=1)]
    """Parquet, CSV or JSONL; a list of files, or of splits, whose rows follow each other; `embedded` for the task that
    `nas` builds itself."""
    test: str
    """The official validation set: read once, for the final figure."""
    search: str | None = None
    """For `embedding`: the pairs that candidates are judged by, a file or a split as `test` is."""
    unlabelled: tuple[str, ...] = ()
    """More texts of the domain, without labels, that the teacher is distilled on: files, or with `hub` names of its
    splits. A name that ends as a data file's does is always a file."""
    text: tuple[str, ...] = Field(min_length=1, max_length=2)
    """One column for single texts, two for pairs; for `tagging` one of lists of words."""
    label: str | tuple[str, ...] = "label"
    """The column of labels; for `multi_label` it may be several, one for each label."""
    kind: str = "classification"
    """A name of `nas.tasks.REGISTRY`."""
    metric: str = "accuracy"
    positive: str | None = Field(default=None, min_length=1)
    """The name of the class that f1 is of. Left out: the second of two classes, or the mean over more."""
    threshold: Probability | Literal["search"] | None = None
    """For `multi_label`: the probability from which a label applies, 0.5 if it is left out. `search`: the one that is
    best on the search set."""
    query: str | None = Field(default=None, min_length=1)
    """For `ranking`: the column whose equal values make the rows of a query; the first text if it is left out."""
    pair: tuple[str, ...] = ()
    """For `embedding`: the columns of the two texts of a pair, in the search and the test set."""
    max_length: Annotated[int, Field(ge=4, le=512, strict=True)] = 128
    holdout: Holdout = Holdout()

    @field_validator("train")
    @classmethod
    def _one_name(cls, names: str | tuple[str, ...]) -> str | tuple[str, ...]:
        """A list of one name is this name."""
        repeated = next((name for name in names if names.count(name) > 1), None) if isinstance(names, tuple) else None
        if repeated:
            raise ValueError(f"each name may stand once, but {repeated!r} stands twice; remove one")
        return names[0] if isinstance(names, tuple) and len(names) == 1 else names

    @property
    def label_columns(self) -> tuple[str, ...]:
        """The columns of labels."""
        return (self.label,) if isinstance(self.label, str) else self.label

    @property
    def group_column(self) -> str | None:
        """The column whose equal values make a group of rows that are judged together; None for rows judged alone."""
        return task_kind(self.kind).group_column(self)

    @property
    def unlabelled_columns(self) -> tuple[str, ...]:
        """The columns that are read of every row, with labels or without: texts, and the group if there are groups."""
        return tuple(dict.fromkeys((*self.text, *([self.group_column] if self.group_column else []))))

    @model_validator(mode="after")
    def _consistent(self) -> Task:
        task_kind(self.kind).check(self)
        if len(set(self.label_columns)) < len(self.label_columns) or not self.label_columns:
            raise ValueError(f"label: must name different columns, but got {list(self.label_columns)}; correct it")
        if self.group_column in self.label_columns:
            raise ValueError(
                f"query: must be another column than label, but both are {self.group_column!r}; correct it"
            )
        if self.group_column and "by" in self.holdout.model_fields_set:
            raise ValueError(
                f"holdout.by: {self.kind} holds out whole groups of rows, by {self.group_column!r}, but got "
                f"{self.holdout.by!r}; remove it"
            )
        for key in ("config", "revision"):
            if (value := getattr(self, key)) and not self.hub:
                raise ValueError(f"{key}: {value!r} belongs to a hub data set; set hub as well, or remove it")
        named = [(key, name) for key, names in (*self.sets.items(), ("unlabelled", self.unlabelled)) for name in names]
        for key, name in named:
            is_made_here = getattr(self, key) == "embedded"
            if not self.hub and not is_made_here and not name.lower().endswith(DATA_SUFFIXES):
                raise ValueError(
                    f"{key}: a data file must end in {', '.join(DATA_SUFFIXES)}, but got {name!r}; convert it"
                )
        for (first, names), (second, others) in combinations(self.sets.items(), 2):
            if same := sorted({*names} & {*others} - {"embedded"}):
                raise ValueError(f"{second}: must be another set than {first}, but both are {same[0]!r}; correct one")
        if (self.train == "embedded") != (self.test == "embedded"):
            raise ValueError("test: train and test must both be 'embedded' or neither; set both")
        return self

    @property
    def sets(self) -> dict[str, tuple[str, ...]]:
        """The names of the files or splits that rows are read from, by what they are for."""
        train = (self.train,) if isinstance(self.train, str) else self.train
        return {"train": train, **({"search": (self.search,)} if self.search else {}), "test": (self.test,)}

    @property
    def unlabelled_files(self) -> tuple[str, ...]:
        """Those of `unlabelled` that are files."""
        return tuple(name for name in self.unlabelled if not self.hub or name.lower().endswith(DATA_SUFFIXES))


class SpaceChoice(Settings):
    """The search space of a study."""

    name: str
    """A shipped space, or the path of a TOML file."""
    exclude_compression: tuple[str, ...] = ()
    """Choices that this study leaves out, each by its name (then with any parameter) or written in full."""

    @field_validator("exclude_compression")
    @classmethod
    def _known(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        able = [name for name in REGISTRY if name != "none"]
        for name in names:
            if name in able:
                continue
            if name == "none":
                raise ValueError(f"{name!r} is no compression choice that can be left out; use {', '.join(able)}")
            compression(name)
        return names


class Supernet(Settings):
    """Training of the supernet: several sub-networks in every step, with distillation from the teacher."""

    steps: Positive = 1000
    batch_size: Positive = 64
    learning_rate: PositiveReal = 3e-4
    random_subnets: Whole = 2
    """Random sub-networks a step, beside the largest and the smallest, or beside two other ones near a budget."""
    sampling: Literal["budgets", "spread", "uniform"] = "budgets"
    """`budgets`: all are near a budget; `spread`: small and large sub-networks come as often as middle ones; `uniform`:
    every dimension by itself."""
    progressive: Flag = False
    """Whether a third of the steps varies depth alone, and the next one heads and neurons too, but no hidden size."""
    logits_weight: Real = 1.0
    """Weight of the loss on the logits."""
    hidden_weight: Real = 1.0
    """Weight of the loss on the hidden states."""
    relation_weight: Real = 0.0
    """Weight of the loss on the attention relations."""
    replaced_tokens: Annotated[float, Field(ge=0.0, le=0.5, strict=True)] = 0.15
    """The mean share of a text's tokens that are replaced at random, here and in the final fine-tuning; none with a
    student."""
    train_embeddings: Flag = False
    """Whether the word table is trained too."""
    workers: Positive = 1
    """Processes that share each batch, on Ray; the result is the same."""
    importance_batches: Positive = 32
    """Batches that heads, neurons and hidden units are ranked on."""
    checkpoint_steps: Positive = 200

    @model_validator(mode="after")
    def _batch_can_be_shared(self) -> Supernet:
        if self.batch_size % self.workers:
            raise ValueError(
                f"workers: each must get an equal part of batch_size, but {self.batch_size} texts cannot be shared by "
                f"{self.workers}; change one of them"
            )
        return self


class Search(Settings):
    """The search over architectures."""

    sampler: Literal["guided", "nsga2", "tpe", "random"] = "guided"
    evaluations: Positive = 200
    """Candidates whose accuracy is measured; what is predicted to miss every budget does not count."""
    population: Annotated[int, Field(ge=4, strict=True)] = 32
    executor: Literal["inline", "ray"] = "inline"
    workers: Positive = 1
    """Actors that are asked for; those that a cluster has no room for yet are waited for."""
    worker_cpus: PositiveReal = 1.0
    """Processors of each, and its threads."""
    worker_gpus: Real = 0.0
    """GPUs of each, or the share of one."""
    examples: Positive | None = None
    """Use only that many examples of the search set; all where it is left out."""
    least_tokens: Whole = 0
    """Leave out shorter texts of the search set: many rows may be parts of texts, where whole ones will be served."""
    bf16: Flag = True
    """Evaluate candidates in bf16 where the processor multiplies it natively; exports are judged in full precision."""
    knapsack: Flag = False
    """Begin with the networks that all single changes of the largest one, each evaluated alone, let expect to be best;
    these are evaluations besides, some two hundred of six layers."""
    storage: SecretStr | None = None
    """The URL of a database that keeps the trials, in place of a journal in the run's folder. Never written down."""

    @field_validator("storage")
    @classmethod
    def _names_a_database(cls, url: SecretStr | None) -> SecretStr | None:
        if url and not _is_database(url.get_secret_value()):
            raise ValueError(
                "must be the URL of an SQLite, PostgreSQL or MySQL database, as postgresql+psycopg://user@host/name or "
                "sqlite:///search.db; correct it"
            )
        return url

    @model_validator(mode="after")
    def _workers_have_an_executor(self) -> Search:
        if self.executor == "inline" and self.workers != 1:
            raise ValueError(f"workers: the inline executor has one, but got {self.workers}; set executor = 'ray'")
        if self.executor == "inline" and (self.worker_cpus, self.worker_gpus) != (1.0, 0.0):
            key = "worker_cpus" if self.worker_cpus != 1.0 else "worker_gpus"
            raise ValueError(
                f"{key}: the inline executor has what this process has, but got {getattr(self, key):g}; "
                "set executor = 'ray'"
            )
        for key in ("worker_cpus", "worker_gpus"):
            value = getattr(self, key)
            if value > 1.0 and value % 1.0:
                raise ValueError(f"{key}: must be a share of one or a whole number, but got {value:g}; round it")
        return self


_FINAL_STEPS = 3
"""Steps of the final training for each of the supernet's, where the study does not say it: a supernet tells candidates
apart early, and what an export reaches depends on its own training."""


class Export(Settings):
    """What happens to the best candidates of each budget."""

    candidates: Positive = 4
    """Members of the front that are measured whole for each budget."""
    finalists: Positive = 3
    """Of those that meet the budget so many go through the final training, which keeps the better ones."""
    epochs: PositiveReal | None = None
    """The final training, by distillation; three times as many steps as the supernet's where it is left out."""
    learning_rate: PositiveReal = 5e-4
    batch_size: Positive = 64
    fine_tune: Flag = True
    """Whether there is a final training."""


class Training(Settings):
    """The time and the room that a run may take."""

    hours: PositiveReal | None = None
    """Of the whole run. The steps of supernet and final training, and the evaluations of the search, follow from it and
    from the speed of this machine; what the study says of them does not count then."""
    outputs_gb: Annotated[float, Field(ge=0.0, allow_inf_nan=False)] = 8.0
    """The most room on disk, in GB, for the teacher's outputs on the training texts, so that they are computed once and
    not in every step; 0 for none."""
    report_to: tuple[Literal["tensorboard", "wandb", "mlflow"], ...] = ("tensorboard",)
    """Where the Trainer reports losses to: TensorBoard where it is installed, Weights & Biases, MLflow."""


class Study(Settings):
    """A whole study. `path` is the file it was read from."""

    path: Path
    name: Name
    seed: Annotated[int, Field(strict=True, ge=0, lt=2**32)] = 0
    task: Task
    teacher: Teacher
    student: Teacher | None = None
    """The model that is compressed, where it is another one than the teacher; fine-tuned and pruned like a teacher."""
    search_space: SpaceChoice
    devices: tuple[Device, ...] = Field(min_length=1)
    budgets: tuple[Budget, ...] = Field(min_length=1)
    supernet: Supernet = Supernet()
    search: Search = Search()
    export: Export = Export()
    training: Training = Training()

    @model_validator(mode="after")
    def _consistent(self) -> Study:
        for key in ("devices", "budgets"):
            names = [item.name for item in getattr(self, key)]
            repeated = next((name for name in names if names.count(name) > 1), None)
            if repeated:
                raise ValueError(f"{key}: each name may stand once, but {repeated!r} stands twice; rename one")
        known = [device.name for device in self.devices]
        for budget in self.budgets:
            for name in budget.devices:
                if name not in known:
                    raise ValueError(f"budgets.{budget.name}: no device is named {name!r}; use {', '.join(known)}")
        if self.compressed.outputs is not None:
            raise ValueError(
                f"{'student' if self.student else 'teacher'}.outputs: a model that is compressed must be there itself; "
                "give outputs of the teacher, and set student to what is compressed"
            )
        self._check_models()
        if self.compressed.model == "embedded" and self.compressed.revision:
            raise ValueError(f"teacher.revision: {self.compressed.revision!r} is for a hub model; remove it")
        if (self.compressed.model == "embedded") != (self.task.train == "embedded"):
            raise ValueError("teacher.model: the embedded teacher and the embedded task go together; set both")
        of_all_sizes = {"supernet.progressive": self.supernet.progressive, "search.knapsack": self.search.knapsack}
        for key in (key for key, is_set in of_all_sizes.items() if is_set):
            if self.supernet.sampling == "budgets":
                raise ValueError(
                    f"{key}: needs a supernet whose sub-networks are of all sizes, but supernet.sampling is 'budgets'; "
                    "set it to 'spread'"
                )
        if self.training.hours and self.supernet.workers > 1:
            raise ValueError(
                "training.hours: the speed of a training is measured in one process, but supernet.workers is "
                f"{self.supernet.workers}; remove one of them"
            )
        return self

    def _check_models(self) -> None:
        """Raise unless teacher and student suit the kind of task."""
        kind = task_kind(self.task.kind)
        if self.student and kind.no_student:
            raise ValueError(f"student: {kind.no_student}; remove it")
        if kind.learns_from_texts and self.compressed.fine_tune:
            raise ValueError(
                f"teacher.fine_tune: the teacher of a task of kind {kind.name!r} is taken as it is; remove fine_tune"
            )
        if self.student:
            self._check_student()

    def _check_student(self) -> None:
        if self.teacher.model == "embedded":
            raise ValueError("teacher.model: the embedded teacher is compressed itself; remove student")
        if self.teacher.prune_vocabulary:
            raise ValueError(
                "teacher.prune_vocabulary: only of the model that is compressed; set student.prune_vocabulary instead"
            )
        if not self.teacher.is_loaded and (self.teacher.fine_tune or self.teacher.revision):
            key = "fine_tune" if self.teacher.fine_tune else "revision"
            raise ValueError(f"teacher.{key}: a teacher that is given by its outputs is not loaded; remove {key}")
        if not self.supernet.logits_weight:
            raise ValueError(
                "supernet.logits_weight: a student learns nothing but logits from its teacher, so it must be above 0"
            )
        if "replaced_tokens" in self.supernet.model_fields_set and self.supernet.replaced_tokens:
            raise ValueError(
                "supernet.replaced_tokens: with a student the teacher answers each text once, before the training, so "
                f"no token of it may be replaced, but got {self.supernet.replaced_tokens:g}; set it to 0 or remove it"
            )

    @property
    def compressed(self) -> Teacher:
        """The model whose sub-networks are searched: the student, or the teacher if there is none."""
        return self.student or self.teacher

    @property
    def replaced_tokens(self) -> float:
        """The mean share of a text's tokens that the distillation replaces."""
        return 0.0 if self.student else self.supernet.replaced_tokens

    @classmethod
    def load(cls, study: str | Path, variables: Mapping[str, str] | None = None) -> Study:
        """Read and validate a study: a file, a folder with `study.toml`, or the name of a shipped one.

        `variables` are the values of `${NAME}`; the environment serves where they have none. Raises
        `StudyError` or `SearchSpaceError` with file, key, rule and remedy.
        """
        path = _find(study)
        raw = read_toml(path, StudyError)
        declared = raw.pop("variables", {})
        values = _substitute(raw, _variables(path, declared, variables or {}))
        if "path" in values:
            raise StudyError(f"{path}: path: unknown key; remove it")
        values = {"name": study_name(path.parent), **values, "path": path}
        if isinstance(values.get("devices"), list):
            values["devices"] = [_from_file(device, path) for device in values["devices"]]
        loaded = validate(cls, values, path, StudyError)
        loaded._check_space()
        return loaded

    def _check_space(self) -> None:
        kind = task_kind(self.task.kind)
        if self.space.dimensions.keep_tokens and kind.network_form.readout != "first":
            raise StudyError(
                f"{self.path}: search_space: {self.space.name!r} drops tokens (keep_tokens), but a task of kind "
                f"{kind.name!r} needs all of them at the network's end; use another space"
            )
        if self.space.dimensions.exit_threshold and (why := kind.no_exits):
            raise StudyError(
                f"{self.path}: search_space: {self.space.name!r} leaves networks early when a class is sure "
                f"(exit_threshold), but {why}; use another space"
            )
        for device in self.devices:
            try:
                self._check_dimensions(device)
                self._check_choices(device)
            except ValueError as problem:
                raise StudyError(f"{self.path}: devices.{device.name}: {problem}") from None

    def _check_dimensions(self, device: Device) -> None:
        exits, tokens = self.space.dimensions.exit_threshold, self.space.dimensions.keep_tokens
        if exits and device.runtime != "onnxruntime":
            raise ValueError(
                "networks that are left early (exit_threshold) run on onnxruntime alone, "
                f"but got {device.runtime!r}; change the runtime or the space"
            )
        if exits and device.batch_size != 1:
            raise ValueError(
                "batch_size must be 1 where networks are left early (exit_threshold), "
                f"but got {device.batch_size}: a batch takes as long as its slowest text; change it or the space"
            )
        if (exits or tokens) and device.sequence_length != "task":
            raise ValueError(
                f"sequence_length must be 'task' where the space has {'keep_tokens' if tokens else 'exit_threshold'}, "
                f"but got {device.sequence_length!r}: accuracy is that of the task's own texts, and what only longer "
                "ones have would look like a gain; change one of them"
            )

    def _check_choices(self, device: Device) -> None:
        for name in sorted({name for _, names in self.space.compression for name in names}):
            for key, able in (("runtime", compression(name).runtimes), ("processor", compression(name).processors)):
                if getattr(device, key) not in able:
                    raise ValueError(
                        f"the {key} {getattr(device, key)!r} cannot run the compression choice {name!r}, "
                        f"only {', '.join(sorted(able)) or 'none'} can; change the {key} or set "
                        f"search_space.exclude_compression = [{name!r}]"
                    )

    @cached_property
    def space(self) -> SearchSpace:
        """The search space, without what the study excludes."""
        space = SearchSpace.load(self.search_space.name, base=self.path.parent)
        return space.excluding(self.search_space.exclude_compression)

    def on_ray(self, processors: int) -> Study:
        """The same study with its candidates evaluated on a Ray cluster of so many processors.

        A study that says nothing of Ray gets a worker for each of them, but no more than a generation has candidates.
        """
        if self.search.executor == "ray":
            return self
        workers = max(1, min(processors, self.search.population))
        found = self.search.model_copy(update={"executor": "ray", "workers": workers})
        return self.model_copy(update={"search": found})

    def within(self, hours: float) -> Study:
        """The same study in so many hours, or by its own numbers of steps if it is 0.

        Raises `StudyError` if they are no positive number, or if the study cannot be done within a time.
        """
        given = {name: getattr(self, name) for name in type(self).model_fields}
        values = given | {"training": {"hours": hours or None}}
        return validate(Study, values, self.path, StudyError)

    def resolve(self, name: str) -> Path:
        """A path of the study file, relative to its folder."""
        return (self.path.parent / given_path(name)).resolve()

    @property
    def is_near_budgets(self) -> bool:
        """Whether the supernet is trained on sub-networks near the budgets; near a floor of accuracy there are none."""
        return self.supernet.sampling == "budgets" and not all(budget.has_floor for budget in self.budgets)

    def final_steps(self, texts: int) -> int:
        """The steps of the final training on so many texts, where hours do not decide it."""
        if self.export.epochs is None:
            return _FINAL_STEPS * self.supernet.steps
        return max(1, round(self.export.epochs * (texts // self.export.batch_size)))

    def digest(self, *parts: str) -> str:
        """Changes when one of the named parts of the study changes."""
        values = self.model_dump(mode="json")
        return digest({part: values[part] for part in parts} | {"seed": self.seed})

    def check_teacher(self, shape: Shape) -> None:
        """Raise `StudyError` if a teacher of that shape does not fit the search space."""
        if shape != self.space.teacher:
            raise StudyError(
                f"{self.path}: search_space: {self.space.name!r} is for a teacher of {_sizes(self.space.teacher)}, "
                f"but {self.compressed.model} has {_sizes(shape)}; use or write a space of these sizes "
                f"(shipped: {', '.join(sorted(shipped_spaces()))})"
            )


def _from_file(device: Any, study: Path) -> Any:
    """A device with the settings of the `file` that it names; what the study says besides goes before them."""
    if not isinstance(device, dict) or not isinstance(device.get("file"), str):
        return device
    own = {key: value for key, value in device.items() if key != "file"}
    path = study.parent / device["file"]
    values = read_toml(path, StudyError) | own
    validate(Device, values, path, StudyError)
    return values


def _is_database(url: str) -> bool:
    from sqlalchemy import make_url
    from sqlalchemy.exc import ArgumentError

    try:
        parts = make_url(url)
    except (ArgumentError, ValueError):
        return False
    known = parts.drivername.partition("+")[0] in {"sqlite", "postgresql", "mysql", "mariadb"}
    return known and parts.database not in (None, "", ":memory:")


def _sizes(shape: Shape) -> str:
    return (
        f"{shape.num_hidden_layers} layers, hidden_size {shape.hidden_size}, "
        f"{shape.num_attention_heads} heads, intermediate_size {shape.intermediate_size}"
    )


def study_name(folder: Path) -> str:
    """The name that a study has by its folder: the folder's own, as far as its characters are those of a name."""
    own = folder.resolve().name
    if re.fullmatch(NAME, own):
        return own
    plain = unicodedata.normalize("NFKD", own).encode("ascii", "ignore").decode()
    return re.sub(r"[^A-Za-z0-9._-]+", "-", plain).strip("._-") or "study"


def shipped_studies() -> dict[str, Path]:
    """The studies that come with an installed `nas`, by name."""
    found: dict[str, Path] = {}
    for folder in (Path(__file__).parents[1] / "studies", Path(str(resources.files("nas"))) / "studies"):
        found |= {path.parent.name: path for path in sorted(folder.glob("*/study.toml"))}
    return found


def _find(study: str | Path) -> Path:
    path = Path(study)
    if path.is_dir():
        path = path / "study.toml"
    elif not path.exists() and str(study) in shipped_studies():
        path = shipped_studies()[str(study)]
    if not path.is_file():
        raise StudyError(
            f"{study}: no such study; give a study.toml, its folder, "
            f"or a shipped one: {', '.join(sorted(shipped_studies()))}"
        )
    return path.resolve()


def _variables(path: Path, declared: Any, given: Mapping[str, str]) -> dict[str, str]:
    if not isinstance(declared, dict) or not all(isinstance(text, str) for text in declared.values()):
        raise StudyError(f"{path}: variables: each must be a name with a text that says how to get it; correct it")
    unknown = sorted(set(given) - set(declared))
    if unknown:
        raise StudyError(
            f"{path}: --set {unknown[0]}: no such variable in this study; "
            f"it declares: {', '.join(sorted(declared)) or 'none'}"
        )
    values = {}
    for name, explanation in declared.items():
        value = given.get(name) or os.environ.get(name)
        if not value:
            raise StudyError(
                f"{path}: variable {name} is not set ({explanation}); "
                f"pass --set {name}=... or set it in the environment"
            )
        # A path in a variable is relative to where the command is given, unlike those in the study file.
        values[name] = str(Path(value).resolve()) if Path(value).exists() else value
    return values


def _substitute(value: Any, variables: Mapping[str, str]) -> Any:
    if isinstance(value, dict):
        return {key: _substitute(inner, variables) for key, inner in value.items()}
    if isinstance(value, list):
        return [_substitute(inner, variables) for inner in value]
    if not isinstance(value, str):
        return value

    def replacement(match: re.Match[str]) -> str:
        name = match.group(1)
        if name not in variables:
            raise StudyError(f"variable {name} is used but not declared; add it under [variables] with an explanation")
        return variables[name]

    return _VARIABLE.sub(replacement, value)
