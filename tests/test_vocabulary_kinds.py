"""Pruned tokenizers of all kinds keep the ids of texts whose pieces are kept, and can still spell other texts."""

from __future__ import annotations

import itertools
import json
import random

import pytest
import torch
from multilingual import KINDS, MASSIVE, SENTENCES, utterances
from tiny import POSITIONS, randomise
from tokenizers import Tokenizer, models, pre_tokenizers
from tolerance import assert_same
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer, PreTrainedTokenizerFast

from nas.model.tokenizer import load_tokenizer
from nas.vocabulary import prune_embeddings, prune_tokenizer

TEXTS = [text for texts in SENTENCES.values() for text in texts]
KNOWN = TEXTS[::2]
ODD = "☃ 漢字 🧪 ß <mask> </s> naïve\tL\u2019Île  ''  x"
"""Characters that occur in no sentence, names of special tokens, and runs of white space."""
SIZES = {
    "roberta": {"max_position_embeddings": POSITIONS + 2},
    "xlm-roberta": {"max_position_embeddings": POSITIONS + 2},
    "camembert": {"max_position_embeddings": POSITIONS + 2},
    "modernbert": {"max_position_embeddings": POSITIONS},
}


@pytest.fixture(scope="module", params=KINDS)
def kind(request):
    return request.param


def _saved(tokenizer, kind, folder):
    """Save a tokenizer and the configuration of an encoder that uses it; return the folder."""
    ids = {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("pad", "bos", "eos", "cls", "sep")}
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
    config = AutoConfig.for_model(kind, vocab_size=len(tokenizer), **sizes, **SIZES[kind], **ids)
    config.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def whole(kind, tmp_path_factory):
    """The complete tokenizer, loaded like that of a teacher."""
    folder = tmp_path_factory.mktemp(kind)
    return load_tokenizer(_saved(KINDS[kind](TEXTS, 900), kind, folder))


@pytest.fixture(scope="module")
def pruned(kind, whole, tmp_path_factory):
    """The pruned tokenizer, loaded from a folder like that of a run, and the ids that it keeps."""
    used = {number for ids in whole(KNOWN)["input_ids"] for number in ids}
    found, kept = prune_tokenizer(whole, used, len(whole))
    return AutoTokenizer.from_pretrained(_saved(found, kind, tmp_path_factory.mktemp(f"pruned-{kind}"))), kept


def _check_same(whole, pruned, kept, *texts, **options):
    """Compare the ids of rows; return the number of rows whose pieces are all kept, and the number of other rows."""
    same = other = 0
    stay = set(kept)
    before, after = (tokenizer(*texts, **options)["input_ids"] for tokenizer in (whole, pruned))
    for ids, own in zip(before, after, strict=True):
        numbers = [kept[number] for number in own]
        if stay.issuperset(ids):
            same += 1
            assert numbers == ids
        else:
            other += 1
            assert numbers.count(whole.unk_token_id) == ids.count(whole.unk_token_id)
    return same, other


def test_texts_whose_pieces_are_kept_have_the_same_ids(whole, pruned):
    tokenizer, kept = pruned
    assert len(tokenizer) == len(kept) < 0.9 * len(whole)
    words = [word for text in TEXTS for word in text.split()]
    rng = random.Random(0)
    mixed = [" ".join(rng.sample(words, rng.randint(1, 12))) for _ in range(500)]
    texts = [*KNOWN, *TEXTS, *mixed, *(f"{text} {ODD}" for text in KNOWN), "", " "]
    same, other = _check_same(whole, tokenizer, kept, texts)
    assert same >= 3 * len(KNOWN) and other > 100
    assert _check_same(whole, tokenizer, kept, KNOWN, KNOWN[::-1]) == (len(KNOWN), 0)


def test_lists_of_words_have_the_same_ids(kind, whole, pruned):
    tokenizer, kept = pruned
    words = [text.split() for text in TEXTS]
    same, other = _check_same(whole, tokenizer, kept, words, is_split_into_words=True)
    assert same + other == len(TEXTS) and same > (0 if kind in ("roberta", "modernbert") else len(KNOWN) - 1)


def test_a_text_with_removed_pieces_decodes_to_the_same_text(whole, pruned):
    tokenizer, kept = pruned
    for text in TEXTS:
        ids = tokenizer(text)["input_ids"]
        shown = [
            found.decode([kept[number] for number in ids] if found is whole else ids) for found in (whole, tokenizer)
        ]
        assert shown[0] == shown[1] == whole.decode(whole(text)["input_ids"])


