"""The `embedding` task kind: the teacher is a sentence encoder, and training needs only texts without labels.

By default, a network's embeddings lie in the teacher's embedding space, so that embeddings of network and teacher can
be compared with each other. With `task.output_width = "own"`, an embedding is as wide as the network's hidden states,
and each network has its own embedding space (see `OwnWidthEmbedding`). There are three ways to evaluate networks: on
text pairs with scores (`PairCorrelation`), on queries and the passages of a corpus (`RetrievalMetric`), or by comparing
their text similarities with the teacher's (`Agreement`).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from nas.errors import TeacherError
from nas.form import NetworkForm
from nas.sentence_modules import SERVED_FILE, SERVED_KEYS, read_modules, text_settings
from nas.tasks.agreement import Agreement
from nas.tasks.cosine import unit_vectors
from nas.tasks.kind import Evaluation, TaskKind, TaskLabels, TaskSettings
from nas.tasks.labels import LabelColumn, targets_of
from nas.tasks.metric import GROUP, Metric
from nas.tasks.numbering import Head
from nas.tasks.regression import correlation
from nas.tasks.retrieval import RetrievalMetric

if TYPE_CHECKING:
    from torch import Tensor

_SIMILARITY_WEIGHT = 10.0
"""The weight of the error of similarities relative to the error of embeddings. The weight is large because similarities
differ little.

If embeddings are not compared, the weight is relative to the loss of the hidden states. Its value then hardly matters:
weights from 1 to 100 lead to equally good networks (studies/LOG.md, 2026-12-01).
"""


@dataclass(frozen=True)
class PairCorrelation(Metric):
    """The metric `spearman` or `pearson`: the correlation between the scores and the similarities of text pairs.

    The similarity of a pair is the cosine of the angle between the embeddings of its texts. Labels are records with the
    shape (texts,). The field `label` is the score of the text's pair, and the field `group` is the number of this pair.
    """

    size_word = "pairs"
    needs_float32 = True  # two similarities may differ by less than bf16 can represent
    least_size = 2

    def size(self, labels: np.ndarray) -> int:
        return len(labels) // 2

    def describe_size(self, labels: np.ndarray) -> str:
        return f"{self.size(labels):,} pairs"

    def score(self, logits: np.ndarray, labels: np.ndarray) -> float:
        return correlation(self.name, *_similarities_and_scores(logits, labels))

    def bootstrap_scores(self, logits: np.ndarray, labels: np.ndarray, draws: Iterable[np.ndarray]) -> list[float]:
        """Return the score of each bootstrap sample. The samples consist of pairs, not of single texts."""
        cosines, scores = _similarities_and_scores(logits, labels)
        chosen = (rows[: len(scores)] // 2 for rows in draws)
        return [correlation(self.name, cosines[pairs], scores[pairs]) for pairs in chosen]

    def simulated(self, labels: np.ndarray, outputs: int, share: float, rng: np.random.Generator) -> np.ndarray:
        """Return simulated embeddings of two dimensions, with the shape (texts, 2).

        The correlation between the similarities of these embeddings and the scores is about `share`.
        """
        order = _pair_order(labels)
        scores = labels["label"][order[::2]]
        deviation = scores.std() or 1.0
        noise = deviation * math.sqrt(share**-2 - 1.0)
        noisy = scores + noise * rng.standard_normal(len(scores))
        deviations = noisy - scores.mean()
        angles = np.arccos(deviations / (np.abs(deviations).max() or 1.0))
        embeddings = np.zeros((len(labels), 2))
        embeddings[order[::2], 0] = 1.0
        embeddings[order[1::2]] = np.stack([np.cos(angles), np.sin(angles)], axis=1)
        return embeddings

    def assumption(self, share: float) -> str:
        return f"a correlation of {share:g}"


def _pair_order(labels: np.ndarray) -> np.ndarray:
    """Return the row numbers in an order in which the two texts of each pair are adjacent."""
    return np.argsort(labels[GROUP], kind="stable")


def _similarities_and_scores(embeddings: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the cosine similarities and the scores of all pairs, both with the shape (pairs,)."""
    order = _pair_order(labels)
    ordered = unit_vectors(embeddings)[order]
    return (ordered[::2] * ordered[1::2]).sum(axis=1), labels["label"][order[::2]]


