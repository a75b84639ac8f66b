"""Lists of words with one tag per word.

A list of words is tokenised, and the tag of each word is assigned to its first token.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from datasets import Dataset

from nas.data.files import values_of
from nas.tasks import IGNORED

if TYPE_CHECKING:
    from transformers import BatchEncoding, PreTrainedTokenizerBase

Text = str | Sequence[str]
"""A text as a string, or as a list of its words."""


def joined(text: Text) -> str:
    """Return a text as a string. Words of a list are joined with spaces, because exports receive texts as strings."""
    return text if isinstance(text, str) else " ".join(text)


def are_words(texts: Sequence[Sequence[Text]]) -> bool:
    """Whether the texts in these columns are lists of words, and not strings."""
    return bool(texts) and len(texts[0]) > 0 and not isinstance(texts[0][0], str)


def tokens_of(texts: Sequence[Sequence[Text]], tokenizer: PreTrainedTokenizerBase, **settings: Any) -> BatchEncoding:
    """Return the tokenizer's output for columns of texts. If texts are lists of words, no token spans two words."""
    columns = ([text if isinstance(text, str) else list(text) for text in column] for column in texts)
    return tokenizer(*columns, is_split_into_words=are_words(texts), return_attention_mask=False, **settings)


def on_first_tokens(tokens: BatchEncoding, tags: Iterable[Sequence[int]]) -> list[list[int]]:
    """Return a tag for each token of each text.

    A token has the tag of the word that begins at the token, or `IGNORED` if no word begins there.
    """
    token_tags = []
    for row, word_tags in enumerate(tags):
        labels, previous_word = [], None
        for word in tokens.word_ids(row):
            labels.append(IGNORED if word is None or word == previous_word else word_tags[word])
            previous_word = word
        token_tags.append(labels)
    return token_tags


def words_left_out(split: Dataset, texts: Sequence[Sequence[Text]]) -> int:
    """Return the number of words of a split that are not evaluated.

    Such words are beyond the maximum length of a text, or have no token.
    """
    kept = sum(label != IGNORED for labels in values_of(split, "labels") for label in labels)
    return sum(map(len, texts[0])) - kept
