"""XLM-RoBERTa (Conneau et al., arXiv:1911.02116): a RoBERTa for a hundred languages."""

from nas.model.families.roberta import roberta_variant

FAMILY = roberta_variant("xlm-roberta", "XLM-RoBERTa")