_METRICS: dict[str, tuple[type[Metric], Evaluation]] = {
    "spearman": (PairCorrelation, "pairs"),
    "pearson": (PairCorrelation, "pairs"),
    "ndcg@10": (RetrievalMetric, "retrieval"),
    "agreement": (Agreement, "texts"),
}
"""The class of each metric, and the kind of data that the search and test sets must hold for it."""


class Embedding(TaskKind):
    """The kind of task in which each text gets an embedding in the teacher's space.

    Similar texts get similar embeddings.
    """

    name = "embedding"
    metrics = tuple(_METRICS)
    examples = ({"score": [0.5, 4.0, 1.25, 3.0]}, {"score": ["1", "2.5", "-3e2", ".5"]})
    problem_type = "regression"
    meaning = "scale"
    label_word = "scores"
    text_words = "unlabelled texts to learn from"
    why_no_exits = "the embeddings of two texts are compared, so both must come from the same layer"
    why_no_student = "its networks learn the embeddings of the model to compress, not those of another model"
    has_output_width = True
    network_form = NetworkForm("encoder", "mean")
    learns_from_texts = True
    has_static = False
    pipeline = ""
    hub_task = "sentence-similarity"
    hub_library = "sentence-transformers"

    def variant(self, settings: TaskSettings) -> TaskKind:
        return OwnWidthEmbedding() if settings.output_width == "own" else self

    def metric(self, settings: TaskSettings, names: Sequence[str] = ()) -> Metric:
        return _METRICS[settings.metric][0](settings.metric)

    def evaluated_on(self, metric: str) -> Evaluation:
        return _METRICS[metric][1] if metric in _METRICS else "pairs"  # `check` refuses unknown metrics

    def check_evaluation(self, settings: TaskSettings) -> None:
        if len(settings.text) != 1:
            raise ValueError(
                f"text: {self.name} learns from single texts, but got {list(settings.text)}; name one column"
            )
        if self.evaluated_on(settings.metric) == "texts":
            for key, value in (("search", settings.search), ("pair", settings.pair)):
                if value:
                    raise ValueError(
                        f"{key}: must not be set if the metric is {settings.metric}, which is measured on texts held "
                        f"out of the training texts, but got {list(value) if isinstance(value, tuple) else value!r}; "
                        f"remove {key}, or set a different metric"
                    )
            return
        if not settings.search:
            raise ValueError(
                f"search: {self.name} with the metric {settings.metric} needs a file or split of text pairs to "
                "evaluate candidates; name one, or set metric = 'agreement', which needs none"
            )
        if len(settings.pair) != 2:
            raise ValueError(
                f"pair: {self.name} needs the columns of both texts in the search and test sets, but got "
                f"{list(settings.pair)}; name both columns"
            )

    def read(self, train: Sequence[LabelColumn], test: Sequence[LabelColumn], head: Head | None) -> TaskLabels:
        """Return the scores of the pairs in the search set (passed as `train`) and in the test set.

        This method is used only for text pairs with scores. `nas.data` reads search and test sets with other content.
        """
        (search_column,), (test_column,) = train, test
        return TaskLabels({"train": targets_of(search_column), "test": targets_of(test_column)}, ())

    def output_names(self, names: Sequence[str]) -> dict[int, str]:
        return {0: "embedding"}

    def accepts(self, problem_type: str | None, outputs: int | None) -> bool:
        """Return False, because the teacher is not a classifier. The method `form` checks its folder instead."""
        return False

    def form(self, teacher: str) -> NetworkForm:
        """Return the form with the teacher's pooling, projection and normalisation.

        Raises the same errors as `TaskKind.form`.
        """
        text_settings(Path(teacher))
        return read_modules(Path(teacher)).form

    def module_files(self, teacher: Path) -> Sequence[Path]:
        """Return the files of the pooling and of the projections.

        If there is no projection, return an empty list, so that digests of older versions stay valid.
        """
        modules = read_modules(teacher)
        folders = [modules.pooling, *(dense.folder for dense in modules.projections)] if modules.projections else []
        patterns = ("config.json", "*.safetensors")
        return [path for folder in folders if folder for pattern in patterns for path in sorted(folder.glob(pattern))]

    def most_tokens(self, teacher: str) -> int | None:
        return text_settings(Path(teacher)).most_tokens

    def lowers_case(self, teacher: str) -> bool:
        return text_settings(Path(teacher)).lower_case

    def divergence(
        self, student: Tensor, teacher: Tensor, groups: Tensor | None = None, mask: Tensor | None = None
    ) -> Tensor:
        """Return the squared error of the embeddings plus a multiple of the squared error of their similarities.

        The similarities are those of all pairs of texts in the batch. Both errors are relative to the mean squared
        length of the teacher's embeddings.
        """
        student_embeddings, teacher_embeddings = student.float(), teacher.float()
        squared_length = teacher_embeddings.square().sum(dim=-1).mean()
        errors = (student_embeddings - teacher_embeddings).square().sum(dim=-1).mean() / squared_length
        return errors + _SIMILARITY_WEIGHT * _similarity_error(student_embeddings, teacher_embeddings)

    def describe_outputs(self, hidden_sizes: Sequence[int], form: NetworkForm) -> str:
        return f"embeddings of {form.projection_dim or hidden_sizes[-1]} dimensions, in the teacher's space"

    def served_as(self, teacher: Mapping[str, Any], fine_tuned: bool) -> dict[str, Any]:
        """Return the teacher's prompts and similarity function for sentence-transformers. Empty if it has neither."""
        settings = {key: value for key in SERVED_KEYS if (value := teacher.get(key))}
        return {"sentence_transformers": settings} if settings else {}

    def extra_files(self, served: Mapping[str, Any], max_length: int) -> dict[str, Any]:
        settings = served.get("sentence_transformers")
        return super().extra_files(served, max_length) | ({SERVED_FILE: settings} if settings else {})

    def snippets(self, folder: str, trust: str) -> list[tuple[str, str]]:
        code = (
            "from sentence_transformers import SentenceTransformer\n\n"
            f"model = SentenceTransformer({folder}{trust})\n"
            'embeddings = model.encode(["a text", "another one"])\n'
            "print(model.similarity(embeddings, embeddings))"
        )
        return [("With sentence-transformers:", code)]

    @property
    def usage(self) -> str:
        return (
            "Embeddings lie in the teacher's space, so documents that the teacher has embedded can be searched with "
            "the embeddings of this model."
        )

    def summary(self, texts: str, labels: Sequence[str]) -> str:
        return f"Embeds {texts}"


