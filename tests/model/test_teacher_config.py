"""In a teacher's config.json, values of other types are converted, invalid ones refused, and unused ones ignored."""

from __future__ import annotations

import json

import pytest
from tiny import TEACHERS, make_teacher
from transformers import AutoConfig

from nas.errors import TeacherError
from nas.model.stock import compact_config, shape_of
from nas.model.teacher_config import read_config


@pytest.fixture
def written(tmp_path, teacher_kind):
    """Return a function that writes a tiny teacher's config.json with changes (`...` removes a setting).

    The function returns the folder.
    """

    def write(**changes: object) -> str:
        values = json.loads(make_teacher(teacher_kind).config.to_json_string()) | changes
        kept = {name: value for name, value in values.items() if value is not ...}
        (tmp_path / "config.json").write_text(json.dumps(kept))
        return str(tmp_path)

    return write


@pytest.mark.parametrize("teacher_kind", TEACHERS)
def test_a_usual_configuration_is_read_as_by_transformers(written):
    folder = written()
    usual = compact_config(AutoConfig.from_pretrained(folder))
    assert compact_config(read_config(folder)).to_dict() == usual.to_dict()


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("layer_norm_eps", "1e-12", 1e-12),
        ("layer_norm_eps", "1E-5", 1e-5),
        ("num_attention_heads", 4.0, 4),
        ("hidden_size", "32", 32),
        ("hidden_dropout_prob", "0.25", 0.25),
        ("hidden_dropout_prob", 0, 0.0),
        ("classifier_dropout", None, None),
        ("pad_token_id", None, None),
        ("pad_token_id", "3", 3),
        ("position_embedding_type", None, None),
        ("hidden_act", "relu", "relu"),
    ],
)
def test_numbers_of_other_types_are_converted(written, name, value, expected):
    found = getattr(read_config(written(**{name: value})), name, None)
    assert found == expected and type(found) is type(expected)


@pytest.mark.parametrize(
    ("name", "value", "rule"),
    [
        ("layer_norm_eps", None, "a number above 0, but got null"),
        ("layer_norm_eps", "small", 'a number above 0, but got "small"'),
        ("layer_norm_eps", float("nan"), "a number above 0, but got NaN"),
        ("hidden_dropout_prob", None, "a number of at least 0 and below 1, but got null"),
        ("hidden_dropout_prob", 1.5, "a number of at least 0 and below 1, but got 1.5"),
        ("num_attention_heads", 4.5, "a whole number above 0, but got 4.5"),
        ("num_hidden_layers", True, "a whole number above 0, but got true"),
        ("num_hidden_layers", [3], "a whole number above 0, but got [3]"),
        ("vocab_size", 0, "a whole number above 0, but got 0"),
        ("pad_token_id", -1, "a whole number of at least 0, or null, but got -1"),
        ("pad_token_id", 90, "below vocab_size, 90, but got 90"),
        ("pruned_heads", {"0": [1]}, 'absent or false, but got {"0": [1]}'),
        ("quantization_config", {"load_in_8bit": True}, "absent or false"),
        ("is_decoder", True, "absent or false, but got true"),
        ("problem_type", "ranking", 'single_label_classification or multi_label_classification, but got "ranking"'),
        ("id2label", {"0": "bad", "2": "good"}, "0, 1, 2 and so on"),
        ("id2label", {"first": "bad"}, "0, 1, 2 and so on"),
        ("id2label", "bad", "0, 1, 2 and so on"),
        ("id2label", {"0": "bad", "1": "bad"}, 'each label a different name, but got {"0": "bad", "1": "bad"}'),
        ("id2label", [None, None], 'each label a different name, but got {"0": null, "1": null}'),
        ("model_type", ..., "but got null; set it"),
    ],
)
def test_invalid_values_are_refused_in_one_line(written, name, value, rule):
    folder = written(**{name: value})
    with pytest.raises(TeacherError) as problem:
        read_config(folder)
    message = str(problem.value)
    assert message.startswith(f"teacher.model: {folder}: config.json: {name} must ") and rule in message
    assert "\n" not in message and "; " in message


