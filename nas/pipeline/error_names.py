"""Makes errors about the compressed model name the table `[student]` if the study describes this model there."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

from nas.errors import NasError
from nas.study import Study

_TEACHER_KEYS = re.compile(r"\bteacher\.(model|revision|fine_tune|prune_vocabulary)\b")


@contextmanager
def student_named(study: Study) -> Iterator[None]:
    """In errors of the `with` block, replace keys such as `teacher.model` by `student.model` if there is a student.

    The code that reads the compressed model always says `teacher.model`, since in most studies this model is the
    teacher.
    """
    try:
        yield
    except NasError as problem:
        if study.student is None:
            raise
        raise type(problem)(_TEACHER_KEYS.sub(r"student.\1", str(problem))) from None
