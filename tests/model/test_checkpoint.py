"""Complete checkpoints of teachers are loaded in float32, and others are refused with a message of one line."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny import TEACHERS, randomise
from transformers import AutoModel, AutoModelForMaskedLM

from nas.errors import TeacherError
from nas.model.checkpoint import Checkpoint
from nas.model.teacher_config import read_config

WEIGHTS = "model.safetensors"


@pytest.fixture
def folder(tmp_path, teacher):
    teacher.save_pretrained(tmp_path)
    return tmp_path


def _change(folder, change):
    save_file(change(load_file(folder / WEIGHTS)), folder / WEIGHTS, metadata={"format": "pt"})


def _load(folder):
    config = read_config(str(folder))
    return Checkpoint.of(str(folder), config).load(config)


def _refusal(folder):
    with pytest.raises(TeacherError) as problem:
        _load(folder)
    message = str(problem.value)
    assert message.startswith(f"teacher.model: {folder}: ") and "\n" not in message
    return message


def _prefixed(prefix):
    return lambda found: {prefix + name: value for name, value in found.items()}


def _old_norms(found):
    return {
        name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): value
        for name, value in found.items()
    }


def _with_buffers(found):
    table = next(name for name in found if name.endswith(("word_embeddings.weight", "tok_embeddings.weight")))
    ids = torch.arange(40)[None]
    extra = {"position_ids": ids, "token_type_ids": ids * 0}
    place = table.removesuffix("weight").rstrip(".").rpartition(".")[0]
    return found | {f"{place}.{name}": value.clone() for name, value in extra.items()}


@pytest.mark.parametrize("teacher_kind", TEACHERS)
@pytest.mark.parametrize(
    "change",
    [
        dict,
        _prefixed("module."),
        _prefixed("_orig_mod.module."),
        _prefixed("model."),
        _old_norms,
        _with_buffers,
        lambda found: found | {"cls.predictions.bias": torch.zeros(90), "criterion.weight": torch.ones(3)},
        lambda found: found | {f"average.{name}": value + 1.0 for name, value in found.items()},
    ],
    ids=["as saved", "DataParallel", "compiled", "wrapped", "old norms", "buffers", "other heads", "averaged copy"],
)
def test_weights_are_loaded_whatever_prefixes_and_extra_entries_the_file_has(folder, teacher, change):
    _change(folder, change)
    found = _load(folder).state_dict()
    assert all(torch.equal(found[name], value) for name, value in teacher.state_dict().items())


def test_the_encoder_may_have_another_prefix_than_the_head(folder, teacher):
    _change(folder, lambda found: {name.replace("bert.", "encoder_model."): value for name, value in found.items()})
    found = _load(folder).state_dict()
    assert all(torch.equal(found[name], value) for name, value in teacher.state_dict().items())


@pytest.mark.parametrize("dtypes", [[torch.float16], [torch.bfloat16], [torch.float64, torch.bfloat16, torch.float32]])
def test_weights_are_loaded_in_float32(folder, teacher, dtypes):
    def change(found):
        return {name: value.to(dtypes[at % len(dtypes)]) for at, (name, value) in enumerate(found.items())}

    _change(folder, change)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"dtype": str(dtypes[0]).removeprefix("torch.")}))
    model, stored = _load(folder), load_file(folder / WEIGHTS)
    assert {value.dtype for value in model.state_dict().values()} == {torch.float32}
    assert all(torch.equal(model.state_dict()[name], value.float()) for name, value in stored.items())
    assert model.config.dtype in (None, torch.float32)


@pytest.mark.parametrize("teacher_kind", TEACHERS)
@pytest.mark.parametrize("kind", [AutoModel, AutoModelForMaskedLM])
def test_only_the_head_may_be_missing(tmp_path, teacher, kind):
    encoder = randomise(kind.from_config(teacher.config))
    encoder.save_pretrained(tmp_path)
    config = read_config(str(tmp_path))
    checkpoint = Checkpoint.of(str(tmp_path), config)
    assert checkpoint.labels is None and set(checkpoint.new) <= checkpoint.head
    model, base = checkpoint.load(config), teacher.base_model_prefix
    own = getattr(encoder, base, encoder).state_dict()
    loaded = getattr(model, base).state_dict()
    assert all(torch.equal(value, own[name]) for name, value in loaded.items() if not name.startswith("pooler."))


def test_the_head_of_a_multiple_choice_model_is_not_a_classifier_of_texts(folder, teacher):
    edited = json.loads((folder / "config.json").read_text()) | {"architectures": ["BertForMultipleChoice"]}
    (folder / "config.json").write_text(json.dumps(edited))
    checkpoint = Checkpoint.of(str(folder), read_config(str(folder)))
    assert checkpoint.labels is None and "classifier.weight" in checkpoint.new


def test_a_head_of_another_size_is_replaced_by_a_new_one(folder, teacher):
    wider = {"classifier.weight": torch.randn(5, 32), "classifier.bias": torch.randn(5)}
    _change(folder, lambda found: found | wider)
    config = read_config(str(folder))
    checkpoint = Checkpoint.of(str(folder), config)
    assert checkpoint.labels == 5 and checkpoint.new == ["classifier.bias", "classifier.weight"]
    model = checkpoint.load(config)
    assert model.classifier.weight.shape == (3, 32)
    assert torch.equal(model.bert.pooler.dense.weight, teacher.bert.pooler.dense.weight)


_QUERY = "bert.encoder.layer.1.attention.self.query.weight"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            lambda found: {name: found[name] for name in found if name != _QUERY},
            [f"lacks {_QUERY}, one of the 53 weights"],
        ),
        (
            lambda found: {name: found[name] for name in found if ".layer.2." not in name},
            ["lacks bert.encoder.layer.2.attention.output.LayerNorm.bias and 15 more of the 53 weights"],
        ),
        (lambda found: {"classifier.weight": found["classifier.weight"]}, ["no bert.embeddings.word_embeddings"]),
        (
            lambda found: {f"{side}.{name}": found[name].clone() for side in ("query", "passage") for name in found},
            ["several encoders"],
        ),
        (
            lambda found: found | {"bert.encoder.layer.3.output.dense.bias": torch.zeros(32)},
            ["has the weight bert.encoder.layer.3.output.dense.bias, which a model with this config.json"],
        ),
        (
            lambda found: found | {"bert.embeddings.word_embeddings.weight": torch.zeros(95, 32)},
            ["word_embeddings.weight has the shape [95, 32], but config.json requires [90, 32]"],
        ),
        (lambda found: found | {_QUERY: torch.zeros(32, 32, dtype=torch.int8)}, [_QUERY, "stored as I8", "quantised"]),
        (lambda found: found | {_QUERY: torch.full((32, 32), torch.inf)}, [_QUERY, "not finite"]),
        (
            lambda found: {
                name.replace("query.weight", part): value.clone()
                for name, value in found.items()
                for part in ("query.base_layer.weight", "query.lora_A.default.weight")
            },
            ["lacks bert.encoder.layer.0.attention.self.query.weight and 2 more", "merge the adapter"],
        ),
        (
            lambda found: found | {"bert.encoder.layer.0.attention.self.query.lora_A.weight": torch.ones(4, 32)},
            ["has the weight bert.encoder.layer.0.attention.self.query.lora_A.weight", "merge the adapter"],
        ),
        (
            lambda found: found | {"bert.encoder.layer.0.attention.self.query.weight_mask": torch.ones(32, 32)},
            ["query.weight_mask", "make the pruning permanent"],
        ),
        (_prefixed("roberta."), ["model_type is 'bert'", "'roberta.bert.'"]),
        (
            lambda found: found | {"bert.embeddings.LayerNorm.gamma": torch.ones(32)},
            ["has the weight bert.embeddings.LayerNorm.weight twice", "LayerNorm.gamma"],
        ),
    ],
)
def test_unusable_weights_are_refused_in_one_line(folder, change, words):
    _change(folder, change)
    message = _refusal(folder)
    assert all(word in message for word in words), message


@pytest.mark.parametrize("size", [0, 4, 100, 20_000])
def test_a_damaged_file_is_refused_in_one_line(folder, size):
    path = folder / WEIGHTS
    path.write_bytes(path.read_bytes()[:size])
    assert f"{WEIGHTS} cannot be loaded" in _refusal(folder)


def test_shards_are_loaded_by_their_index(tmp_path, teacher):
    teacher.save_pretrained(tmp_path, max_shard_size="20KB")
    shards = sorted(tmp_path.glob("model-*.safetensors"))
    assert len(shards) > 1
    found = _load(tmp_path).state_dict()
    assert all(torch.equal(found[name], value) for name, value in teacher.state_dict().items())
    shards[0].unlink()
    assert f"has no {shards[0].name}, which model.safetensors.index.json lists" in _refusal(tmp_path)


@pytest.mark.parametrize("sharded", [False, True])
def test_pickled_weights_are_refused_with_a_command_that_converts_them(folder, teacher, sharded, monkeypatch):
    weights = load_file(folder / WEIGHTS)
    (folder / WEIGHTS).unlink()
    names = sorted(weights)
    parts = [names[::2], names[1::2]] if sharded else [names]
    for number, part in enumerate(parts):
        suffix = f"-0000{number + 1}-of-00002" if sharded else ""
        torch.save({name: weights[name] for name in part}, folder / f"pytorch_model{suffix}.bin")
    if sharded:
        (folder / "pytorch_model.bin.index.json").write_text("{}")
    message = _refusal(folder)
    assert "has pytorch_model.bin" in message and "python -c " in message
    script = message.split('python -c "')[1].removesuffix('"')
    monkeypatch.chdir(folder)
    exec(script, {})
    found = _load(folder).state_dict()
    assert all(torch.equal(found[name], value) for name, value in teacher.state_dict().items())


def test_a_folder_without_weights_is_refused_in_one_line(folder):
    (folder / WEIGHTS).unlink()
    assert "has no model.safetensors; load the model with transformers" in _refusal(folder)
    (folder / "tf_model.h5").touch()
    assert "has no model.safetensors, only tf_model.h5; load the model" in _refusal(folder)
    for number in (1, 2):
        (folder / f"model-0000{number}-of-00002.safetensors").touch()
    message = "such as model-00001-of-00002.safetensors, but no model.safetensors.index.json, which lists them; copy"
    assert message in _refusal(folder)
