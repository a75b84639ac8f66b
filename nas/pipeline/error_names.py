"""Replaces keys of `[teacher]` with keys of `[student]` in error messages about the model to compress.

Nothing is replaced if the study has no `[student]`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

from nas.errors import NasError
from nas.study import Study

_TEACHER_KEYS = re.compile(r"\bteacher\.(model|revision|fine_tune|prune_vocabulary)\b")


@contextmanager
def student_named(study: Study) -> Iterator[None]:
    """If the study has a `[student]`, replace keys such as `teacher.model` with `student.model` in error messages.

    Keys are replaced in every `NasError` that the `with` block raises. The code that reads the model to compress always
    writes `teacher.model`, since the teacher is the model to compress in most studies.
    """
    try:
        yield
    except NasError as problem:
        if study.student is None:
            raise
        raise type(problem)(_TEACHER_KEYS.sub(r"student.\1", str(problem))) from None
