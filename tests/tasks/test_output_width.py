"""Embeddings of the network's own width: they are compared by similarities, and exports have no projection."""

from __future__ import annotations

import json
import runpy
from argparse import Namespace
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import simulated
import torch
import without_nas
from datasets import Dataset
from tiny import TEACHER_TABLE, write_agreement_study, write_embedding_study, write_retrieval_study
from tolerance import assert_same
from transformers import AutoConfig

from nas.data import truth_of
from nas.errors import DataError
from nas.evaluate.accuracy import logits_of
from nas.export.infer import Classifier
from nas.export.verification import as_compact, reload, reload_alone
from nas.files import read_json
from nas.form import NetworkForm
from nas.latency.profiling import ProfileRecipe, _block_networks
from nas.model.stock import compact_config
from nas.model.tokenizer import load_tokenizer
from nas.pipeline import Run
from nas.pipeline.commands import prepare_teacher
from nas.pipeline.data import metric_of, splits
from nas.pipeline.sources import task_identity, teacher_inputs
from nas.pipeline.teachers import load_teacher
from nas.sentence_modules import write_modules
from nas.study import Study
from nas.supernet import BertSupernet, SupernetWeights
from nas.tasks import task_kind

ROOT = Path(__file__).parents[2]
NARROW = f"""
name = "narrow"
{TEACHER_TABLE}[dimensions]
layers = [3]
hidden_size = [16, 32]
num_attention_heads = [2, 4]
intermediate_size = [48, 64]
[compression]
embedding = ["none"]
attention = ["none"]
feed_forward = ["none"]
"""
"""A search space in which only networks of the smaller hidden size take less than 60 % of the teacher's size."""


def _kind(study):
    return task_kind(study.task.kind).variant(study.task)


def _write_study(folder, write=write_embedding_study):
    """Write a tiny embedding study for embeddings of the network's own width, with a budget for narrow networks."""
    study = write(folder)
    (folder / "narrow.toml").write_text(NARROW)
    changes = {'name = "tiny"': 'name = "narrow.toml"', 'p50_ms = "70%"': 'size_mb = "60%"'}
    text = study.read_text().replace("max_length", 'output_width = "own"\nmax_length')
    for old, new in changes.items():
        text = text.replace(old, new)
    study.write_text(text)
    return study


def test_only_the_similarities_of_embeddings_are_compared(tmp_path):
    kind, square = _kind(Study.load(_write_study(tmp_path))), torch.tensor([[5.0, 0.0], [0.0, 5.0]])
    # The dot products (9, 12, 12, 16) and (25, 0, 0, 25) differ by 0.64, 0.48, 0.48 and 0.36 times 25, so their mean
    # squared error is 0.25. Its weight is 10.
    assert kind.divergence(torch.tensor([[3.0], [4.0]]), square).item() == pytest.approx(2.5, rel=1e-6)
    # If both embeddings are equal, two of the four dot products are 25 instead of 0.
    equal = torch.tensor([[0.0, 3.0, 4.0], [0.0, 3.0, 4.0]])
    assert kind.divergence(equal, square).item() == pytest.approx(5.0, rel=1e-6)
    # A rotation changes no similarity. This is also true of a network as wide as the teacher.
    rotated = torch.tensor([[3.0, 4.0], [-4.0, 3.0]])
    assert kind.divergence(rotated, square).item() == pytest.approx(0.0, abs=1e-9)


def test_in_the_teachers_space_the_embeddings_are_compared_too():
    """The second of two embeddings moves to the first: by a squared distance of 50, which is 1 per text relative to 25.

    The similarities add 10 times the error of the previous test, 0.5.
    """
    square = torch.tensor([[5.0, 0.0], [0.0, 5.0]])
    assert task_kind("embedding").divergence(square[[0, 0]], square).item() == pytest.approx(6.0, rel=1e-6)


