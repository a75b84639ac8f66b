"""Exports can be loaded and served without `nas`."""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
import random
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import without_nas
from tiny import TEACHERS, make_teacher, make_tokenizer, mixed_space, named_architectures, randomise
from tolerance import assert_same
from transformers import AutoModelForSequenceClassification, pipeline

from nas.compression import REGISTRY, compression
from nas.compression.int8 import Int8
from nas.errors import ExportError
from nas.export.artefact import INFER_FILE, ONNX_FILE, write_artefact
from nas.export.infer import Classifier, probabilities
from nas.export.infer import answers as answers_of
from nas.export.standalone import MODELING_FILE, _CopiedCode, modeling_source
from nas.model.stock import fits_stock, from_stock
from nas.pipeline.plan import plan
from nas.runtimes.runner import onnx_session
from nas.space import shipped_spaces
from nas.study import Study
from nas.supernet import BertSupernet, SupernetWeights

TEXTS = ["w1 w2 w3", "", "unheard w5", "w9 " * 60, "w40 w41 w42 w43"]
EVERY = ("none", "int8", "int4", "low_rank(4)+int8", "sparse(0.5)", "share", "skip")


def _subnet(kind: str, outputs: int) -> BertSupernet:
    space, teacher = mixed_space(), from_stock(randomise(make_teacher(kind, outputs)))
    weights = SupernetWeights.of(teacher, space.dimensions.hidden_size, space.compression, outputs > 1)
    randomise(weights.narrow, seed=1, scale=0.1)
    return BertSupernet(weights)


@pytest.fixture(scope="module")
def exports(tmp_path_factory):
    """Exports of many architectures of all families, and the logits that `nas` computes for their inputs."""
    root, space = tmp_path_factory.mktemp("exports"), mixed_space()
    supernets = {(kind, 2): _subnet(kind, 2) for kind in TEACHERS} | {("bert", 1): _subnet("bert", 1)}
    wanted = [((kind, 2), space.sample(random.Random(number))) for number, kind in enumerate([*TEACHERS] * 2)]
    wanted += [(("bert", 2), architecture) for architecture in named_architectures().values()]
    exiting = replace(space.largest(), exit_threshold=0.6)
    wanted += [(("bert", 2), exiting), (("bert", 2), space.largest()), (("bert", 1), space.largest())]
    wanted += [(("bert", 1), replace(space.sample(random.Random(7)), exit_threshold=0.0))]
    expected, with_texts = {}, set()
    for number, (key, architecture) in enumerate(wanted):
        model, folder = supernets[key].extract(architecture), root / f"{number}"
        about_task = {"problem_type": "regression"} if key[1] == 1 else {}
        write_artefact(model, make_tokenizer(), folder, about_task=about_task)
        ids = torch.randint(4, 60, (3, 9), generator=torch.Generator().manual_seed(number))
        inputs = {name: ids if name == "input_ids" else torch.ones_like(ids) for name in model.config.input_names}
        with torch.no_grad():
            expected[folder.name] = model(**inputs).logits.numpy()
        np.savez(folder / "inputs.npz", **{name: value.numpy() for name, value in inputs.items()})
        drops = any(layer.keep_tokens for layer in architecture.layers)
        if key not in with_texts or architecture.exit_threshold or drops or key[1] == 1:
            with_texts.add(key)
            (folder / "texts.json").write_text(json.dumps(TEXTS))
    return root, expected


@pytest.fixture(scope="module")
def answers(exports, tmp_path_factory):
    """The answers of the exports in a Python without `nas`."""
    environment = os.environ | {"HF_MODULES_CACHE": str(tmp_path_factory.mktemp("modules"))}
    return without_nas.run("alone", exports[0], environment=environment)


@pytest.mark.slow
def test_a_model_loaded_without_nas_computes_the_same_logits(exports, answers):
    folders, expected = exports
    assert answers.keys() == expected.keys()
    for name, logits in expected.items():
        assert_same(answers[name]["logits"], logits)
        own = answers[name]["class"] == "CompactBertForSequenceClassification"
        assert own == (folders / name / MODELING_FILE).exists()
    assert all(answer["half"] and answer["keys"] == ["logits"] for answer in answers.values())
    for answer in (answer for answer in answers.values() if "batched" in answer):
        for single, batched in zip(answer["one_by_one"], answer["batched"], strict=True):
            assert single["label"] == batched["label"] or single["score"] < 0.6
    assert {answer["class"] for answer in answers.values()} == {
        "CompactBertForSequenceClassification",
        "BertForSequenceClassification",
    }


@pytest.fixture(scope="module")
def few_packages(tmp_path_factory):
    """A folder of packages with only numpy, tokenizers and onnxruntime."""
    folder = tmp_path_factory.mktemp("packages")
    for name in ("numpy", "tokenizers", "onnxruntime"):
        package = Path(importlib.util.find_spec(name).origin).parent
        for part in (package, package.with_name(f"{name}.libs")):
            if part.exists():
                (folder / part.name).symlink_to(part)
    return folder


