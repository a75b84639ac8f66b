"""BERT (Devlin et al., arXiv:1810.04805), whose names a `CompactBert` has."""

from nas.model.families.base import Family

FAMILY = Family(model_type="bert", title="BERT", base="bert", pooler_act="tanh")
