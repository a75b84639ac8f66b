"""Sentence encoders with a projection (Dense modules) after the pooling, which sentence-transformers itself saved."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import simulated
import torch
import without_nas
from hub_server import folder_files
from safetensors.torch import load_file, save_file
from tiny import TEACHERS, mixed_space, randomise, write_agreement_study, write_embedding_study
from tolerance import assert_same
from transformers import AutoConfig

from nas.errors import DataError, TeacherError
from nas.export.artefact import write_artefact
from nas.export.infer import Classifier
from nas.export.verification import as_compact, reload, reload_alone
from nas.files import digest, file_digest, read_json, write_json
from nas.form import NetworkForm
from nas.latency.profiling import ProfileRecipe
from nas.model.onnx import to_onnx
from nas.model.stock import AUTO_CLASSES, compact_config, from_stock
from nas.model.tokenizer import load_tokenizer
from nas.pipeline import Run
from nas.pipeline.commands import prepare_teacher
from nas.pipeline.sources import data_inputs, teacher_identity, teacher_inputs
from nas.pipeline.teacher_checks import check_teacher
from nas.pipeline.teachers import load_teacher
from nas.runtimes.runner import onnx_session
from nas.study import Study
from nas.supernet import BertSupernet, SupernetWeights
from nas.tasks import task_kind

models = pytest.importorskip("sentence_transformers")
modules = pytest.importorskip("sentence_transformers.sentence_transformer.modules")

ROOT = Path(__file__).parents[2]
KIND = task_kind("embedding")
TEXTS = ["w1 w2 w3", "w40 w41 w42 w43", "unheard w5", "w9 " * 40]
TANH, IDENTITY, GELU = (getattr(torch.nn, name) for name in ("Tanh", "Identity", "GELU"))
CASES = {
    "LaBSE": ([(32, True, TANH)], True, (32, "tanh")),
    "distiluse": ([(24, True, TANH)], False, (24, "tanh")),
    "sentence-t5": ([(32, False, IDENTITY)], True, (32, None)),
    "EmbeddingGemma": ([(80, False, IDENTITY), (32, False, IDENTITY)], True, (32, None)),
    "several with biases": ([(40, True, IDENTITY), (8, True, GELU)], False, (8, "gelu")),
}
"""The width, bias and activation of each Dense module, whether embeddings are normalised, and the expected width and
activation of the projection.
"""
DENSE = "2_Dense"


def add_projection(teacher, case="distiluse"):
    """Replace the encoder in a folder by one with Dense modules, saved by sentence-transformers. Return the encoder."""
    layers, normalises, _ = CASES[case]
    encoder = models.SentenceTransformer(str(teacher), device="cpu")
    parts, width = [encoder[0], encoder[1]], 32
    for number, (outputs, bias, activation) in enumerate(layers):
        dense = modules.Dense(width, outputs, bias=bias, activation_function=activation())
        parts.append(randomise(dense, seed=number, scale=0.4))
        width = outputs
    parts += [modules.Normalize()] if normalises else []
    encoder = models.SentenceTransformer(modules=parts, device="cpu")
    for path in sorted(Path(teacher).rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    encoder.save(str(teacher))
    return encoder


def write_study(folder, case="distiluse", write=write_embedding_study):
    """Write a tiny study whose teacher has a projection. Return the path of study.toml and the teacher."""
    study = write(folder)
    return study, add_projection(folder / "teacher", case)


def embeddings(network, folder):
    """Return the embeddings of `TEXTS` by a network, with the tokenizer in a folder."""
    tokenizer = load_tokenizer(folder)
    with torch.no_grad():
        return torch.stack(
            [network(**tokenizer(text, truncation=True, return_tensors="pt")).logits[0] for text in TEXTS]
        )


def encoded(encoder):
    """Return the embeddings of `TEXTS` by a SentenceTransformer. Texts are cut to 16 tokens."""
    encoder.max_seq_length = 16
    return encoder.encode(TEXTS, batch_size=1, show_progress_bar=False)


@pytest.mark.parametrize("case", CASES)
def test_the_teacher_computes_the_embeddings_of_sentence_transformers(tmp_path, case):
    study, encoder = write_study(tmp_path, case)
    _, normalises, (width, activation) = CASES[case]
    form = NetworkForm("encoder", "mean", normalises, projection_dim=width, projection_act=activation)
    assert KIND.form(str(tmp_path / "teacher")) == form
    run = Run.of(Study.load(study), tmp_path / "runs")
    prepare_teacher(run)
    network, given = load_teacher(run), encoded(encoder)
    assert given.shape == (4, width) and network.config.outputs == width
    assert_same(embeddings(network, run.teacher), given)
    assert_same(encoded(models.SentenceTransformer(str(run.teacher), device="cpu")), given)


def narrowed(run):
    """Return the supernet weights of the run's teacher, and a network of half of the hidden size."""
    space = mixed_space()
    weights = SupernetWeights.of(load_teacher(run), (16, 32), space.compression)
    narrow = weights.narrow["16"].get_submodule("missing.classifier")
    with torch.no_grad():
        narrow.weight.zero_()
        narrow.bias.zero_()
    return weights, BertSupernet(weights).extract(replace(weights.config.architecture, hidden_size=16))


