"""Embedding tasks: pairs are read and scored, the teacher's pooling is kept, and exports give the same embeddings."""

from __future__ import annotations

import json
import runpy
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import simulated
import torch
import without_nas
from datasets import Dataset
from scipy.stats import pearsonr, spearmanr
from tiny import (
    EMBEDDING_STUDY,
    make_scored_pairs,
    write_agreement_study,
    write_embedding_study,
    write_retrieval_study,
)
from tolerance import assert_same
from transformers import AutoModel

from nas.data import truth_of
from nas.data.pairs import read_paired
from nas.errors import DataError, StudyError, TeacherError
from nas.evaluate.spread import standard_error
from nas.export.infer import Classifier, answers
from nas.export.verification import reload, reload_alone
from nas.files import read_json, write_json
from nas.form import NetworkForm
from nas.model.tokenizer import load_tokenizer
from nas.pipeline import Run
from nas.pipeline.data import splits
from nas.pipeline.rows import look_at_rows
from nas.pipeline.teacher_checks import check_teacher
from nas.pipeline.teachers import load_teacher
from nas.sentence_modules import TextSettings, read_modules, text_settings, write_modules
from nas.study import Study, Task
from nas.tasks import GROUP, PairCorrelation, in_groups, task_kind

KIND = task_kind("embedding")
TEXTS = ["w1 w2 w3", "w40 w41 w42 w43", "unheard w5", "w9 " * 40]


def task(**changes):
    given = {"train": "train.parquet", "search": "search.parquet", "test": "test.parquet", "text": ("text",)}
    return Task(**given | {"kind": "embedding", "metric": "spearman", "pair": ("a", "b"), "label": "score"} | changes)


def read(folder, train, search, test):
    for name, rows in {"train": {"text": train}, "search": search, "test": test}.items():
        Dataset.from_dict(rows).to_parquet(folder / f"{name}.parquet")
    return read_paired(task(), *(str(folder / f"{name}.parquet") for name in ("train", "search", "test")))


def scored(*pairs):
    return {key: [pair[number] for pair in pairs] for number, key in enumerate(("a", "b", "score"))}


def test_a_pair_becomes_two_rows_and_its_texts_are_not_trained_on(tmp_path):
    search, test = scored(("A one", "b", 0.5), ("c", "d", 4.0)), scored(("e", "f", 1.0), ("g", "h", 2.0))
    found = read(tmp_path, ["x", "a ONE", "y", "h"], search, test)
    assert found.texts == {"train": [["x", "y"]], "search": [["A one", "b", "c", "d"]], "test": [["e", "f", "g", "h"]]}
    truth = found.truth("search")
    assert truth["label"].tolist() == [0.5, 0.5, 4.0, 4.0] and truth[GROUP].tolist() == [0, 0, 1, 1]
    assert found.in_test == 2 and "train" not in found.labels


@pytest.mark.parametrize(
    ("search", "message"),
    [
        (scored(("a", "b", 1.0), ("c", "d", None)), "row 1 .*has no label"),
        (scored(("a", "b", 1.0), ("c", None, 2.0)), "column 'b' must hold texts, but row 1 holds None"),
        (scored(("a", "b", 1.0), ("c", "d", 1.0)), "all 2 targets are 1"),
        (scored(("a", "b", 1.0)), "needs at least 2 pairs for spearman, but has 1"),
    ],
)
def test_pairs_that_cannot_be_scored_are_refused(tmp_path, search, message):
    with pytest.raises(DataError, match=message):
        read(tmp_path, ["x"], search, scored(("e", "f", 1.0), ("g", "h", 2.0)))


def test_training_texts_may_come_from_several_files(tmp_path):
    search, test = scored(("A one", "b", 0.5), ("c", "d", 4.0)), scored(("e", "f", 1.0), ("g", "h", 2.0))
    read(tmp_path, ["x", "a ONE"], search, test)
    Dataset.from_dict({"text": ["h", "z"]}).to_parquet(tmp_path / "more.parquet")
    paths = {name: str(tmp_path / f"{name}.parquet") for name in ("train", "more", "search", "test")}
    found = read_paired(task(), (paths["train"], paths["more"]), paths["search"], paths["test"])
    assert found.texts["train"] == [["x", "z"]] and found.rows["train"] == [0, 3] and found.in_test == 2


