"""Study files: the definition of one experiment, as frozen and validated settings.

`Study.load` reads a study file, which is TOML, and every step of the pipeline takes its settings from this `Study`.
Paths in the file are relative to its folder. `${NAME}` is replaced by the value of a variable that the study declares
under `[variables]` and that the user sets with `--set NAME=value` or in the environment.
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
from nas.tasks import Evaluation, OutputWidth, task_kind

DATA_SUFFIXES = (".parquet", ".csv", ".jsonl")
_VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")

Probability = Annotated[float, Field(gt=0.0, lt=1.0, strict=True, allow_inf_nan=False)]
PositiveReal = Annotated[float, Field(gt=0.0, strict=True, allow_inf_nan=False)]

_LEAST_TEXTS_READ, _EPOCH_RANGE = 50_000, (2, 10)
"""Defaults for the fine-tuning of a teacher: the least number of texts to read (counting repetitions), and the least
and the greatest number of epochs. For example, the 62,000 rows of SST-2 are read for two epochs, and 8,000 rows for
seven."""


class FineTuningSettings(Settings):
    """Settings for fine-tuning a teacher that has not been trained for the task yet."""

    epochs: PositiveReal | None = None
    """The number of epochs. By default, it depends on the size of the training set, and training keeps the weights of
    the epoch after which the model is best on the search set."""
    learning_rate: PositiveReal = 8e-5
    batch_size: Positive = 64

    def epochs_on(self, rows: int) -> float:
        """Return the number of epochs to train on `rows` training rows."""
        least, most = _EPOCH_RANGE
        return self.epochs or min(most, max(least, -(-_LEAST_TEXTS_READ // rows)))


class TeacherSettings(Settings):
    """A model provided by the user: the teacher, or the student that is compressed instead of the teacher."""

    model: str = Field(min_length=1)
    """A folder or a hub id of a model of a supported family, or `embedded` for the BERT that `nas` builds itself. If
    the study sets `[student]`, the teacher may be any model with which transformers can classify texts."""
    revision: str | None = Field(default=None, min_length=1)
    """Branch, tag or commit of a hub model. By default, its main branch."""
    fine_tune: FineTuningSettings | None = None
    """Settings for fine-tuning the model before it is used; true selects the default settings. Omit this key, or set it
    to false, if the model is already fine-tuned for the task."""
    prune_vocabulary: Flag = False
    """Whether tokens that never occur in the training texts are removed. Words that contain such tokens are then split
    into smaller pieces. For WordPiece, BPE and Unigram tokenizers."""
    outputs: dict[str, str] | None = None
    """Allowed only for the teacher, and only if the study sets `[student]`: the columns of the training data and of the
    unlabelled texts that hold the teacher's logits, keyed by label. The teacher is then not loaded, and `model` is only
    its name."""

    @field_validator("fine_tune", mode="before")
    @classmethod
    def _as_table(cls, value: Any) -> Any:
        if isinstance(value, bool):
            return {} if value else None
        if value is not None and not isinstance(value, Mapping | FineTuningSettings):
            raise ValueError(f"must be true, false or a table such as {{ epochs = 2.0 }}, but got {value!r}")
        return value

    @property
    def is_loaded(self) -> bool:
        """Whether the model itself is loaded. Otherwise, only its outputs are read from files."""
        return self.outputs is None


_MOST_HELD_OUT, _TRAIN_ROWS_PER_HELD_OUT = 5000, 5
"""Default limits on the search set: at most 5000 rows, and at most one in 5 training rows."""


def held_out_size(rows: int) -> int:
    """Return how many of `rows` training rows are held out by default as the search set."""
    return max(1, min(_MOST_HELD_OUT, rows // _TRAIN_ROWS_PER_HELD_OUT))


class Holdout(Settings):
    """Settings for holding out the search set, on which candidates are evaluated, from the training rows."""

    size: Positive | None = None
    """The number of rows in the search set. By default, a fifth of the training rows, but at most 5000."""
    by: Literal["row", "sentence"] = "row"
    """`sentence` holds out whole sentences and removes every training row whose text is part of one of them. This key
    cannot be set for tasks that evaluate rows in groups, which always hold out whole groups."""

    def size_of(self, rows: int) -> int:
        """Return how many of `rows` training rows are held out."""
        return self.size or held_out_size(rows)


class Task(Settings):
    """The task: its data, the columns to read and the metric."""

    hub: str | None = None
    """The hub id of a data set. `train` and `test` are then names of its splits; otherwise they are files."""
    config: str | None = None
    """The configuration of the hub data set, if it has several."""
    revision: str | None = Field(default=None, min_length=1)
    """Branch, tag or commit of a hub data set. By default, its main branch."""
    train: str | Annotated[tuple[str, ...], Field(min_length=1)]
    """A Parquet, CSV or JSONL file or a split; a list of them, whose rows are concatenated; or `embedded` for the task
    that `nas` builds itself."""
    test: str
    """The test set, usually the official validation set. It is read only once, for the final result."""
    search: str | None = None
    """For `embedding`: the file or split with the pairs on which candidates are evaluated. Without it, the search set
    is held out of the training rows."""
    unlabelled: tuple[str, ...] = ()
    """Files with additional unlabelled texts from the domain of the task, on which the teacher is distilled. If `hub`
    is set, also names of splits. A name with the suffix of a data file is always a file."""
    text: tuple[str, ...] = Field(min_length=1, max_length=2)
    """The column of the texts, or the two columns of text pairs. For `tagging`, one column of lists of words."""
    label: str | tuple[str, ...] = "label"
    """The column of the labels. For `multi_label` there may be several columns, one per label."""
    kind: str = "classification"
    """The kind of task, a name in `nas.tasks.REGISTRY`."""
    metric: str = "accuracy"
    positive: str | None = Field(default=None, min_length=1)
    """The class for which f1, precision, recall or roc_auc is computed. By default, the second of two classes. If there
    are more than two classes, the metric is by default averaged over all of them."""
    threshold: Probability | Literal["search"] | None = None
    """For `multi_label`: the probability from which a label applies, by default 0.5. `search` chooses the thresholds
    that are best on the search set."""
    query: str | None = Field(default=None, min_length=1)
    """For `ranking`: the column whose value identifies the query of a row. By default, the first text column."""
    pair: tuple[str, ...] = ()
    """For `embedding`: the columns of the two texts of a pair, or of the query and the passage, in the search set and
    the test set."""
    output_width: OutputWidth = "teacher"
    """For `embedding`: whether embeddings have the teacher's width and lie in its space, or have the hidden size of the
    network itself."""
    max_length: Annotated[int, Field(ge=4, le=512, strict=True)] = 128
    holdout: Holdout = Holdout()

    @field_validator("train")
    @classmethod
    def _one_name(cls, names: str | tuple[str, ...]) -> str | tuple[str, ...]:
        """Replace a list of one name by this name. Raises `ValueError` for repeated names."""
        repeated = next((name for name in names if names.count(name) > 1), None) if isinstance(names, tuple) else None
        if repeated:
            raise ValueError(f"each name may occur only once, but {repeated!r} occurs twice; remove one")
        return names[0] if isinstance(names, tuple) and len(names) == 1 else names

    @property
    def evaluated_on(self) -> Evaluation:
        """The content of the search and test sets; see `nas.tasks.Evaluation`."""
        return task_kind(self.kind).evaluated_on(self.metric)

    @property
    def label_columns(self) -> tuple[str, ...]:
        """The columns of labels, as a tuple even if there is only one; empty if labels are the teacher's outputs."""
        if self.evaluated_on == "texts":
            return ()
        return (self.label,) if isinstance(self.label, str) else self.label

    @property
    def group_column(self) -> str | None:
        """The column that identifies groups of rows that are evaluated together; None if the task has no groups."""
        return task_kind(self.kind).group_column(self)

    @property
    def unlabelled_columns(self) -> tuple[str, ...]:
        """The columns that are read even from unlabelled rows: the text columns and any group column."""
        return tuple(dict.fromkeys((*self.text, *([self.group_column] if self.group_column else []))))

    @model_validator(mode="after")
    def _consistent(self) -> Task:
        task_kind(self.kind).check(self)
        if self.evaluated_on == "texts" and "label" in self.model_fields_set:
            raise ValueError(
                f"label: {self.metric} compares networks with the teacher and needs no labels, but got {self.label!r}; "
                "remove it"
            )
        if self.label == () or len(set(self.label_columns)) < len(self.label_columns):
            raise ValueError(f"label: must name distinct columns, but got {list(self.label_columns)}")
        if self.group_column in self.label_columns:
            raise ValueError(
                f"query: must not be the label column, but both are {self.group_column!r}; name different columns"
            )
        if self.group_column and "by" in self.holdout.model_fields_set:
            raise ValueError(
                f"holdout.by: a task of kind {self.kind} holds out whole groups of rows, by {self.group_column!r}, but "
                f"got {self.holdout.by!r}; remove holdout.by"
            )
        if "output_width" in self.model_fields_set and not task_kind(self.kind).has_output_width:
            raise ValueError(
                f"output_width: a task of kind {self.kind} has as many outputs as labels, but got "
                f"{self.output_width!r}; remove output_width"
            )
        for key in ("config", "revision"):
            if (value := getattr(self, key)) and not self.hub:
                raise ValueError(f"{key}: is {value!r}, but only hub data sets have one; set hub, or remove {key}")
        named = [(key, name) for key, names in (*self.sets.items(), ("unlabelled", self.unlabelled)) for name in names]
        for key, name in named:
            is_made_here = getattr(self, key) == "embedded"
            if not self.hub and not is_made_here and not name.lower().endswith(DATA_SUFFIXES):
                raise ValueError(
                    f"{key}: a data file must end in {', '.join(DATA_SUFFIXES)}, but got {name!r}; convert it"
                )
        for (first, names), (second, second_names) in combinations(self.sets.items(), 2):
            if same := sorted({*names} & {*second_names} - {"embedded"}):
                raise ValueError(f"{second}: must differ from {first}, but both are {same[0]!r}; change one of them")
        if (self.train == "embedded") != (self.test == "embedded"):
            raise ValueError("test: train and test must both be 'embedded', or neither; change one")
        return self

    @property
    def sets(self) -> dict[str, tuple[str, ...]]:
        """The names of the files or splits that contain each set, keyed by `train`, `search` (if set) and `test`."""
        train = (self.train,) if isinstance(self.train, str) else self.train
        return {"train": train, **({"search": (self.search,)} if self.search else {}), "test": (self.test,)}

    @property
    def unlabelled_files(self) -> tuple[str, ...]:
        """The entries of `unlabelled` that are files rather than splits."""
        return tuple(name for name in self.unlabelled if not self.hub or name.lower().endswith(DATA_SUFFIXES))


