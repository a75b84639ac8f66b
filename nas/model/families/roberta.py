"""RoBERTa (Liu et al., arXiv:1907.11692), and a function that defines variants of RoBERTa for other languages."""

from dataclasses import replace

from nas.model.families.base import CLASSIFIER_OF_TWO, Family

FAMILY = Family(
    model_type="roberta",
    title="RoBERTa",
    base="roberta",
    pooler_act="tanh",
    parameters=(("bert.", "roberta."),),
    sequence_head=CLASSIFIER_OF_TWO,
    positions_follow_padding=True,
)


def roberta_variant(model_type: str, title: str) -> Family:
    """Return a family that differs from RoBERTa only in its name, its vocabulary and its tokenizer."""
    return replace(FAMILY, model_type=model_type, title=title)
