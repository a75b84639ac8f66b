"""An export's folder has the files and entries that servers and libraries need according to their documentation.

Some libraries cannot be installed together with `nas` or are not written in Python. `scripts/servers` installs these,
and runs the tests in which they load each export.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
from tiny import POSITIONS, TEACHERS, make_tokenizer, mixed_space, randomise
from transformers import AutoConfig, AutoTokenizer, DistilBertConfig

from nas.export.artefact import ONNX_FILE, write_artefact
from nas.export.infer import Classifier
from nas.files import write_json
from nas.model.stock import AUTO_CLASSES, from_stock
from nas.supernet import BertSupernet, SupernetWeights
from nas.tasks import REGISTRY, TaskKind

MAX_LENGTH = 32
TEXTS = ["w1 w2 w3", "w9 w40 w41 w42 w7"]
ENVIRONMENT = os.environ.get("NAS_SERVERS")
OTHERS = pytest.mark.skipif(not ENVIRONMENT, reason="needs the libraries that scripts/servers installs")
OUTPUTS = {"regression": 1, "ranking": 1}
"""The number of outputs by kind of task, if it is not 3."""


class _Activated(type(REGISTRY["embedding"])):
    """Embeddings of a teacher with its own projection, which ends in tanh."""

    network_form = replace(REGISTRY["embedding"].network_form, projection_act="tanh")


def _write(folder: Path, kind: TaskKind, family: str, own: bool) -> None:
    """Write an export of a kind of task: in the family's class or, with `own`, as a compressed `CompactBert`."""
    space, outputs = mixed_space(), OUTPUTS.get(kind.name, 3)
    model_type, settings = TEACHERS[family]
    values = {"vocab_size": 90, "max_position_embeddings": POSITIONS, "num_labels": outputs} | settings
    given = AutoConfig.for_model(model_type, **values)
    model = from_stock(randomise(AUTO_CLASSES[kind.network_form.network_type].from_config(given)), kind.network_form)
    weights = SupernetWeights.of(model, space.dimensions.hidden_size, space.compression)
    randomise(weights.narrow, seed=1, scale=0.1)
    drawn = replace(space.sample(random.Random(3)), exit_threshold=0.0)
    network = BertSupernet(weights).extract(drawn if own else weights.config.architecture)
    served = kind.served_as({}, True)
    write_artefact(network, make_tokenizer(), folder, max_length=MAX_LENGTH, about_task=served)
    for file, content in kind.extra_files(served, MAX_LENGTH).items():
        write_json(folder / file, content)


@pytest.fixture(scope="module")
def exports(tmp_path_factory):
    """A folder with exports of each kind of task, named `<kind>-<family>-<class>`.

    The class is `stock` for the family's class in transformers, and `own` for `CompactBert`. The folders of embeddings
    of the network's own width are named `embedding-unprojected-<family>-<class>`, and those whose projection has an
    activation `embedding-activated-<family>-<class>`.
    """
    root = tmp_path_factory.mktemp("exports")
    unprojected = REGISTRY["embedding"].variant(SimpleNamespace(output_width="own"))
    activated = _Activated()
    for name, kind in {**REGISTRY, "embedding-unprojected": unprojected, "embedding-activated": activated}.items():
        for own in (False, True):
            _write(root / f"{name}-bert-{'own' if own else 'stock'}", kind, "bert", own)
    _write(root / "classification-distilbert-stock", REGISTRY["classification"], "distilbert", False)
    return root


def _read(path: Path):
    return json.loads(path.read_text())


def test_the_only_onnx_file_is_where_libraries_look_for_it(exports):
    for folder in exports.iterdir():
        assert [path.relative_to(folder).as_posix() for path in folder.rglob("*.onnx*")] == ["onnx/model.onnx"]
        # By default, browsers would load an 8-bit file, model_quantized.onnx.
        assert _read(folder / "config.json")["transformers.js_config"]["dtype"] == "fp32"


def test_graphs_have_the_input_and_output_names_that_libraries_use(exports):
    for folder in exports.iterdir():
        graph = onnx.load(folder / ONNX_FILE).graph
        inputs, outputs = ([value.name for value in values] for values in (graph.input, graph.output))
        assert inputs == ["input_ids", "attention_mask", "token_type_ids"][: 2 if "distilbert" in folder.name else 3]
        wanted = {"last_hidden_state", "sentence_embedding"} if "embedding" in folder.name else {"logits"}
        assert set(outputs) == wanted
        for value in (*graph.input, *graph.output):  # batch and length are free
            free = [size.dim_param for size in value.type.tensor_type.shape.dim]
            assert free[0] == "batch_size" and (value.name not in inputs or free[1] == "sequence_length")


