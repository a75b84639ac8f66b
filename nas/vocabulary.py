"""Vocabulary pruning: removal of the pieces (tokens of the vocabulary) that the training texts of a task never use.

`prune_tokenizer` prunes WordPiece, BPE and Unigram tokenizers, and `prune_embeddings` removes the corresponding rows of
the token embeddings. If all pieces of a text are kept, the text is tokenised as before. Otherwise, smaller pieces
replace the removed ones. Single characters are always kept, so no character becomes unknown. In a byte-level BPE,
single characters are the symbols of the 256 bytes.
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

_BYTE_PIECE = re.compile("<0x[0-9A-F]{2}>")
"""A pattern for a piece that represents a byte. Models with `byte_fallback` split unknown characters into such pieces.
"""


class _TokenizerModel:
    """The model of a tokenizer in its JSON form, with rules that state which unused pieces must be kept.

    This class handles WordPiece, which repeatedly splits off the longest piece at the start of a word. The removal of
    unused pieces does not change which piece is the longest, so `closed` adds no pieces.
    """

    def __init__(self, parts: dict[str, Any]) -> None:
        self.parts = parts
        self.prefix = parts.get("continuing_subword_prefix") or ""
        self.suffix = parts.get("end_of_word_suffix") or ""
        self.numbers = self.numbered()

    def numbered(self) -> dict[str, int]:
        """Return the id of each piece, keyed by piece."""
        vocabulary: dict[str, int] = self.parts["vocab"]
        return vocabulary

    def unknown(self) -> str | None:
        """Return the piece that represents unknown characters, or None if the model has no such piece."""
        return self.parts.get("unk_token")

    def is_needed(self, piece: str) -> bool:
        """Whether a piece must be kept even if it is never used, because smaller pieces cannot replace it."""
        if self.parts.get("byte_fallback") and _BYTE_PIECE.fullmatch(piece):
            return True
        spelled = self._characters(piece)
        return spelled == [piece] or any(character not in self.numbers for character in spelled)

    def closed(self, kept: set[str]) -> set[str]:
        """Return `kept` and the pieces without which texts made of kept pieces would be tokenised differently."""
        return kept

    def keep(self, pieces: list[str]) -> None:
        """Remove all pieces except `pieces`, in place. The index of a piece in this list becomes its id."""
        self.parts["vocab"] = {piece: number for number, piece in enumerate(pieces)}

    def _characters(self, piece: str) -> list[str]:
        """Return the pieces for the single characters of a piece."""
        start = self.prefix if piece.startswith(self.prefix) else ""
        end = self.suffix if piece.endswith(self.suffix) else ""
        body = piece[len(start) : len(piece) - len(end)]
        if len(body) < 2:
            return [piece]
        return [start + body[0], *(self.prefix + each for each in body[1:-1]), self.prefix + body[-1] + end]


class _BPE(_TokenizerModel):
    """Byte-pair encoding, which repeatedly applies the first merge in the list that is possible in a word.

    If all merges that produce the pieces of a word are kept, the word is split as before, even if other merges are
    removed.
    """

    def closed(self, kept: set[str]) -> set[str]:
        parts: dict[str, list[str]] = {}
        for first, second in self.parts["merges"]:
            parts.setdefault(self._merged(first, second), []).extend((first, second))
        closure, unvisited = set(kept), list(kept)
        while unvisited:
            new = set(parts.get(unvisited.pop(), ())) - closure
            closure |= new
            unvisited.extend(new)
        return closure

    def keep(self, pieces: list[str]) -> None:
        super().keep(pieces)
        kept = self.parts["vocab"]
        merges = ((first, second, self._merged(first, second)) for first, second in self.parts["merges"])
        self.parts["merges"] = [merge[:2] for merge in merges if all(piece in kept for piece in merge)]

    def _merged(self, first: str, second: str) -> str:
        return first + second[len(self.prefix) :]


class _Unigram(_TokenizerModel):
    """A unigram model, which splits a word into the pieces with the largest sum of scores.

    The removal of unused pieces does not change which split has the largest sum. The score of an unknown character is
    the lowest score in the vocabulary minus a constant. A piece with the lowest score is kept, so that the score of an
    unknown character does not change.
    """

    def numbered(self) -> dict[str, int]:
        return {piece: number for number, (piece, _) in enumerate(self.parts["vocab"])}

    def unknown(self) -> str | None:
        number = self.parts["unk_id"]
        return None if number is None else self.parts["vocab"][number][0]

    def closed(self, kept: set[str]) -> set[str]:
        lowest = min(score for _, score in self.parts["vocab"])
        lowest_pieces = [piece for piece, score in self.parts["vocab"] if score == lowest]
        return kept if kept.intersection(lowest_pieces) else {*kept, lowest_pieces[0]}

    def keep(self, pieces: list[str]) -> None:
        unknown = self.unknown()
        self.parts["vocab"] = [self.parts["vocab"][self.numbers[piece]] for piece in pieces]
        self.parts["unk_id"] = None if unknown is None else pieces.index(unknown)


_MODEL_CLASSES: dict[str, type[_TokenizerModel]] = {"WordPiece": _TokenizerModel, "BPE": _BPE, "Unigram": _Unigram}
PRUNABLE = f"{', '.join([*_MODEL_CLASSES][:-1])} or {[*_MODEL_CLASSES][-1]}"
"""The types of tokenizer models that can be pruned, as a phrase for messages."""


def prune_tokenizer(
    tokenizer: PreTrainedTokenizerBase, used: Collection[int], rows: int
) -> tuple[PreTrainedTokenizerFast, list[int]]:
    """Return a pruned tokenizer and the list of the old ids that it keeps.

    `used` holds the ids of the pieces that texts use. The index of an old id in the list is its new id. Special tokens,
    added tokens and single characters are also kept. Tokens with an id of at least `rows` have no embedding, so they
    are removed. Raises `TeacherError` if the type of the tokenizer is not in `PRUNABLE`, or if its post-processor,
    which adds special tokens to texts, is not supported.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    parts: dict[str, Any] = json.loads(backend.to_str()) if backend else {"model": {"type": type(tokenizer).__name__}}
    kind = parts["model"]["type"]
    if kind not in _MODEL_CLASSES:
        raise TeacherError(
            f"teacher.prune_vocabulary: needs a {PRUNABLE} tokenizer, but got {kind}; remove this setting"
        )
    model = _MODEL_CLASSES[kind](parts["model"])
    vocabulary = model.numbers
    parts["added_tokens"] = [token for token in parts["added_tokens"] if token["id"] < rows]
    special = {model.unknown(), *(token["content"] for token in parts["added_tokens"])}
    needed = {piece for piece, id_ in vocabulary.items() if id_ in used or piece in special or model.is_needed(piece)}
    embedded = (piece for piece in model.closed(needed) if vocabulary[piece] < rows)
    kept = sorted(embedded, key=vocabulary.__getitem__)
    model.keep(kept)
    # Tokens that were added to a finished vocabulary have ids after those of the vocabulary.
    outside = {token["content"]: token["id"] for token in parts["added_tokens"] if token["content"] not in vocabulary}
    numbers = {piece: number for number, piece in enumerate((*kept, *outside))}
    for token in parts["added_tokens"]:
        token["id"] = numbers[token["content"]]
    if parts.get("post_processor"):
        _renumber(parts["post_processor"], numbers)
    # Special tokens that were removed must not be passed, or they would be added again after the vocabulary.
    special_names = tokenizer.SPECIAL_TOKENS_ATTRIBUTES
    names = {name: token for name in special_names if (token := getattr(tokenizer, name, None)) in numbers}
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
    """Replace the ids of the special tokens in a post-processor with the new ids, in place."""
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
    elif kind != "ByteLevel":  # which contains no ids
        raise TeacherError(
            f"teacher.prune_vocabulary: does not support tokenizers with the post_processor {kind}; remove this setting"
        )


def tokenizer_kind(folder: Path) -> str | None:
    """Return the model type of the tokenizer in a folder, such as WordPiece, or None if the files do not show it."""
    try:
        kind = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))["model"]["type"]
        return kind if isinstance(kind, str) else None
    except FileNotFoundError:
        return "WordPiece" if (folder / "vocab.txt").is_file() else "BPE" if (folder / "merges.txt").is_file() else None
    except (OSError, ValueError, LookupError, TypeError):  # loading the tokenizer will report the problem
        return None


def prune_embeddings(model: PreTrainedModel, kept: list[int], pad_token_id: int | None) -> None:
    """Remove all rows except `kept` from a model's token embeddings in place, and update the model's configuration.

    `pad_token_id` is the new id of the tokenizer's padding token. The configuration gets this id if it has no padding
    token, or if its padding token was removed.
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
