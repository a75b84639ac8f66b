"""Study files, which define one experiment, and the frozen and validated settings that are read from them."""

from nas.study.study import (
    DATA_SUFFIXES,
    Export,
    FineTuningSettings,
    Holdout,
    Search,
    SpaceSettings,
    Study,
    Supernet,
    Task,
    TeacherSettings,
    Training,
    is_data_file,
    shipped_studies,
    study_name,
)

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
