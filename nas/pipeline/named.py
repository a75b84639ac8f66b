"""Errors about the model that is compressed name the table of the study that gives it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

from nas.errors import NasError
from nas.study import Study

_KEYS = re.compile(r"\bteacher\.(model|revision|fine_tune|prune_vocabulary)\b")


@contextmanager
def student_named(study: Study) -> Iterator[None]:
    """Have errors of the block speak of `student.model` and the like if the study has a student.

    What reads the model that is compressed says `teacher.model`, since mostly that is the teacher.
    """
    try:
        yield
    except NasError as problem:
        if study.student is None:
            raise
        raise type(problem)(_KEYS.sub(r"student.\1", str(problem))) from None
