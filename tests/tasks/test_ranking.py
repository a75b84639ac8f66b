"""Ranking tasks: rows are read, divided, scored and distilled by query, and exports give the same scores."""

from __future__ import annotations

import copy
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import simulated
import torch
import without_nas
from datasets import Dataset
from sklearn.metrics import average_precision_score, ndcg_score
from tiny import RANK_STUDY, make_ranked, make_teacher, make_tokenizer, randomise, write_rank_study
from tolerance import assert_same

from nas.data import read_splits, truth_of
from nas.data.truth import drawn_rows, first_rows, whole_groups
from nas.errors import DataError, TeacherError
from nas.evaluate.recipe import judged_by
from nas.evaluate.spread import standard_error
from nas.export.infer import Classifier
from nas.files import read_json, write_json
from nas.model.stock import from_stock
from nas.model.teacher_config import teacher_settings
from nas.pipeline import Run
from nas.pipeline.commands import prepare_data
from nas.pipeline.rows import look_at_rows
from nas.pipeline.runner import bring_up_to_date
from nas.pipeline.steps import steps_of
from nas.pipeline.unlabelled import distilled_texts
from nas.space import SearchSpace
from nas.study import Study, Task
from nas.supernet import SupernetWeights
from nas.supernet.distillation import LossWeights
from nas.supernet.loops import Schedule
from nas.supernet.orders import ByGroup
from nas.supernet.side_by_side import split
from nas.supernet.training import Distillation
from nas.tasks import GROUP, Head, LabelColumn, Ranking, RankingMetric, in_groups, task_kind

KIND = task_kind("ranking")
RAW = "torch.nn.modules.linear.Identity"


def column(values, source="train.csv", classes=None):
    return LabelColumn(source, "label", values, classes)


def task(**changes):
    given = {"train": "train.parquet", "test": "test.parquet", "text": ("question", "answer"), "query": "question_id"}
    return Task(**given | {"kind": "ranking", "metric": "map", "holdout": {"size": 7}} | changes)


def splits_of(folder, train, test, **changes):
    for name, rows in (("train", train), ("test", test)):
        Dataset.from_dict(rows).to_parquet(folder / f"{name}.parquet")
    return read_splits(task(**changes), *(str(folder / f"{name}.parquet") for name in ("train", "test")), 0)


def rows(queries, passages=3, **changes):
    """Return rows of queries (ids and texts), each with `passages` passages, of which the first is relevant."""
    each = [(key, text, number) for key, text in queries.items() for number in range(passages)]
    columns = {
        "question_id": [key for key, _, _ in each],
        "question": [text for _, text, _ in each],
        "answer": [f"passage {number} of {key}" for key, _, number in each],
        "label": [int(number == 0) for _, _, number in each],
    }
    return columns | changes


def test_relevance_is_read_from_numbers_texts_and_declared_classes():
    for values in ([0, 1, 0], ["0", " 1.0", "0"], [False, True, False], [0.0, 1.0, 0.0]):
        found = KIND.read([column(values)], [column(values, "test.csv")], None)
        assert found.judged["test"] == [0, 1, 0] and found.values["train"] == [[0.0], [1.0], [0.0]]
    assert KIND.read([column([0, 1], classes=("no", "yes"))], [column([0])], None).judged["train"] == [0, 1]
    graded = KIND.read([column([0, 1, 4])], [column([2, 8], "test.csv")], None)
    assert graded.values == {"train": [[0.0], [0.25], [1.0]], "test": [[0.5], [1.0]]}
    assert graded.judged == {"train": [0, 1, 4], "test": [2, 8]}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([0, 0.5, 1], r"must be a whole number from 0 .* but row 1 \(counted from 0\) holds 0.5"),
        ([0, "high"], r"but row 1 .* holds 'high'"),
        ([0, -1], r"but row 1 .* holds -1"),
        ([0, None, 1], r"row 1 .* has no label \(1 of 3 rows"),
        ([1, 1], r"the relevance of all 2 rows is 1, so there is nothing to learn"),
    ],
)
def test_invalid_relevance_is_refused(values, message):
    with pytest.raises(DataError, match=f"train.csv: column 'label'.*{message}"):
        KIND.read([column(values)], [column([0, 1], "test.csv")], None)