OVERLAPS = {
    "the same pairs": (("e", "f", 1.0), ("g", "h", 2.0)),
    "the same pairs in another order": (("g", "h", 2.0), ("e", "f", 1.0)),
    "the same pairs with other scores": (("E", "f", 3.0), ("g", " h", 1.0)),
    "more than the test set": (("e", "f", 1.0), ("g", "h", 2.0), ("c", "d", 4.0)),
    "less than the test set": (("e", "f", 1.0),),
}


@pytest.mark.parametrize("case", OVERLAPS)
def test_a_search_set_that_contains_the_test_set_or_lies_within_it_is_refused(tmp_path, case):
    with pytest.raises(DataError, match=r"parquet: every pair also occurs in .*parquet, .* must differ; set task"):
        read(tmp_path, ["x"], scored(*OVERLAPS[case]), scored(("e", "f", 1.0), ("g", "h", 2.0)))


def test_pairs_that_both_sets_contain_are_counted(tmp_path, capsys):
    search, test = scored(("a", "b", 0.5), ("c", "d", 4.0)), scored(("c", "D", 1.0), ("g", "h", 2.0))
    assert read(tmp_path, ["x"], search, test).texts["search"] == [["a", "b", "c", "d"]]
    assert "search.parquet: 1 of 2 pairs also occur in" in capsys.readouterr().err


@pytest.mark.parametrize(("copied", "onto"), [("search", "test"), ("search", "train"), ("test", "train")])
def test_a_file_with_the_same_content_as_another_set_is_refused(tmp_path, copied, onto):
    study = write_embedding_study(tmp_path)
    rows = Dataset.from_parquet(str(tmp_path / f"{copied}.parquet"))
    rows.add_column("text", [f"w{number}" for number in range(len(rows))]).to_parquet(tmp_path / f"{copied}.parquet")
    shutil.copyfile(tmp_path / f"{copied}.parquet", tmp_path / f"{onto}.parquet")
    with pytest.raises(DataError, match=r"parquet: has the same content as .*parquet, but .* must be disjoint"):
        look_at_rows(Run.of(Study.load(study), tmp_path / "runs"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"search": None},
            "search: embedding .* needs a file or split of text pairs .* or set metric = 'agreement', which needs",
        ),
        ({"metric": "agreement"}, "search: must not be set .* held out of the training texts, but got 's"),
        ({"metric": "agreement", "search": None}, "pair: must not be set .* is measured on texts held out"),
        (
            {"metric": "agreement", "search": None, "pair": ()},
            "label: .* compares networks .*, but got 'score'; remove label",
        ),
        ({"pair": ("a",)}, "pair: embedding needs the columns of both texts"),
        ({"text": ("a", "b")}, "text: embedding learns from single texts"),
        ({"metric": "accuracy"}, "'accuracy' is not a metric of embedding"),
        ({"kind": "regression", "pair": ()}, "search: must not be set if the kind is regression"),
        ({"search": "test.parquet"}, "test: must differ from search, but both are 'test.parquet'"),
        ({"search": "train.parquet"}, "search: must differ from train, but both are 'train.parquet'"),
    ],
)
def test_settings_that_do_not_suit_embeddings_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        task(**changes)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('model = "./teacher"', 'model = "./teacher"\nfine_tune = {}', "teacher.fine_tune: must not be set if "),
        (
            "[supernet]",
            '[student]\nmodel = "./teacher"\n\n[supernet]',
            "student: a task of kind .embedding. cannot have a student",
        ),
    ],
)
def test_fine_tuning_and_a_student_are_refused(tmp_path, old, new, message):
    (tmp_path / "study.toml").write_text(EMBEDDING_STUDY.replace(old, new))
    with pytest.raises(StudyError, match=message):
        Study.load(tmp_path / "study.toml")


@pytest.mark.parametrize("name", ["spearman", "pearson"])
def test_the_metric_correlates_the_cosines_of_pairs_with_their_scores(name):
    rng = np.random.default_rng(0)
    embeddings, scores = rng.standard_normal((40, 5)), rng.standard_normal(20)
    first, second = embeddings[:20], embeddings[20:]
    cosines = [float(a @ b / np.sqrt((a @ a) * (b @ b))) for a, b in zip(first, second, strict=True)]
    labels = in_groups(np.tile(scores, 2), np.tile(np.arange(20), 2))
    expected = (spearmanr if name == "spearman" else pearsonr)(cosines, scores).statistic
    metric = PairCorrelation(name)
    assert metric.score(embeddings, labels) == pytest.approx(expected, abs=1e-9)
    order = rng.permutation(40)
    assert metric.score(embeddings[order], labels[order]) == pytest.approx(expected, abs=1e-9)
    assert metric.size(labels) == 20 and metric.score(np.ones((40, 5)), labels) == 0.0


