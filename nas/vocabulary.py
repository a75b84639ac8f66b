"""Vocabulary pruning: a tokenizer without the pieces that a task's training texts never use.

It works for tokenizers whose model is WordPiece, BPE or Unigram. A text whose pieces are all kept is split into the
same pieces as before. In other texts smaller pieces replace the missing ones: single characters are kept (in a
byte-level BPE these are the symbols of the 256 bytes), so no character becomes unknown. The token embeddings keep the
rows of the pieces that are kept.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from nas.errors import TeacherError

_SPECIAL = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
_BYTE = re.compile("<0x[0-9A-F]{2}>")
"""A piece that stands for a byte, where a model writes unknown characters in bytes (`byte_fallback`)."""


class _Model:
    """The model of a tokenizer in its JSON form: its pieces, and what has to be kept besides those that are used.

    This is WordPiece, which takes the longest piece that a word begins with, then the longest for the rest of the word.
    Such a piece stays the longest one when others are removed.
    """

    def __init__(self, parts: dict[str, Any]) -> None:
        self.parts = parts
        self.prefix = parts.get("continuing_subword_prefix") or ""
        self.suffix = parts.get("end_of_word_suffix") or ""
        self.numbers = self.numbered()

    def numbered(self) -> dict[str, int]:
        """The pieces with their ids."""
        vocabulary: dict[str, int] = self.parts["vocab"]
        return vocabulary

    def unknown(self) -> str | None:
        """The piece that stands for unknown characters."""
        return self.parts.get("unk_token")

    def is_needed(self, piece: str) -> bool:
        """Whether a piece must be kept even if it is never used, because smaller ones cannot spell it."""
        if self.parts.get("byte_fallback") and _BYTE.fullmatch(piece):
            return True
        spelled = self._characters(piece)
        return spelled == [piece] or any(character not in self.numbers for character in spelled)

    def closed(self, kept: set[str]) -> set[str]:
        """Add the pieces that are needed to split texts of the pieces `kept` as before."""
        return kept

    def keep(self, pieces: list[str]) -> None:
        """Remove all other pieces, in place. The index of a piece becomes its id."""
        self.parts["vocab"] = {piece: number for number, piece in enumerate(pieces)}

    def _characters(self, piece: str) -> list[str]:
        """The smallest pieces that spell a piece."""
        start = self.prefix if piece.startswith(self.prefix) else ""
        end = self.suffix if piece.endswith(self.suffix) else ""
        body = piece[len(start) : len(piece) - len(end)]
        if len(body) < 2:
            return [piece]
        return [start + body[0], *(self.prefix + each for each in body[1:-1]), self.prefix + body[-1] + end]


class _BPE(_Model):
    """Byte-pair encoding: the first merge in the list that applies to a word is carried out, until none applies.

    A word is merged as before if all merges that it passes through are kept, whichever others are removed.
    """

    def closed(self, kept: set[str]) -> set[str]:
        parts: dict[str, list[str]] = {}
        for first, second in self.parts["merges"]:
            parts.setdefault(self._merged(first, second), []).extend((first, second))
        found, waiting = set(kept), list(kept)
        while waiting:
            new = set(parts.get(waiting.pop(), ())) - found
            found |= new
            waiting.extend(new)
        return found

    def keep(self, pieces: list[str]) -> None:
        super().keep(pieces)
        kept = self.parts["vocab"]
        merges = ((first, second, self._merged(first, second)) for first, second in self.parts["merges"])
        self.parts["merges"] = [merge[:2] for merge in merges if all(piece in kept for piece in merge)]

    def _merged(self, first: str, second: str) -> str:
        return first + second[len(self.prefix) :]


class _Unigram(_Model):
    """A word is split into the pieces with the largest sum of scores, which stays the largest when others are removed.

    The score of an unknown character is the lowest of all scores minus a constant, so the lowest score is kept.
    """

    def numbered(self) -> dict[str, int]:
        return {piece: number for number, (piece, _) in enumerate(self.parts["vocab"])}

    def unknown(self) -> str | None:
        number = self.parts["unk_id"]
        return None if number is None else self.parts["vocab"][number][0]

    def closed(self, kept: set[str]) -> set[str]:
        lowest = min(score for _, score in self.parts["vocab"])
        with_it = [piece for piece, score in self.parts["vocab"] if score == lowest]
        return kept if kept.intersection(with_it) else {*kept, with_it[0]}

    def keep(self, pieces: list[str]) -> None:
        unknown = self.unknown()
        self.parts["vocab"] = [self.parts["vocab"][self.numbers[piece]] for piece in pieces]
        self.parts["unk_id"] = None if unknown is None else pieces.index(unknown)


_MODELS: dict[str, type[_Model]] = {"WordPiece": _Model, "BPE": _BPE, "Unigram": _Unigram}
PRUNABLE = f"{', '.join([*_MODELS][:-1])} or {[*_MODELS][-1]}"
"""The models of tokenizers that can be pruned, in words."""


def prune_tokenizer(
    tokenizer: PreTrainedTokenizerBase, used: Collection[int], rows: int
) -> tuple[PreTrainedTokenizerFast, list[int]]:
    """Return a tokenizer with the pieces `used` (ids) and what they need, and the ids of all that it keeps.

    The index of an id in that list is its new number. Special tokens, added tokens and single characters are kept;
    tokens from number `rows` on, which have no embedding, are not. Raises `TeacherError` for another model than those
    in `PRUNABLE`, or for one that puts special tokens around texts in a way that is not known here.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    parts: dict[str, Any] = json.loads(backend.to_str()) if backend else {"model": {"type": type(tokenizer).__name__}}
    kind = parts["model"]["type"]
    if kind not in _MODELS:
        raise TeacherError(f"teacher.prune_vocabulary: needs a {PRUNABLE} tokenizer, but got {kind}; leave it out")
    model = _MODELS[kind](parts["model"])
    vocabulary = model.numbers
    parts["added_tokens"] = [token for token in parts["added_tokens"] if token["id"] < rows]
    special = {model.unknown(), *(token["content"] for token in parts["added_tokens"])}
    needed = {piece for piece, id_ in vocabulary.items() if id_ in used or piece in special or model.is_needed(piece)}
    embedded = (piece for piece in model.closed(needed) if vocabulary[piece] < rows)
    kept = sorted(embedded, key=vocabulary.__getitem__)
    model.keep(kept)
    # Tokens that were added to a finished vocabulary have the numbers behind it.
    outside = {token["content"]: token["id"] for token in parts["added_tokens"] if token["content"] not in vocabulary}
    numbers = {piece: number for number, piece in enumerate((*kept, *outside))}
    for token in parts["added_tokens"]:
        token["id"] = numbers[token["content"]]
    if parts.get("post_processor"):
        _renumber(parts["post_processor"], numbers)
    # A special token that was dropped would be added again, behind the vocabulary.
    names = {name: token for name in _SPECIAL if (token := getattr(tokenizer, name, None)) in numbers}
    pruned = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(parts)),
        model_max_length=tokenizer.model_max_length,
        padding_side=tokenizer.padding_side,
        truncation_side=tokenizer.truncation_side,
        model_input_names=tokenizer.model_input_names,
        extra_special_tokens=[token for token in tokenizer.extra_special_tokens if token in numbers],
        **names,
    )
    return pruned, [*(vocabulary[piece] for piece in kept), *outside.values()]