def _command(packages, folder, *arguments):
    script = (
        f"import sys, runpy; sys.path.append({str(packages)!r}); sys.argv[:1] = [{str(folder / INFER_FILE)!r}]\n"
        "runpy.run_path(sys.argv[0], run_name='__main__')"
    )
    return [sys.executable, "-I", "-S", "-c", script, *arguments]


def _infer(packages, folder, *arguments, lines=None):
    command = _command(packages, folder, *arguments)
    done = subprocess.run(command, input=lines, capture_output=True, check=False)
    return subprocess.CompletedProcess(command, done.returncode, done.stdout.decode(), done.stderr.decode())


@pytest.mark.slow
def test_infer_gives_the_same_answers_as_transformers_and_onnx_runtime(exports, answers, few_packages):
    """Only tokenizers, numpy and onnxruntime are available.

    Some of the exports drop tokens, exit early or give scores, and one text is too long.
    """
    folders = exports[0]
    for name in (name for name in answers if "one_by_one" in answers[name]):
        done = _infer(few_packages, folders / name, lines="".join(f"{text}\n" for text in TEXTS).encode())
        assert done.returncode == 0 and not done.stderr, done.stderr
        session = onnx_session(str(folders / name / ONNX_FILE), 1)
        inputs = [value.name for value in session.get_inputs()]
        tokens = make_tokenizer()
        for line, expected, text in zip(done.stdout.splitlines(), answers[name]["one_by_one"], TEXTS, strict=True):
            label, value = line.split("\t")
            fed = tokens(text, truncation=True, return_tensors="np", return_token_type_ids=True)
            logits = session.run(["logits"], {key: fed[key] for key in inputs})[0][0]
            served = logits[0] if len(logits) == 1 else (np.exp(logits) / np.exp(logits).sum()).max()
            assert label == f"LABEL_{logits.argmax()}" and float(value) == pytest.approx(served, abs=1e-4)
            # Simulated quantisation sometimes rounds a value the other way.
            assert float(value) == pytest.approx(expected["score"], abs=0.03)
            assert label == expected["label"] or expected["score"] < 0.52


def test_infer_reads_any_bytes_and_line_ends(exports, few_packages):
    """A byte order mark, Windows line ends, bytes that are not UTF-8, unusual characters, no newline at the end."""
    folder = exports[0] / "0"
    lines = (
        b"\xef\xbb\xbfw1 w2\r\n\n\xff\xfe w5\nw1\x00 w2\n\xed\xa0\x80\n"
        + b"w9 " * 5000
        + b"\n\twhat?\t\xf0\x9f\x98\x80"
    )
    done = _infer(few_packages, folder, lines=lines)
    assert done.returncode == 0 and not done.stderr
    classifier = Classifier(folder)
    same = ["w1 w2", "", "\ufffd\ufffd w5", "w1\x00 w2", "\ufffd\ufffd\ufffd", "w9 " * 38, " what? \U0001f600"]
    assert done.stdout.splitlines() == list(answers_of(classifier, same, pairs=False))
    assert classifier.classify("\udcff\ud800 w5") == classifier.classify("\ufffd\ufffd w5")


def test_tabs_and_line_breaks_in_the_name_of_a_label_do_not_divide_the_output(exports):
    classifier = Classifier(exports[0] / "0")
    classifier.config = classifier.config | {"id2label": {"0": "a\tb\nc", "1": "d\r"}}
    (line,) = answers_of(classifier, ["w1 w2"], pairs=False, every=True)
    assert sorted(line.split("\t")[::2]) == [r"a\tb\nc", r"d\r"] and "\n" not in line


def test_infer_reads_pairs_and_explains_invalid_input(exports, few_packages):
    folder = exports[0] / "0"
    done = _infer(few_packages, folder, "--pairs", "w1 w2\tw3", "w3\tw1 w2", "w1\tw2\tw3")
    first, second = done.stdout.splitlines()
    assert done.returncode == 2 and first != second
    message = "error: text 3: a pair must be two texts with one tab between them, but has 2 tabs; use one tab\n"
    assert done.stderr == message
    empty = _infer(few_packages, folder, "--pairs", lines=b"w1\t\r\n\tw1\n\t\n")
    assert empty.returncode == 0 and len(set(empty.stdout.splitlines())) == 3
    none = _infer(few_packages, folder, lines=b"")
    assert (none.returncode, none.stdout, none.stderr) == (0, "", "")
    wide = _infer(few_packages, folder, lines="w1\n".encode("utf-16"))
    message = "error: the input must be UTF-8, but it is UTF-16; convert it to UTF-8\n"
    assert wide.returncode == 2 and wide.stderr == message


def test_infer_explains_that_its_output_cannot_be_written(exports, few_packages):
    command = _command(few_packages, exports[0] / "0", "w1 w2")
    with open("/dev/full", "w") as full:  # noqa: PTH123
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr == (
        "error: the output cannot be written: No space left on device; redirect it to another place\n"
    )


