"""Load and check a teacher's tokenizer. Its settings are made uniform, so that exports pad texts as in training.

`load_tokenizer` reads a tokenizer from a model folder. `check_tokenizer` and `check_ids` check that the teacher can
process the token ids that the tokenizer produces.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import normalizers, pre_tokenizers
from transformers import AutoTokenizer, PreTrainedConfig, PreTrainedTokenizerBase

from nas.errors import TeacherError, first_line
from nas.model.families import family_of

_FILE_GROUPS = (("tokenizer.json",), ("vocab.txt",), ("vocab.json", "merges.txt"))
"""Groups of file names. A tokenizer can be loaded from a folder that contains all files of at least one group."""
_CALL_OPTIONS = ("max_length", "stride", "truncation_strategy", "pad_to_multiple_of")
"""Options of a tokenizer call. Transformers stores the options of the last call among the tokenizer's settings."""
_EXAMPLE_WORDS = ["Tagged", "words", ",", "one", "by", "one"]
_UNUSUAL_TEXT = "\u2603 \u6f22 \U0001f9ea \u00df"
"""A text with characters that hardly any vocabulary covers completely."""


def load_tokenizer(
    source: str | Path, config: PreTrainedConfig | None = None, of_words: bool = False
) -> PreTrainedTokenizerBase:
    """Load the tokenizer of a model folder. It pads and truncates texts only on request, and pads on the right.

    Texts are truncated on the side that the tokenizer's settings in the folder define. `config` replaces the
    configuration in the folder, because a configuration file may have values that transformers cannot read. With
    `of_words`, the tokenizer splits a list of words into the same tokens as a text with a space between these words.

    Raises `TeacherError` if the folder has no tokenizer, if the tokenizer cannot be loaded, or if the tokenizer is
    written in Python. With `of_words`, also raises `TeacherError` if the tokenizer cannot split lists of words in this
    way.
    """
    # For a folder without a tokenizer, transformers silently creates an empty one.
    folder = Path(source)
    if folder.is_dir() and not any(all((folder / name).is_file() for name in names) for names in _FILE_GROUPS):
        needed = " or ".join(" and ".join(names) for names in _FILE_GROUPS)
        raise TeacherError(f"teacher.model: {source}: the model has no tokenizer; add its {needed}")
    try:
        tokenizer = AutoTokenizer.from_pretrained(str(source), config=config, trust_remote_code=False)
        if of_words and _has_spaces_in_tokens(tokenizer):
            options = {"config": config, "trust_remote_code": False, "add_prefix_space": True}
            tokenizer = AutoTokenizer.from_pretrained(str(source), **options)
            _add_prefix_space(tokenizer)
    except Exception as problem:  # tokenizers raises bare exceptions, and tokenizer classes raise their own
        raise TeacherError(
            f"teacher.model: {source}: its tokenizer cannot be loaded: {first_line(problem)}; repair it, or add a "
            "tokenizer.json"
        ) from None
    if not tokenizer.is_fast:
        raise TeacherError(
            f"teacher.model: {source}: its tokenizer, {type(tokenizer).__name__}, is written in Python, but exports "
            "need one that the tokenizers library can run; add a tokenizer.json (see docs/own-model.md)"
        )
    make_uniform(tokenizer)
    text = [" ".join(_EXAMPLE_WORDS)]
    if of_words and tokenizer([_EXAMPLE_WORDS], is_split_into_words=True)["input_ids"] != tokenizer(text)["input_ids"]:
        raise TeacherError(
            f"teacher.model: {source}: its tokenizer must split a list of words into the same tokens as the text that "
            "they form, but does not; give a teacher whose tokenizer has add_prefix_space = true, or splits at spaces"
        )
    return tokenizer