def test_the_form_has_the_teachers_pooling_but_no_projection(tmp_path):
    kind = _kind(Study.load(_write_study(tmp_path)))
    for form in (NetworkForm("encoder", "mean", True), NetworkForm("encoder", "first", False)):
        write_modules(tmp_path, form, 32)
        assert kind.form(str(tmp_path)) == replace(form, own_width=True)
        assert task_kind("embedding").form(str(tmp_path)) == form


def test_nas_check_describes_the_embeddings(tmp_path, nas):
    given = ("check", str(_write_study(tmp_path)), "--runs", str(tmp_path / "runs"))
    printed, _ = nas(*given)
    described = "dimensions, the network's hidden size, not in the teacher's space\n"
    assert f"outputs: embeddings of 16 or 32 {described}" in printed and "task.output_width" not in printed
    (tmp_path / "narrow.toml").write_text(NARROW.replace("[16, 32]", "[32]"))
    printed, _ = nas(*given)
    assert f"outputs: embeddings of 32 {described}" in printed
    assert (
        "warning: task.output_width is 'own', but the only hidden size of the search space is the teacher's" in printed
    )


def test_an_unknown_width_is_refused(tmp_path, nas):
    study = _write_study(tmp_path)
    study.write_text(study.read_text().replace('"own"', '"small"'))
    _, error = nas("check", study, "--runs", tmp_path / "runs", code=2)
    assert "task.output_width" in error and "'teacher' or 'own'" in error and "'small'" in error


def test_nas_init_proposes_the_setting(tmp_path, nas):
    write_embedding_study(tmp_path)
    files = {option: str(tmp_path / f"{option}.parquet") for option in ("train", "search", "test")}
    given = [word for option, path in files.items() for word in (f"--{option}", path)]
    nas("init", tmp_path / "mine", "--teacher", tmp_path / "teacher", *given)
    written = tmp_path / "mine" / "study.toml"
    assert Study.load(written).task.output_width == "teacher"
    assert '\n# output_width = "own"  # embeddings of each network' in written.read_text()
    written.write_text(written.read_text().replace("# output_width", "output_width"))
    assert Study.load(written).task.output_width == "own"


def test_only_another_width_makes_results_outdated(tmp_path):
    study = write_embedding_study(tmp_path)
    text, found = study.read_text(), []
    for line in ("", 'output_width = "teacher"\n', 'output_width = "own"\n'):
        study.write_text(text.replace("max_length", f"{line}max_length"))
        run = Run.of(Study.load(study), tmp_path / "runs")
        found.append((task_identity(run), teacher_inputs(run)))
    assert "output_width" not in found[0][0] and found[0] == found[1]
    assert found[2][0]["output_width"] == "own" and found[2][1] != found[0][1]


def test_the_measured_networks_have_no_last_layer(tmp_path):
    study = Study.load(_write_study(tmp_path))
    teacher, kinds = AutoConfig.from_pretrained(tmp_path / "teacher"), (task_kind("embedding"), _kind(study))
    configs = [compact_config(teacher, kind.form(str(tmp_path / "teacher"))) for kind in kinds]
    projecting, own = (ProfileRecipe(study.devices[0], study.space, config, 0) for config in configs)
    assert projecting.digest != own.digest
    layers = [
        [network.classifier for name, network in _block_networks(study.space, recipe.base) if name.startswith("ends/")]
        for recipe in (projecting, own)
    ]
    assert [tuple(layer.weight.shape) for layer in layers[0]] == [(32, 16), (32, 32)] and layers[1] == [None, None]