def test_a_teacher_with_several_outputs_is_refused():
    with pytest.raises(TeacherError, match=r"bert has 2 labels, but a ranking needs one score; .*teacher.fine_tune"):
        KIND.read([column([0, 1])], [column([0, 1])], Head("bert", ("no", "yes")))
    assert KIND.accepts(None, 1) and KIND.accepts("regression", 1) and not KIND.accepts(None, 2)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"metric": "accuracy"}, "'accuracy' is not a metric of ranking; use one of ndcg@10, mrr@10, map"),
        ({"text": ("answer",)}, "text: ranking needs two columns of texts, but got .'answer'.; name both columns"),
        ({"query": "label"}, "query: must not be the label column"),
        (
            {"holdout": {"size": 9, "by": "row"}},
            "rows with the same 'question_id' are held out together, but got 'row'",
        ),
        ({"threshold": 0.5}, "threshold: must not be set if the kind is ranking"),
        (
            {"kind": "classification", "metric": "f1"},
            "query: .* classification, which evaluates each row separately, but got",
        ),
    ],
)
def test_settings_that_do_not_suit_ranking_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        task(**changes)


def test_rows_are_held_out_by_query_and_no_query_of_the_test_set_is_trained_on(tmp_path):
    queries = {f"Q{number}": f"query {number}" for number in range(20)} | {"R": "QUERY  7"}
    found = splits_of(tmp_path, rows(queries), rows({"T1": "query 3", "T2": "another", "T3": "more"}))
    asked = {name: set(texts[0]) for name, texts in found.texts.items()}
    assert "query 3" not in asked["train"] | asked["search"] and found.in_test == 3
    assert not asked["train"] & asked["search"] and ("query 7" in asked["train"]) == ("QUERY  7" in asked["train"])
    assert 7 <= len(found.labels["search"]) <= 9
    groups = found.more["search"][GROUP]
    assert sorted(groups.count(group) for group in set(groups)) in ([3, 3], [3, 3, 3])
    picked = found.select("search", [0, 2])
    assert picked.truth("search").tolist() == found.truth("search")[[0, 2]].tolist()