def _has_spaces_in_tokens(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether the first token of a word includes the preceding space. If so, a single word needs a space before it."""
    pre_tokenizer: Any = tokenizer.backend_tokenizer.pre_tokenizer if tokenizer.is_fast else None
    return pre_tokenizer is not None and b"ByteLevel" in pre_tokenizer.__getstate__()


def _add_prefix_space(tokenizer: PreTrainedTokenizerBase) -> None:
    """Let a byte-level tokenizer put a space before each word, even if its class ignores `add_prefix_space`."""
    pre_tokenizer: Any = tokenizer.backend_tokenizer.pre_tokenizer
    parts: Any = pre_tokenizer if isinstance(pre_tokenizer, pre_tokenizers.Sequence) else [pre_tokenizer]
    for part in parts:
        if isinstance(part, pre_tokenizers.ByteLevel):
            part.add_prefix_space = True
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizer


def ignored_code(source: str | Path) -> str:
    """Return the name of a folder's custom tokenizer class, as `file.Class`, or an empty string if there is none.

    The code of the class is not run. The tokenizer of such a folder is read only from `tokenizer.json`.
    """
    path = Path(source) / "tokenizer_config.json"
    try:
        auto_map = json.loads(path.read_text(encoding="utf-8"))["auto_map"]
        classes = auto_map["AutoTokenizer"] if isinstance(auto_map, dict) else auto_map
    except (OSError, ValueError, LookupError, TypeError):  # an invalid file is reported when the tokenizer is loaded
        return ""
    names = classes if isinstance(classes, list) else [classes]
    return next((name for name in reversed(names) if isinstance(name, str)), "")


def make_uniform(tokenizer: PreTrainedTokenizerBase) -> None:
    """Change a tokenizer in place: make it pad on the right, and clear its stored padding and truncation options.

    Padding must follow the text, because positions are counted from the first token.
    """
    backend: Any = tokenizer.backend_tokenizer
    backend.no_padding()
    backend.no_truncation()
    tokenizer.padding_side = "right"
    for name in _CALL_OPTIONS:
        tokenizer.init_kwargs.pop(name, None)
    tokenizer.init_kwargs |= {"padding_side": "right", "truncation_side": tokenizer.truncation_side}


def lower_case(tokenizer: PreTrainedTokenizerBase) -> None:
    """Change a tokenizer in place: make it convert texts to lower case first, unless it already does."""
    backend: Any = tokenizer.backend_tokenizer
    normalizer = backend.normalizer
    if normalizer is None:
        backend.normalizer = normalizers.Lowercase()
    elif normalizer.normalize_str("A") != normalizer.normalize_str("a"):
        backend.normalizer = normalizers.Sequence([normalizers.Lowercase(), normalizer])


def check_tokenizer(tokenizer: PreTrainedTokenizerBase, source: str, config: PreTrainedConfig) -> None:
    """Raise `TeacherError` if a tokenizer cannot be used with a teacher that has the configuration `config`.

    The tokenizer must have a padding token and must be able to encode unknown characters. The teacher must have
    embeddings for all tokens that the tokenizer adds to texts. If the teacher distinguishes token types, it must also
    have embeddings for the types of these tokens.
    """
    start = f"teacher.model: {source}: its tokenizer"
    if tokenizer.pad_token_id is None:
        raise TeacherError(
            f'{start} has no padding token; set "pad_token" in tokenizer_config.json to a token in the vocabulary'
        )
    # The tokens of an empty pair are exactly those that the tokenizer adds to every pair. The pair is passed as a
    # batch, because the tokenizer ignores an empty second text outside of a batch.
    try:
        added = {name: rows[0] for name, rows in tokenizer([""], [""], return_token_type_ids=True).items()}
    except Exception as problem:
        raise TeacherError(
            f"{start} fails on a pair of empty texts: {first_line(problem)}; correct tokenizer_config.json or "
            "tokenizer.json"
        ) from None
    try:
        tokenizer(_UNUSUAL_TEXT, _UNUSUAL_TEXT)
    except Exception as problem:  # tokenizers raises bare exceptions
        raise TeacherError(
            f"{start} fails on unknown characters: {problem}; add its unknown token to the vocabulary"
        ) from None
    unknown = [] if tokenizer.unk_token_id is None else [tokenizer.unk_token_id]
    _check_embedded(np.array([tokenizer.pad_token_id, *unknown]), tokenizer, source, config)
    check_ids(added["input_ids"], tokenizer, source, config)
    types = max(added["token_type_ids"], default=0)
    type_count = family_of(config.model_type).read(config, "type_vocab_size")
    if 1 < type_count <= types:
        raise TeacherError(
            f"{start} uses token types up to {types}, but config.json has type_vocab_size {type_count}; correct the "
            "post_processor in its tokenizer.json"
        )


def check_ids(ids: Iterable[int], tokenizer: PreTrainedTokenizerBase, source: str, config: PreTrainedConfig) -> None:
    """Raise `TeacherError` if the teacher cannot process one of `ids`, the token ids of texts.

    A token has no embedding if it was added to the tokenizer, but the model was not resized. Such a token causes no
    error if no text contains it.
    """
    values = np.fromiter(ids, dtype=np.int64)
    _check_embedded(values, tokenizer, source, config)
    family = family_of(config.model_type)
    skipped = family.uncounted(config.pad_token_id)
    if skipped is not None and skipped != tokenizer.pad_token_id and (values == skipped).any():
        remedy = f"set pad_token_id in config.json to the tokenizer's, {tokenizer.pad_token_id}, or "
        raise TeacherError(
            f"teacher.model: {source}: {family.title} models skip their padding token, token {skipped}, when they "
            f"count positions, but the texts contain this token, {tokenizer.convert_ids_to_tokens(skipped)!r}; "
            f"{remedy if family.positions_follow_padding else ''}remove the token from the texts"
        )


def _check_embedded(
    values: np.ndarray, tokenizer: PreTrainedTokenizerBase, source: str, config: PreTrainedConfig
) -> None:
    vocab_size = config.vocab_size
    outside = np.unique(values[values >= vocab_size])
    if len(outside):
        token = tokenizer.convert_ids_to_tokens(int(outside[0]))
        more = f" (and {len(outside) - 1} more)" if len(outside) > 1 else ""
        raise TeacherError(
            f"teacher.model: {source}: its tokenizer uses the token {token!r}, number {outside[0]}{more}, but the "
            f"model has embeddings for only {vocab_size:,} tokens; resize the model's embeddings "
            "(resize_token_embeddings) and train them, or remove the token from the tokenizer"
        )
