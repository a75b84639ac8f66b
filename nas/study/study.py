"""A complete study: its tables, the checks that involve several tables, and values derived from the settings."""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import cached_property
from itertools import combinations
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from nas.budget import Budget
from nas.compression import compression
from nas.device import Device, Name
from nas.errors import StudyError, listed
from nas.files import Settings, digest, given_path, validate
from nas.runtimes import runtime_of, runtimes_for
from nas.space import SearchSpace, Shape, shipped_spaces
from nas.study.files import read_study, study_file
from nas.study.search import Search, SpaceSettings
from nas.study.task import Task
from nas.study.teacher import TeacherSettings
from nas.study.training import Export, Supernet, Training
from nas.tasks import task_kind

_FINAL_STEPS_RATIO = 3
"""The default ratio between the number of steps of the final training and that of the supernet's training. A supernet
ranks candidates well even after short training, whereas the accuracy of an export depends on the final training."""


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
        self._check_names()
        known = [device.name for device in self.devices]
        for budget in self.budgets:
            for name in budget.devices:
                if name not in known:
                    raise ValueError(
                        f"budgets.{budget.name}: no device is named {name!r}; use {listed(list(map(repr, known)))}"
                    )
        if self.compressed.outputs is not None:
            raise ValueError(
                "student.outputs: must not be set, because the student must be loaded to be compressed; set "
                "teacher.outputs instead"
                if self.student
                else "teacher.outputs: may be set only together with [student], because a teacher with outputs is not "
                "loaded and cannot be compressed itself; add [student], or remove teacher.outputs"
            )
        self._check_models()
        if self.compressed.model == "embedded" and self.compressed.revision:
            raise ValueError(
                f"{self.compressed_table}.revision: is {self.compressed.revision!r}, but only hub models have "
                "revisions; remove it"
            )
        if (self.compressed.model == "embedded") != (self.task.train == "embedded"):
            raise ValueError(
                f"{self.compressed_table}.model: this model and task.train must both be 'embedded', or neither, but "
                f"the model is {self.compressed.model!r}; change one of them"
            )
        needs_all_sizes = {"supernet.progressive": self.supernet.progressive, "search.knapsack": self.search.knapsack}
        for key, is_set in needs_all_sizes.items():
            if is_set and self.supernet.sampling == "budgets":
                raise ValueError(
                    f"{key}: needs a supernet trained on sub-networks of all sizes, but supernet.sampling is "
                    "'budgets'; set supernet.sampling to 'spread'"
                )
        if self.training.hours and self.supernet.workers > 1:
            raise ValueError(
                "training.hours: requires training in a single process, because the speed of several processes is not "
                f"measured, but supernet.workers is {self.supernet.workers}; remove training.hours or supernet.workers"
            )
        return self

    def _check_names(self) -> None:
        """Raise `ValueError` if two devices or two budgets would share a file or folder that is named after them."""
        for key in ("devices", "budgets"):
            names = [item.name for item in getattr(self, key)]
            repeated = next((name for name in names if names.count(name) > 1), None)
            if repeated:
                raise ValueError(
                    f"{key}: each name may occur only once, but {repeated!r} occurs more than once; rename one"
                )
            for first, second in combinations(names, 2):
                if first.casefold() == second.casefold():
                    raise ValueError(
                        f"{key}: names must differ in more than case, because files are named after them, but got "
                        f"{first!r} and {second!r}; rename one"
                    )
        names = [device.name for device in self.devices]
        for name in names:
            samples = f"{name}.samples"  # the file with the measurements of a device is <device>.samples.json
            if samples in names:
                raise ValueError(
                    f"devices: {samples!r} must not be the name of a device, because a file with the measurements of "
                    f"the device {name!r} has this name; rename one of the two devices"
                )

    def _check_models(self) -> None:
        """Raise `ValueError` if the teacher or the student does not suit the kind of task."""
        kind = task_kind(self.task.kind)
        if self.student and kind.why_no_student:
            raise ValueError(
                f"student: a task of kind {kind.name!r} cannot have a student, because {kind.why_no_student}; remove "
                "[student]"
            )
        if kind.learns_from_texts and self.compressed.fine_tune:
            raise ValueError(
                f"teacher.fine_tune: must not be set if the kind is {kind.name!r}, because this kind is trained on "
                "texts without labels; remove teacher.fine_tune"
            )
        if self.student:
            self._check_student()

    def _check_student(self) -> None:
        if self.teacher.model == "embedded":
            raise ValueError(
                "teacher.model: 'embedded' (the teacher of the built-in task) cannot be combined with [student], "
                "because the built-in task compresses this teacher; remove [student]"
            )
        if self.teacher.prune_vocabulary:
            raise ValueError(
                "teacher.prune_vocabulary: only the vocabulary of the model to compress, the student, can be pruned; "
                "set student.prune_vocabulary instead"
            )
        if not self.teacher.is_loaded and (self.teacher.fine_tune or self.teacher.revision):
            key = "fine_tune" if self.teacher.fine_tune else "revision"
            raise ValueError(
                f"teacher.{key}: must not be set together with teacher.outputs, because the teacher is then not "
                f"loaded; remove teacher.{key}"
            )
        if not self.supernet.logits_weight:
            raise ValueError(
                "supernet.logits_weight: must be above 0 if there is a student, because a student learns only from its "
                "teacher's logits, but got 0; remove supernet.logits_weight"
            )
        if "replaced_tokens" in self.supernet.model_fields_set and self.supernet.replaced_tokens:
            raise ValueError(
                "supernet.replaced_tokens: must be 0 if there is a student, because the teacher's outputs are computed "
                f"on the unchanged texts, but got {self.supernet.replaced_tokens:g}; remove supernet.replaced_tokens"
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

        `study` is a study file, a folder with a `study.toml`, or the name of a shipped study. `variables` maps names to
        the values that replace `${NAME}`. A variable that is missing there is taken from the environment. Raises
        `StudyError` or `SearchSpaceError`. The message names the file, the key, the violated rule and a remedy.
        """
        path = study_file(study)
        loaded = validate(cls, read_study(path, variables or {}), path, StudyError)
        loaded._check_space()
        return loaded

    def _check_space(self) -> None:
        kind = task_kind(self.task.kind)
        if self.space.dimensions.keep_tokens and kind.network_form.readout != "first":
            raise StudyError(
                f"{self.path}: search_space: {self.space.name!r} drops tokens (keep_tokens), but a task of kind "
                f"{kind.name!r} needs all tokens after the last layer; use a different search space"
            )
        if self.space.dimensions.exit_threshold and (why := kind.why_no_exits):
            raise StudyError(
                f"{self.path}: search_space: {self.space.name!r} has early exits (exit_threshold), but {why}; use a "
                "different search space"
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
            suitable = listed(runtimes_for(["early_exits"]))
            raise ValueError(
                f"networks with early exits (exit_threshold) run only on {suitable}, "
                f"but the runtime is {device.runtime!r}; change the runtime or the search space"
            )
        if exits and device.batch_size != 1:
            raise ValueError(
                "batch_size must be 1 for networks with early exits (exit_threshold), because a batch takes as long as "
                f"its slowest text, but got {device.batch_size}; change batch_size or the search space"
            )
        if (exits or tokens) and device.sequence_length != "task":
            raise ValueError(
                "sequence_length must be 'task' if the search space has "
                f"{'keep_tokens' if tokens else 'exit_threshold'}, but got {device.sequence_length!r}: latency and "
                "accuracy must be measured on texts of the same lengths; change sequence_length or the search space"
            )

    def _check_choices(self, device: Device) -> None:
        for name in sorted({name for _, names in self.space.compression for name in names}):
            method = compression(name)
            for key, supported in (
                ("runtime", method.runtimes),
                ("processor", runtime_of(device).processors_for(method.operations)),
            ):
                if getattr(device, key) not in supported:
                    others = listed(sorted(supported))
                    advice = f", which runs only on {others}; change the {key}, or" if supported else ";"
                    raise ValueError(
                        f"the {key} {getattr(device, key)!r} cannot run the compression method {name!r}{advice} "
                        f"add {name!r} to search_space.exclude_compression"
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

        This is not possible if all budgets have an accuracy floor, because the accuracies of sub-networks are not known
        before the training.
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
        """Return a digest of the seed and of the fields of the study that are named in `parts`."""
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


def _sizes(shape: Shape) -> str:
    return (
        f"{shape.num_hidden_layers} layers, hidden_size {shape.hidden_size}, "
        f"{shape.num_attention_heads} heads, intermediate_size {shape.intermediate_size}"
    )
