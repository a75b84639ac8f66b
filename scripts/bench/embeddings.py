"""Measure the quality of a run's exported embeddings on texts that the search has not used.

The benchmark compares the teacher, the exports of a run whose task is of the kind `embedding`, and a baseline, which is
the mean of the teacher's token embeddings. It reports two results:
  - `pairs`: for each file of scored text pairs, Spearman's correlation between the scores and the cosine similarities;
  - `retrieval`: for a folder in BEIR's layout (`corpus`, `queries`, `qrels_test`), nDCG@10 of the queries over all
    documents of the corpus. There are two values. For `own`, the network embeds all texts. For `documents_by_teacher`,
    the network embeds only the queries, and the teacher embeds the documents, as if they were in an existing index. The
    second value is left out if the study sets `task.output_width = "own"`, because embeddings of network and teacher
    are then not comparable.

The networks in the exported folders embed the texts in full precision.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import common
import numpy as np
from datasets import Dataset
from rich.console import Console
from rich.table import Table

from nas.data import read_rows
from nas.data.files import values_of
from nas.data.task import tokenised
from nas.evaluate.accuracy import logits_of
from nas.export.verification import as_compact
from nas.model.tokenizer import load_tokenizer
from nas.pipeline import Run
from nas.pipeline.exports import exported
from nas.pipeline.teachers import load_teacher
from nas.progress import say
from nas.tasks import PairCorrelation, in_groups
from nas.tasks.retrieval import ndcg_at_10

Encode = Callable[[Sequence[str]], np.ndarray]
"""A function that returns the embeddings of texts, with the shape (texts, outputs)."""


def encoders(run: Run, max_length: int) -> dict[str, Encode]:
    """Return the encoders to compare, keyed by name: teacher, exports, and the teacher's averaged token embeddings."""
    teacher = load_teacher(run)
    tokenizer, types = load_tokenizer(run.teacher), "token_type_ids" in teacher.config.input_names
    vectors = teacher.state_dict()["bert.embeddings.word_embeddings.weight"].numpy()

    def tokens(texts: Sequence[str]) -> Dataset:
        return tokenised([texts], tokenizer, max_length, types)

    def encode(model: Any, title: str, texts: Sequence[str]) -> np.ndarray:
        return logits_of(model, tokens(texts), title)

    def averaged(texts: Sequence[str]) -> np.ndarray:
        return np.stack([vectors[ids].mean(axis=0) for ids in values_of(tokens(texts), "input_ids")])

    networks = {name: as_compact(run.export(name)) for name in exported(run)}
    named = {"teacher": teacher, **networks}
    return {name: partial(encode, model, f"Embeddings of {name}") for name, model in named.items()} | {
        "averaged word vectors": averaged
    }


def correlation(encode: Encode, rows: Dataset) -> float:
    """Return Spearman's correlation between the scores of text pairs and their cosine similarities."""
    first, second = values_of(rows, "sentence1"), values_of(rows, "sentence2")
    column = "score" if "score" in rows.column_names else "label"
    labels = in_groups(np.tile(np.asarray(values_of(rows, column)), 2), np.tile(np.arange(len(rows)), 2))
    return PairCorrelation("spearman").score(encode([*first, *second]), labels)


class Retrieval:
    """A retrieval data set: a corpus of documents, queries, and the relevance of documents to each query."""

    def __init__(self, folder: Path) -> None:
        corpus, queries, relevances = (
            read_rows(str(folder / f"{name}.parquet")) for name in ("corpus", "queries", "qrels_test")
        )
        documents = {str(row["_id"]): f"{row['title']} {row['text']}".strip() for row in corpus}
        self.documents = list(documents.values())
        numbers = {name: number for number, name in enumerate(documents)}
        self._relevant: dict[str, dict[int, int]] = {}
        for row in relevances:
            number = numbers.setdefault(str(row["corpus-id"]), len(numbers))
            self._relevant.setdefault(str(row["query-id"]), {})[number] = int(row["score"])
        texts = {str(row["_id"]): row["text"] for row in queries}
        self.queries = [texts[name] for name in self._relevant]

    def ndcg(self, queries: np.ndarray, documents: np.ndarray) -> float:
        """Return the nDCG@10 of the queries.

        Documents are ranked by the cosine similarity between their embeddings and the embedding of the query.
        """
        numbers = np.arange(len(documents))
        return float(ndcg_at_10(queries, documents, numbers, list(self._relevant.values())).mean())


def measure(run: Run, arguments: argparse.Namespace) -> dict[str, Any]:
    """Measure the embeddings of every network, print a table, and return the results."""
    encode_of = encoders(run, arguments.max_length)
    pairs = {path.stem if path.stem != "test" else path.parent.name: read_rows(str(path)) for path in arguments.pairs}
    if arguments.without:
        pairs = {name: _without(rows, arguments.without) for name, rows in pairs.items()}
    retrieval = Retrieval(arguments.retrieval) if arguments.retrieval else None
    documents = encode_of["teacher"](retrieval.documents) if retrieval else None
    results: dict[str, Any] = {}
    for name, encode in encode_of.items():
        say(f"{name}: {', '.join(pairs)}")
        results[name] = {"pairs": {key: round(correlation(encode, rows), 4) for key, rows in pairs.items()}}
        if retrieval and documents is not None:
            queries = encode(retrieval.queries)
            own_documents = documents if name == "teacher" else encode(retrieval.documents)
            results[name]["retrieval"] = {"own": round(retrieval.ndcg(queries, own_documents), 4)}
            if run.study.task.output_width == "teacher":
                results[name]["retrieval"]["documents_by_teacher"] = round(retrieval.ndcg(queries, documents), 4)
    _show(results, pairs)
    return {"networks": results, "pairs": {name: len(rows) for name, rows in pairs.items()}}


def _without(rows: Dataset, column: str) -> Dataset:
    """Return the rows whose value in the column `column` is empty. If there is no such column, return all rows."""
    if column not in rows.column_names:
        return rows
    return rows.select([number for number, value in enumerate(values_of(rows, column)) if not value])


def _show(results: dict[str, Any], pairs: dict[str, Dataset]) -> None:
    titles = {"own": "nDCG@10", "documents_by_teacher": "documents by teacher"}
    retrieval = results["teacher"].get("retrieval", {})
    table = Table("network", *pairs, *(titles[key] for key in retrieval))
    for name, result in results.items():
        values = [*result["pairs"].values(), *result.get("retrieval", {}).values()]
        table.add_row(name, *(f"{100 * value:.1f}" for value in values))
    Console(stderr=True).print(table)


if __name__ == "__main__":
    parser = common.parser(__doc__)
    parser.add_argument(
        "--pairs", type=Path, nargs="+", default=[], help="files with columns sentence1, sentence2, and score or label"
    )
    parser.add_argument("--without", metavar="COLUMN", help="leave out pairs whose value in this column is not empty")
    parser.add_argument("--retrieval", type=Path, help="folder with corpus, queries and qrels_test as Parquet files")
    parser.add_argument("--max-length", type=int, default=256, help="texts are truncated to this number of tokens")
    given = parser.parse_args()
    if not given.pairs and not given.retrieval:
        parser.error("give --pairs or --retrieval")
    common.main(given, measure)
