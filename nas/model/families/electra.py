"""ELECTRA (Clark et al., arXiv:2003.10555). Only the discriminator is supported."""

from nas.model.families.base import CLASSIFIER_OF_TWO, Family

FAMILY = Family(
    model_type="electra",
    title="ELECTRA",
    base="electra",
    pooler_act="gelu",
    parameters=(("bert.", "electra."),),
    sequence_head=CLASSIFIER_OF_TWO,
    has_embedding_size=True,
)