class OwnWidthEmbedding(Embedding):
    """The kind of task in which each network has its own embedding space.

    Embeddings are as wide as the hidden states of the network.
    """

    network_form = replace(Embedding.network_form, own_width=True)

    def form(self, teacher: str) -> NetworkForm:
        """Return the form with the teacher's pooling and normalisation, but without a projection.

        Raises `TeacherError` if the teacher has a projection: without it, not even the uncompressed network would
        give the teacher's similarities.
        """
        form = super().form(teacher)
        if form.projection_dim is not None:
            raise TeacherError(
                f"task.output_width: must be 'teacher' for {teacher}, which has a Dense module, but is 'own'; without "
                "this module, the similarities of embeddings would differ from the teacher's; remove output_width"
            )
        return replace(form, own_width=True)

    def divergence(
        self, student: Tensor, teacher: Tensor, groups: Tensor | None = None, mask: Tensor | None = None
    ) -> Tensor:
        """Return a multiple of the squared error of the similarities within a batch, as in `Embedding.divergence`.

        The embeddings themselves are not compared, even if they are as wide as the teacher's. The loss is therefore
        computed in the same way for every width.
        """
        return _SIMILARITY_WEIGHT * _similarity_error(student.float(), teacher.float())

    def describe_outputs(self, hidden_sizes: Sequence[int], form: NetworkForm) -> str:
        *smaller, largest = map(str, hidden_sizes)
        sizes = f"{', '.join(smaller)} or {largest}" if smaller else largest
        return f"embeddings of {sizes} dimensions, the network's hidden size, not in the teacher's space"

    @property
    def usage(self) -> str:
        return (
            "The embeddings have as many dimensions as the hidden size of this model. They can be compared only with "
            "each other, not with those of the teacher or of another model, so embed all documents with this model."
        )


def _similarity_error(student: Tensor, teacher: Tensor) -> Tensor:
    """Return the mean squared error of the dot products between the embeddings of a batch.

    Before they are compared, all dot products are divided by the mean squared length of the teacher's embeddings. The
    embeddings of student and teacher may differ in width.
    """
    squared_length = teacher.square().sum(dim=-1).mean()
    similarities = (student @ student.T - teacher @ teacher.T) / squared_length
    return similarities.square().mean()