def test_the_standard_error_counts_pairs_not_texts():
    """For a correlation of 0.8 over 400 pairs, it is about (1 - 0.8²) / sqrt(400)."""
    rng, metric = np.random.default_rng(1), PairCorrelation("pearson")
    labels = in_groups(np.repeat(rng.standard_normal(400), 2), np.repeat(np.arange(400), 2))
    logits = metric.simulated(labels, 1, 0.8, rng)
    assert metric.score(logits, labels) == pytest.approx(0.8, abs=0.06)
    assert standard_error(metric, logits, labels) == pytest.approx(0.36 / 20, rel=0.35)


def test_distillation_compares_embeddings_and_their_similarities():
    generator = torch.Generator().manual_seed(0)
    teacher = torch.randn(8, 16, generator=generator)
    student = teacher + 0.1 * torch.randn(8, 16, generator=generator)
    assert KIND.divergence(teacher, teacher) == 0.0 < KIND.divergence(student, teacher)
    # A rotation changes no similarity. Each embedding of squared length 25 moves by a squared distance of 20.
    square, rotated = torch.tensor([[5.0, 0.0], [0.0, 5.0]]), torch.tensor([[3.0, 4.0], [-4.0, 3.0]])
    assert KIND.divergence(rotated, square).item() == pytest.approx(0.8, rel=1e-4)
    # If the second embedding moves to the first, the squared error is 1, and the new similarity of the texts is added.
    assert KIND.divergence(square[[0, 0]], square).item() > 1.0
    assert_same(KIND.divergence(3.0 * student, 3.0 * teacher), KIND.divergence(student, teacher))


@pytest.mark.parametrize("form", [NetworkForm("encoder", "mean", True), NetworkForm("encoder", "first", False)])
def test_the_pooling_is_read_from_the_folder_of_the_encoder(tmp_path, form):
    write_modules(tmp_path, form, 32)
    assert KIND.form(str(tmp_path)) == form
    settings = {"embedding_dimension": 32, "pooling_mode": "mean" if form.readout == "mean" else "cls"}
    write_json(tmp_path / "1_Pooling" / "config.json", settings)  # as sentence-transformers 6 writes it
    assert KIND.form(str(tmp_path)) == form