@pytest.mark.parametrize(
    ("write", "metric", "least", "width"),
    [(write_retrieval_study, "ndcg@10", 0.3, None), (write_agreement_study, "agreement", 0.9999, 32)],
)
def test_metrics_without_scored_pairs_evaluate_networks_of_every_width(tmp_path, nas, write, metric, least, width):
    """`least` is the least score of the teacher, and `width` that of the labels, if these are embeddings."""
    study = _write_study(tmp_path, write)
    printed, _ = nas("check", study, "--runs", tmp_path / "runs")
    assert "outputs: embeddings of 16 or 32 dimensions" in printed
    run = Run.of(Study.load(study), tmp_path / "runs")
    prepare_teacher(run)
    teacher, data, space = load_teacher(run), splits(run), run.study.space
    weights = SupernetWeights.of(teacher, space.dimensions.hidden_size, space.compression)
    narrow = BertSupernet(weights).extract(replace(space.largest(), hidden_size=16))
    labels = truth_of(data.test)
    assert width is None or labels["label"].shape == (100, width)
    embeddings = [logits_of(network, data.test) for network in (teacher, narrow)]
    assert [values.shape for values in embeddings] == [(len(data.test), 32), (len(data.test), 16)]
    scores = [metric_of(run).score(values, labels) for values in embeddings]
    assert metric_of(run).name == metric and scores[0] > least and 0.1 < scores[1] < scores[0]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run of the tiny study."""
    return simulated.finished_run(_write_study(tmp_path_factory.mktemp("own-width")))


@pytest.mark.slow
def test_a_finished_study_has_a_verified_export_without_a_projection(finished):
    folder, baseline = finished.export("only"), finished.folder / "baselines" / "cpu" / "teacher"
    found = read_json(folder / "verification.json", DataError)
    assert found["accuracy"] > 0.5 and found["met"] is True
    for place, width in ((folder, 16), (baseline, 32)):
        assert read_json(place / "architecture.json", DataError)["hidden_size"] == width
        types = [module["type"].rpartition(".")[2] for module in read_json(place / "modules.json", DataError)]
        assert types == ["Transformer", "Pooling", "Normalize"] and not (place / "2_Dense").exists()
        assert read_json(place / "1_Pooling" / "config.json", DataError)["word_embedding_dimension"] == width
        assert as_compact(place).config.outputs == width and as_compact(place).classifier is None
    page, card = (finished.folder / "report.html").read_text(), (folder / "README.md").read_text()
    for text in (page, card):
        assert "They can be compared only with each other" in text and "lie in the teacher" not in text
    assert "Hidden size 16;" in card


@pytest.mark.slow
def test_all_programs_give_the_same_embeddings_of_the_hidden_size(finished):
    folder, texts = finished.export("only"), ["w1 w2 w3", "w40 w41 w42 w43", "unheard w5", "w9 " * 40]
    given = np.array(without_nas.run("sentence_encoder", folder, json.dumps(texts)))
    assert given.shape == (4, 16)
    assert_same(np.linalg.norm(given, axis=1), np.ones(4))
    tokenizer, served = load_tokenizer(folder), Classifier(folder)
    assert_same(np.stack([served.logits(text) for text in texts]), given)
    for loaded in (reload(folder), reload_alone(folder)):
        with torch.no_grad():
            own = [loaded(**tokenizer(text, truncation=True, return_tensors="pt")).logits[0] for text in texts]
        assert_same(torch.stack(own), given)


@pytest.mark.slow
def test_the_benchmark_does_not_search_documents_of_the_teacher(finished, tmp_path):
    documents = [f"w{number} w{number + 1} w{number + 2}" for number in range(0, 60, 3)]
    names = [str(number) for number in range(len(documents))]
    tables = {"corpus": {"_id": names, "title": [""] * 20, "text": documents}, "queries": {"_id": names}}
    tables["queries"]["text"] = [text.rpartition(" ")[0] for text in documents]
    tables["qrels_test"] = {"query-id": names, "corpus-id": names, "score": [1] * 20}
    for name, columns in tables.items():
        Dataset.from_dict(columns).to_parquet(tmp_path / f"{name}.parquet")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(ROOT / "scripts" / "bench")
        measure = runpy.run_path(str(ROOT / "scripts" / "bench" / "embeddings.py"))["measure"]
    found = measure(finished, Namespace(pairs=[], without=None, retrieval=tmp_path, max_length=16))["networks"]
    assert found.keys() == {"teacher", "only", "averaged word vectors"}
    assert all(scores["retrieval"].keys() == {"own"} for scores in found.values())
