"""The properties of a teacher, from which its search space and its fine-tuning are proposed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from nas.errors import TeacherError, counted
from nas.files import given_path
from nas.form import NetworkType
from nas.model.modeling import types_named
from nas.model.stock import compact_config, shape_of
from nas.model.teacher_config import read_config
from nas.proposal.table import Columns
from nas.space import Shape
from nas.tasks import task_kind
from nas.vocabulary import tokenizer_kind


@dataclass(frozen=True)
class TeacherProperties:
    """The properties of a teacher that are read from the files in its folder."""

    shape: Shape
    positions: int
    """The largest number of tokens that the teacher can read in one text."""
    outputs: int | None
    """The number of outputs of the teacher's classifier. None if the teacher has no classifier."""
    problem_type: str | None = None
    """The `problem_type` in the teacher's configuration."""
    tokenizer: str | None = None
    """The model type of the teacher's tokenizer, such as WordPiece. None if it is unknown."""
    network_type: NetworkType = "sequence_classifier"
    labels: tuple[str, ...] = ()
    """The names of the outputs of the teacher's classifier."""

    @classmethod
    def at(cls, name: str) -> TeacherProperties | None:
        """Return the properties of the teacher in the folder `name`. If `name` is a hub id, return None.

        Nothing is downloaded. Raises `TeacherError` if the folder does not exist or contains no supported model.
        """
        folder = given_path(name)
        if not folder.is_dir():
            if name.startswith((".", "/", "~")):
                raise TeacherError(
                    f"--teacher {name}: there is no folder with this name; correct the path, or give a hub id"
                )
            return None
        config = read_config(str(folder))
        named = types_named(config.architectures or ())
        outputs = len(config.id2label or ()) if named else None
        problem_type = getattr(config, "problem_type", None)
        positions = compact_config(config).max_position_embeddings
        labels = tuple(str(name) for _, name in sorted((config.id2label or {}).items())) if named else ()
        network_type: NetworkType = named[0] if named else "sequence_classifier"
        return cls(shape_of(config), positions, outputs, problem_type, tokenizer_kind(folder), network_type, labels)

    def outputs_for(self, kind: str | None) -> int | None:
        """Return the number of outputs of the teacher's classifier.

        None if the classifier does not suit the kind of task. If `kind` is None, the task is assumed to have one label
        per text. A classifier for one label per text does not suit a task with several labels per text, and vice versa.
        """
        if self.network_type != (task_kind(kind).network_form.network_type if kind else "sequence_classifier"):
            return None
        if kind is not None and task_kind(kind).accepts(self.problem_type, self.outputs):
            return self.outputs
        needs_multi_label = kind is not None and task_kind(kind).has_thresholds
        is_known = self.problem_type is not None or not needs_multi_label
        is_multi_label = self.problem_type == "multi_label_classification"
        return None if is_known and is_multi_label != needs_multi_label else self.outputs

    def misfit(self, data: Columns, label: Sequence[str], kind: str) -> str | None:
        """Return why the number of outputs of the teacher's classifier does not fit the task. None if it fits.

        Also return None if `outputs_for` does.
        """
        outputs, needed = self.outputs_for(kind), data.outputs(label, kind)
        if outputs is None or outputs == needed:
            return None
        rules = task_kind(kind)
        columns = f"{' and '.join(map(repr, label))} {'have' if len(label) > 1 else 'has'}"
        requirement = f"a {kind} needs 1" if rules.has_one_output else f"{columns} {needed} {rules.label_word}"
        return f"the teacher's classifier has {counted(outputs, 'output')}, but {requirement}"