def test_a_folder_without_modules_means_mean_pooling_as_in_sentence_transformers(tmp_path):
    assert KIND.form(str(tmp_path)) == NetworkForm("encoder", "mean", False)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (
            lambda folder: write_json(folder / "1_Pooling" / "config.json", {"pooling_mode": "max"}),
            "mean or cls, but is m",
        ),
        (lambda folder: write_json(folder / "modules.json", [{"type": "x.CNN", "path": ""}]), "but lists CNN"),
        (
            lambda folder: write_json(folder / "1_Pooling" / "config.json", {"pooling_mode": []}),
            "mean or cls, but is not set",
        ),
        (
            lambda folder: write_json(
                folder / "config_sentence_transformers.json",
                {"prompts": {"query": "query: "}, "default_prompt_name": "query"},
            ),
            "default_prompt_name must be null, but is 'query', .* puts 'query: ' before every text",
        ),
        (
            lambda folder: (
                write_json(folder / "1_Pooling" / "config.json", {"pooling_mode": "mean", "include_prompt": False}),
                write_json(folder / "config_sentence_transformers.json", {"prompts": {"query": "query: "}}),
            ),
            "include_prompt must be true",
        ),
        (
            lambda folder: write_json(
                folder / "modules.json",
                [{"type": "m.Transformer", "path": "0_Transformer"}, {"type": "m.Pooling", "path": "1_Pooling"}],
            ),
            "must be in the folder itself, but is in '0_Transformer'; move the files",
        ),
        (
            lambda folder: (folder / "modules.json").write_text("{"),
            "is not valid JSON; copy or download the file again",
        ),
        (
            lambda folder: (folder / "1_Pooling" / "config.json").unlink(),
            "1_Pooling/config.json: no such file; copy or download the encoder again",
        ),
        (lambda folder: write_json(folder / "1_Pooling" / "config.json", ["mean"]), "must hold a JSON object"),
        (lambda folder: write_json(folder / "modules.json", []), "must list Transformer, .* but lists no module; give"),
        (lambda folder: write_json(folder / "modules.json", {"a": 1}), "must be a list of modules"),
        (
            lambda folder: write_json(
                folder / "modules.json",
                [{"type": "m.Transformer", "path": ""}, {"type": "m.Pooling", "path": "../1_Pooling"}],
            ),
            "is outside the folder",
        ),
        (
            lambda folder: write_json(
                folder / "modules.json", [{"type": "m.Transformer", "path": ""}, {"type": "m.Pooling", "path": None}]
            ),
            "must be a list of modules, each with a type and a path",
        ),
        (lambda folder: write_json(folder / "1_Pooling" / "config.json", {"pooling_mode": [{}]}), "mean or cls, but"),
        (
            lambda folder: write_json(folder / "config_sentence_transformers.json", {"prompts": ["query: "]}),
            "config_sentence_transformers.json: prompts must be an object",
        ),
        (
            lambda folder: write_json(folder / "config_sentence_transformers.json", {"default_prompt_name": ["query"]}),
            "default_prompt_name a string or null, but are not",
        ),
        (
            lambda folder: write_json(folder / "sentence_bert_config.json", {"max_seq_length": "128"}),
            "max_seq_length must be a whole number above 0 or null, but is '128'; correct",
        ),
        (
            lambda folder: (
                (folder / "1_Pooling").rename(folder / "pooling"),
                write_json(
                    folder / "modules.json",
                    [{"type": "m.Transformer", "path": ""}, {"type": "m.Pooling", "path": "pooling"}],
                ),
                write_json(folder / "pooling" / "config.json", {"pooling_mode": "mean", "include_prompt": False}),
                write_json(folder / "config_sentence_transformers.json", {"prompts": {"query": "query: "}}),
            ),
            "pooling/config.json: include_prompt must be true",
        ),
    ],
)
def test_unsupported_modules_are_refused(tmp_path, damage, message):
    write_modules(tmp_path, NetworkForm("encoder", "mean"), 32)
    damage(tmp_path)
    with pytest.raises(TeacherError, match=message):
        KIND.form(str(tmp_path))


def test_texts_are_truncated_and_lowered_as_sentence_transformers_does(tmp_path):
    study = write_embedding_study(tmp_path)
    write_json(tmp_path / "teacher" / "sentence_bert_config.json", {"max_seq_length": 16, "do_lower_case": True})
    loaded = Study.load(study)
    tokenizer = check_teacher(loaded, str(tmp_path / "teacher")).tokenizer
    assert tokenizer("W1 w2")["input_ids"] == tokenizer("w1 w2")["input_ids"]
    assert load_tokenizer(tmp_path / "teacher")("W1")["input_ids"] != tokenizer("w1")["input_ids"]
    (tmp_path / "teacher" / "sentence_bert_config.json").unlink()
    write_json(tmp_path / "teacher" / "sentence_roberta_config.json", {"max_seq_length": 8, "do_lower_case": 1})
    assert text_settings(tmp_path / "teacher") == TextSettings(8, lower_case=True)
    with pytest.raises(TeacherError, match=r"task.max_length: must be at most 8, .* but got 16; lower task.max_length"):
        check_teacher(loaded, str(tmp_path / "teacher"))


def test_an_export_keeps_the_prompts_and_the_similarity_function_of_the_teacher():
    given = {
        "prompts": {"query": "query: "},
        "default_prompt_name": None,
        "similarity_fn_name": "dot",
        "model_type": "x",
    }
    served = KIND.served_as(given, False)
    kept = {"prompts": {"query": "query: "}, "similarity_fn_name": "dot"}
    assert served == {"sentence_transformers": kept}
    assert KIND.extra_files(served, 16)["config_sentence_transformers.json"] == kept
    assert KIND.served_as({"prompts": {}, "similarity_fn_name": None}, False) == {}
    assert "config_sentence_transformers.json" not in KIND.extra_files({}, 16)


def test_nas_check_counts_pairs(tmp_path, nas):
    study = write_embedding_study(tmp_path)
    found = look_at_rows(Run.of(Study.load(study), tmp_path / "runs"))
    assert found.judged_by == "150 pairs" and found.sets["train"].rows <= 600 and 0.0 < found.standard_error < 0.05
    printed, _ = nas("check", study, "--runs", tmp_path / "runs")
    assert "candidates are evaluated on 150 pairs" in printed
    assert "outputs: embeddings of 32 dimensions, in the teacher's space" in printed


