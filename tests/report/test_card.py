"""The model card: it reports the measurements, a hub can read it, and its code examples work."""

from __future__ import annotations

import json
import random
import re
import shlex
import subprocess
import sys
from dataclasses import replace

import onnxruntime
import pytest
from hub_server import folder_files
from huggingface_hub import ModelCard
from tiny import HUB_STUDY, fill_hub, make_teacher, make_tokenizer, mixed_space, randomise, write_pair_study

from nas.compression import REGISTRY
from nas.device import Device
from nas.export.artefact import write_artefact
from nas.export.standalone import MODELING_FILE
from nas.hub import find, model_folder
from nas.model.stock import from_stock
from nas.report.card import write_card
from nas.report.loading import snippets
from nas.study import Study
from nas.supernet import BertSupernet, SupernetWeights
from nas.tasks import task_kind

KIND = task_kind("classification")

LATENCY = {"device": Device(name="cpu").model_dump(mode="json"), "p50_ms": 8.0, "p95_ms": 9.0, "expected_ms": 8.1}


def _found(**changed):
    return {
        "budget": {"name": "fast", "limits": [{"device": "cpu", "p50_ms": "50%", "size_mb": 2.5}]},
        "device": "cpu",
        "metric": "accuracy",
        "accuracy": 0.81254,
        "accuracy_standard_error": 0.0117,
        "teacher_accuracy": 0.8333,
        "test_examples": 872,
        "p50_ms": 4.123,
        "p95_ms": 4.567,
        "expected_ms": 4.2,
        "teacher_p50_ms": 8.0,
        "speed_up": 1.94,
        "met": True,
        "size_mb": 1.29,
        "params": 123_456,
        "agreement_with_hugging_face": 0.995,
        "latency": LATENCY,
        "teacher_latency": LATENCY,
        "environment": {"processor": "A processor", "runtime_version": "1.2.3"},
    } | changed


def _export(folder, outputs=2, **changed):
    space, teacher = mixed_space(), from_stock(randomise(make_teacher("bert", outputs)))
    weights = SupernetWeights.of(teacher, space.dimensions.hidden_size, space.compression, outputs > 1)
    architecture = space.sample(random.Random(3)) if outputs > 1 else space.largest()
    write_artefact(BertSupernet(weights).extract(architecture), make_tokenizer(), folder)
    (folder / "verification.json").write_text(json.dumps(_found(**changed)))
    return architecture


@pytest.fixture
def card(tiny_study, tmp_path):
    """The card of an export of a tiny study whose teacher has a licence, and the architecture of that export."""
    licence = "---\nlicense: other\nlicense_name: as-is\nlicense_link: LICENSE\n---\n# A teacher\n"
    (tiny_study.parent / "teacher" / "README.md").write_text(licence)
    architecture = _export(tmp_path / "fast")
    write_card(tmp_path / "fast", Study.load(tiny_study))
    return ModelCard.load(tmp_path / "fast" / "README.md"), architecture


def test_a_hub_can_read_the_metadata(card):
    data = card[0].data
    assert (data.license, data.license_name, data.license_link) == ("other", "as-is", "LICENSE")
    assert data.pipeline_tag == "text-classification" and data.library_name == "transformers"
    (result,) = data.eval_results
    assert (result.metric_type, result.metric_value, result.dataset_name) == ("accuracy", 0.8125, "test.parquet")
    assert data.base_model is None and data.datasets is None  # neither is on a hub


def test_the_card_reports_the_measurements_and_their_conditions(card):
    text, architecture = card[0].text, card[1]
    assert (
        re.search(r"^Blocks compressed with .*int8.* are quantised .* serve texts one by one", text, re.MULTILINE)
        and "served file and this folder's model in torch give the same answer | 99.5 % |" in text
    )
    assert "| accuracy on the test set | 0.8125 ± 0.0117 | 0.8333 |" in text
    assert "| latency, device cpu, 95th percentile | 4.57 ms | 9.00 ms |" in text
    assert "872 test examples" in text and "Texts were truncated to 32 tokens" in text
    assert "onnxruntime 1.2.3, 1 thread, batch 1, 128 tokens, A processor" in text
    assert "p50 ≤ 4.00 ms = 50% of the teacher's, size ≤ 2.50 MB. Met: yes." in text
    assert "Licence: other as-is LICENSE." in text and "fine-tuned on the data first" in text
    rows = re.findall(r"^\| \d+ \| (\d+) \|(.*)\|$", text, re.MULTILINE)
    assert [int(source) for source, _ in rows] == [layer.source for layer in architecture.layers]
    for layer, (_, cells) in zip(architecture.layers, rows, strict=True):
        assert f" {layer.attention} |" in cells and f" {layer.feed_forward} |" in cells


def test_the_card_names_the_class_of_f1(tiny_study, tmp_path):
    _export(tmp_path / "fast", metric="f1 of 'hate'")
    tiny_study.write_text(tiny_study.read_text().replace('text = ["text"]', 'text = ["text"]\nmetric = "f1"'))
    write_card(tmp_path / "fast", Study.load(tiny_study))
    card = ModelCard.load(tmp_path / "fast" / "README.md")
    result = card.data.eval_results[0]
    assert (result.metric_type, result.metric_name) == ("f1", "f1 of 'hate'")
    assert "| f1 of 'hate' on the test set | 0.8125" in card.text