def test_the_projection_of_a_narrow_network_is_a_part_of_the_teachers(tmp_path):
    study, encoder = write_study(tmp_path)
    run = Run.of(Study.load(study), tmp_path / "runs")
    prepare_teacher(run)
    weights, narrow = narrowed(run)
    linear = encoder[2].linear
    assert torch.equal(weights.classifier.weight, linear.weight) and torch.equal(weights.classifier.bias, linear.bias)
    assert torch.equal(narrow.classifier.weight, linear.weight[:, :16])
    assert torch.equal(narrow.classifier.bias, linear.bias)


@pytest.mark.parametrize("case", ["LaBSE", "sentence-t5", "several with biases"])
def test_all_programs_give_the_same_embeddings(tmp_path, case):
    study, _ = write_study(tmp_path, case)
    run = Run.of(Study.load(study), tmp_path / "runs")
    prepare_teacher(run)
    (_, network), folder = narrowed(run), tmp_path / "export"
    randomise(network, seed=5)
    write_artefact(network, load_tokenizer(run.teacher), folder, max_length=16)
    _, _, (width, activation) = CASES[case]
    paths = {"tanh": "activation.Tanh", None: "linear.Identity", "gelu": "activation.GELU"}
    assert read_json(folder / DENSE / "config.json", DataError) == {
        "in_features": 16,
        "out_features": width,
        "bias": True,
        "activation_function": f"torch.nn.modules.{paths[activation]}",
    }
    expected = embeddings(network, folder)
    for load in (reload, reload_alone, as_compact):
        assert_same(embeddings(load(folder), folder), expected)
    assert_same(np.stack([Classifier(folder).logits(text) for text in TEXTS]), expected)
    assert_same(np.array(without_nas.run("sentence_encoder", folder, json.dumps(TEXTS))), expected)


ACTIVATIONS = ("tanh", "relu", "gelu", "sigmoid", "silu", "leaky_relu", "relu6", "hardswish", "mish")


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_each_activation_is_that_of_torch_and_is_exported_to_onnx(tmp_path, name):
    family, sizes = TEACHERS["bert"]
    stock = AUTO_CLASSES["encoder"].from_config(AutoConfig.for_model(family, vocab_size=90, **sizes))
    form = NetworkForm("encoder", "first", projection_dim=64, projection_act=name)
    projection = randomise(torch.nn.Linear(32, 64), scale=2.0)
    ids = torch.tensor([[2, 10, 11, 12, 3]])
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "token_type_ids": torch.zeros_like(ids)}
    path = tmp_path / "model.onnx"
    path.write_bytes(to_onnx(from_stock(randomise(stock), form, projection)).SerializeToString())
    (served,) = onnx_session(str(path), 1).run(["sentence_embedding"], {key: v.numpy() for key, v in inputs.items()})
    with torch.no_grad():
        before = projection(stock(**inputs).last_hidden_state[:, 0])
        classes = {type_.__name__.lower(): type_ for type_ in vars(torch.nn).values() if isinstance(type_, type)}
        expected = classes[name.replace("_", "")]()(before)
    assert before.min() < -7.0 and before.max() > 7.0
    assert_same(served, expected)


def settings(**changes):
    """Return a function that changes the settings of the first Dense module."""

    def change(folder):
        path = folder / DENSE / "config.json"
        write_json(path, {**read_json(path, DataError), **changes})

    return change


def pickled(folder):
    torch.save(load_file(folder / DENSE / "model.safetensors"), folder / DENSE / "pytorch_model.bin")
    (folder / DENSE / "model.safetensors").unlink()


