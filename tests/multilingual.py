"""Tokenizers like those of multilingual encoders, and sentences in five languages on which they can be trained."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path

import pyarrow.parquet as pq
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import (
    CamembertTokenizer,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
    RobertaTokenizer,
    XLMRobertaTokenizer,
)

SENTENCES = {
    "en": [
        "wake me up at nine am on friday",
        "set an alarm for two hours from now",
        "what is the weather like in new york this week",
        "play the song by the beatles that i heard yesterday",
        "turn off the lights in the kitchen and the bedroom",
        "how many people live in the capital of iceland?",
        "send an email to my sister about the party on saturday",
        "add milk, eggs and coffee to the shopping list",
    ],
    "de": [
        "wecke mich am freitag um neun uhr morgens auf",
        "stelle einen wecker für in zwei stunden",
        "wie wird das wetter diese woche in münchen",
        "spiele das lied, das ich gestern gehört habe",
        "schalte das licht in der küche und im schlafzimmer aus",
        "wie viele menschen leben in der hauptstadt von österreich?",
        "schreibe meiner schwester eine mail über die feier am samstag",
        "setze milch, eier und kaffee auf die einkaufsliste",
    ],
    "es": [
        "despiértame a las nueve de la mañana el viernes",
        "pon una alarma para dentro de dos horas",
        "qué tiempo hará esta semana en madrid",
        "pon la canción que escuché ayer por la noche",
        "apaga las luces de la cocina y del dormitorio",
        "¿cuántas personas viven en la capital de españa?",
        "envía un correo a mi hermana sobre la fiesta del sábado",
        "añade leche, huevos y café a la lista de la compra",
    ],
    "fr": [
        "réveille-moi à neuf heures du matin vendredi",
        "mets une alarme dans deux heures",
        "quel temps fera-t-il cette semaine à paris",
        "joue la chanson que j'ai entendue hier soir",
        "éteins les lumières de la cuisine et de la chambre",
        "combien de personnes vivent dans la capitale de la france ?",
        "envoie un message à ma sœur au sujet de la fête de samedi",
        "ajoute du lait, des œufs et du café à la liste de courses",
    ],
    "ru": [
        "разбуди меня в девять утра в пятницу",
        "поставь будильник через два часа",
        "какая погода будет на этой неделе в москве",
        "включи песню, которую я слышал вчера вечером",
        "выключи свет на кухне и в спальне",
        "сколько людей живёт в столице россии?",
        "напиши сестре про вечеринку в субботу",
        "добавь молоко, яйца и кофе в список покупок",
    ],
}
"""Requests to a voice assistant by language."""
MASSIVE = Path(__file__).parents[2] / "shared" / "data" / "massive"
"""The folder of MASSIVE 1.1: requests to a voice assistant in five languages. It does not exist on all machines."""


def utterances(split: str) -> list[str]:
    """Return the texts of a split of MASSIVE, one language after the other."""
    texts: list[str] = pq.read_table(MASSIVE / f"{split}.parquet", columns=["utt"])["utt"].to_pylist()
    return texts


def _train(model: models.Model, pre_tokenizer: pre_tokenizers.PreTokenizer, trainer: trainers.Trainer, texts) -> dict:
    """Train a model on texts, and return its JSON form."""
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = pre_tokenizer
    tokenizer.train_from_iterator(texts, trainer)
    return json.loads(tokenizer.model.__getstate__())


def _bpe(texts: Iterable[str], size: int) -> tuple[list[str], list[tuple[str, str]]]:
    """Train a byte-level BPE, and return its tokens and merges."""
    trainer = trainers.BpeTrainer(
        vocab_size=size, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    parts = _train(models.BPE(), pre_tokenizers.ByteLevel(add_prefix_space=False), trainer, texts)
    return sorted(parts["vocab"], key=parts["vocab"].get), [tuple(merge) for merge in parts["merges"]]


def _unigram(texts: Iterable[str], size: int) -> list[tuple[str, float]]:
    """Train a Unigram model, and return its tokens with their scores, without special tokens.

    Scores are rounded, because reading `tokenizer.json` may change the last digit of a long number, which decides ties.
    """
    pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace()])
    trainer = trainers.UnigramTrainer(vocab_size=size, special_tokens=["<unk>"], unk_token="<unk>", show_progress=False)
    vocabulary = _train(models.Unigram(), pre_tokenizer, trainer, texts)["vocab"][1:]
    return [(piece, round(score, 4)) for piece, score in vocabulary]


def roberta(texts: Iterable[str], size: int) -> PreTrainedTokenizerBase:
    """Return a tokenizer like that of roberta-base. All special tokens except `<mask>` come before the other tokens."""
    pieces, merges = _bpe(texts, size)
    numbers = {piece: number for number, piece in enumerate(["<s>", "<pad>", "</s>", "<unk>", *pieces, "<mask>"])}
    return RobertaTokenizer(vocab=numbers, merges=merges, mask_token=AddedToken("<mask>", lstrip=True, special=True))


def modernbert(texts: Iterable[str], size: int) -> PreTrainedTokenizerBase:
    """Return a tokenizer like that of ModernBERT-base.

    It normalises to NFC, has added tokens for several spaces, and has its special tokens after the vocabulary.
    """
    pieces, merges = _bpe(texts, size)
    numbers = {piece: number for number, piece in enumerate(["<|endoftext|>", "<|padding|>", *pieces])}
    tokenizer = Tokenizer(models.BPE(numbers, merges))
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_tokens([AddedToken(" " * count, normalized=True) for count in range(24, 1, -1)])
    tokenizer.add_special_tokens(["<|endoftext|>", "<|padding|>", "[UNK]", "[CLS]", "[SEP]", "[PAD]"])
    tokenizer.add_special_tokens([AddedToken("[MASK]", lstrip=True)])
    tokenizer.add_tokens([f"[unused{number}]" for number in range(83)])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B [SEP]",
        special_tokens=[(name, tokenizer.token_to_id(name)) for name in ("[CLS]", "[SEP]")],
    )
    names = {f"{name}_token": f"[{name.upper()}]" for name in ("unk", "cls", "sep", "pad", "mask")}
    inputs = ["input_ids", "attention_mask"]
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_input_names=inputs, **names)


def xlm_roberta(texts: Iterable[str], size: int) -> PreTrainedTokenizerBase:
    """Return a tokenizer like that of xlm-roberta-base.

    It has the four special tokens of fairseq instead of the three of sentencepiece, and `<mask>` at the end.
    """
    special = [(name, 0.0) for name in ("<s>", "<pad>", "</s>", "<unk>")]
    return XLMRobertaTokenizer(vocab=[*special, *_unigram(texts, size), ("<mask>", 0.0)])


def camembert(texts: Iterable[str], size: int) -> PreTrainedTokenizerBase:
    """Return a tokenizer like that of camembert-base.

    Fairseq's tokens come before those of sentencepiece. The unknown token of sentencepiece has a score of -100.
    """
    fairseq = [("<s>NOTUSED", 0.0), ("<pad>", 0.0), ("</s>NOTUSED", 0.0), ("<unk>", 0.0), ("<unk>NOTUSED", -100.0)]
    own = [("<s>", 0.0), ("</s>", 0.0), *_unigram(texts, size)]
    return CamembertTokenizer(vocab=[*fairseq, *own, ("<mask>", 0.0)])


KINDS: dict[str, Callable[[Iterable[str], int], PreTrainedTokenizerBase]] = {
    "roberta": roberta,
    "modernbert": modernbert,
    "xlm-roberta": xlm_roberta,
    "camembert": camembert,
}
"""Functions that train a tokenizer on texts, by the model_type of the encoders that use such a tokenizer.

Their second argument is the number of tokens without special tokens."""