@pytest.mark.parametrize(("embedding", "named"), [("int8", False), ("low_rank(8)", False), ("low_rank(8)+int8", True)])
def test_the_card_names_embeddings_whose_quantisation_depends_on_the_batch(embedding, named, tiny_study, tmp_path):
    write_artefact(_with_embedding(embedding), make_tokenizer(), tmp_path / "fast")
    (tmp_path / "fast" / "verification.json").write_text(json.dumps(_found()))
    write_card(tmp_path / "fast", Study.load(tiny_study))
    text = ModelCard.load(tmp_path / "fast" / "README.md").text
    assert (
        "Blocks compressed with low_rank(8)+int8 are quantised with a scale that depends on the whole batch" in text
    ) == named
    assert named or "are quantised with a scale" not in text


def _with_embedding(embedding):
    space, teacher = mixed_space(), from_stock(randomise(make_teacher("bert", 2)))
    weights = SupernetWeights.of(teacher, space.dimensions.hidden_size, space.compression, True)
    return BertSupernet(weights).extract(replace(space.largest(), embedding=embedding))


def test_the_card_reports_a_low_agreement_and_a_method_without_docstring(tiny_study, tmp_path, monkeypatch):
    monkeypatch.setattr(REGISTRY["int8"], "__doc__", None)
    _export(tmp_path / "fast", agreement_with_hugging_face=0.9312, agrees=False)
    write_card(tmp_path / "fast", Study.load(tiny_study))
    text = ModelCard.load(tmp_path / "fast" / "README.md").text
    assert "this folder's model in torch give the same answer for only 93.1 % of the texts" in text
    assert "\n- int8\n" in text and f"onnxruntime {onnxruntime.__version__}" in text


def test_the_code_examples_work(card, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for code in re.findall(r"```python\n(.*?)```", card[0].text, re.DOTALL):
        exec(code, {})
        assert re.search(r"-?\d\.\d", capsys.readouterr().out)
    (command,) = re.findall(r"```bash\npython (.*?)\n```", card[0].text, re.DOTALL)
    done = subprocess.run([sys.executable, *shlex.split(command)], capture_output=True, text=True, check=True)
    assert re.fullmatch(r"LABEL_\d\t\d\.\d+\n", done.stdout)


def test_the_card_of_a_network_that_scores_pairs_on_a_device_not_measured_yet(tmp_path):
    study, folder = write_pair_study(tmp_path / "pairs"), tmp_path / "only"
    unknown = dict.fromkeys(("p50_ms", "p95_ms", "expected_ms", "teacher_p50_ms", "speed_up", "met"))
    _export(folder, 1, metric="spearman", accuracy_standard_error=None, **unknown)
    found = json.loads((folder / "verification.json").read_text())
    (folder / "verification.json").write_text(
        json.dumps({key: value for key, value in found.items() if "latency" not in key})
    )
    write_card(folder, Study.load(study))
    card = ModelCard.load(folder / "README.md")
    assert card.data.license == "unknown" and "Licence: unknown.\n- Data" in card.text
    assert "one by one" not in card.text, "nothing in it is int8"
    assert card.data.metrics == ["spearmanr"]
    assert "Scores pairs of texts." in card.text and "not measured yet" in card.text and "--pairs" in card.text
    assert '"text_pair"' in card.text and "±" not in card.text


def test_a_teacher_and_data_from_a_hub_are_named_with_their_commits(hub, tmp_path):
    fill_hub(hub, tmp_path / "uploaded")
    hub.add("model", "someone/bert", folder_files(tmp_path / "uploaded") | {"README.md": "---\nlicense: mit\n---\n"})
    found, _ = find("model", "someone/bert", None)
    model_folder(found, weights=False)
    (tmp_path / "study.toml").write_text(HUB_STUDY)
    _export(tmp_path / "fast", commits={"teacher": found.commit, "task": "1" * 40})
    write_card(tmp_path / "fast", Study.load(tmp_path / "study.toml"))
    card = ModelCard.load(tmp_path / "fast" / "README.md")
    assert card.data.base_model == "someone/bert" and card.data.license == "mit"
    assert card.data.eval_results[0].dataset_revision == "1" * 40
    assert f"Teacher: someone/bert at commit {found.commit} (" in card.text
    assert f"Data: train and test of someone/words at commit {'1' * 40}, column text" in card.text


@pytest.mark.parametrize(
    ("head", "licence"),
    [
        (b"license: [mit, apache-2.0]", "mit, apache-2.0"),
        (b"license: [mit", "unknown"),
        (b"- mit", "unknown"),
        (b"license: \xff", "unknown"),
    ],
)
def test_the_licence_in_a_teacher_s_card_is_read_or_unknown(head, licence, tiny_study, tmp_path):
    (tiny_study.parent / "teacher" / "README.md").write_bytes(b"---\n" + head + b"\n---\n")
    _export(tmp_path / "fast")
    write_card(tmp_path / "fast", Study.load(tiny_study))
    assert ModelCard.load(tmp_path / "fast" / "README.md").data.license == licence


def test_code_examples_use_only_files_that_exist():
    own, stock = (snippets("a folder", files, True, KIND) for files in ([MODELING_FILE, "infer.py"], ["model.onnx"]))
    assert [len(own), len(stock)] == [3, 2]
    assert "trust_remote_code" in own[0].code and "trust_remote_code" not in stock[0].code
    assert "'a folder/infer.py' --pairs" in own[2].code
