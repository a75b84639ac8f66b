"""Tokenizers of exports give the token ids on which the accuracy was measured, no matter how they are loaded."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tiny import POSITIONS, WORDS, make_tokenizer
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoTokenizer, BertTokenizer, PreTrainedTokenizerFast, RobertaTokenizer

from nas.data import Splits
from nas.data.sample import sample_of
from nas.data.task import SPLITS
from nas.errors import ExportError
from nas.export.artefact import served_tokenizer, write_artefact
from nas.export.infer import encode, read_tokenizer
from nas.export.tokens import check_tokens
from nas.model.stock import from_stock
from nas.runtimes.runner import onnx_session

TEXTS = ["w1 w2 w3", "", "unheard w5", " ".join(WORDS), "W7 \u00e9t\u00e9 w8", "w1 [SEP] w2 </s> <unk> w3", "[MASK]"]
PAIRS = [("w1 w2", "w3"), (" ".join(WORDS[:10]), " ".join(WORDS)), (" ".join(WORDS), ""), ("", "")]
MAX_LENGTH = 12


def _bare():
    """A tokenizer without special tokens around a text."""
    vocabulary = {word: number for number, word in enumerate(["<pad>", "<unk>", *WORDS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>", pad_token="<pad>")


def _stored(folder: Path):
    """A tokenizer that was saved with settings for padding and truncation."""
    backend = make_tokenizer().backend_tokenizer
    backend.enable_padding(length=30, direction="left", pad_token="[PAD]", pad_id=0, pad_to_multiple_of=8)
    backend.enable_truncation(7, stride=2, strategy="only_first", direction="left")
    names = {"unk_token": "[UNK]", "pad_token": "[PAD]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    PreTrainedTokenizerFast(tokenizer_object=backend, **names).save_pretrained(folder)
    return AutoTokenizer.from_pretrained(folder)


def _roberta(folder: Path):
    pieces = ["<s>", "<pad>", "</s>", "<unk>", "<mask>", "w", "\u0120", "\u0120w", *map(str, range(10))]
    return RobertaTokenizer(
        vocab={piece: number for number, piece in enumerate(pieces)}, merges=[("\u0120", "w")], truncation_side="left"
    )


TOKENIZERS = {
    "plain": lambda folder: make_tokenizer(),
    "bare": lambda folder: _bare(),
    "stored settings": _stored,
    "bert": lambda folder: BertTokenizer(
        vocab={word: number for number, word in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS])},
        do_lower_case=True,
        padding_side="left",
        model_max_length=9,
    ),
    "roberta": _roberta,
}


@pytest.mark.parametrize("kind", TOKENIZERS)
def test_all_ways_of_loading_give_the_token_ids_that_were_evaluated(kind, config, tmp_path):
    tokenizer, folder = TOKENIZERS[kind](tmp_path / "teacher"), tmp_path / "export"
    before = tokenizer.backend_tokenizer.to_str()
    served_tokenizer(tokenizer, config, MAX_LENGTH).save_pretrained(folder)
    assert tokenizer.backend_tokenizer.to_str() == before
    infer_tokenizer = read_tokenizer(folder)
    loaded = [AutoTokenizer.from_pretrained(folder), PreTrainedTokenizerFast.from_pretrained(folder)]
    for given in [*((text,) for text in TEXTS), *PAIRS]:
        # In a batch, as a data set is tokenised: in a call for one pair, transformers ignores an empty second text.
        columns = [[text] for text in given]
        evaluated = tokenizer(*columns, truncation=True, max_length=MAX_LENGTH, return_token_type_ids=True)
        (ids,), (types,) = evaluated["input_ids"], evaluated["token_type_ids"]
        assert len(ids) <= MAX_LENGTH
        for other in loaded:
            found = other(*columns, truncation=True)
            assert set(found) == set(config.input_names) and found["input_ids"] == [ids]
        if ids:
            found = encode(infer_tokenizer, *given)
            assert (found.ids, found.type_ids) == (ids, types)
    for other in loaded:
        assert other.model_max_length == MAX_LENGTH
        batch = other(TEXTS, truncation=True, padding=True)
        assert all(mask[0] == 1 for mask in batch["attention_mask"] if 1 in mask)  # padding is on the right


def test_without_a_smaller_limit_a_tokenizer_truncates_at_the_number_of_positions(config):
    assert served_tokenizer(make_tokenizer(), config).model_max_length == POSITIONS
    assert served_tokenizer(_bare(), config, 1000).model_max_length == POSITIONS


@pytest.mark.parametrize("teacher_kind", ["bert", "distilbert"])
def test_the_readme_s_example_with_onnx_runtime_feeds_the_right_inputs(teacher, tmp_path):
    write_artefact(from_stock(teacher), make_tokenizer(), tmp_path / "export", max_length=MAX_LENGTH, pairs=True)
    tokens = PreTrainedTokenizerFast.from_pretrained(tmp_path / "export")(
        TEXTS[3], truncation=True, return_tensors="np"
    )
    session = onnx_session(str(tmp_path / "export" / "onnx" / "model.onnx"), 1)
    assert session.run(["logits"], dict(tokens))[0].shape == (1, 3) and tokens["input_ids"].shape == (1, MAX_LENGTH)
    assert json.loads((tmp_path / "export" / "config.json").read_text())["text_pairs"] is True


def test_a_pair_with_an_empty_text_is_served_as_it_was_evaluated(config, tmp_path):
    """The pairs are tokenised as a batch, because transformers ignores the empty second text of a single pair."""
    texts = [["w1 w2", "", "", "w5"], ["", "w3 w4", "", "w6"]]
    task = Splits(dict.fromkeys(SPLITS, texts), {name: [0] * 4 for name in SPLITS}, ("a",))
    test = task.encode(make_tokenizer(), MAX_LENGTH).test
    assert [len(ids) for ids in test["input_ids"]] == [5, 5, 3, 5]
    served_tokenizer(make_tokenizer(), config, MAX_LENGTH).save_pretrained(tmp_path / "fast")
    check_tokens(tmp_path / "fast", test, {str(row): pair for row, pair in enumerate(zip(*texts, strict=True))})


def test_an_export_whose_tokenizer_gives_other_tokens_is_refused(config, tmp_path):
    """The sample of a test set has its longest text, its shortest text, and some between."""
    texts = [" ".join(WORDS[: 1 + row % 40]) for row in range(300)]
    task = Splits({name: [texts] for name in SPLITS}, {name: [0] * 300 for name in SPLITS}, ("a",))
    test = task.encode(make_tokenizer(), MAX_LENGTH).test
    sample = sample_of([texts], test["length"])
    served_tokenizer(make_tokenizer(), config, MAX_LENGTH).save_pretrained(tmp_path / "fast")
    check_tokens(tmp_path / "fast", test, sample)
    assert 16 <= len(sample) <= 34 and {len(texts[int(row)].split()) for row in sample} >= {1, 10}
    served_tokenizer(make_tokenizer(), config, MAX_LENGTH + 1).save_pretrained(tmp_path / "fast")
    message = r"fast: infer.py must .* it produces 2, 4, 5, 6, 7, 8, 9, 10, ... \(13 tokens\), not .* \(12 tokens\)"
    with pytest.raises(ExportError, match=message):
        check_tokens(tmp_path / "fast", test, sample)