class SpaceSettings(Settings):
    """The search space of a study, without the compression methods that the study excludes."""

    name: str
    """The name of a shipped search space, or the path of a TOML file."""
    exclude_compression: tuple[str, ...] = ()
    """Compression methods that this study excludes. A name such as `low_rank` excludes the method with any parameter,
    whereas a full form such as `low_rank(8)` excludes only this form."""

    @field_validator("exclude_compression")
    @classmethod
    def _names_are_valid(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        method_names = [name for name in REGISTRY if name != "none"]
        for name in names:
            if name in method_names:
                continue
            if name == "none":
                raise ValueError(
                    f"{name!r} cannot be excluded; use names of compression methods: {', '.join(method_names)}"
                )
            compression(name)
        return names


class Supernet(Settings):
    """Settings for training the supernet by distillation from the teacher, with several sub-networks per step."""

    steps: Positive = 1000
    batch_size: Positive = 64
    learning_rate: PositiveReal = 3e-4
    random_subnets: Whole = 2
    """The number of random sub-networks per step. Each step also trains two further sub-networks: the largest and the
    smallest one or, if sub-networks are drawn near the budgets, two more random ones."""
    sampling: Literal["budgets", "spread", "uniform"] = "budgets"
    """How sub-networks are drawn. `budgets`: near the budgets. `spread`: from all sizes, with small and large ones as
    frequent as medium ones. `uniform`: with every dimension drawn uniformly and independently, so that most of them
    are of medium size."""
    progressive: Flag = False
    """Whether sizes vary in three stages of equal length: first only the depth, then also the numbers of heads and
    neurons, and finally also the hidden size."""
    logits_weight: Real = 1.0
    """Weight of the distillation loss on the logits."""
    hidden_weight: Real = 1.0
    """Weight of the distillation loss on the hidden states."""
    relation_weight: Real = 0.0
    """Weight of the distillation loss on the attention relations."""
    replaced_tokens: Annotated[float, Field(ge=0.0, le=0.5, strict=True)] = 0.15
    """The mean share of a text's tokens that are replaced at random, both in the supernet's training and in the final
    training. If the study sets `[student]`, no tokens are replaced."""
    train_embeddings: Flag = False
    """Whether the token embeddings are trained together with the other weights."""
    workers: Positive = 1
    """The number of Ray processes among which each batch is divided. It does not change the result."""
    importance_batches: Positive = 32
    """The number of batches on which the importance of heads, neurons and hidden units is estimated."""
    checkpoint_steps: Positive = 200

    @model_validator(mode="after")
    def _batch_can_be_shared(self) -> Supernet:
        if self.batch_size % self.workers:
            raise ValueError(
                f"workers: must divide batch_size, but {self.batch_size} texts cannot be divided equally among "
                f"{self.workers} workers; change one of them"
            )
        return self


class Search(Settings):
    """Settings of the search over architectures."""

    sampler: Literal["guided", "nsga2", "tpe", "random"] = "guided"
    evaluations: Positive = 200
    """The number of candidates whose accuracy is measured, not counting those predicted to miss every budget."""
    population: Annotated[int, Field(ge=4, strict=True)] = 32
    executor: Literal["inline", "ray"] = "inline"
    workers: Positive = 1
    """The number of Ray actors to request. Actors for which the cluster has no room yet start later."""
    worker_cpus: PositiveReal = 1.0
    """The number of processors, and thus of threads, per worker."""
    worker_gpus: Real = 0.0
    """The number of GPUs per worker, which may be a fraction of one."""
    examples: Positive | None = None
    """The number of examples of the search set on which candidates are evaluated. By default, all examples."""
    least_tokens: Whole = 0
    """Texts of the search set with fewer tokens are ignored. This is useful if many rows are only parts of the texts
    that will be served."""
    bf16: Flag = True
    """Whether to evaluate candidates in bf16 if the processor supports it natively. Exports are always measured in full
    precision."""
    knapsack: Flag = False
    """Whether to start from the networks that a knapsack solver predicts to be best. The solver needs the accuracies of
    all networks that differ from the largest one in a single setting: about two hundred networks for six layers."""
    storage: SecretStr | None = None
    """The URL of a database that stores the trials in place of the journal in the run's folder. It is never saved to a
    file."""

    @field_validator("storage")
    @classmethod
    def _names_a_database(cls, url: SecretStr | None) -> SecretStr | None:
        if url and not _is_database(url.get_secret_value()):
            raise ValueError(
                "must be the URL of an SQLite, PostgreSQL or MySQL database, such as sqlite:///search.db or "
                "postgresql+psycopg://user@host/name"
            )
        return url

    @model_validator(mode="after")
    def _workers_have_an_executor(self) -> Search:
        if self.executor == "inline" and self.workers != 1:
            raise ValueError(
                f"workers: the inline executor has only one worker, but got {self.workers}; set executor = 'ray'"
            )
        if self.executor == "inline" and (self.worker_cpus, self.worker_gpus) != (1.0, 0.0):
            key = "worker_cpus" if self.worker_cpus != 1.0 else "worker_gpus"
            raise ValueError(
                f"{key}: the inline executor uses the resources of this process, but got {getattr(self, key):g}; "
                "set executor = 'ray'"
            )
        for key in ("worker_cpus", "worker_gpus"):
            value = getattr(self, key)
            if value > 1.0 and value % 1.0:
                raise ValueError(f"{key}: must be at most 1 or a whole number, but got {value:g}; round it")
        return self


_FINAL_STEPS_RATIO = 3
"""Default ratio of the number of steps of the final training to that of the supernet's training. A supernet ranks
candidates well after short training, whereas the accuracy of an export depends on the final training."""


class Export(Settings):
    """Settings for the final measurement and training of the best candidates of each budget."""

    candidates: Positive = 4
    """The number of candidates per budget whose complete networks are measured together, beginning with the best ones.
    If too few of these candidates meet the budget, the next ones are measured. For a budget with an accuracy floor,
    twice as many are measured, spread along the Pareto front around the floor."""
    finalists: Positive = 3
    """The number of candidates per budget that enter the final training; twice as many if the budget has an accuracy
    floor. The less accurate ones are dropped during this training."""
    epochs: PositiveReal | None = None
    """The number of epochs of the final training, which distils the teacher. By default, the final training has three
    times as many steps as the training of the supernet."""
    learning_rate: PositiveReal = 5e-4
    batch_size: Positive = 64
    fine_tune: Flag = True
    """Whether there is a final training. Otherwise, networks are exported with the supernet's weights."""


class Training(Settings):
    """Settings for the time and disk space that a run may use, and for the tools to which training stages report."""

    hours: PositiveReal | None = None
    """The time allowed for the whole run. If it is set, the numbers of training steps and evaluations depend on it and
    on the speed of this machine, and the study's own numbers are ignored."""
    outputs_gb: Annotated[float, Field(ge=0.0, allow_inf_nan=False)] = 8.0
    """The most disk space, in GB, for storing the teacher's outputs on the training texts. Stored outputs are computed
    only once instead of in every step. With 0, no outputs are stored."""
    report_to: tuple[Literal["tensorboard", "wandb", "mlflow"], ...] = ("tensorboard",)
    """The tools to which training stages report losses: TensorBoard (if installed), Weights & Biases or MLflow."""


class Study(Settings):
    """A complete study: everything that defines a run. `path` is the file from which it was read."""

    path: Path
    name: Name
    seed: Annotated[int, Field(strict=True, ge=0, lt=2**32)] = 0
    task: Task
    teacher: TeacherSettings
    student: TeacherSettings | None = None
    """The model to compress, if it is not the teacher itself. It has the settings of a teacher, except `outputs`."""
    search_space: SpaceSettings
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
                raise ValueError(f"{key}: each name may occur only once, but {repeated!r} occurs twice; rename one")
        known = [device.name for device in self.devices]
        for budget in self.budgets:
            for name in budget.devices:
                if name not in known:
                    raise ValueError(f"budgets.{budget.name}: no device is named {name!r}; use {', '.join(known)}")
        if self.compressed.outputs is not None:
            raise ValueError(
                f"{'student' if self.student else 'teacher'}.outputs: the model to compress must be loaded, so it "
                "cannot be given by its outputs; use teacher.outputs, and set student to the model to compress"
            )
        self._check_models()
        if self.compressed.model == "embedded" and self.compressed.revision:
            raise ValueError(
                f"teacher.revision: is {self.compressed.revision!r}, but only hub models have revisions; remove it"
            )
        if (self.compressed.model == "embedded") != (self.task.train == "embedded"):
            raise ValueError(
                "teacher.model: the teacher 'embedded' and the task 'embedded' need each other; set both or neither"
            )
        of_all_sizes = {"supernet.progressive": self.supernet.progressive, "search.knapsack": self.search.knapsack}
        for key in (key for key, is_set in of_all_sizes.items() if is_set):
            if self.supernet.sampling == "budgets":
                raise ValueError(
                    f"{key}: needs a supernet trained on sub-networks of all sizes, but supernet.sampling is "
                    "'budgets'; set it to 'spread'"
                )
        if self.training.hours and self.supernet.workers > 1:
            raise ValueError(
                "training.hours: requires training in one process, whose speed can be measured, but supernet.workers "
                f"is {self.supernet.workers}; remove one of them"
            )
        return self

    def _check_models(self) -> None:
        """Raise `ValueError` if the teacher or the student does not fit the kind of task."""
        kind = task_kind(self.task.kind)
        if self.student and kind.why_no_student:
            raise ValueError(f"student: {kind.why_no_student}; remove it")
        if kind.learns_from_texts and self.compressed.fine_tune:
            raise ValueError(
                f"teacher.fine_tune: the teacher of a task of kind {kind.name!r} is never fine-tuned; remove fine_tune"
            )
        if self.student:
            self._check_student()

    def _check_student(self) -> None:
        if self.teacher.model == "embedded":
            raise ValueError(
                "teacher.model: the teacher 'embedded' is itself compressed, so it has no student; remove student"
            )
        if self.teacher.prune_vocabulary:
            raise ValueError(
                "teacher.prune_vocabulary: only the compressed model's vocabulary can be pruned; set "
                "student.prune_vocabulary instead"
            )
        if not self.teacher.is_loaded and (self.teacher.fine_tune or self.teacher.revision):
            key = "fine_tune" if self.teacher.fine_tune else "revision"
            raise ValueError(f"teacher.{key}: a teacher given by its outputs is not loaded; remove {key}")
        if not self.supernet.logits_weight:
            raise ValueError(
                "supernet.logits_weight: must be above 0, because a student learns only from its teacher's logits"
            )
        if "replaced_tokens" in self.supernet.model_fields_set and self.supernet.replaced_tokens:
            raise ValueError(
                "supernet.replaced_tokens: must be 0 with a student, because the teacher's outputs are computed on the "
                f"unchanged texts, but got {self.supernet.replaced_tokens:g}; set it to 0 or remove it"
            )

    @property
    def compressed(self) -> TeacherSettings:
        """The model whose sub-networks are searched: the student, or the teacher if there is no student."""
        return self.student or self.teacher

    @property
    def replaced_tokens(self) -> float:
        """The mean share of a text's tokens replaced at random in distillation; 0 if the study sets `[student]`."""
        return 0.0 if self.student else self.supernet.replaced_tokens

    @classmethod
    def load(cls, study: str | Path, variables: Mapping[str, str] | None = None) -> Study:
        """Read and validate a study, given as a file, a folder with `study.toml`, or the name of a shipped study.

        `variables` holds the values for `${NAME}`; missing ones are taken from the environment. Raises `StudyError` or
        `SearchSpaceError`, whose message names file, key, rule and remedy.
        """
        path = _study_file(study)
        raw = read_toml(path, StudyError)
        declared = raw.pop("variables", {})
        values = _substitute(raw, _variables(path, declared, variables or {}))
        if "path" in values:
            raise StudyError(f"{path}: path: unknown key; remove it")
        values = {"name": study_name(path.parent), **values, "path": path}
        if isinstance(values.get("devices"), list):
            values["devices"] = [_device_settings(device, path) for device in values["devices"]]
        loaded = validate(cls, values, path, StudyError)
        loaded._check_space()
        return loaded

    def _check_space(self) -> None:
        kind = task_kind(self.task.kind)
        if self.space.dimensions.keep_tokens and kind.network_form.readout != "first":
            raise StudyError(
                f"{self.path}: search_space: {self.space.name!r} drops tokens (keep_tokens), but a task of kind "
                f"{kind.name!r} needs all tokens after the last layer; use a different space"
            )
        if self.space.dimensions.exit_threshold and (why := kind.why_no_exits):
            raise StudyError(
                f"{self.path}: search_space: {self.space.name!r} has early exits (exit_threshold), but {why}; use a "
                "different space"
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
                "networks with early exits (exit_threshold) run only on onnxruntime, "
                f"but the runtime is {device.runtime!r}; change the runtime or the space"
            )
        if exits and device.batch_size != 1:
            raise ValueError(
                "batch_size must be 1 for networks with early exits (exit_threshold), because a batch takes as long as "
                f"its slowest text, but got {device.batch_size}; change it or the space"
            )
        if (exits or tokens) and device.sequence_length != "task":
            raise ValueError(
                f"sequence_length must be 'task' if the space has {'keep_tokens' if tokens else 'exit_threshold'}, but "
                f"got {device.sequence_length!r}: latency and accuracy must be measured on texts of the same lengths; "
                "change sequence_length or the space"
            )

    def _check_choices(self, device: Device) -> None:
        for name in sorted({name for _, names in self.space.compression for name in names}):
            for key, supported in (
                ("runtime", compression(name).runtimes),
                ("processor", compression(name).processors),
            ):
                if getattr(device, key) not in supported:
                    raise ValueError(
                        f"the {key} {getattr(device, key)!r} cannot run the compression method {name!r}, "
                        f"only {', '.join(sorted(supported)) or 'none'} can; change the {key} or set "
                        f"search_space.exclude_compression = [{name!r}]"
                    )

    @cached_property
    def space(self) -> SearchSpace:
        """The search space, without the compression methods that the study excludes."""
        space = SearchSpace.load(self.search_space.name, base=self.path.parent)
        return space.excluding(self.search_space.exclude_compression)

    def on_ray(self, processors: int) -> Study:
        """Return a copy of the study that evaluates candidates on a Ray cluster with `processors` processors.

        The copy uses one worker per processor, but at most `search.population` workers. A study that already uses Ray
        is returned unchanged.
        """
        if self.search.executor == "ray":
            return self
        workers = max(1, min(processors, self.search.population))
        search = self.search.model_copy(update={"executor": "ray", "workers": workers})
        return self.model_copy(update={"search": search})

    def within(self, hours: float) -> Study:
        """Return a copy of the study with a time limit of `hours` hours, or without a time limit if `hours` is 0.

        Raises `StudyError` if `hours` is negative or not finite, or if the study does not support a time limit.
        """
        fields = {name: getattr(self, name) for name in type(self).model_fields}
        values = fields | {"training": self.training.model_dump() | {"hours": hours or None}}
        return validate(Study, values, self.path, StudyError)

    def resolve(self, name: str) -> Path:
        """Return the absolute path for a path written in the study file, which is relative to the file's folder."""
        return (self.path.parent / given_path(name)).resolve()

    @property
    def is_near_budgets(self) -> bool:
        """Whether the supernet is trained on sub-networks near the budgets.

        If all budgets have an accuracy floor, the result is False, because it is unknown which sub-networks are near a
        floor.
        """
        return self.supernet.sampling == "budgets" and not all(budget.has_floor for budget in self.budgets)

    def final_steps(self, texts: int) -> int:
        """Return the number of steps of the final training on `texts` training texts, if no time limit is set."""
        if self.export.epochs is None:
            return _FINAL_STEPS_RATIO * self.supernet.steps
        return max(1, round(self.export.epochs * (texts // self.export.batch_size)))

    def digest(self, *parts: str) -> str:
        """Return an identifier that changes when one of the named parts of the study, or the seed, changes."""
        values = self.model_dump(mode="json")
        return digest({part: values[part] for part in parts} | {"seed": self.seed})

    def check_teacher(self, shape: Shape) -> None:
        """Raise `StudyError` if a teacher of this shape does not fit the search space."""
        if shape != self.space.teacher:
            raise StudyError(
                f"{self.path}: search_space: {self.space.name!r} is for a teacher with {_sizes(self.space.teacher)}, "
                f"but {self.compressed.model} has {_sizes(shape)}; use or write a search space for these sizes "
                f"(shipped: {', '.join(sorted(shipped_spaces()))})"
            )


def _device_settings(device: Any, study: Path) -> Any:
    """Return the settings of a device in a study, combined with those in the TOML file that its key `file` names.

    Settings in the study take precedence over settings in that file.
    """
    if not isinstance(device, dict) or not isinstance(device.get("file"), str):
        return device
    given_settings = {key: value for key, value in device.items() if key != "file"}
    path = study.parent / device["file"]
    values = read_toml(path, StudyError) | given_settings
    validate(Device, values, path, StudyError)
    return values


def _is_database(url: str) -> bool:
    from sqlalchemy import make_url
    from sqlalchemy.exc import ArgumentError

    try:
        parts = make_url(url)
    except (ArgumentError, ValueError):
        return False
    is_supported = parts.drivername.partition("+")[0] in {"sqlite", "postgresql", "mysql", "mariadb"}
    return is_supported and parts.database not in (None, "", ":memory:")


def _sizes(shape: Shape) -> str:
    return (
        f"{shape.num_hidden_layers} layers, hidden_size {shape.hidden_size}, "
        f"{shape.num_attention_heads} heads, intermediate_size {shape.intermediate_size}"
    )


def study_name(folder: Path) -> str:
    """Return the default name of a study: the folder's name, in which dashes replace forbidden characters."""
    folder_name = folder.resolve().name
    if re.fullmatch(NAME, folder_name):
        return folder_name
    plain = unicodedata.normalize("NFKD", folder_name).encode("ascii", "ignore").decode()
    return re.sub(r"[^A-Za-z0-9._-]+", "-", plain).strip("._-") or "study"


def shipped_studies() -> dict[str, Path]:
    """Return the paths of the studies that are shipped with `nas`, keyed by name."""
    studies: dict[str, Path] = {}
    for folder in (Path(__file__).parents[1] / "studies", Path(str(resources.files("nas"))) / "studies"):
        studies |= {path.parent.name: path for path in sorted(folder.glob("*/study.toml"))}
    return studies


def _study_file(study: str | Path) -> Path:
    path = Path(study)
    if path.is_dir():
        path = path / "study.toml"
    elif not path.exists() and str(study) in shipped_studies():
        path = shipped_studies()[str(study)]
    if not path.is_file():
        raise StudyError(
            f"{study}: no such study; give the path of a study.toml or its folder, "
            f"or the name of a shipped study: {', '.join(sorted(shipped_studies()))}"
        )
    return path.resolve()


def _variables(path: Path, declared: Any, values_by_name: Mapping[str, str]) -> dict[str, str]:
    if not isinstance(declared, dict) or not all(isinstance(text, str) for text in declared.values()):
        raise StudyError(
            f'{path}: variables: each must be a name with an explanation, such as DATA = "the data folder"'
        )
    unknown = sorted(set(values_by_name) - set(declared))
    if unknown:
        raise StudyError(
            f"{path}: --set {unknown[0]}: no such variable in this study; "
            f"it declares: {', '.join(sorted(declared)) or 'none'}"
        )
    values = {}
    for name, explanation in declared.items():
        value = values_by_name.get(name) or os.environ.get(name)
        if not value:
            raise StudyError(
                f"{path}: variable {name} is not set ({explanation}); "
                f"pass --set {name}=... or set it in the environment"
            )
        # Unlike paths in the study file, a path in a variable is relative to the working directory of the command.
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
            raise StudyError(f"variable {name} is used but not declared; add it to [variables] with an explanation")
        return variables[name]

    return _VARIABLE.sub(replacement, value)
