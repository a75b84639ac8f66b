"""Study files, each of which defines one experiment, and the validated, immutable settings read from them.

`Study.load` reads a study file, which is TOML. Every step of the pipeline takes its settings from the resulting
`Study`. Paths in the file are relative to the file's folder. `${NAME}` stands for the value of the variable `NAME`. The
study declares its variables under `[variables]`, and the user sets them with `--set NAME=value` or in the environment.
"""

from nas.study.files import shipped_studies, study_name
from nas.study.search import Search, SpaceSettings
from nas.study.study import Study
from nas.study.task import DATA_SUFFIXES, Holdout, Task, is_data_file
from nas.study.teacher import FineTuningSettings, TeacherSettings
from nas.study.training import Export, Supernet, Training

__all__ = [
    "DATA_SUFFIXES",
    "Export",
    "FineTuningSettings",
    "Holdout",
    "Search",
    "SpaceSettings",
    "Study",
    "Supernet",
    "Task",
    "TeacherSettings",
    "Training",
    "is_data_file",
    "shipped_studies",
    "study_name",
]