@pytest.mark.parametrize(
    ("problem_type", "outputs"),
    [(None, 3), ("single_label_classification", 2), ("multi_label_classification", 3), ("regression", 1), (None, 1)],
)
def test_infer_turns_logits_into_the_same_scores_as_a_pipeline(problem_type, outputs, teacher):
    logits = np.linspace(-2.0, 3.0, outputs, dtype=np.float32)
    teacher.config.problem_type, teacher.config.num_labels = problem_type, outputs
    classify = pipeline("text-classification", model=teacher, tokenizer=make_tokenizer())
    expected = classify.postprocess({"logits": torch.from_numpy(logits)[None]}, top_k=None, _legacy=False)
    found = probabilities(logits, problem_type)
    np.testing.assert_allclose(sorted(found, reverse=True), [answer["score"] for answer in expected], rtol=1e-5)


@pytest.mark.parametrize("choices", [EVERY, ("int8",), ("static_int8",), ("low_rank(8)", "sparse(2:4)+int8")])
def test_the_modelling_file_passes_ruff_and_has_only_the_methods_that_the_network_uses(config, choices, tmp_path):
    """It has no unused import and no undefined name, and it is formatted."""
    layers = tuple(replace(config.architecture.layers[0], attention=choice) for choice in choices)
    text = modeling_source(config.with_architecture(replace(config.architecture, layers=layers, embedding=choices[0])))
    path = tmp_path / MODELING_FILE
    path.write_text(text)
    for check in (["check", "--select", "E,F,I"], ["format", "--check"]):
        command = [sys.executable, "-m", "ruff", *check, "--isolated", "--line-length", "120", str(path)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout
    used = {name for choice in choices for name in compression(choice).names}
    classes = {name: choice.__name__ for name, choice in REGISTRY.items()}
    assert all(f"class {classes[name]}(" in text for name in used)
    assert all(f"class {classes[name]}(" not in text for name in REGISTRY.keys() - used - {"none"})
    assert "import nas" not in text and "from nas" not in text and "emit_" not in text


def test_an_export_in_the_stock_class_has_no_modelling_file(teacher, tmp_path):
    assert fits_stock(from_stock(teacher))
    write_artefact(from_stock(teacher), make_tokenizer(), tmp_path / "export")
    assert not (tmp_path / "export" / MODELING_FILE).exists()
    assert "auto_map" not in json.loads((tmp_path / "export" / "config.json").read_text())
    assert type(AutoModelForSequenceClassification.from_pretrained(tmp_path / "export")) is type(teacher)


_TABLE_LEVELS = 3


class Coarse(Int8):
    """A compression method whose file defines a name that another file defines, too."""

    name = "coarse"

    def prepared(self, matrices):
        return {"weight": (matrices["weight"] * _TABLE_LEVELS).round() / _TABLE_LEVELS}


def test_a_name_with_two_definitions_is_refused(config, monkeypatch):
    monkeypatch.setitem(REGISTRY, "coarse", Coarse)
    compression.cache_clear()
    with pytest.raises(ExportError, match="'_TABLE_LEVELS': a name may have only one meaning in an export"):
        modeling_source(config.with_architecture(replace(config.architecture, embedding="coarse")))
    compression.cache_clear()


def test_the_message_about_a_name_with_two_origins_names_modules():
    copied = _CopiedCode({}, "sequence_classifier")
    copied.imports["nn"] = ("torch", "nn")
    with pytest.raises(ExportError, match=r"'nn': a name .* comes from torch\.nn and from own\.layers; rename one"):
        copied._record(copied.definitions, "nn", "own.layers")


def test_a_compression_method_may_import_from_its_own_package(config, monkeypatch, tmp_path):
    package = tmp_path / "mychoices"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "levels.py").write_text('"""Levels."""\n\nFEW = 3\n')
    (package / "few.py").write_text(
        '"""Few."""\n\nfrom nas.compression.int8 import Int8\nfrom .levels import FEW\n\n\n'
        'class Few(Int8):\n    name = "few"\n\n    def prepared(self, matrices):\n        return {"weight": FEW}\n'
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(REGISTRY, "few", importlib.import_module("mychoices.few").Few)
    compression.cache_clear()
    text = modeling_source(config.with_architecture(replace(config.architecture, embedding="few")))
    compression.cache_clear()
    assert "FEW = 3" in text and "mychoices" not in "".join(line for line in text.splitlines() if "import" in line)


def test_a_compression_method_that_is_not_in_a_file_is_refused(config, monkeypatch, tiny_study, tmp_path):
    names: dict = {}
    exec("from nas.compression.int8 import Int8\nclass Typed(Int8):\n    name = 'typed'", names)
    names["Typed"].__module__ = "builtins"
    monkeypatch.setitem(REGISTRY, "typed", names["Typed"])
    compression.cache_clear()
    message = "builtins: code that an export needs must be in a file"
    with pytest.raises(ExportError, match=message):
        modeling_source(config.with_architecture(replace(config.architecture, embedding="typed")))
    (tiny_study.parent / "mine.toml").write_text(
        shipped_spaces()["tiny"].read_text().replace("embedding = [", 'embedding = ["typed", ')
    )
    tiny_study.write_text(tiny_study.read_text().replace('name = "tiny"', 'name = "mine.toml"'))
    with pytest.raises(ExportError, match=message):  # before any training
        plan(Study.load(tiny_study), tmp_path)
    compression.cache_clear()
