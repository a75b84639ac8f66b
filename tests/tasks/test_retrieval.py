"""`ndcg@10` of embedding tasks: queries and passages become rows, and each query ranks the whole corpus."""

from __future__ import annotations

import re
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from datasets import Dataset
from tiny import make_tokenizer, write_retrieval_study

from nas.data import TaskData, read_sets, truth_of
from nas.data.truth import drawn_rows, first_rows, whole_groups
from nas.errors import DataError
from nas.evaluate.spread import standard_error
from nas.pipeline import Run
from nas.pipeline.estimates import Workload
from nas.pipeline.rows import look_at_rows
from nas.study import Study, Task
from nas.tasks import GROUP, RetrievalMetric, in_groups, retrieval

METRIC = RetrievalMetric("ndcg@10")
TASK = Task(
    kind="embedding", metric="ndcg@10", train="train.parquet", search="search.parquet", test="test.parquet",
    text=("text",), pair=("query", "passage"), label="grade", max_length=16,
)  # fmt: skip
SEARCH = [
    ("w1 w2", "w1 w2 w3", 2),
    ("w5", "w5 w6", 1),
    (None, "w7", None),
    ("w1 w2", "w5 w6", 1),
    ("", "w8", 3),  # without a query, the grade is ignored
    ("w5", "w7", 0),
    ("w5", "w5 w6", 1),  # the same judgement again
    ("w9", "w8", 0),  # no relevant passage
]
TEST = [("w20", "w20 w21", 1), ("w22", "w22 w23", 1)]


def read(folder, search=SEARCH, test=TEST, train=("w30", "w31")):
    """Write rows (query, passage, grade) and read them as the sets of the task."""
    Dataset.from_dict({"text": list(train)}).to_parquet(folder / "train.parquet")
    for name, rows in (("search", search), ("test", test)):
        columns = dict(zip(("query", "passage", "grade"), map(list, zip(*rows, strict=True)), strict=True))
        Dataset.from_dict(columns).to_parquet(folder / f"{name}.parquet")
    return read_sets(TASK, {name: (str(folder / f"{name}.parquet"),) for name in ("train", "search", "test")}, 0)


def labels_of(groups, judgements):
    """Return the records of rows with these groups; `judgements` maps a query's group to its relevant passages."""
    lists = np.empty(len(groups), dtype=object)
    for row, group in enumerate(groups):
        lists[row] = judgements.get(group, [])
    return in_groups(lists, np.array(groups))


def test_each_query_and_each_passage_becomes_one_row(tmp_path):
    found = read(tmp_path, train=["W8", "w30", "w5 w6", "w1  w2"])
    assert found.texts["search"] == [["w1 w2", "w5", "w9", "w1 w2 w3", "w5 w6", "w7", "w8"]]
    assert found.more["search"][GROUP] == [0, 1, 2, -1, -2, -3, -4]
    assert found.labels["search"] == [[[-1, 2], [-2, 1]], [[-2, 1]], [], [], [], [], []]
    assert found.texts["train"] == [["w30"]] and found.in_test == 3, "queries and passages are not trained on"
    assert METRIC.label_counts(found.truth("search")) == {
        "passages": 4,
        "queries": 3,
        "queries without a relevant passage, which the metric ignores": 1,
        "pairs of a query and a relevant passage": 3,
    }


def test_the_judgements_do_not_change_on_disk_and_stay_correct_in_a_part_of_the_set(tmp_path):
    read(tmp_path).encode(make_tokenizer(), 16).save(tmp_path / "data")
    split = TaskData.load(tmp_path / "data").search
    labels = truth_of(split)
    assert labels["label"].tolist() == [[[-1, 2], [-2, 1]], [[-2, 1]], [], [], [], [], []]
    corpus = [-1, -2, -3, -4]
    assert truth_of(first_rows(split, 1))[GROUP].tolist() == [0, *corpus]
    assert truth_of(first_rows(split, 9))[GROUP].tolist() == [0, 1, 2, *corpus]
    assert truth_of(whole_groups(split, [1, 3]))[GROUP].tolist() == [1, *corpus]
    drawn = truth_of(drawn_rows(split, 2))
    assert len(drawn) == 6 and drawn[GROUP][2:].tolist() == corpus, "two queries, and the whole corpus"
    # With one token per axis, each text is found by its own words.
    embeddings = np.array([[float(word in ids) for word in range(64)] for ids in split["input_ids"]])
    embeddings[:, :4] = 0.0
    for part in (range(7), [6, 5, 4, 3, 2, 1, 0], [1, 3, 4, 5, 6]):
        rows = list(part)
        assert METRIC.score(embeddings[rows], truth_of(split.select(rows))) == 1.0 - (1 not in rows) * 1.0