def weights(**changes):
    """Return a function that changes weights of the first Dense module. Those that are None are removed."""

    def change(folder):
        path = folder / DENSE / "model.safetensors"
        tensors = load_file(path) | {f"linear.{name}": value for name, value in changes.items()}
        save_file({name: value for name, value in tensors.items() if value is not None}, path)

    return change


def reordered(folder):
    listed = read_json(folder / "modules.json", DataError)
    write_json(folder / "modules.json", [*listed[:2], listed[3], listed[2]])


DAMAGE = {
    "residual": ("LaBSE", settings(use_residual=True), "2_Dense.*use_residual must be False, but is True; give an"),
    "tokens": ("LaBSE", settings(module_input_name="token_embeddings"), "module_input_name must be 'sentence_embedd"),
    "activation": (
        "LaBSE",
        settings(activation_function="os.system"),
        "activation_function must be one of torch.nn.modules.linear.Identity, .*Tanh, .* but is 'os.system'; give an",
    ),
    "no size": ("LaBSE", settings(in_features=None), "must be whole numbers above 0, but are None and 32"),
    "hidden size": ("LaBSE", settings(in_features=24), "in_features must be the encoder's hidden size, 32, but is 24"),
    "chain": ("EmbeddingGemma", settings(out_features=40), "3_Dense.*in_features must be 40, .* 2_Dense, but is 80"),
    "activation between": (
        "EmbeddingGemma",
        settings(activation_function="torch.nn.modules.activation.ReLU"),
        "2_Dense.*only the last may have an activation_function other than .* but this one has .*ReLU; give another",
    ),
    "pickled": (
        "LaBSE",
        pickled,
        "2_Dense: the checkpoint has pytorch_model.bin but no model.safetensors; .* run this command in the folder: ",
    ),
    "no bias": (
        "LaBSE",
        weights(bias=None),
        r"requires the weights linear.bias \[32\], linear.weight \[32, 32\], but .* has linear.weight \[32, 32\]; copy",
    ),
    "shape": (
        "LaBSE",
        weights(weight=torch.zeros(32, 8)),
        r"but model.safetensors has .*linear.weight \[32, 8\]; copy",
    ),
    "not finite": ("LaBSE", weights(bias=torch.full((32,), torch.nan)), "linear.bias contains values that are not fin"),
    "not float": ("LaBSE", weights(bias=torch.ones(32, dtype=torch.int8)), "linear.bias is stored as I8, but must be"),
    "order": ("LaBSE", reordered, "in this order, but lists Transformer, Pooling, Normalize, Dense; give another"),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_projections_that_are_not_supported_are_refused_in_one_line(tmp_path, name):
    case, damage, message = DAMAGE[name]
    study, _ = write_study(tmp_path, case)
    damage(tmp_path / "teacher")
    with pytest.raises(TeacherError, match=message) as problem:
        check_teacher(Study.load(study), str(tmp_path / "teacher"))
    assert "\n" not in str(problem.value)


def test_settings_of_older_versions_and_short_names_are_read(tmp_path):
    """sentence-transformers 2 writes four settings. Without an activation, Dense uses Tanh."""
    write_study(tmp_path)
    path, given = tmp_path / "teacher" / DENSE / "config.json", {"in_features": 32, "out_features": 24, "bias": True}
    for activation, expected in (("torch.nn.modules.activation.Tanh", "tanh"), ("torch.nn.ReLU", "relu")):
        write_json(path, given | {"activation_function": activation})
        assert KIND.form(str(tmp_path / "teacher")).projection_act == expected
    write_json(path, given)
    assert KIND.form(str(tmp_path / "teacher")).projection_act == "tanh"


def test_nas_check_states_the_width_and_refuses_embeddings_of_the_networks_own_width(tmp_path, nas):
    study, _ = write_study(tmp_path)
    printed, _ = nas("check", study, "--runs", tmp_path / "runs")
    assert "outputs: embeddings of 24 dimensions, in the teacher's space" in printed
    study.write_text(study.read_text().replace("max_length", 'output_width = "own"\nmax_length'))
    _, error = nas("check", study, "--runs", tmp_path / "runs", code=2)
    assert "task.output_width: must be 'teacher' for " in error and ", which has a Dense module" in error
    assert "but is 'own'" in error and "remove output_width" in error and error.count("\n") == 1


@pytest.mark.parametrize("write", [write_embedding_study, write_agreement_study])
def test_results_depend_on_the_weights_of_the_projection(tmp_path, write):
    study, _ = write_study(tmp_path, write=write)
    found = []
    for change in (None, weights(bias=torch.ones(24)), settings(activation_function="torch.nn.ReLU")):
        if change:
            change(tmp_path / "teacher")
        run = Run.of(Study.load(study), tmp_path / "runs")
        found.append((data_inputs(run), teacher_inputs(run)))
    data, teacher = zip(*found, strict=True)
    assert len(set(teacher)) == 3 and len(set(data)) == (3 if write is write_agreement_study else 1)


def test_results_for_teachers_without_a_projection_stay_up_to_date(tmp_path):
    """The digests are composed as in earlier versions, which knew no projections."""
    study = Study.load(write_embedding_study(tmp_path))
    run, teacher = Run.of(study, tmp_path / "runs"), tmp_path / "teacher"
    files = {"model.safetensors": file_digest(teacher / "model.safetensors")}
    assert teacher_inputs(run) == digest([3, data_inputs(run), teacher_identity(run), 0, files])
    form = {"network_type": "encoder", "readout": "mean", "normalize": True, "own_width": False}
    assert KIND.form(str(teacher)).identity == form
    stock = AutoConfig.from_pretrained(teacher)

    def profile(**changes):
        return ProfileRecipe(study.devices[0], study.space, compact_config(stock, NetworkForm(**changes)), 0).digest

    usual_form = {"network_type": "encoder", "readout": "mean", "normalize": True}
    others = [profile(**usual_form, **changes) for changes in ({"projection_dim": 24}, {"projection_act": "tanh"})]
    assert len({profile(**usual_form), *others}) == 3
    assert profile(**usual_form, projection_dim=32) == profile(**usual_form)


def test_an_encoder_from_the_hub_is_checked_without_its_weights_and_then_computes_the_same(hub, tmp_path, nas):
    study, encoder = write_study(tmp_path)
    hub.add("model", "someone/encoder", folder_files(tmp_path / "teacher"))
    study.write_text(study.read_text().replace("./teacher", "someone/encoder"))
    printed, _ = nas("check", study, "--runs", tmp_path / "runs")
    assert "outputs: embeddings of 24 dimensions" in printed
    assert not any("safetensors" in request for request in hub.requests)
    run = Run.of(Study.load(study), tmp_path / "runs")
    prepare_teacher(run)
    assert_same(embeddings(load_teacher(run), run.teacher), encoded(encoder))


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run of the tiny study, and the embeddings of its teacher."""
    study, encoder = write_study(tmp_path_factory.mktemp("projection"), "LaBSE", write_agreement_study)
    study.write_text(study.read_text().replace('p50_ms = "70%"', 'p50_ms = "30%"'))
    return simulated.finished_run(study), encoded(encoder)


@pytest.mark.slow
def test_a_finished_study_has_a_verified_export_and_the_teacher_as_its_baseline(finished):
    run, teacher = finished
    folder, baseline = run.export("only"), run.folder / "baselines" / "cpu" / "teacher"
    found = read_json(folder / "verification.json", DataError)
    assert found["met"] is True and found["agrees"] is not False
    assert 0.5 < found["accuracy"] < 0.9999 < found["teacher_accuracy"] <= 1.0
    assert_same(embeddings(reload(baseline), baseline), teacher)
    for place in (folder, baseline):
        types = [module["type"].rpartition(".")[2] for module in read_json(place / "modules.json", DataError)]
        assert types == ["Transformer", "Pooling", "Dense", "Normalize"]
        assert read_json(place / DENSE / "config.json", DataError)["activation_function"].endswith(".Tanh")
        assert_same(embeddings(reload(place), place), np.stack([Classifier(place).logits(t) for t in TEXTS]), "int8")
    card = (folder / "README.md").read_text()
    assert "SentenceTransformer(" in card and "lie in the teacher's space" in card


@pytest.mark.parametrize("write", [write_embedding_study, write_agreement_study])
def test_results_depend_on_the_pooling_of_a_teacher_without_a_projection(tmp_path, write):
    run = Run.of(Study.load(write(tmp_path)), tmp_path / "runs")
    before = teacher_inputs(run)
    write_json(tmp_path / "teacher" / "1_Pooling" / "config.json", {"pooling_mode": "cls"})
    assert teacher_inputs(run) != before