def test_special_tokens_stay_the_same(whole, pruned):
    tokenizer, kept = pruned
    assert tokenizer.special_tokens_map == whole.special_tokens_map
    assert [kept[number] for number in tokenizer.all_special_ids] == whole.all_special_ids
    assert tokenizer.model_input_names == whole.model_input_names
    assert tokenizer.num_special_tokens_to_add(pair=True) == whole.num_special_tokens_to_add(pair=True)
    assert [tokenizer.convert_ids_to_tokens(number) for number in range(len(kept))] == whole.convert_ids_to_tokens(kept)


def test_a_pruned_model_gives_the_same_logits_on_texts_of_kept_pieces(kind, whole, pruned, tmp_path):
    tokenizer, kept = pruned
    config, given = (AutoConfig.from_pretrained(whole.name_or_path) for _ in range(2))
    model = randomise(AutoModelForSequenceClassification.from_config(config))
    texts = [text for text in KNOWN if len(whole(text)["input_ids"]) <= POSITIONS]
    assert len(texts) > 10
    with torch.no_grad():
        expected = model(**whole(texts, padding=True, return_tensors="pt")).logits
        prune_embeddings(model, kept, tokenizer.pad_token_id)
        model.save_pretrained(tmp_path)
        again = AutoModelForSequenceClassification.from_pretrained(tmp_path)
        for found in (model, again):
            assert_same(found(**tokenizer(texts, padding=True, return_tensors="pt")).logits, expected)
    assert again.config.vocab_size == len(kept)
    for name in ("pad", "bos", "eos", "cls", "sep"):
        number, before = (getattr(each, f"{name}_token_id", None) for each in (again.config, given))
        assert before is None if number is None else kept[number] == before


@pytest.mark.slow
@pytest.mark.skipif(not MASSIVE.is_dir(), reason=f"needs the data set MASSIVE in {MASSIVE}")
def test_real_texts_in_five_languages_keep_their_ids_if_their_pieces_are_kept(kind, tmp_path):
    """The tokenizer is pruned to the pieces of every tenth training text, and compared on all texts."""
    train, test = utterances("train"), utterances("test")
    whole = load_tokenizer(_saved(KINDS[kind](train, 20_000), kind, tmp_path))
    used = {number for ids in whole(train[::10])["input_ids"] for number in ids}
    tokenizer, kept = prune_tokenizer(whole, used, len(whole))
    assert len(kept) < 0.7 * len(whole)
    same, other = _check_same(whole, tokenizer, kept, [*train, *test])
    assert same > 0.6 * (same + other) and other > 1000


@pytest.mark.parametrize("ignore_merges", [False, True])
@pytest.mark.parametrize(("prefix", "suffix"), [("", ""), ("##", ""), ("", "</w>")])
def test_bpe_with_random_merges_keeps_the_ids_of_short_texts_with_kept_pieces(prefix, suffix, ignore_merges):
    rng, other = random.Random(0), 0
    for _ in range(5):
        inner = [prefix + letter for letter in "abc"]
        pieces = list(dict.fromkeys([*"abc", *inner, *(f"{letter}{suffix}" for letter in [*"abc", *inner])]))
        merges = []
        while len(merges) < 30:
            first, second = rng.choice(pieces), rng.choice(pieces)
            merged = first + second[len(prefix) :]
            is_possible = second.startswith(prefix) and not (suffix and first.endswith(suffix))
            if is_possible and (first, second) not in merges and len(merged) < 12:
                merges.append((first, second))
                pieces = [*pieces, *([] if merged in pieces else [merged])]
        settings = {"continuing_subword_prefix": prefix, "end_of_word_suffix": suffix, "ignore_merges": ignore_merges}
        rng.shuffle(pieces)
        numbers = {piece: number for number, piece in enumerate(["[UNK]", *pieces])}
        other += _check_all_short_texts(models.BPE(numbers, merges, unk_token="[UNK]", **settings), rng)
    assert other > 500


def test_unigram_with_random_scores_keeps_the_ids_of_short_texts_with_kept_pieces():
    """Many of the scores are equal."""
    rng, other = random.Random(0), 0
    for _ in range(15):
        words = {"".join(rng.choices("abc", k=rng.randint(2, 4))) for _ in range(14)}
        pieces = [(piece, -0.5 * rng.randint(1, 20)) for piece in ["[UNK]", *"abc", *sorted(words)]]
        rng.shuffle(pieces)
        unknown = [piece for piece, _ in pieces].index("[UNK]")
        other += _check_all_short_texts(models.Unigram(pieces, unknown, False), rng)
    assert other > 500


