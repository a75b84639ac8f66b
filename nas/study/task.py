"""The task of a study: its data, its columns, its metric and its search set."""

from __future__ import annotations

from itertools import combinations
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, field_validator, model_validator

from nas.errors import listed
from nas.files import Positive, Settings
from nas.tasks import Evaluation, OutputWidth, TaskKind, task_kind

DATA_SUFFIXES = (".parquet", ".csv", ".jsonl")
Probability = Annotated[float, Field(gt=0.0, lt=1.0, strict=True, allow_inf_nan=False)]
_MOST_HELD_OUT, _TRAIN_ROWS_PER_HELD_OUT = 5000, 5
"""The default size of the search set: one in 5 training rows, but at most 5000 rows."""


def is_data_file(name: str) -> bool:
    """Whether a name has the suffix of a data file."""
    return name.lower().endswith(DATA_SUFFIXES)


def _as_list(names: str | tuple[str, ...]) -> str | list[str]:
    """Return several names as a list, as they are written in a study file, and a single name unchanged."""
    return names if isinstance(names, str) else list(names)


def _as_text(value: Any) -> Any:
    """Return a number or a boolean as a string, as it is written in data files. Other values are returned unchanged."""
    return str(value) if isinstance(value, int | float) else value


ClassName = Annotated[str, BeforeValidator(_as_text)]


class Holdout(Settings):
    """Settings for the search set, which is held out of the training rows and used to evaluate candidates."""

    size: Positive | None = None
    """The number of rows in the search set. The default is a fifth of the training rows, but at most 5000."""
    by: Literal["row", "sentence"] = "row"
    """The unit in which training rows are held out: `row`, or `sentence` for whole sentences together with all rows
    whose texts are part of them, such as the phrases in SST-2. This key cannot be set if rows are evaluated in groups,
    because whole groups are then held out."""

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
    items are concatenated. `embedded` selects the built-in task, whose data `nas` generates."""
    test: str
    """The test set, usually the official validation set. Networks are evaluated on it only for the final results."""
    search: str | None = None
    """For `embedding`: the file or split with the pairs on which candidates are evaluated. It is required unless the
    metric is `agreement`. In all other cases, the search set is held out of the training rows."""
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
            raise ValueError(f"each name may occur only once, but {repeated!r} occurs more than once; remove one")
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
        if self.label == ():
            raise ValueError("label: must name at least one column, but got []; name the label column")
        if len(set(self.label_columns)) < len(self.label_columns):
            raise ValueError(f"label: must name distinct columns, but got {list(self.label)}; name each column once")
        if len(set(self.text)) < len(self.text):
            raise ValueError(
                f"text: must name distinct columns, but got {list(self.text)}; name two different columns, or only one"
            )
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
                f"label: must not be set if the metric is {self.metric}, which compares networks with the teacher, but "
                f"got {_as_list(self.label)!r}; remove label"
            )
        if self.group_column in self.label_columns:
            raise ValueError(
                f"query: must not be the label column, but both are {self.group_column!r}; name different columns"
            )
        if self.group_column and "by" in self.holdout.model_fields_set:
            raise ValueError(
                f"holdout.by: must not be set if the kind is {self.kind}, because rows with the same "
                f"{self.group_column!r} are held out together, but got {self.holdout.by!r}; remove holdout.by"
            )
        if "output_width" in self.model_fields_set and not task_kind(self.kind).has_output_width:
            raise ValueError(
                f"output_width: must not be set if the kind is {self.kind}, because the labels determine the number of "
                f"outputs, but got {self.output_width!r}; remove output_width"
            )
        for key in ("config", "revision"):
            if (value := getattr(self, key)) and not self.hub:
                raise ValueError(f"{key}: is {value!r}, but only hub data sets have one; set hub, or remove {key}")
        named = [(key, name) for key, names in (*self.sets.items(), ("unlabelled", self.unlabelled)) for name in names]
        for key, name in named:
            is_made_here = getattr(self, key) == "embedded"
            if not self.hub and not is_made_here and not is_data_file(name):
                raise ValueError(
                    f"{key}: a data file must end in {listed(DATA_SUFFIXES)}, but got {name!r}; convert the file"
                )
        for (first, names), (second, second_names) in combinations(self.sets.items(), 2):
            if same := sorted({*names} & {*second_names} - {"embedded"}):
                raise ValueError(f"{second}: must differ from {first}, but both are {same[0]!r}; change one of them")
        if (self.train == "embedded") != (self.test == "embedded"):
            raise ValueError(
                f"test: train and test must both be 'embedded', or neither, but are {_as_list(self.train)!r} and "
                f"{self.test!r}; change one of them"
            )
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
