"""Study files, which define one experiment, and the frozen and validated settings that are read from them.

`Study.load` reads a study file, which is TOML. Every step of the pipeline takes its settings from the resulting
`Study`. Paths in the file are relative to the file's folder. `${NAME}` is replaced by the value of a variable. The
study declares its variables under `[variables]`, and the user sets them with `--set NAME=value` or in the environment.
"""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Mapping
from functools import cached_property
from itertools import combinations
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, SecretStr, field_validator, model_validator

from nas.budget import Budget
from nas.compression import REGISTRY, compression
from nas.device import NAME, Device, Name
from nas.errors import StudyError
from nas.files import Flag, Positive, Real, Settings, Whole, digest, given_path, read_toml, validate
from nas.runtimes import names_of, runtime_of, runtimes_for
from nas.space import SearchSpace, Shape, shipped_spaces
from nas.tasks import Evaluation, OutputWidth, TaskKind, task_kind

DATA_SUFFIXES = (".parquet", ".csv", ".jsonl")
_VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")


def is_data_file(name: str) -> bool:
    """Whether a name ends like that of a data file."""
    return name.lower().endswith(DATA_SUFFIXES)


Probability = Annotated[float, Field(gt=0.0, lt=1.0, strict=True, allow_inf_nan=False)]
PositiveReal = Annotated[float, Field(gt=0.0, strict=True, allow_inf_nan=False)]


def _as_text(value: Any) -> Any:
    """Return a number or a boolean as a string, as it is written in data files. Other values are returned unchanged."""
    return str(value) if isinstance(value, int | float) else value


ClassName = Annotated[str, BeforeValidator(_as_text)]

_LEAST_TEXTS_READ, _EPOCH_RANGE = 50_000, (2, 10)
"""Defaults for fine-tuning a teacher: the smallest number of texts to read (each text counts once per epoch), and the
smallest and largest number of epochs. For example, a teacher is trained for two epochs on the 62,000 rows of SST-2, and
for seven epochs on 8,000 rows."""