def test_nas_init_finds_the_columns_of_texts_and_of_pairs(tmp_path, nas, monkeypatch):
    monkeypatch.setattr(sys.stdin, "isatty", lambda: False, raising=False)
    write_embedding_study(tmp_path)
    files = {name: str(tmp_path / f"{name}.parquet") for name in ("train", "search", "test")}
    given = ["--teacher", str(tmp_path / "teacher"), "--train", files["train"], "--test", files["test"]]
    printed, _ = nas("init", tmp_path / "mine", *given, "--search", files["search"])
    assert "text: first, second; label: score (embedding, numbers from 0 to 1)" in printed
    task = Study.load(tmp_path / "mine").task
    assert (task.kind, task.metric, task.text, task.pair) == ("embedding", "spearman", ("text",), ("first", "second"))
    nas("check", tmp_path / "mine", "--runs", tmp_path / "runs")
    _, error = nas("init", tmp_path / "other", *given, "--kind", "embedding", code=2)
    assert "--search: must be given, since there is no terminal" in error
    texts = Dataset.from_dict({"a": ["one text", "another"], "score": [1, 2]})
    texts.to_parquet(files["search"])
    _, error = nas("init", tmp_path / "other", *given, "--search", files["search"], code=2)
    assert "--pair" in error and not (tmp_path / "other").exists()


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run of the tiny study."""
    return simulated.finished_run(write_embedding_study(tmp_path_factory.mktemp("embedding")))


@pytest.mark.slow
def test_a_finished_study_has_a_verified_export_a_model_card_and_a_report(finished):
    run = finished
    folder = run.export("only")
    found = read_json(folder / "verification.json", DataError)
    assert found["metric"] == "spearman" and found["accuracy"] > 0.5 and found["agrees"] is not False
    assert replace(read_modules(folder).form, projection_dim=None) == read_modules(run.teacher).form
    page, card = (run.folder / "report.html").read_text(), (folder / "README.md").read_text()
    assert "SentenceTransformer(" in page
    for part in ("library_name: sentence-transformers", "sentence-similarity", "SentenceTransformer(", "Embeds texts"):
        assert part in card
    assert "text-classification" not in card
    for text in (page, card):
        assert "documents that the teacher has embedded can be searched" in text


@pytest.mark.slow
def test_the_embeddings_of_an_export_lie_in_the_teachers_space(finished):
    """A trained network embeds a text closer to the teacher's embedding of that text than to those of other texts."""
    run, test = finished, splits(finished).test.select(range(60))
    with torch.no_grad():
        both = [
            torch.cat([network(**inputs_of(ids)).logits for ids in test["input_ids"]])
            for network in (load_teacher(run), reload(run.export("only")))
        ]
    teacher, student = (torch.nn.functional.normalize(found - found.mean(dim=0), dim=1) for found in both)
    similar = student @ teacher.T
    assert similar.diagonal().mean() > similar.mean() + 0.1


def inputs_of(ids):
    return {"input_ids": torch.tensor([ids]), "attention_mask": torch.ones(1, len(ids), dtype=torch.long)}


@pytest.mark.slow
def test_sentence_transformers_and_infer_give_the_same_embeddings(finished):
    folder = finished.export("only")
    given = np.array(without_nas.run("sentence_encoder", folder, json.dumps(TEXTS)))
    tokenizer, own = load_tokenizer(folder), []
    for loaded in (reload(folder), reload_alone(folder)):
        for text in TEXTS:
            inputs = tokenizer(text, truncation=True, return_tensors="pt")
            with torch.no_grad():
                own.append(loaded(**inputs).logits[0].numpy())
    assert_same(np.stack(own[: len(TEXTS)]), given)
    assert_same(np.stack(own[len(TEXTS) :]), given)
    served = Classifier(folder)
    assert_same(np.stack([served.logits(text) for text in TEXTS]), given, "int8")
    (line,) = answers(served, TEXTS[:1], pairs=False)
    assert_same([float(number) for number in line.split(" ")], served.logits(TEXTS[0]), size=1.0)