def test_a_csv_file_may_leave_queries_and_grades_empty(tmp_path):
    """These are the rows of docs/tasks.md."""
    page = Path(__file__).parents[2] / "docs" / "tasks.md"
    (rows,) = re.findall(r"```\n(query,passage,grade\n.*?)```", page.read_text(), re.DOTALL)
    other_query = "how old is the ice?,The ice is 700 years old.,1\n"
    (tmp_path / "search.csv").write_text(rows + other_query)
    (tmp_path / "test.csv").write_text(rows.replace("formed?", "found?") + other_query.replace("old is", "cold is"))
    Dataset.from_dict({"text": ["w1"]}).to_parquet(tmp_path / "train.parquet")
    files = {"train": "train.parquet", "search": "search.csv", "test": "test.csv"}
    found = read_sets(TASK, {name: (str(tmp_path / file),) for name, file in files.items()}, 0)
    assert found.more["search"][GROUP] == [0, 1, -1, -2, -3, -4]
    assert found.labels["search"][:2] == [[[-1, 1]], [[-4, 1]]]


@pytest.mark.parametrize(
    ("search", "message"),
    [
        ([*SEARCH, ("w5", "w5 w6", 2)], r"row 8 \(counted from 0\) has the grade 2, but an earlier row .* has 1; rem"),
        ([*SEARCH, ("w5", "w1", None)], r"column 'grade': row 8 .*has no label"),
        ([(query, passage, 0.5) for query, passage, _ in SEARCH], "must be a whole number from 0 .* row 0 .*0.5"),
        ([*SEARCH, ("w5", None, 1)], "column 'passage' must hold texts, but row 8 holds None"),
        ([(None, "w1", 1), ("", "w2", 1), (" ", "w3", 1)], "column 'query' has no query, only empty values"),
        ([(1, "w1", 1), (2, "w2", 1)], r"column 'query' must hold texts, and may be .* row 0 .* holds 1; correct"),
        (SEARCH[1:3], "needs at least 2 queries with a relevant passage for ndcg@10, but has 1; give more queries"),
        (
            TEST,
            "search.parquet: every query also occurs in .*test.parquet, but .* must differ; set task.search",
        ),
    ],
)
def test_a_file_that_cannot_be_judged_is_refused(tmp_path, search, message):
    with pytest.raises(DataError, match=message):
        read(tmp_path, search)


def test_queries_that_both_sets_contain_are_counted_but_passages_may_be_shared(tmp_path, capsys):
    read(tmp_path, test=[*TEST, ("W5", "w7", 1), ("w24", "w5 w6", 1)])
    assert "search.parquet: 1 of 3 queries also occur in" in capsys.readouterr().err


# Three passages, at 0, 60 and 90 degrees, and two queries, at 10 and 80 degrees.
ANGLES = {-1: 0, -2: 60, -3: 90, 0: 10, 1: 80}
JUDGED = {0: [[-2, 1]], 1: [[-2, 1], [-1, 2]]}


def embedded(groups, angles=ANGLES):
    radians = np.deg2rad([angles[group] for group in groups])
    return np.stack([np.cos(radians), np.sin(radians)], axis=1) * np.arange(1, len(groups) + 1)[:, None]


@pytest.mark.parametrize("groups", [(0, 1, -1, -2, -3), (-3, 1, -1, 0, -2)])
def test_the_whole_corpus_is_ranked_for_each_query(groups):
    """The first query finds its passage second: 1 / log2(3). The second finds grade 1 second, and grade 2 third."""
    labels = labels_of(groups, JUDGED)
    first, second = 1 / np.log2(3), (1 / np.log2(3) + 2 / 2) / (2 + 1 / np.log2(3))
    assert sorted(METRIC.group_scores(embedded(groups), labels)) == pytest.approx([0.61990630, 0.63092975], abs=1e-7)
    assert METRIC.score(embedded(groups), labels) == pytest.approx((first + second) / 2)
    assert METRIC.size(labels) == 2
    assert METRIC.describe_size(labels) == "2 queries with a relevant passage (5 texts)"


def test_only_the_first_ten_passages_count():
    passages = {-1 - number: 5 * (number + 1) for number in range(12)}
    for place, expected in ((9, 0.28906483), (10, 0.0)):  # 1 / log2(11), or nothing
        labels = labels_of([0, *passages], {0: [[-1 - place, 1]]})
        assert METRIC.score(embedded([0, *passages], {0: 0, **passages}), labels) == pytest.approx(expected, abs=1e-7)


def test_queries_without_a_relevant_passage_do_not_count_and_an_empty_set_scores_zero():
    labels = labels_of((0, 1, -1, -2), {0: [[-1, 1]]})
    assert METRIC.group_scores(embedded((0, 1, -1, -2)), labels).tolist() == [1.0]
    assert METRIC.score(embedded((0, 1)), labels_of((0, 1), {})) == 0.0


def test_passages_with_equal_similarities_are_in_random_order():
    """The relevant passages come first in the data, but one of ten passages is found at random."""
    groups = [*range(200), *(-1 - number for number in range(1000))]
    labels = labels_of(groups, {query: [[-1 - query, 1]] for query in range(200)})
    constant = np.ones((1200, 4))
    assert METRIC.score(constant, labels) < 0.02
    order = np.random.default_rng(0).permutation(1200)
    assert METRIC.score(constant, labels[order]) == METRIC.score(constant, labels)


