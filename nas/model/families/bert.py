"""BERT (Devlin et al., arXiv:1810.04805). The parameters of a `CompactBert` have the same names as in BERT."""

from nas.model.families.base import Family

FAMILY = Family(model_type="bert", title="BERT", base="bert", pooler_act="tanh")