def test_configurations_have_the_entries_that_text_embeddings_inference_reads(exports):
    """The names and types are those of its router and its ONNX backend, which do not start if one is missing."""
    for folder in exports.iterdir():
        kind, config = folder.name.split("-")[0], _read(folder / "config.json")
        assert all(isinstance(config[name], int) for name in ("hidden_size", "num_hidden_layers", "pad_token_id"))
        assert isinstance(config["model_type"], str) and isinstance(config["max_position_embeddings"], int)
        assert all(isinstance(value, str) for value in config.get("auto_map", {}).values())
        (architecture,) = config["architectures"]
        if kind == "embedding":
            pooling = _read(folder / "1_Pooling" / "config.json")
            assert not architecture.endswith("Classification") and pooling["pooling_mode_mean_tokens"] is True
            assert (folder / "2_Dense").exists() != ("unprojected" in folder.name)
            assert pooling["word_embedding_dimension"] == config["hidden_size"]
        else:
            assert architecture.endswith("Classification")
            assert len(config["id2label"]) == len(config["label2id"]) == OUTPUTS.get(kind, 3)
        assert kind == "tagging" or _read(folder / "sentence_bert_config.json")["max_seq_length"] == MAX_LENGTH
        assert (
            "padding_side" not in (found := _read(folder / "tokenizer_config.json")) or found["padding_side"] == "right"
        )


def test_a_network_that_its_family_s_class_can_express_keeps_the_family_s_names(exports):
    for folder in exports.iterdir():
        *_, family, form = folder.name.split("-")
        config = _read(folder / "config.json")
        assert config["model_type"] == (family if form == "stock" else "compact_bert")
        assert form == "stock" or config["family"] == family
    config = AutoConfig.from_pretrained(exports / "classification-distilbert-stock")
    assert isinstance(config, DistilBertConfig) and config.dim == config.hidden_size == 32 and config.n_layers == 3


def test_tokenizers_have_a_class_that_older_versions_of_transformers_know(exports):
    folder = exports / "classification-bert-own"
    assert _read(folder / "tokenizer_config.json")["tokenizer_class"] == "PreTrainedTokenizerFast"
    assert AutoTokenizer.from_pretrained(folder)(TEXTS)["input_ids"] == make_tokenizer()(TEXTS)["input_ids"]


def test_exports_can_be_read_by_other_users(exports):
    for path in exports.glob("*/**/*"):
        assert path.stat().st_mode & 0o777 == (0o755 if path.is_dir() else 0o644)


def _json_printed_by(*command: str | Path):
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(list(map(str, command)), env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def _outputs(folder: Path) -> list[np.ndarray]:
    """Return the output of the ONNX file for each text, computed one by one: logits, or the embedding."""
    classifier = Classifier(folder)
    return [classifier.logits(text) for text in TEXTS]


@OTHERS
@pytest.mark.slow
@pytest.mark.timeout(600)
def test_optimum_and_sentence_transformers_load_the_onnx_file(exports):
    script = Path(__file__).with_name("with_optimum.py")
    found = _json_printed_by(Path(ENVIRONMENT, "bin", "python"), "-I", script, exports, json.dumps(TEXTS))
    assert found.keys() == {folder.name for folder in exports.iterdir()}
    for name, answers in found.items():
        expected, kind = _outputs(exports / name), REGISTRY[name.split("-")[0]]
        for given, outputs in zip(answers["outputs"], expected, strict=True):
            assert np.allclose(given, outputs, atol=1e-4), name
        if kind.pipeline and kind.name in ("classification", "multi_label", "regression"):
            classifier = Classifier(exports / name)
            for given, text in zip(answers["pipeline"], TEXTS, strict=True):
                label, score = max(classifier.classify(text, every=True), key=lambda answer: answer[1])
                assert (given["label"], given["score"]) == (label, pytest.approx(score, abs=1e-4)), name


@OTHERS
@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.skipif(shutil.which("node") is None, reason="needs node")
def test_transformers_js_loads_the_onnx_file(exports):
    script = Path(__file__).with_name("with_transformers.mjs")
    package = Path(ENVIRONMENT, "node_modules", "@huggingface", "transformers", "dist", "transformers.node.mjs")
    found = _json_printed_by("node", script, package, exports, json.dumps(TEXTS))
    assert found.keys() == {folder.name for folder in exports.iterdir()}
    for name, answers in found.items():
        expected, kind = _outputs(exports / name), name.split("-")[0]
        for given, outputs in zip(answers["outputs"], expected, strict=True):
            assert np.allclose(given, outputs.reshape(-1), atol=1e-4), name
        if kind in ("classification", "multi_label"):
            classifier = Classifier(exports / name)
            for given, text in zip(answers["pipeline"], TEXTS, strict=True):
                scores = dict(classifier.classify(text, every=True))
                assert {each["label"]: each["score"] for each in given} == pytest.approx(scores, abs=1e-4), name