def test_wordpiece_with_random_pieces_keeps_the_ids_of_short_texts_with_kept_pieces():
    rng, other = random.Random(0), 0
    for _ in range(5):
        words = {rng.choice(["", "##"]) + "".join(rng.choices("abc", k=rng.randint(2, 4))) for _ in range(14)}
        pieces = ["[UNK]", *"abc", "##a", "##b", "##c", *sorted(words)]
        rng.shuffle(pieces)
        numbers = {piece: number for number, piece in enumerate(pieces)}
        other += _check_all_short_texts(models.WordPiece(numbers, unk_token="[UNK]"), rng)
    assert other > 500


def _check_all_short_texts(model, rng):
    """Compare the ids of all words of up to five letters, of which `d` is unknown; count those with removed pieces."""
    backend = Tokenizer(model)
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    whole = PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="[UNK]", pad_token="[UNK]")
    texts = ["".join(letters) for length in range(1, 6) for letters in itertools.product("abcd", repeat=length)]
    used = {number for text in rng.sample(texts, 6) for number in whole(text)["input_ids"]}
    tokenizer, kept = prune_tokenizer(whole, used, len(whole))
    same, other = _check_same(whole, tokenizer, kept, texts)
    assert same > 100
    return other


def _unigram(pieces, unknown, byte_fallback=False):
    backend = Tokenizer(models.Unigram(pieces, unknown, byte_fallback))
    return PreTrainedTokenizerFast(tokenizer_object=backend, unk_token=pieces[unknown][0], pad_token=pieces[unknown][0])


def _pieces(tokenizer, text):
    return tokenizer.convert_ids_to_tokens(tokenizer(text)["input_ids"])


def test_the_cost_of_an_unknown_character_stays_the_same():
    """The cost depends on the lowest score of all pieces, even if no text uses that piece."""
    pieces = [("<unk>", 0.0), ("y", -3.0), ("z", -12.0), ("xy", -12.0), ("yz", -1.0)]
    pieces += [(letter, -3.0) for letter in "nevr"]
    whole, without = _unigram([*pieces, ("never", -30.0)], 0), _unigram(pieces, 0)
    assert _pieces(whole, "xyz") == ["xy", "z"] and _pieces(without, "xyz") == ["<unk>", "yz"]
    used = {number for text in ("xyz", "yz") for number in whole(text)["input_ids"]}
    assert _pieces(prune_tokenizer(whole, used, len(whole))[0], "xyz") == ["xy", "z"]


def test_a_piece_that_others_cannot_spell_is_kept():
    whole = _unigram([("<unk>", 0.0), ("a", -1.0), ("ab", -1.0), ("aa", -1.0)], 0)
    tokenizer, kept = prune_tokenizer(whole, set(), len(whole))
    assert kept == [0, 1, 2] and _pieces(tokenizer, "ab") == ["ab"] and _pieces(tokenizer, "aa") == ["a", "a"]


def test_byte_pieces_are_kept_if_unknown_characters_are_spelt_in_bytes():
    bytes_ = [f"<0x{number:02X}>" for number in range(256)]
    digits = [(each, -1.0) for each in "<0xABCDEF123456789>"[:-1]] + [(">", -1.0)]
    pieces = [("<unk>", 0.0), *((piece, -9.0) for piece in bytes_), *dict(digits).items(), ("<0", -1.0)]
    whole = _unigram(pieces, 0, byte_fallback=True)
    tokenizer, kept = prune_tokenizer(whole, set(), len(whole))
    assert len(kept) == len(whole) - 1
    assert _pieces(tokenizer, "ж") == _pieces(whole, "ж") == ["<0xD0>", "<0xB6>"]
    plain = _unigram(pieces, 0)
    assert len(prune_tokenizer(plain, set(), len(plain))[1]) == len(whole) - 1 - 256 + 1  # the lowest score


def test_intermediate_pieces_of_merges_are_kept_with_their_merges():
    numbers = {piece: number for number, piece in enumerate(["a", "b", "c", "ab", "bc", "abc", "ca"])}
    merges = [("a", "b"), ("b", "c"), ("ab", "c"), ("c", "a")]
    whole = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.BPE(numbers, merges)))
    assert _pieces(whole, "abc") == ["abc"]
    tokenizer, kept = prune_tokenizer(whole, {numbers["abc"]}, len(whole))
    assert [list(numbers)[number] for number in kept] == ["a", "b", "c", "ab", "abc"]
    assert json.loads(tokenizer.backend_tokenizer.to_str())["model"]["merges"] == [["a", "b"], ["ab", "c"]]
    assert _pieces(tokenizer, "abcca") == ["abc", "c", "a"]