def test_similarities_are_computed_for_a_few_queries_at_a_time(monkeypatch):
    rng = np.random.default_rng(0)
    groups = [*range(20), *(-1 - number for number in range(50))]
    labels = labels_of(groups, {query: [[-1 - query, 1], [-2 - query, 3]] for query in range(20)})
    embeddings = rng.standard_normal((70, 8))
    scores = METRIC.group_scores(embeddings, labels)
    monkeypatch.setattr(retrieval, "_MOST_SIMILARITIES", 150)  # three queries
    assert METRIC.group_scores(embeddings, labels).tolist() == scores.tolist() and scores.std() > 0.1


def test_the_standard_error_is_that_of_a_bootstrap_over_queries():
    groups = [*range(300), *(-1 - number for number in range(300))]
    labels = labels_of(groups, {query: [[-1 - query, 1]] for query in range(300)})
    embeddings = METRIC.simulated(labels, 1, 0.7, np.random.default_rng(1))
    scores, rng = METRIC.group_scores(embeddings, labels), np.random.default_rng(2)
    assert scores.mean() == pytest.approx(0.7, abs=0.06)
    drawn = [scores[rng.integers(0, 300, 300)].mean() for _ in range(2000)]
    assert standard_error(METRIC, embeddings, labels) == pytest.approx(np.std(drawn), rel=0.06)


def test_nas_check_counts_queries_and_passages(tmp_path, nas):
    study = write_retrieval_study(tmp_path)
    found = look_at_rows(Run.of(Study.load(study), tmp_path / "runs"))
    assert found.judged_by == "60 queries with a relevant passage (260 texts)" and 0.0 < found.standard_error < 0.06
    assert found.figures["passages"] == {"search": 200, "test": 200}
    printed, _ = nas("check", study, "--runs", tmp_path / "runs")
    assert "(assuming that 90% of the queries are answered perfectly)" in printed
    (warning,) = found.warnings
    assert "standard error of 3." in warning and warning.endswith("add rows to task.search (or raise search.examples)")


def test_estimates_use_the_lengths_of_passages_for_evaluations(tmp_path):
    study, texts = Study.load(write_retrieval_study(tmp_path)), Dataset.from_dict({"text": ["w1"] * 600})
    texts.to_parquet(tmp_path / "train.parquet")
    work = Workload.of(study, look_at_rows(Run.of(study, tmp_path / "runs")), 1e9)
    assert 7.0 < work.judged_tokens < 9.0 and work.tokens == 8.0, "texts of three tokens count as texts of eight"
    longer = replace(work, judged_tokens=80.0)
    assert longer.judging_seconds == pytest.approx(80 / max(8.0, work.judged_tokens) * work.judging_seconds)


def test_nas_init_proposes_ndcg_for_queries_with_graded_passages(tmp_path, nas, monkeypatch):
    monkeypatch.setattr(sys.stdin, "isatty", lambda: False, raising=False)
    write_retrieval_study(tmp_path)
    files = [f"--{name}={tmp_path / name}.parquet" for name in ("train", "search", "test")]
    given = ["--kind", "embedding", "--teacher", str(tmp_path / "teacher"), *files]
    printed, _ = nas("init", tmp_path / "mine", *given)
    assert "text: query, passage; label: grade (embedding, numbers from 0 to 2)\n" in printed
    task = Study.load(tmp_path / "mine").task
    assert (task.metric, task.text, task.pair, task.label) == ("ndcg@10", ("text",), ("query", "passage"), "grade")
    assert "queries and passages; the next line names the grade" in (tmp_path / "mine" / "study.toml").read_text()
    nas("check", tmp_path / "mine", "--runs", tmp_path / "runs")


def test_nas_init_finds_the_grades_of_short_queries_whose_column_is_named(tmp_path, nas, monkeypatch):
    """Short queries that occur in several rows do not look like texts, and could be the labels."""
    monkeypatch.setattr(sys.stdin, "isatty", lambda: False, raising=False)
    write_retrieval_study(tmp_path)
    for name in ("search", "test"):
        path = str(tmp_path / f"{name}.parquet")
        rows = Dataset.from_parquet(path, keep_in_memory=True)
        rows.map(lambda row: {"query": row["query"] and row["query"].split()[0]}).to_parquet(path)
    files = [f"--{name}={tmp_path / name}.parquet" for name in ("train", "search", "test")]
    given = ["--kind", "embedding", "--teacher", str(tmp_path / "teacher"), *files]
    _, error = nas("init", tmp_path / "mine", *given, code=2)
    assert "give --pair with one of query, passage" in error
    printed, _ = nas("init", tmp_path / "mine", *given, "--pair", "query", "--pair", "passage")
    assert "label: grade" in printed
    assert Study.load(tmp_path / "mine").task.metric == "ndcg@10"
