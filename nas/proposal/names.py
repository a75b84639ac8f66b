"""Words in the names of columns that suggest what the columns contain."""

from __future__ import annotations


def word_set(text: str) -> frozenset[str]:
    """Return the words of a text that are separated by white space."""
    return frozenset(text.split())


# Words that occur in column names. A column whose name contains a word of `METADATA_WORDS` is treated as metadata about
# a text, unless the name ends in a word of `TEXT_WORDS`, as in "user_message".
TEXT_WORDS = word_set("text sentence tweet review utterance message query question premise hypothesis content")
METADATA_WORDS = word_set(
    "author authors user username reviewer annotator annotators worker rater speaker publisher email phone "
    "id ids idx index uid uuid guid qid pid sid docid userid hash md5 sha1 sha256 key "
    "date time timestamp datetime created updated published year month day "
    "url uri link href path file filename image photo picture thumbnail "
    "source src site domain location city country region place address lang locale license version split fold "
    "explanation explanations rationale justification confidence parse original tokens lemma pos "
)
LABEL_NUMBER_WORDS = frozenset({"id", "index", "idx"})
"""Words that may follow the name of a label, as in "Class Index"."""
LABEL_WORDS = frozenset({"label", "labels"})
LABEL_LIKE_WORDS = word_set(
    "class target y category sentiment emotion polarity stance intent topic star stars rating ratings score similarity "
    "relevance relatedness duplicate quality judgment judgement grade verdict genre"
)
GRADE_WORDS = word_set("star stars rating ratings score similarity relevance relatedness quality grade overall points")
"""Words in the names of label columns whose numbers may be either values on a scale or classes."""
QUERY_WORDS = word_set("query question")
QUERY_ID_WORDS = word_set("query question qid topic")
FIRST_OF_PAIR_WORDS = word_set("premise question query claim context")
SECOND_OF_PAIR_WORDS = word_set("hypothesis sentence answer passage paragraph document doc context evidence response")
PAIR_ENDINGS = (("1", "2"), ("0", "1"), ("a", "b"), ("first", "second"), ("left", "right"), ("", "pair"), ("", "2"))
"""The pairs of words in which the names of two columns of text pairs may differ, as in "sentence1" and "sentence2"."""
