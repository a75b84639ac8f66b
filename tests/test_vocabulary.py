"""A pruned vocabulary keeps the pieces and logits of known texts, and splits other texts into smaller pieces."""

from __future__ import annotations

import pytest
import torch
from tiny import make_teacher, randomise
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from tolerance import assert_same
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from nas.errors import TeacherError
from nas.vocabulary import _renumber, prune_embeddings, prune_tokenizer, tokenizer_kind

PIECES = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "good", "bad", "film", "##s", "f", "##i", "##l", "##m", "g",
          "##o", "##d", "b", "##a", "goods", "w", "##ood"]  # fmt: skip


@pytest.fixture
def tokenizer():
    vocabulary = {piece: number for number, piece in enumerate(PIECES)}
    backend = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    backend.normalizer = normalizers.BertNormalizer()
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    ends = [(name, vocabulary[name]) for name in ("[SEP]", "[CLS]")]
    backend.post_processor = processors.BertProcessing(*ends)
    names = {"unk_token": "[UNK]", "pad_token": "[PAD]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    return PreTrainedTokenizerFast(tokenizer_object=backend, mask_token="[MASK]", **names)


def _pieces(tokenizer, text):
    return tokenizer.convert_ids_to_tokens(tokenizer(text)["input_ids"])


def test_known_texts_keep_their_pieces_and_others_are_split_into_smaller_ones(tokenizer, tmp_path):
    known = ["good film", "bad films"]
    used = {number for text in known for number in tokenizer(text)["input_ids"]}
    pruned, kept = prune_tokenizer(tokenizer, used, len(tokenizer))
    assert [PIECES[number] for number in kept] == [piece for piece in PIECES if piece not in ("goods", "##ood")]
    assert pruned.pad_token_id == 0 and pruned.cls_token_id == kept.index(2)
    pruned.save_pretrained(tmp_path)
    for again in (pruned, AutoTokenizer.from_pretrained(tmp_path)):
        for text in known:
            assert _pieces(again, text) == _pieces(tokenizer, text)
        assert _pieces(tokenizer, "goods")[1:-1] == ["goods"] and _pieces(again, "goods")[1:-1] == ["good", "##s"]
        assert _pieces(tokenizer, "wood")[1:-1] == ["w", "##ood"]
        assert _pieces(again, "wood")[1:-1] == ["w", "##o", "##o", "##d"]
        assert _pieces(again, "xyz")[1:-1] == _pieces(tokenizer, "xyz")[1:-1] == ["[UNK]"]


def test_tokens_that_were_added_to_the_vocabulary_are_kept(tokenizer):
    tokenizer.add_tokens(["goodbad", "filmfilm"])
    pruned, kept = prune_tokenizer(tokenizer, set(tokenizer("good film")["input_ids"]), len(tokenizer))
    assert kept[-2:] == [len(PIECES), len(PIECES) + 1] and len(pruned) == len(kept)
    text = "goodbad film filmfilm"
    assert _pieces(pruned, text) == _pieces(tokenizer, text) == ["[CLS]", *text.split(), "[SEP]"]
    assert [kept[number] for number in pruned(text)["input_ids"]] == tokenizer(text)["input_ids"]


@pytest.mark.parametrize("kind", ["bert", "distilbert", "electra"])
def test_a_pruned_model_gives_the_same_logits_on_known_texts(tokenizer, kind):
    model = randomise(make_teacher(kind, vocab_size=len(PIECES)))
    pruned, kept = prune_tokenizer(tokenizer, set(tokenizer("good film")["input_ids"]), len(tokenizer))
    with torch.no_grad():
        expected = model(**tokenizer("good film", return_tensors="pt", return_token_type_ids=False)).logits
        prune_embeddings(model, kept, pruned.pad_token_id)
        found = model(**pruned("good film", return_tensors="pt", return_token_type_ids=False)).logits
    assert_same(found, expected)
    assert model.config.vocab_size == len(kept) == len(pruned) < len(PIECES)


@pytest.mark.parametrize("inside", [None, "BertProcessing", "RobertaProcessing", "TemplateProcessing"])
def test_every_post_processor_inserts_the_new_ids_of_special_tokens(tokenizer, inside):
    """Unused pieces come before the special tokens, so an id that is not updated would be that of another piece."""
    ends = [(name, len(PIECES) - 2 + at) for at, name in enumerate(("[SEP]", "[CLS]"))]
    pieces = [piece for piece in PIECES if piece not in dict(ends)] + [name for name, _ in ends]
    vocabulary = {piece: number for number, piece in enumerate(pieces)}
    backend = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    if inside == "TemplateProcessing":
        own = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=ends)
    else:
        own = getattr(processors, inside or "BertProcessing")(*ends)
    backend.post_processor = own if inside is None else processors.Sequence([processors.ByteLevel(), own])
    names = {"unk_token": "[UNK]", "pad_token": "[PAD]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    whole = PreTrainedTokenizerFast(tokenizer_object=backend, mask_token="[MASK]", **names)
    pruned, kept = prune_tokenizer(whole, set(whole("good film")["input_ids"]), len(whole))
    assert len(kept) < len(pieces)
    assert _pieces(pruned, "good film") == _pieces(whole, "good film") == ["[CLS]", "good", "film", "[SEP]"]


def test_an_unknown_post_processor_is_refused():
    with pytest.raises(TeacherError, match="tokenizers with the post_processor Odd; remove this setting"):
        _renumber({"type": "Sequence", "processors": [{"type": "ByteLevel"}, {"type": "Odd"}]}, {})


def test_an_unsupported_kind_of_tokenizer_is_refused():
    words = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.WordLevel({"a": 0, "[UNK]": 1}, unk_token="[UNK]"))
    )
    with pytest.raises(TeacherError, match="needs a WordPiece, BPE or Unigram tokenizer, but got WordLevel"):
        prune_tokenizer(words, {1}, len(words))


def test_a_piece_that_smaller_ones_cannot_spell_is_kept(tokenizer):
    """Pruning must not make a text unknown: no other pieces spell the Russian word or `ß`."""
    tokenizer.backend_tokenizer.model = models.WordPiece(
        {piece: number for number, piece in enumerate([*PIECES, "\u043d\u0435\u0442", "##\u00df", "wood"])},
        unk_token="[UNK]",
    )
    pruned, kept = prune_tokenizer(tokenizer, set(), len(PIECES) + 3)
    assert kept[-2:] == [len(PIECES), len(PIECES) + 1]
    for text in ("\u043d\u0435\u0442", "wood\u00df"):
        assert "[UNK]" not in _pieces(tokenizer, text) + _pieces(pruned, text)


@pytest.mark.parametrize(
    ("files", "kind"),
    [
        ({"tokenizer.json": '{"model": {"type": "Unigram"}}', "vocab.txt": ""}, "Unigram"),
        ({"tokenizer.json": '{"model": {"vocab": {}}}', "vocab.txt": ""}, None),
        ({"tokenizer.json": '{"model": {"type": 1}}'}, None),
        ({"tokenizer.json": "[]"}, None),
        ({"tokenizer.json": "{"}, None),
        ({"vocab.txt": ""}, "WordPiece"),
        ({"vocab.json": "", "merges.txt": ""}, "BPE"),
        ({"sentencepiece.bpe.model": ""}, None),
    ],
)
def test_the_kind_of_a_tokenizer_is_read_from_the_files_of_its_folder(files, kind, tmp_path):
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    assert tokenizer_kind(tmp_path) == kind
