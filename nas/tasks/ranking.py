"""The `ranking` task kind: the passages of a query are ordered by relevance.

Each row holds a query, a passage, and a grade of the passage's relevance to the query. A network reads the query and
the passage together and outputs one score, as a cross-encoder does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from nas.errors import DataError, shown
from nas.sentence_modules import TEXTS_FILE
from nas.tasks.kind import TaskKind, TaskLabels, TaskSettings
from nas.tasks.labels import LabelColumn, file_by_file, log_odds, parse_numbers, refuse_missing
from nas.tasks.metric import EVALUATED_SET, GROUP
from nas.tasks.numbering import Head, check_one_output
from nas.tasks.query_metric import CUTOFF, NDCG, QueryMetric, trec_eval

if TYPE_CHECKING:
    from torch import Tensor

_TREC_EVAL_NAMES = {"ndcg@10": NDCG, "mrr@10": "recip_rank", "map": "map"}
"""The names of the metrics in trec_eval, keyed by their names in `nas`."""
_LARGEST_GRADE = 100
"""The largest grade of relevance."""
_EXAMPLE_SIZES = range(4, 13)
"""The numbers of passages that a query may have if the report shows it as an example."""
_IDENTITY, _SIGMOID = "torch.nn.modules.linear.Identity", "torch.nn.modules.activation.Sigmoid"
"""The activation functions that sentence-transformers may apply to the output of a network."""


@dataclass(frozen=True)
class RankingMetric(QueryMetric):
    """The metric `ndcg@10`, `mrr@10` or `map`, averaged over the queries that have a relevant passage.

    Labels are records with the shape (rows,). The field `label` is the grade of relevance, a whole number of at least
    0, and the field `group` is the number of the query.
    """

    def size(self, labels: np.ndarray) -> int:
        return len(np.unique(_scored_records(labels)[GROUP]))

    def check_size(self, labels: np.ndarray, set_name: str = EVALUATED_SET) -> None:
        """Raise `DataError` if a set has too few queries, or if the score is the same for every ranking."""
        super().check_size(labels, set_name)
        records = _scored_records(labels)
        grades = records["label"] if self.name == "ndcg@10" else records["label"] > 0
        different = set(zip(records[GROUP].tolist(), grades.tolist(), strict=True))
        if len(different) == self.size(labels):
            raise DataError(
                f"{set_name} has no query whose passages differ in relevance, so {self.name} is the same for every "
                "ranking; name the column that identifies queries in task.query, or give relevant and irrelevant "
                "passages for the same query"
            )

    def group_scores(self, logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
        """Return the score of each query that has a relevant passage, with the shape (queries,)."""
        grades: dict[str, dict[str, int]] = {}
        outputs: dict[str, dict[str, float]] = {}
        # trec_eval orders passages with equal scores by name. The names are random, because relevant passages may come
        # first in the data, and the order of the rows must not affect the score.
        names = [f"{number:09d}" for number in np.random.default_rng(0).permutation(len(labels))]
        rows = zip(labels[GROUP].tolist(), names, labels["label"].tolist(), logits[:, 0].tolist(), strict=True)
        for group, name, relevance, score in rows:
            grades.setdefault(str(group), {})[name] = int(relevance)
            outputs.setdefault(str(group), {})[name] = score
        grades = {query: passages for query, passages in grades.items() if any(passages.values())}
        if not grades:
            return np.zeros(0)
        measure = _TREC_EVAL_NAMES[self.name]
        scores = trec_eval(measure, grades, {query: outputs[query] for query in grades})
        return np.where(scores < 1.0 / CUTOFF, 0.0, scores) if measure == "recip_rank" else scores

    def label_counts(self, labels: np.ndarray) -> dict[str, int]:
        queries, scored = len(np.unique(labels[GROUP])), len(np.unique(_scored_records(labels)[GROUP]))
        return {
            "queries": queries,
            "queries without a relevant passage, which the metric ignores": queries - scored,
            "relevant passages": int((labels["label"] > 0).sum()),
        }

    def rows_to_compare(self, labels: np.ndarray) -> list[int]:
        """Return the rows of the first query that the report can show as an example.

        Such a query has a relevant passage, and its number of passages is in `_EXAMPLE_SIZES`.
        """
        scored_groups = _scored_records(labels)[GROUP]
        sizes = dict(zip(*(values.tolist() for values in np.unique(scored_groups, return_counts=True)), strict=True))
        fitting = [group for group in scored_groups.tolist() if sizes[group] in _EXAMPLE_SIZES]
        rows: list[int] = np.flatnonzero(labels[GROUP] == fitting[0]).tolist() if fitting else []
        return rows

    def constant_answer(self, labels: np.ndarray, outputs: int) -> np.ndarray:
        """Return the same score for all passages. The metric then ranks the passages at random."""
        return np.zeros((len(labels), outputs), dtype=np.float32)

    def simulated(self, labels: np.ndarray, outputs: int, share: float, rng: np.random.Generator) -> np.ndarray:
        """Return simulated scores that rank the passages of some queries perfectly and of all others at random.

        The proportion of perfectly ranked queries is about `share`.
        """
        queries, positions = np.unique(labels[GROUP], return_inverse=True)
        is_right = (rng.random(len(queries)) < share)[positions]
        scores: np.ndarray = np.where(is_right, labels["label"], 0.0) + rng.random(len(labels)) / 2.0
        return scores[:, None]


def _scored_records(labels: np.ndarray) -> np.ndarray:
    """Return the records of the queries that have a relevant passage."""
    records: np.ndarray = labels[np.isin(labels[GROUP], labels[GROUP][labels["label"] > 0])]
    return records


class Ranking(TaskKind):
    """The kind of task in which each row has a grade of a passage's relevance to a query."""

    name = "ranking"
    metrics = ("ndcg@10", "mrr@10", "map")
    examples = (
        {"label": [0, 0, 1, 0, 0, 0, 0, 0, 0, 0]},
        {"relevance": ["0", "2", "0", "0", "1.0", "0", "3"]},
        {"label": [False, True, False]},
    )
    problem_type = "multi_label_classification"
    has_one_output = True
    meaning = "grades"
    label_word = "grades of relevance"
    why_no_exits = "the scores of a query's passages are compared, so all must come from the same layer"
    judges_groups = True
    needs_pairs = True
    hub_task = "text-ranking"
    hub_library = "sentence-transformers"

    def metric(self, settings: TaskSettings, names: Sequence[str] = ()) -> RankingMetric:
        return RankingMetric(settings.metric)

    def read(self, train: Sequence[LabelColumn], test: Sequence[LabelColumn], head: Head | None) -> TaskLabels:
        """Return the labels for training, and the grades for the metric.

        A label is the grade divided by the largest grade in the training data, but at most 1.
        """
        (train_column,), (test_column,) = train, test
        check_one_output(head, "but a ranking needs one score", "a cross-encoder with one output")
        grades_by_set = {"train": grades_of(train_column), "test": grades_of(test_column)}
        lowest, highest = min(grades_by_set["train"]), max(grades_by_set["train"])
        if lowest == highest:
            raise DataError(
                f"{train_column.place}: the relevance of all {len(grades_by_set['train'])} rows is {highest}, so there "
                "is nothing to learn; give relevant and irrelevant passages"
            )
        values: dict[str, list[Any]] = {
            name: [[min(1.0, grade / highest)] for grade in grades] for name, grades in grades_by_set.items()
        }
        return TaskLabels(values, (), judged={name: list(grades) for name, grades in grades_by_set.items()})

    def output_names(self, names: Sequence[str]) -> dict[int, str]:
        return {0: "relevance"}

    def accepts(self, problem_type: str | None, outputs: int | None) -> bool:
        """Return whether a teacher has exactly one output. The way in which it was trained does not matter."""
        return outputs == 1

    @property
    def teacher_requirement(self) -> str:
        return "one output"

    def first_bias(self, labels: np.ndarray, outputs: int) -> np.ndarray:
        return log_odds(labels)

    def divergence(
        self, student: Tensor, teacher: Tensor, groups: Tensor | None = None, mask: Tensor | None = None
    ) -> Tensor:
        """Return the mean squared error of the scores. If `groups` is set, add a term for the order within queries.

        This term is twice the variance of the errors within each query. It equals the mean squared error of the score
        differences between all pairs of passages of a query.
        """
        error = student.float() - teacher.float()
        loss = error.square().mean()
        if groups is None:
            return loss
        return loss + 2.0 * (error - _group_means(error, groups)).square().mean()

    def served_as(self, teacher: Mapping[str, Any], fine_tuned: bool) -> dict[str, Any]:
        """Return the `config.json` entries that make other libraries return scores of the same kind as the teacher's.

        Scores are raw if the teacher returns raw scores and was not fine-tuned. Otherwise, scores are probabilities. A
        cross-encoder names its activation function in one of three settings, and its scores are raw if this function is
        the identity. For any other teacher, the problem type shows whether scores are raw.
        """
        older_activation = (teacher.get("sentence_transformers") or {}).get("activation_fn")
        activation = (
            teacher.get("activation_fn") or older_activation or teacher.get("sbert_ce_default_activation_function")
        )
        is_raw = (
            activation.endswith("Identity")
            if isinstance(activation, str)
            else teacher.get("problem_type") == "regression"
        )
        if is_raw and not fine_tuned:
            return {"problem_type": "regression", "sentence_transformers": {"activation_fn": _IDENTITY}}
        return {"problem_type": self.problem_type, "sentence_transformers": {"activation_fn": _SIGMOID}}

    def extra_files(self, served: Mapping[str, Any], max_length: int) -> dict[str, Any]:
        """Return the configuration files of a cross-encoder, keyed by file name.

        Without these files, sentence-transformers would guess some settings.
        """
        output = {"method": "forward", "method_output_name": "logits"}
        transformer = "sentence_transformers.base.modules.transformer.Transformer"
        return {
            "modules.json": [{"idx": 0, "name": "0", "path": "", "type": transformer}],
            TEXTS_FILE: {
                "max_seq_length": max_length,
                "transformer_task": "sequence-classification",
                "modality_config": {"text": output},
                "module_output_name": "scores",
            },
            "config_sentence_transformers.json": {
                "model_type": "CrossEncoder",
                "activation_fn": served["sentence_transformers"]["activation_fn"],
                "prompts": {},
                "default_prompt_name": None,
            },
        }

    def snippets(self, folder: str, trust: str) -> list[tuple[str, str]]:
        code = (
            "from sentence_transformers import CrossEncoder\n\n"
            f"model = CrossEncoder({folder}{trust})\n"
            'print(model.rank("a query", ["a passage", "another passage"]))'
        )
        return [("With sentence-transformers (5 or later):", code)]

    @property
    def usage(self) -> str:
        return (
            "The score shows how relevant a passage is to a query; sort the passages of a query by their scores. "
            "`CrossEncoder`, the pipeline and `infer.py` give the same score."
        )

    def summary(self, texts: str, labels: Sequence[str]) -> str:
        return f"Ranks {texts} by how relevant the second text, a passage, is to the first, a query"


@file_by_file
def grades_of(column: LabelColumn) -> list[int]:
    """Return the grade of each row. Raises `DataError` for values that are not whole numbers in the allowed range."""
    refuse_missing(column, column.values)
    numbers = parse_numbers([int(value) if isinstance(value, bool) else value for value in column.values])
    for row, number in enumerate(numbers):
        if not (0.0 <= number <= _LARGEST_GRADE and number.is_integer()):
            raise DataError(
                f"{column.place}: the relevance of a passage must be a whole number from 0 (not relevant) to "
                f"{_LARGEST_GRADE}, but row {row} (counted from 0) holds {shown(column.values[row])}; correct such rows"
            )
    return [int(number) for number in numbers]


def _group_means(errors: Tensor, groups: Tensor) -> Tensor:
    """For each text, return the mean error of the text's group. The result has the shape (texts, outputs)."""
    import torch

    _, positions, sizes = torch.unique(groups, return_inverse=True, return_counts=True)
    sums = errors.new_zeros(len(sizes), errors.shape[1]).index_add(0, positions, errors)
    return (sums / sizes[:, None])[positions]