class FineTuningSettings(Settings):
    """Settings for fine-tuning a teacher that has not yet been trained for the task."""

    epochs: PositiveReal | None = None
    """The number of epochs. By default, it depends on the size of the training set, and the model gets the weights of
    the epoch with the best score on the search set."""
    learning_rate: PositiveReal = 8e-5
    batch_size: Positive = 64

    def epochs_on(self, rows: int) -> float:
        """Return the number of epochs to train if there are `rows` training rows."""
        least, most = _EPOCH_RANGE
        return self.epochs or min(most, max(least, -(-_LEAST_TEXTS_READ // rows)))


class TeacherSettings(Settings):
    """A model provided by the user: the teacher, or a student to compress instead of the teacher."""

    model: str = Field(min_length=1)
    """A folder or a hub id with a model of a supported family, or `embedded` for the BERT that `nas` builds itself. If
    the study sets `[student]`, the teacher may be any text classifier that transformers can load."""
    revision: str | None = Field(default=None, min_length=1)
    """The branch, tag or commit of a hub model. The default is its main branch."""
    fine_tune: FineTuningSettings | None = None
    """Settings for fine-tuning the model before it is used. `true` selects the default settings. If the model is
    already fine-tuned for the task, omit this key or set it to `false`."""
    prune_vocabulary: Flag = False
    """Whether to remove tokens that never occur in the training texts. Words that contain such tokens are then split
    into smaller pieces. Supported for WordPiece, BPE and Unigram tokenizers."""
    outputs: dict[str, str] | None = None
    """The columns of the training data and the unlabelled texts that hold the teacher's logits, keyed by label. If this
    key is set, the teacher is not loaded, and `model` is only its name. The key is allowed only for the teacher, and
    only if the study sets `[student]`."""

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
        """Whether the model is loaded. If not, only its outputs are read from files."""
        return self.outputs is None


_MOST_HELD_OUT, _TRAIN_ROWS_PER_HELD_OUT = 5000, 5
"""The default size of the search set: one in 5 training rows, but at most 5000 rows."""


class Holdout(Settings):
    """Settings for the search set, which is held out of the training rows and used to evaluate candidates."""

    size: Positive | None = None
    """The number of rows in the search set. The default is a fifth of the training rows, but at most 5000."""
    by: Literal["row", "sentence"] = "row"
    """`sentence` holds out whole sentences together with all training rows whose texts are part of these sentences.
    This key cannot be set if rows are evaluated in groups, because whole groups are then held out."""

    def size_of(self, rows: int) -> int:
        """Return how many of `rows` training rows to hold out."""
        return self.size or max(1, min(_MOST_HELD_OUT, rows // _TRAIN_ROWS_PER_HELD_OUT))


class Task(Settings):
    """The task: its data, the columns to read, and the metric."""

    hub: str | None = None
    """The hub id of a data set. If it is set, `train` and `test` are names of its splits. Otherwise, they are files."""
    config: str | None = None
    """The configuration of the hub data set. It is needed only if there are several configurations."""
    revision: str | None = Field(default=None, min_length=1)
    """The branch, tag or commit of a hub data set. The default is its main branch."""
    train: str | Annotated[tuple[str, ...], Field(min_length=1)]
    """The training data: a Parquet, CSV or JSONL file, or a split of the hub data set. If it is a list, the rows of its
    items are concatenated. `embedded` stands for the task that `nas` builds itself."""
    test: str
    """The test set, usually the official validation set. Networks are evaluated on it only for the final results."""
    search: str | None = None
    """For `embedding`: the file or split whose pairs are used to evaluate candidates. By default, the search set is
    held out of the training rows."""
    unlabelled: tuple[str, ...] = ()
    """Files with additional unlabelled texts from the domain of the task, which are used for the distillation. If `hub`
    is set, the names of splits are also allowed. A name that ends like a data file is always a file."""
    text: tuple[str, ...] = Field(min_length=1, max_length=2)
    """The column of texts, or the two columns of text pairs. For `tagging`, one column with lists of words."""
    label: str | tuple[str, ...] = "label"
    """The column of labels. For `multi_label`, several columns with one label each are also allowed."""
    kind: str = "classification"
    """The kind of task. It is a key of `nas.tasks.REGISTRY`."""
    metric: str = "accuracy"
    positive: ClassName | None = Field(default=None, min_length=1)
    """The class for which f1, precision, recall or roc_auc is computed. If there are two classes, the default is the
    second one. If there are more, the metric is by default averaged over all classes."""
    threshold: Probability | Literal["search"] | None = None
    """For `multi_label`: the smallest probability at which a label applies. The default is 0.5. `search` selects the
    thresholds that are best on the search set."""
    query: str | None = Field(default=None, min_length=1)
    """For `ranking`: the column that identifies each row's query. The default is the first text column."""
    pair: tuple[str, ...] = ()
    """For `embedding`: the two columns of the search and test sets that hold the texts of each pair, or a query and a
    passage."""
    output_width: OutputWidth = "teacher"
    """For `embedding`: the width of embeddings. `teacher` embeddings are as wide as the teacher's and lie in the same
    space. `own` embeddings are as wide as the hidden states of the network."""
    max_length: Annotated[int, Field(ge=4, le=512, strict=True)] = 128
    holdout: Holdout = Holdout()

    @field_validator("train")
    @classmethod
    def _one_name(cls, names: str | tuple[str, ...]) -> str | tuple[str, ...]:
        """Replace a list that contains one name by this name. Raises `ValueError` for repeated names."""
        repeated = next((name for name in names if names.count(name) > 1), None) if isinstance(names, tuple) else None
        if repeated:
            raise ValueError(f"each name may occur only once, but {repeated!r} occurs twice; remove one")
        return names[0] if isinstance(names, tuple) and len(names) == 1 else names

    @property
    def variant(self) -> TaskKind:
        """The kind of task, in the variant that the settings select; see `TaskKind.variant`."""
        return task_kind(self.kind).variant(self)

    @property
    def evaluated_on(self) -> Evaluation:
        """The kind of data that the search and test sets hold; see `nas.tasks.Evaluation`."""
        return task_kind(self.kind).evaluated_on(self.metric)

    @property
    def label_columns(self) -> tuple[str, ...]:
        """The columns of labels, always as a tuple. Empty if the labels are outputs of the teacher."""
        if self.evaluated_on == "texts":
            return ()
        return (self.label,) if isinstance(self.label, str) else self.label

    @property
    def group_column(self) -> str | None:
        """The column that identifies each row's group. None if rows are not evaluated in groups."""
        return task_kind(self.kind).group_column(self)

    @property
    def unlabelled_columns(self) -> tuple[str, ...]:
        """The columns that unlabelled rows must have: the text columns and, if there is one, the group column."""
        return tuple(dict.fromkeys((*self.text, *([self.group_column] if self.group_column else []))))

    @model_validator(mode="after")
    def _columns_differ(self) -> Task:
        if self.label == () or len(set(self.label_columns)) < len(self.label_columns):
            raise ValueError(f"label: must name distinct columns, but got {list(self.label_columns)}")
        if len(set(self.text)) < len(self.text):
            raise ValueError(f"text: must name distinct columns, but got {list(self.text)}; name two columns or one")
        if shared := set(self.text) & set(self.label_columns):
            raise ValueError(
                f"text: must not contain the label column, but both text and label name {shared.pop()!r}; name "
                "different columns"
            )
        return self

    @model_validator(mode="after")
    def _consistent(self) -> Task:
        task_kind(self.kind).check(self)
        if self.evaluated_on == "texts" and "label" in self.model_fields_set:
            raise ValueError(
                f"label: {self.metric} compares networks with the teacher and needs no labels, but got {self.label!r}; "
                "remove it"
            )
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
            if not self.hub and not is_made_here and not is_data_file(name):
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
        """The file or split names of each set, keyed by `train`, `search` (if the study defines one) and `test`."""
        train = (self.train,) if isinstance(self.train, str) else self.train
        return {"train": train, **({"search": (self.search,)} if self.search else {}), "test": (self.test,)}

    @property
    def unlabelled_files(self) -> tuple[str, ...]:
        """The items of `unlabelled` that are files. All others are splits."""
        return tuple(name for name in self.unlabelled if not self.hub or is_data_file(name))


class SpaceSettings(Settings):
    """The search space of a study, and the compression methods that the study excludes from it."""

    name: str
    """The name of a shipped search space, or the path of a TOML file."""
    exclude_compression: tuple[str, ...] = ()
    """The compression methods to exclude. A name without a parameter, such as `low_rank`, excludes the method with
    every parameter. A name with a parameter, such as `low_rank(8)`, excludes the method only with this parameter."""

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
    """Settings for training the supernet, which is distilled from the teacher.

    Each training step trains several sub-networks.
    """

    steps: Positive = 1000
    batch_size: Positive = 64
    learning_rate: PositiveReal = 3e-4
    random_subnets: Whole = 2
    """The number of random sub-networks per step. Each step also trains two other sub-networks. If sub-networks are
    drawn near the budgets, these are two more random ones. Otherwise, they are the largest and the smallest
    sub-network."""
    sampling: Literal["budgets", "spread", "uniform"] = "budgets"
    """How random sub-networks are drawn. `budgets`: near the budgets. `spread`: from all sizes, so that small, medium
    and large ones are equally frequent. `uniform`: with each dimension drawn uniformly and independently, so that most
    sub-networks are of medium size."""
    progressive: Flag = False
    """Whether the sizes of sub-networks are varied in three stages of equal length. In the first stage, only the depth
    varies. In the second stage, the numbers of heads and neurons also vary. In the third stage, the hidden size also
    varies."""
    logits_weight: Real = 1.0
    """The weight of the distillation loss that compares logits."""
    hidden_weight: Real = 1.0
    """The weight of the distillation loss that compares hidden states."""
    relation_weight: Real = 0.0
    """The weight of the distillation loss that compares attention relations."""
    replaced_tokens: Annotated[float, Field(ge=0.0, le=0.5, strict=True)] = 0.15
    """The mean share of the tokens of a text that are replaced at random. It applies to the supernet's training and to
    the final training. If the study sets `[student]`, no tokens are replaced."""
    train_embeddings: Flag = False
    """Whether the token embeddings are trained together with the other weights."""
    workers: Positive = 1
    """The number of Ray processes that share the texts of each batch. It does not change the result."""
    importance_batches: Positive = 32
    """The number of batches from which the importance of heads, neurons and hidden units is estimated."""
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
    """Settings of the architecture search."""

    sampler: Literal["guided", "nsga2", "tpe", "random"] = "guided"
    evaluations: Positive = 200
    """The number of candidates whose accuracy is measured. Candidates that are predicted to miss every budget do not
    count."""
    population: Annotated[int, Field(ge=4, strict=True)] = 32
    executor: Literal["inline", "ray"] = "inline"
    workers: Positive = 1
    """The number of Ray actors to request. Actors that do not yet fit into the cluster start later."""
    worker_cpus: PositiveReal = 1.0
    """The number of processors per worker. It is also the number of threads per worker."""
    worker_gpus: Real = 0.0
    """The number of GPUs per worker. It may be a fraction."""
    examples: Positive | None = None
    """The number of texts of the search set on which candidates are evaluated. The default is all texts."""
    least_tokens: Whole = 0
    """The smallest number of tokens that a text of the search set must have. Shorter texts are ignored. This is useful
    if many rows are only parts of the texts that will be served."""
    bf16: Flag = True
    """Whether to evaluate candidates in bf16 if the processor supports it natively. Exports are always evaluated in
    full precision."""
    knapsack: Flag = False
    """Whether the search starts from the networks that a knapsack solver predicts to be best. The solver needs the
    accuracy of every network that differs from the largest network in only one setting. For six layers, these are about
    two hundred networks."""
    storage: SecretStr | None = None
    """The URL of a database for the trials. It replaces the journal in the run's folder. The URL is never saved to a
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
"""The default ratio between the number of steps of the final training and that of the supernet's training. A supernet
ranks candidates well even after short training, whereas the accuracy of an export depends on the final training."""


class Export(Settings):
    """Settings for measuring the best candidates of each budget and for their final training."""

    candidates: Positive = 4
    """The number of candidates per budget that are measured end to end at a time, best first, until enough of them meet
    the budget. If the budget has an accuracy floor, twice as many candidates are measured at a time, spread along the
    Pareto front around the floor."""
    finalists: Positive = 3
    """The number of candidates per budget that enter the final training. It is doubled if the budget has an accuracy
    floor. During this training, the less accurate candidates are dropped."""
    epochs: PositiveReal | None = None
    """The number of epochs of the final training, which distils the teacher. By default, the final training has three
    times as many steps as the training of the supernet."""
    learning_rate: PositiveReal | None = None
    """The highest learning rate of the final training. By default, it depends on the size of each network: 5e-4 for up
    to 5 million parameters in its layers, and less for larger networks."""
    batch_size: Positive = 64
    fine_tune: Flag = True
    """Whether there is a final training. If not, networks are exported with the supernet's weights."""


class Training(Settings):
    """Settings for the time and disk space that a run may use, and for the tools that record losses."""

    hours: PositiveReal | None = None
    """The time limit for a run, in hours. If it is set, the numbers of training steps and evaluations depend on the
    limit and on the speed of this machine. The numbers in the study are then ignored."""
    outputs_gb: Annotated[float, Field(ge=0.0, allow_inf_nan=False)] = 8.0
    """The maximum disk space, in GB, for the teacher's outputs on the training texts. Outputs that are stored need not
    be computed again in every step. With 0, no outputs are stored."""
    report_to: tuple[Literal["tensorboard", "wandb", "mlflow"], ...] = ("tensorboard",)
    """The tools that record the losses of the training stages. TensorBoard is used only if it is installed."""


class Study(Settings):
    """A complete study, which defines everything about a run.

    `path` is the file from which the study was read.
    """

    path: Path
    name: Name
    seed: Annotated[int, Field(strict=True, ge=0, lt=2**32)] = 0
    task: Task
    teacher: TeacherSettings
    student: TeacherSettings | None = None
    """The model to compress if it is not the teacher. All settings of a teacher are allowed except `outputs`."""
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
                f"{self.compressed_table}.outputs: the model to compress must be loaded, so it "
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
        needs_all_sizes = {"supernet.progressive": self.supernet.progressive, "search.knapsack": self.search.knapsack}
        for key, is_set in needs_all_sizes.items():
            if is_set and self.supernet.sampling == "budgets":
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
        """Raise `ValueError` if the teacher or the student does not suit the kind of task."""
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
        """The model whose sub-networks are searched: the student or, if there is no student, the teacher."""
        return self.student or self.teacher

    @property
    def compressed_table(self) -> Literal["student", "teacher"]:
        """The table of the study file that describes the model whose sub-networks are searched."""
        return "student" if self.student else "teacher"

    @property
    def replaced_tokens(self) -> float:
        """The mean share of the tokens of a text that distillation replaces at random.

        It is 0 if there is a student.
        """
        return 0.0 if self.student else self.supernet.replaced_tokens

    @classmethod
    def load(cls, study: str | Path, variables: Mapping[str, str] | None = None) -> Study:
        """Read and validate a study.

        `study` is a study file, a folder with a `study.toml`, or the name of a shipped study. `variables` holds the
        values that replace `${NAME}`. Values that it lacks are taken from the environment. Raises `StudyError` or
        `SearchSpaceError`. The message names the file, the key, the violated rule and a remedy.
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
        if exits and not runtime_of(device).executes(["early_exits"], device.processor):
            suitable = names_of(runtimes_for(["early_exits"]))
            raise ValueError(
                f"networks with early exits (exit_threshold) run only on {suitable}, "
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
            method = compression(name)
            for key, supported in (
                ("runtime", method.runtimes),
                ("processor", runtime_of(device).processors_for(method.operations)),
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

        The copy uses one worker per processor, but at most `search.population` workers. If the study already uses Ray,
        return it unchanged.
        """
        if self.search.executor == "ray":
            return self
        workers = max(1, min(processors, self.search.population))
        search = self.search.model_copy(update={"executor": "ray", "workers": workers})
        return self.model_copy(update={"search": search})

    def within(self, hours: float) -> Study:
        """Return a copy of the study with a time limit of `hours` hours. If `hours` is 0, the copy has no time limit.

        Raises `StudyError` if `hours` is negative or not finite, or if the study does not support a time limit.
        """
        fields = {name: getattr(self, name) for name in type(self).model_fields}
        values = fields | {"training": self.training.model_dump() | {"hours": hours or None}}
        return validate(Study, values, self.path, StudyError)

    def resolve(self, name: str) -> Path:
        """Return the absolute path for `name`, which is a path relative to the folder of the study file."""
        # Unlike Path.resolve, realpath does not fail if symbolic links form a loop; the file then counts as missing.
        return Path(os.path.realpath(self.path.parent / given_path(name)))

    @property
    def is_near_budgets(self) -> bool:
        """Whether the supernet is trained on sub-networks near the budgets.

        This is not possible if all budgets have an accuracy floor, because it is unknown which sub-networks are near a
        floor.
        """
        return self.supernet.sampling == "budgets" and not all(budget.has_floor for budget in self.budgets)

    def final_steps(self, texts: int) -> int:
        """Return the number of steps of the final training on `texts` training texts.

        The result does not take a time limit into account.
        """
        if self.export.epochs is None:
            return _FINAL_STEPS_RATIO * self.supernet.steps
        return max(1, round(self.export.epochs * (texts // self.export.batch_size)))

    def digest(self, *parts: str) -> str:
        """Return an identifier that changes whenever the seed or one of the named parts of the study changes."""
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
    """Return the settings of a device, combined with those in the TOML file that its key `file` names.

    If a setting is in both, the setting in the study takes precedence.
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
    """Return the default name of a study: the name of its folder, with dashes instead of forbidden characters."""
    folder_name = folder.resolve().name
    if re.fullmatch(NAME, folder_name):
        return folder_name
    plain = unicodedata.normalize("NFKD", folder_name).encode("ascii", "ignore").decode()
    return re.sub(r"[^A-Za-z0-9._-]+", "-", plain).strip("._-") or "study"


def shipped_studies() -> dict[str, Path]:
    """Return the paths of the study files that are part of `nas`, keyed by the name of the study."""
    package, checkout = Path(__file__).parents[:2]
    files = (path for folder in (checkout, package) for path in sorted(folder.glob("studies/*/study.toml")))
    return {path.parent.name: path for path in files}


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
