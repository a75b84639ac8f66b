"""Vocabulary pruning: a WordPiece tokenizer without the pieces that a task's training texts never use.

Single characters stay, so that every word that could be written in pieces still can: one whose piece is gone is cut
into smaller ones, and becomes the unknown token only where it was before. The word table keeps the rows of what stays.
"""

from __future__ import annotations

import json
from collections.abc import Collection
from typing import Any

import torch
from tokenizers import Tokenizer
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from nas.errors import TeacherError

_SPECIAL = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")


def prune_tokenizer(
    tokenizer: PreTrainedTokenizerBase, used: Collection[int], rows: int
) -> tuple[PreTrainedTokenizerFast, list[int]]:
    """The tokenizer with the pieces `used` (ids), special tokens and single characters; and the ids that it keeps.

    The index of an id in the list is its new number. Tokens from number `rows` on, which have no embedding, are
    dropped. Raises `TeacherError` for another kind than WordPiece, or one that puts special tokens around texts in a
    way that is not known here.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    parts: dict[str, Any] = json.loads(backend.to_str()) if backend else {"model": {"type": type(tokenizer).__name__}}
    if parts["model"]["type"] != "WordPiece":
        raise TeacherError(
            f"teacher.prune_vocabulary: needs a WordPiece tokenizer, as BERT's, but got {parts['model']['type']}; "
            "leave it out"
        )
    vocabulary: dict[str, int] = parts["model"]["vocab"]
    parts["added_tokens"] = [token for token in parts["added_tokens"] if token["id"] < rows]
    special = {token["content"] for token in parts["added_tokens"]}
    prefix = parts["model"]["continuing_subword_prefix"]
    ordered = sorted(vocabulary, key=lambda piece: vocabulary[piece])
    kept = [
        piece
        for piece in ordered
        if vocabulary[piece] < rows
        and (piece in special or vocabulary[piece] in used or len(piece.removeprefix(prefix)) == 1)
    ]
    parts["model"]["vocab"] = {piece: number for number, piece in enumerate(kept)}
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


def prune_embeddings(model: PreTrainedModel, kept: list[int], pad_token_id: int | None) -> None:
    """Leave a model only the rows `kept` of its word table, in place."""
    table: Any = model.get_input_embeddings()
    smaller = nn.Embedding(len(kept), table.embedding_dim, pad_token_id)
    with torch.no_grad():
        smaller.weight.copy_(table.weight[torch.tensor(kept)])
    model.set_input_embeddings(smaller)
    model.config.vocab_size, model.config.pad_token_id = len(kept), pad_token_id
