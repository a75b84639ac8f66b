"""Tokenizers of teachers are made uniform, and those that do not fit the network are refused with a clear message."""

from __future__ import annotations

import json

import pytest
from tiny import POSITIONS, WORDS, make_teacher, make_tokenizer, save_teacher
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from nas.errors import TeacherError
from nas.model.teacher_config import read_config
from nas.model.tokenizer import check_ids, check_tokenizer, ignored_code, load_tokenizer

TEXT = "w1 w2 w3 w4 w5 w6 w7 w8"
USUAL = [2, *range(5, 13), 3]


@pytest.fixture
def folder(tmp_path):
    save_teacher(tmp_path)
    return tmp_path


def _edit(path, change):
    values = json.loads(path.read_text())
    change(values)
    path.write_text(json.dumps(values))


def _refusal(folder):
    with pytest.raises(TeacherError) as problem:
        check_tokenizer(load_tokenizer(folder), str(folder), read_config(str(folder)))
    message = str(problem.value)
    assert message.startswith(f"teacher.model: {folder}: its tokenizer") and "\n" not in message
    return message


@pytest.mark.parametrize("side", ["left", "right"])
def test_stored_padding_and_truncation_are_removed_but_the_truncation_side_is_kept(folder, side):
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
    tokenizer.backend_tokenizer.enable_truncation(5, stride=1, direction=side)
    tokenizer.backend_tokenizer.enable_padding(direction="left", pad_id=0, pad_token="[PAD]", length=24)
    tokenizer.backend_tokenizer.save(str(folder / "tokenizer.json"))
    loaded = load_tokenizer(folder)
    loaded.save_pretrained(folder / "saved")
    for found in (loaded, AutoTokenizer.from_pretrained(folder / "saved")):
        assert (found.padding_side, found.truncation_side) == ("right", side)
        assert found(TEXT)["input_ids"] == USUAL
        padded = found([TEXT, "w1"], padding=True)
        assert padded["input_ids"][1] == [2, 5, 3] + [0] * 7 and padded["attention_mask"][1] == [1] * 3 + [0] * 7
        cut = [2, *(USUAL[-4:-1] if side == "left" else USUAL[1:4]), 3]
        assert found(TEXT, truncation=True, max_length=5)["input_ids"] == cut
    stored = json.loads((folder / "saved" / "tokenizer.json").read_text())
    assert stored["padding"] is None and stored["truncation"] is None


@pytest.mark.parametrize("name", ["padding_side", "truncation_side"])
def test_padding_is_always_on_the_right_but_the_truncation_side_is_read_from_the_settings(folder, name):
    _edit(folder / "tokenizer_config.json", lambda values: values.update({name: "left"}))
    loaded = load_tokenizer(folder)
    assert loaded.padding_side == "right"
    assert loaded.truncation_side == ("left" if name == "truncation_side" else "right")


def test_a_tokenizer_is_loaded_even_if_transformers_refuses_the_configuration(folder):
    _edit(folder / "config.json", lambda values: values.update(layer_norm_eps="1e-12"))
    config = read_config(str(folder))
    tokenizer = load_tokenizer(folder, config)
    check_tokenizer(tokenizer, str(folder), config)
    assert tokenizer(TEXT)["input_ids"] == USUAL


def test_a_tokenizer_that_adds_no_special_tokens_is_accepted(folder):
    _edit(folder / "tokenizer.json", lambda values: values.update(post_processor=None))
    tokenizer = load_tokenizer(folder)
    check_tokenizer(tokenizer, str(folder), read_config(str(folder)))
    assert tokenizer(TEXT)["input_ids"] == USUAL[1:-1]


def test_a_tokenizer_written_in_python_is_refused(folder):
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).unlink()
    (folder / "vocab.txt").write_text("".join(f"{word} 1\n" for word in WORDS))
    (folder / "bpe.codes").write_text("#version: 0.2\n1 0</w> 1\n")
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "PhobertTokenizer"}')
    message = _refusal(folder)
    assert "PhobertTokenizer, is written in Python" in message and "add a tokenizer.json" in message


def _without_padding(folder):
    _edit(folder / "tokenizer_config.json", lambda values: values.pop("pad_token"))


def _without_unknown(folder):
    _edit(folder / "tokenizer_config.json", lambda values: values.pop("unk_token"))
    _edit(folder / "tokenizer.json", lambda values: values["model"].update(unk_token="[NOTHING]"))