@pytest.mark.parametrize(
    "setting",
    [
        {"return_dict": False},
        {"output_attentions": True},
        {"output_hidden_states": "yes"},
        {"torchscript": True},
        {"attn_implementation": "flash_attention_2", "_attn_implementation": "eager"},
        {"torch_dtype": "float16"},
        {"dtype": "no such type"},
        {"use_cache": None, "gradient_checkpointing": True, "pruned_heads": {}, "quantization_config": None},
        {"tie_word_embeddings": "true", "bos_token_id": "none", "chunk_size_feed_forward": 4},
        {"transformers_version": 4, "_name_or_path": "/home/someone", "xla_device": True},
    ],
)
def test_settings_that_do_not_change_what_is_computed_are_ignored(written, setting):
    usual = read_config(written())
    assert read_config(written(**setting)).to_dict() == usual.to_dict()


@pytest.mark.parametrize(
    ("given", "names"),
    [
        ({"id2label": {"1": "good", "0": "bad"}}, ["bad", "good"]),
        ({"id2label": ["bad", "good", "odd"]}, ["bad", "good", "odd"]),
        ({"id2label": {"0": 7, "1": 9}, "num_labels": 5}, ["7", "9"]),
        ({"id2label": None, "label2id": {"good": 1, "bad": "0"}}, ["bad", "good"]),
        ({"id2label": {}, "label2id": None, "num_labels": 3.0}, ["LABEL_0", "LABEL_1", "LABEL_2"]),
        ({"id2label": ..., "label2id": ...}, ["LABEL_0", "LABEL_1"]),
    ],
)
def test_label_names_are_read_from_any_form(written, given, names):
    config = read_config(written(**given))
    assert config.id2label == dict(enumerate(names)) and config.num_labels == len(names)
    assert config.label2id == {name: number for number, name in enumerate(names)}


@pytest.mark.parametrize("teacher_kind", ["bert", "distilbert"])
def test_an_activation_of_null_is_refused(written, teacher_kind):
    name = "activation" if teacher_kind == "distilbert" else "hidden_act"
    with pytest.raises(TeacherError, match=f"{name} must be gelu or .* but got 'None'"):
        shape_of(read_config(written(**{name: None})))


@pytest.mark.parametrize("teacher_kind", ["distilbert"])
def test_settings_may_have_the_names_that_other_families_use(written):
    folder = written(dim=..., n_layers=..., hidden_size="32", num_hidden_layers=3)
    config = read_config(folder)
    assert (config.dim, config.n_layers) == (32, 3)


@pytest.mark.parametrize("text", [b"{", b"\xff\xfe\xfd", b"[1]", b""])
def test_a_file_that_is_not_a_json_object_is_refused(tmp_path, text):
    (tmp_path / "config.json").write_bytes(text)
    with pytest.raises(TeacherError, match=r"config\.json (is not valid JSON|must hold a JSON object)"):
        read_config(str(tmp_path))


def test_an_adapter_without_its_model_is_refused_with_the_advice_to_merge_it(tmp_path):
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(
        TeacherError, match=r"has no config\.json; merge the adapter .*, or give the folder or hub id of"
    ):
        read_config(str(tmp_path))


def test_the_message_about_a_missing_configuration_names_the_subfolder_that_holds_a_model(tmp_path):
    """It may be a checkpoint of the Trainer or, with a `modules.json`, an encoder of sentence-transformers."""
    (tmp_path / "0").mkdir()
    (tmp_path / "0" / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(
        TeacherError, match=r"has no config\.json; give the subfolder 0, or give the folder or hub id of"
    ):
        read_config(str(tmp_path))
    (tmp_path / "modules.json").write_text("[]")
    with pytest.raises(
        TeacherError, match=r"; move the files of the subfolder 0 into this folder, and correct modules"
    ):
        read_config(str(tmp_path))