@pytest.mark.slow
def test_the_teachers_baseline_gives_the_teachers_embeddings(finished):
    """It is saved in the teacher's own class of transformers, and loaded again."""
    folder = finished.folder / "baselines" / "cpu" / "teacher"
    assert read_json(folder / "config.json", DataError)["architectures"] == ["BertModel"]
    exported, given = AutoModel.from_pretrained(folder), AutoModel.from_pretrained(finished.teacher)
    ids = torch.tensor([[2, 10, 11, 12, 3]])
    with torch.no_grad():
        assert_same(exported(ids).last_hidden_state, given(ids).last_hidden_state)
    pairs = make_scored_pairs(150, 2)
    assert truth_of(splits(finished).test)["label"][::2].tolist() == pairs["score"]


@pytest.mark.slow
def test_the_benchmark_of_embeddings_reproduces_the_verified_accuracies(finished, tmp_path, capsys, monkeypatch):
    """Queries also find the documents that contain their words, whichever network embeds the documents."""
    run = finished
    pairs = Dataset.from_parquet(str(run.study.path.parent / "test.parquet"))
    pairs.rename_columns({"first": "sentence1", "second": "sentence2"}).to_parquet(tmp_path / "pairs.parquet")
    documents = [f"w{number} w{number + 1} w{number + 2}" for number in range(0, 60, 3)]
    names = [str(number) for number in range(len(documents))]
    folder = tmp_path / "retrieval"
    folder.mkdir()
    Dataset.from_dict({"_id": names, "title": [""] * 20, "text": documents}).to_parquet(folder / "corpus.parquet")
    queries = Dataset.from_dict({"_id": names, "text": [" ".join(text.split()[:2]) for text in documents]})
    queries.to_parquet(folder / "queries.parquet")
    judged = Dataset.from_dict({"query-id": names, "corpus-id": names, "score": [1] * 20})
    judged.to_parquet(folder / "qrels_test.parquet")
    bench = Path(__file__).parents[2] / "scripts" / "bench" / "embeddings.py"
    given = ["--study", str(run.study.path), "--runs", str(run.folder.parent), "--json"]
    wanted = ["--pairs", str(tmp_path / "pairs.parquet"), "--retrieval", str(folder), "--max-length", "16"]
    monkeypatch.setattr("sys.argv", [bench.name, *given, *wanted])
    capsys.readouterr()
    runpy.run_path(str(bench), run_name="__main__")
    found = json.loads(capsys.readouterr().out.splitlines()[-1])["networks"]
    assert found.keys() == {"teacher", "only", "averaged word vectors"}
    files = {"teacher": run.folder / "baselines" / "cpu" / "teacher", "only": run.export("only")}
    for name, place in files.items():
        verified = read_json(place / "verification.json", DataError)["accuracy"]
        assert found[name]["pairs"]["pairs"] == pytest.approx(verified, abs=0.01)
    teacher = found["teacher"]["retrieval"]
    assert teacher["own"] == teacher["documents_by_teacher"] > 0.3
    assert all(0.0 <= value <= 1.0 for own in found.values() for value in own["retrieval"].values())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("write", "limit", "metric", "expected", "judged"),
    [
        (write_retrieval_study, "70%", "ndcg@10", (0.2, 0.5, 0.3, 0.5), "60 queries with a relevant passage"),
        (write_agreement_study, "30%", "agreement", (0.5, 0.9999, 0.9999, 1.0), None),
    ],
)
def test_a_study_without_scored_pairs_runs_end_to_end(
    tmp_path, nas, simulated_times, write, limit, metric, expected, judged
):
    """Expected are the ranges of the export's and of the teacher's score.

    A limit of 30 % excludes the teacher in int8, which agrees with the teacher almost perfectly.
    """
    study = write(tmp_path)
    study.write_text(study.read_text().replace('p50_ms = "70%"', f'p50_ms = "{limit}"'))
    nas("run", study, "--runs", tmp_path / "runs")
    run = Run.of(Study.load(study), tmp_path / "runs")
    found = read_json(run.export("only") / "verification.json", DataError)
    assert found["metric"] == metric and found["met"] is True and found.get("judged") == judged
    assert expected[0] < found["accuracy"] < expected[1] and expected[2] < found["teacher_accuracy"] <= expected[3]
    assert 0.0 < found["accuracy_standard_error"] < 0.1
    note = task_kind("embedding").metric(run.study.task).note
    page, card = (run.folder / "report.html").read_text(), (run.export("only") / "README.md").read_text()
    for text in (" ".join(page.split()).replace("&#39;", "'"), card):
        assert note in text and f"{metric} on the test set" in text
    printed, _ = nas("check", study, "--runs", tmp_path / "runs")
    assert "to do" not in printed
