"""BERT (Devlin et al., arXiv:1810.04805), from which a `CompactBert` takes all its parameter names."""

from nas.model.families.base import Family

FAMILY = Family(model_type="bert", title="BERT", base="bert", pooler_act="tanh")