def _limit_in_quotes(folder):
    _edit(folder / "tokenizer_config.json", lambda values: values.update(model_max_length="512"))


def _padding_without_row(folder):
    _edit(folder / "tokenizer_config.json", lambda values: values.update(pad_token="[FILL]"))


def _end_without_row(folder):
    def change(values):
        values["post_processor"]["special_tokens"]["[SEP]"]["ids"] = [64]

    tokenizer = make_tokenizer()
    tokenizer.add_tokens("[END]")
    tokenizer.save_pretrained(folder)
    _edit(folder / "tokenizer.json", change)


def _third_type(folder):
    def change(values):
        values["post_processor"]["pair"][-1]["SpecialToken"]["type_id"] = 2

    _edit(folder / "tokenizer.json", change)


def _broken(folder):
    (folder / "tokenizer.json").write_text("{}")


def _no_vocabulary(folder):
    _edit(folder / "tokenizer.json", lambda values: values["model"].pop("vocab"))


@pytest.mark.parametrize(
    ("auto_map", "named"),
    [
        ({"AutoTokenizer": ["own.Slow", "own.Fast"]}, "own.Fast"),
        ({"AutoTokenizer": ["own.Slow", None]}, "own.Slow"),
        (["own.Slow", "own.Fast"], "own.Fast"),
        ({"AutoTokenizer": "own.Slow"}, "own.Slow"),
        ({"AutoModel": "own.Model"}, ""),
    ],
)
def test_custom_tokenizer_code_is_named_but_not_run(folder, auto_map, named):
    _edit(folder / "tokenizer_config.json", lambda values: values.update(auto_map=auto_map))
    assert ignored_code(folder) == named
    assert load_tokenizer(folder)(TEXT)["input_ids"] == USUAL
    (folder / "tokenizer_config.json").unlink()
    assert ignored_code(folder) == ""


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (_without_padding, 'no padding token; set "pad_token" in tokenizer_config.json to'),
        (_without_unknown, "fails on unknown characters"),
        (_limit_in_quotes, "fails on a pair of empty texts: '>' not supported between"),
        (_padding_without_row, "'[FILL]', number 64, but the model has embeddings for only 64 tokens"),
        (_end_without_row, "'[END]', number 64, but the model has embeddings for only 64 tokens"),
        (_third_type, "token types up to 2, but config.json has type_vocab_size 2"),
        (_broken, "cannot be loaded"),
        (_no_vocabulary, "cannot be loaded"),
    ],
)
def test_a_tokenizer_that_does_not_fit_the_network_is_refused_in_one_line(folder, spoil, words):
    spoil(folder)
    assert words in _refusal(folder)


def test_added_tokens_without_embeddings_are_refused_only_if_texts_contain_them(folder):
    tokenizer = make_tokenizer()
    tokenizer.add_tokens(["<laugh>", "<cry>"])
    tokenizer.save_pretrained(folder)
    config, tokenizer = read_config(str(folder)), load_tokenizer(folder)
    check_tokenizer(tokenizer, str(folder), config)
    check_ids(tokenizer(TEXT)["input_ids"], tokenizer, str(folder), config)
    with pytest.raises(TeacherError, match=r"uses the token '<laugh>', number 64 \(and 1 more\)"):
        check_ids(tokenizer("w1 <cry> <laugh>")["input_ids"], tokenizer, str(folder), config)


def test_a_text_with_the_token_that_a_roberta_skips_in_counting_positions_is_refused(tmp_path):
    make_teacher("roberta", vocab_size=64).save_pretrained(tmp_path)  # its config.json says pad_token_id 1, "[UNK]"
    make_tokenizer().save_pretrained(tmp_path)
    config, tokenizer = read_config(str(tmp_path)), load_tokenizer(tmp_path)
    check_tokenizer(tokenizer, str(tmp_path), config)
    check_ids(tokenizer(TEXT)["input_ids"], tokenizer, str(tmp_path), config)
    message = r"RoBERTa models skip .* token 1, .* contain this token, '\[UNK\]'; set pad_token_id .* 0"
    with pytest.raises(TeacherError, match=message):
        check_ids(tokenizer("w1 unknown")["input_ids"], tokenizer, str(tmp_path), config)


def test_the_maximum_length_is_kept(folder):
    assert load_tokenizer(folder).model_max_length == POSITIONS