def test_the_first_text_identifies_the_query_unless_a_column_is_named(tmp_path):
    queries = {f"Q{number}": f"query {number // 2}" for number in range(12)}
    by_text = splits_of(tmp_path, rows(queries), rows({"T": "a", "U": "b"}), query=None)
    by_name = splits_of(tmp_path, rows(queries), rows({"T": "a", "U": "b"}))
    assert len(set(by_text.more["train"][GROUP])) * 2 == len(set(by_name.more["train"][GROUP]))
    assert not set(by_name.texts["train"][0]) & set(by_name.texts["search"][0])  # two ids share each text
    numbers = rows(queries, question_id=[number // 3 for number in range(36)])
    assert splits_of(tmp_path, numbers, rows({"T": "a", "U": "b"})).more == by_name.more


@pytest.mark.parametrize("bad", [None, " "])
def test_a_row_without_a_query_is_refused(tmp_path, bad):
    given = rows({"Q1": "one", "Q2": "two"})
    with pytest.raises(
        DataError, match=r"train.parquet: column 'question_id' must name the query .* row 1 .* rows: 1 of"
    ):
        splits_of(tmp_path, given | {"question_id": ["Q1", bad, *given["question_id"][2:]]}, given)


def test_identifiers_that_differ_only_in_case_are_different_queries(tmp_path):
    lower, upper = ({name.lower(): f"query {name}"} for name in ("Q1", "Q2")), {"Q1": "query 3", "Q2": "query 4"}
    queries = {key: text for part in (*lower, upper) for key, text in part.items()}
    found = splits_of(tmp_path, rows(queries), rows({"T": "a", "t": "b"}))
    assert len(set(found.more["train"][GROUP]) | set(found.more["search"][GROUP])) == 4
    assert len(set(found.more["test"][GROUP])) == 2


@pytest.mark.parametrize("metric", ["ndcg@10", "mrr@10", "map"])
def test_a_set_in_which_every_ranking_scores_the_same_is_refused(metric):
    asked = RankingMetric(metric)
    for grades, groups in (([1, 1, 0], [0, 1, 2]), ([1, 1, 2, 2, 0], [0, 0, 1, 1, 2])):
        with pytest.raises(
            DataError, match=r"The test set has no query whose passages differ in relevance, .* task.query"
        ):
            asked.check_size(in_groups(np.array(grades), np.array(groups)), "The test set")
    asked.check_size(in_groups(np.array([1, 0, 1]), np.array([0, 0, 1])))
    graded = in_groups(np.array([1, 2, 1]), np.array([0, 0, 1]))
    if metric == "ndcg@10":
        asked.check_size(graded)
    else:
        with pytest.raises(DataError, match="passages differ"):
            asked.check_size(graded)


def test_a_set_with_too_few_queries_with_a_relevant_passage_is_refused(tmp_path):
    queries = {f"Q{number}": f"query {number}" for number in range(9)}
    given = rows({"T1": "one", "T2": "two"})
    with pytest.raises(
        DataError, match="the test set needs at least 2 queries with a relevant passage for map, but has 1"
    ):
        splits_of(tmp_path, rows(queries), given | {"label": [1, 0, 0, 0, 0, 0]})


def random_ranking(queries=40, seed=0, grades=(0, 0, 0, 1, 2)):
    rng = np.random.default_rng(seed)
    sizes = rng.integers(1, 25, queries)
    groups = np.repeat(rng.permutation(queries), sizes)
    labels = in_groups(rng.choice(grades, len(groups)), groups)
    order = rng.permutation(len(groups))  # rows of a query need not be adjacent
    return rng.normal(size=(len(groups), 1)) + labels["label"][:, None] / 2.0, labels[order]


def _reference_score(name, scores, relevance):
    order = np.argsort(-scores)
    if name == "map":
        return average_precision_score(relevance > 0, scores)
    if name == "ndcg@10":
        return ndcg_score([relevance], [scores], k=10) if len(scores) > 1 else 1.0
    first = np.flatnonzero(relevance[order] > 0)[0]
    return 1.0 / (first + 1) if first < 10 else 0.0


@pytest.mark.parametrize("name", KIND.metrics)
def test_metrics_agree_with_scikit_learn_for_each_query_with_a_relevant_passage(name):
    logits, labels = random_ranking()
    metric = RankingMetric(name)
    expected = []
    for group in set(labels[GROUP].tolist()):
        own = labels[GROUP] == group
        if labels["label"][own].any():
            expected.append(_reference_score(name, logits[own, 0], labels["label"][own]))
    assert metric.size(labels) == len(expected) < 40
    assert sorted(metric.group_scores(logits, labels)) == pytest.approx(sorted(expected), abs=1e-6)
    assert metric.score(logits, labels) == pytest.approx(np.mean(expected), abs=1e-6)
    assert standard_error(metric, logits, labels) == pytest.approx(np.std(expected, ddof=1) / len(expected) ** 0.5)
    assert metric.score(logits, in_groups(np.zeros(len(labels), int), labels[GROUP])) == 0.0


def test_passages_with_equal_scores_are_ordered_at_random():
    """A network that gives all passages the same score gains nothing if the relevant one always comes first or last."""
    groups = np.repeat(np.arange(400), 5)
    for place in (0, 4):
        labels = in_groups(np.tile(np.eye(5, dtype=int)[place], 400), groups)
        found = RankingMetric("mrr@10").score(np.zeros((2000, 1)), labels)
        assert found == pytest.approx(np.mean(1.0 / np.arange(1, 6)), abs=0.06)


def test_the_report_shows_the_first_query_of_suitable_size_with_a_relevant_passage():
    groups = np.repeat([7, 3, 5, 6], [5, 2, 4, 5])
    labels = in_groups(np.array([0, 0, 0, 0, 0, 1, 0, 0, 0, 1, 0, 1, 0, 0, 0, 0]), groups)
    assert RankingMetric("map").rows_to_compare(labels) == [7, 8, 9, 10]
    assert RankingMetric("map").rows_to_compare(labels[:5]) == []


def test_distillation_compares_scores_and_their_differences_within_a_query():
    rng = torch.Generator().manual_seed(0)
    student, teacher = torch.randn(2, 6, 1, generator=rng)
    groups = torch.tensor([4, 4, 4, 9, 9, 2])
    error = student - teacher
    pairs = [
        torch.stack([(error[row] - error[other]).square() for other in range(6) if groups[row] == groups[other]]).mean()
        for row in range(6)
    ]
    assert_same(KIND.divergence(student, teacher, groups), error.square().mean() + torch.stack(pairs).mean())
    assert_same(KIND.divergence(student, teacher), error.square().mean())


def test_an_epoch_reads_every_text_once_by_query_and_by_similar_length():
    rng = np.random.default_rng(0)
    groups = rng.permutation(np.repeat(np.arange(60), rng.integers(1, 20, 60)))
    lengths = rng.integers(5, 60, len(groups))
    epochs = iter((0, 0, 1))
    first, again, other = (list(ByGroup(groups, lengths, 128, 3, lambda: next(epochs))) for _ in range(3))
    assert sorted(first) == sorted(other) == list(range(len(groups)))
    assert first == again != other
    ordered = groups[first]
    runs = 1 + int((np.diff(ordered) != 0).sum())
    assert runs <= sum(-(-count // 8) for count in np.bincount(groups))
    assert np.abs(np.diff(lengths[first])).mean() < 0.6 * np.abs(np.diff(lengths)).mean()


class Recording(Ranking):
    """A ranking that records the groups of every loss."""

    def __init__(self):
        self.seen = []

    def divergence(self, student, teacher, groups=None, mask=None):
        self.seen.append(groups.tolist())
        return super().divergence(student, teacher, groups)


def test_a_training_compares_whole_queries_with_any_number_of_threads(tmp_path):
    torch.manual_seed(0)
    texts = [{"input_ids": [2, 4 + row % 9, 3], "length": 3, GROUP: row // 3} for row in range(60)]
    teacher = from_stock(randomise(make_teacher(outputs=1)))
    architecture, found, before = teacher.config.architecture, {}, torch.get_num_threads()
    schedule, kept = Schedule(1e-3, 12, steps=2), {}
    for threads in (1, 2):
        kind, model = (
            Recording(),
            SupernetWeights.of(copy.deepcopy(teacher), (32,), SearchSpace.load("tiny").compression),
        )
        torch.set_num_threads(threads)
        try:
            Distillation(
                copy.deepcopy(teacher), Dataset.from_list(texts), make_tokenizer(), schedule, LossWeights(),
                tmp_path / str(threads), 0, {}, kind,
            ).train_supernet(model, lambda step: [architecture])  # fmt: skip
        finally:
            torch.set_num_threads(before)
        found[threads] = sorted(group for groups in kind.seen for group in groups)
        kept[threads] = model.state_dict()
        assert all(groups.count(group) == 3 for groups in kind.seen for group in groups)
    assert len(found[1]) == 24 and found[1] == found[2]
    for name, value in kept[1].items():
        assert (kept[2][name] - value).abs().max() <= 1e-2 * value.abs().max() + 1e-6, name


def test_a_batch_is_divided_between_queries():
    groups = torch.tensor([4, 4, 4, 4, 4, 9, 9, 2])
    batch = {"input_ids": torch.arange(8)[:, None], GROUP: groups}
    parts = split(batch, 2)
    assert [part[GROUP].tolist() for part, _ in parts] == [[4] * 5, [9, 9, 2]]
    assert [share for _, share in parts] == [5 / 8, 3 / 8]
    assert len(split(batch | {GROUP: torch.zeros(8)}, 4)) == 1
    assert [len(part["input_ids"]) for part, _ in split({"input_ids": groups[:, None]}, 2)] == [4, 4]


def test_queries_stay_whole_if_only_some_rows_are_used():
    found = make_ranked(30, 0)
    names = found["question_id"]
    texts = Dataset.from_dict(
        {"labels": [[float(value)] for value in found["label"]], GROUP: [int(name[1:]) for name in names]}
        | {"length": [len(text.split()) for text in found["answer"]]}
    )
    sizes = np.bincount(texts[GROUP])
    for some in (judged_by(texts, 40, 0), drawn_rows(texts, 40), first_rows(texts, 6), whole_groups(texts, [0, 100])):
        assert 0 < len(some) < len(texts)
        assert all(sizes[group] == count for group, count in enumerate(np.bincount(some[GROUP])) if count)
    assert 40 <= len(judged_by(texts, 40, 0)) < 50 and len(set(first_rows(texts, 6)[GROUP])) == 6
    assert len(judged_by(texts, None, 6)) > sum(length >= 6 for length in texts["length"])


def test_unlabelled_texts_have_queries_of_their_own(tmp_path):
    study = write_rank_study(tmp_path)
    more = make_ranked(20, 5).remove_columns("label")
    more = more.map(lambda row: {"question": f"{row['question']} w17"})
    more.to_parquet(tmp_path / "more.parquet")
    study.write_text(RANK_STUDY.replace("[task]", '[task]\nunlabelled = ["more.parquet"]'))
    run = Run.of(Study.load(study), tmp_path / "runs")
    data = prepare_data(run)
    bring_up_to_date(run, steps_of(run), "unlabelled")
    texts = distilled_texts(run)
    own, others = texts[GROUP][: len(data.train)], texts[GROUP][len(data.train) :]
    assert list(own) == list(data.train[GROUP]) and max(others) < 0 <= min(own) and len(set(others)) == 20
    assert "labels" not in texts.column_names and truth_of(data.train).dtype.names == ("label", GROUP)


@pytest.mark.parametrize(
    ("files", "fine_tuned", "raw"),
    [
        ({}, False, False),
        ({"config_sentence_transformers.json": {"activation_fn": RAW}}, False, True),
        ({"config_sentence_transformers.json": {"activation_fn": RAW}}, True, False),
        (
            {"config.json": {"sentence_transformers": {"activation_fn": RAW}}},
            False,
            True,
        ),
        ({"config.json": {"sbert_ce_default_activation_function": RAW}}, False, True),
        ({"config_sentence_transformers.json": {"activation_fn": "torch.nn.modules.activation.Sigmoid"}}, False, False),
        ({"config.json": {"problem_type": "regression"}}, False, True),
    ],
)
def test_exports_give_probabilities_unless_the_teacher_gives_raw_scores(tmp_path, files, fine_tuned, raw):
    make_teacher(outputs=1).save_pretrained(tmp_path)
    for name, values in files.items():
        path = tmp_path / name
        path.write_text(json.dumps((json.loads(path.read_text()) if path.exists() else {}) | values))
    found = KIND.served_as(teacher_settings(str(tmp_path)), fine_tuned)
    assert found["problem_type"] == ("regression" if raw else "multi_label_classification")
    activation = found["sentence_transformers"]["activation_fn"]
    assert activation.endswith("Identity" if raw else "Sigmoid")
    assert KIND.extra_files(found, 32)["config_sentence_transformers.json"]["activation_fn"] == activation


def test_nas_check_says_how_many_queries_are_left_out(tmp_path, nas):
    study = write_rank_study(tmp_path)
    found = look_at_rows(Run.of(Study.load(study), tmp_path / "runs"))
    test = make_ranked(50, 1)
    relevant = {name for name, label in zip(test["question_id"], test["label"], strict=True) if label}
    assert found.figures["queries"]["test"] == 50
    left_out = found.figures["queries without a relevant passage, which the metric ignores"]["test"]
    assert left_out == 50 - len(relevant) > 0
    assert found.metric == "ndcg@10" and 0.0 < found.standard_error < 0.1 and not found.classes
    printed, _ = nas("check", study, "--runs", tmp_path / "runs")
    assert f"{50 - len(relevant)} in the test set" in printed and "queries with a relevant passage (" in printed


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run of the tiny study."""
    return simulated.finished_run(write_rank_study(tmp_path_factory.mktemp("ranking")))


@pytest.mark.slow
def test_a_finished_study_has_a_verified_export_a_model_card_and_a_report(finished):
    run = finished
    folder = run.export("only")
    found = read_json(folder / "verification.json", DataError)
    assert found["metric"] == "ndcg@10" and found["accuracy"] > 0.6 and 0.005 < found["accuracy_standard_error"] < 0.08
    assert found["judged"].endswith(" queries with a relevant passage") and found["agrees"] is None
    page = (run.folder / "report.html").read_text()
    section = page[page.index("Example query") :]
    teacher = read_json(run.folder / "baselines" / "cpu" / "teacher" / "verification.json", DataError)["shown"]
    best = max(teacher, key=lambda row: teacher[row]["output"][0])
    passage = read_json(run.data / "sample.json", DataError)[best][1]
    assert (
        passage in section[: section.index("</tr>", section.index("<tbody>"))]
        and teacher.keys() == found["shown"].keys()
    )
    card = (folder / "README.md").read_text()
    assert "Ranks pairs of texts by how relevant" in card and "CrossEncoder(" in card
    assert (
        "pipeline_tag: text-ranking" in card
        and "type: ndcg_at_10" in card
        and "queries with a relevant passage" in card
    )


@pytest.mark.slow
@pytest.mark.parametrize("activation", [None, RAW])
def test_sentence_transformers_transformers_and_infer_give_the_same_scores(finished, tmp_path, activation):
    folder = Path(shutil.copytree(finished.export("only"), tmp_path / "export"))
    if activation:  # as in an export of a cross-encoder that gives raw scores
        served, config = (
            KIND.served_as({"activation_fn": activation}, False),
            read_json(folder / "config.json", DataError),
        )
        for name, values in {"config.json": config | served, **KIND.extra_files(served, 32)}.items():
            write_json(folder / name, values)
    pairs = [["w3 w21 w20 w18", "w1 w3 w5"], ["w3 w21 w20 w18", "w1 w2"], ["w3 w21 w20 w18", "w7"]]
    answers = without_nas.run("cross_encoder", folder, json.dumps(pairs))
    own = Classifier(folder)
    given = [own.classify(*pair)[0][1] for pair in pairs]
    logits = np.array([own.logits(*pair)[0] for pair in pairs])
    assert given == pytest.approx((logits if activation else 1.0 / (1.0 + np.exp(-logits))).tolist(), abs=1e-6)
    # The simulated quantisation may differ slightly from that of the runtime.
    assert answers["scores"] == pytest.approx(given, abs=0.05)
    assert answers["scores"] == pytest.approx(answers["pipeline"], abs=1e-4)
    assert answers["order"] == np.argsort(-np.array(answers["scores"])).tolist()