def _renumber(processor: dict[str, Any], numbers: dict[str, int]) -> None:
    """Give the special tokens around a text their new numbers, in place."""
    kind = processor["type"]
    if kind == "Sequence":
        for part in processor["processors"]:
            _renumber(part, numbers)
    elif kind == "TemplateProcessing":
        for token in processor["special_tokens"].values():
            token["ids"] = [numbers[name] for name in token["tokens"]]
    elif kind in ("BertProcessing", "RobertaProcessing"):
        for end in ("sep", "cls"):
            processor[end] = [processor[end][0], numbers[processor[end][0]]]
    elif kind != "ByteLevel":  # which knows no numbers
        raise TeacherError(
            f"teacher.prune_vocabulary: needs a tokenizer whose post_processor is known, but got {kind}; leave it out"
        )


def tokenizer_kind(folder: Path) -> str | None:
    """The kind of model of the tokenizer in a folder, such as WordPiece; None if the files do not say it."""
    try:
        kind = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))["model"]["type"]
        return kind if isinstance(kind, str) else None
    except FileNotFoundError:
        return "WordPiece" if (folder / "vocab.txt").is_file() else "BPE" if (folder / "merges.txt").is_file() else None
    except (OSError, ValueError, LookupError, TypeError):  # what is wrong with the file is said by who loads it
        return None


def prune_embeddings(model: PreTrainedModel, kept: list[int], pad_token_id: int | None) -> None:
    """Leave a model only the rows `kept` of its word table, and renumber the tokens in its configuration, in place.

    `pad_token_id` is the new number of the padding token, for a configuration that names none or one that is gone.
    """
    table: Any = model.get_input_embeddings()
    config, numbers = model.config, {row: number for number, row in enumerate(kept)}
    for name, value in config.to_dict().items():
        if name.endswith("_token_id") and isinstance(value, int):
            setattr(config, name, numbers.get(value))
    if config.pad_token_id is None:
        config.pad_token_id = pad_token_id
    smaller = nn.Embedding(len(kept), table.embedding_dim, config.pad_token_id)
    with torch.no_grad():
        smaller.weight.copy_(table.weight[torch.tensor(kept)])
    model.set_input_embeddings(smaller)
    config.vocab_size = len(kept)
