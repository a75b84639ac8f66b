"""Corrects errors about the model to be compressed: they name `[student]` if the study has this table."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

from nas.errors import NasError
from nas.study import Study

_TEACHER_KEYS = re.compile(r"\bteacher\.(model|revision|fine_tune|prune_vocabulary)\b")


@contextmanager
def student_named(study: Study) -> Iterator[None]:
    """If the study has a `[student]`, replace `teacher.model` and similar keys by `student.model` in error messages.

    This affects all errors that the `with` block raises. The code that reads the model to be compressed always writes
    `teacher.model`, since in most studies this model is the teacher.
    """
    try:
        yield
    except NasError as problem:
        if study.student is None:
            raise
        raise type(problem)(_TEACHER_KEYS.sub(r"student.\1", str(problem))) from None
