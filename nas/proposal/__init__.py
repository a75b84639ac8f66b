"""Proposes the first study file of a user: examines the teacher and the data, suggests settings and writes the file.

`TeacherProperties` and `Columns` describe the user's files. `Answers` contains the settings that the user has given or
confirmed. `nas init` (`nas.cli.setup`) asks the user for these settings and calls `write_study`. `nas.in_python` uses
the same proposals for studies that are defined in Python.
"""

from __future__ import annotations

from nas.proposal.budget import budget_table
from nas.proposal.column import Column
from nas.proposal.decision import Clear, Unclear
from nas.proposal.space import fitting_space, space_text
from nas.proposal.study_file import LENGTH, SPACE_FILE, STUDY_FILE, Answers, write_study
from nas.proposal.table import Columns, text_of
from nas.proposal.teacher import TeacherProperties

__all__ = [
    "LENGTH",
    "SPACE_FILE",
    "STUDY_FILE",
    "Answers",
    "Clear",
    "Column",
    "Columns",
    "TeacherProperties",
    "Unclear",
    "budget_table",
    "fitting_space",
    "space_text",
    "text_of",
    "write_study",
]
