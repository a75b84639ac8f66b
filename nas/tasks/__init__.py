"""The kinds of task, such as classification or ranking, with their labels, distillation losses and metrics.

`REGISTRY` maps each value of `task.kind` to an instance of `TaskKind`. These instances implement all behaviour that
depends on the kind of task, so no module outside this package distinguishes between kinds.
"""

from __future__ import annotations

from nas.tasks.agreement import Agreement
from nas.tasks.classification import Classification, ClassMetric
from nas.tasks.embedding import Embedding, PairCorrelation
from nas.tasks.kind import Evaluation, Meaning, OutputWidth, Problem, TaskKind, TaskLabels
from nas.tasks.labels import LabelColumn
from nas.tasks.metric import GROUP, IGNORED, REFERENCE, Metric, in_groups, is_custom
from nas.tasks.multi_label import LabelMetric, MultiLabel
from nas.tasks.numbering import Head
from nas.tasks.ranking import Ranking, RankingMetric
from nas.tasks.regression import Correlation, Regression
from nas.tasks.retrieval import RetrievalMetric
from nas.tasks.tagging import Tagging, TagMetric

__all__ = [
    "GROUP",
    "IGNORED",
    "REFERENCE",
    "REGISTRY",
    "Agreement",
    "ClassMetric",
    "Correlation",
    "Embedding",
    "Evaluation",
    "Head",
    "LabelColumn",
    "LabelMetric",
    "Meaning",
    "Metric",
    "OutputWidth",
    "PairCorrelation",
    "Problem",
    "Ranking",
    "RankingMetric",
    "Regression",
    "RetrievalMetric",
    "TagMetric",
    "Tagging",
    "TaskKind",
    "TaskLabels",
    "in_groups",
    "is_custom",
    "task_kind",
]

REGISTRY: dict[str, TaskKind] = {
    kind.name: kind for kind in (Classification(), Regression(), MultiLabel(), Ranking(), Tagging(), Embedding())
}


def task_kind(name: str) -> TaskKind:
    """Return the kind of task called `name`. Raises `ValueError` if there is no such kind."""
    if name not in REGISTRY:
        raise ValueError(f"kind: {name!r} is not a kind of task; use one of {', '.join(REGISTRY)}")
    return REGISTRY[name]
