"""XLM-RoBERTa (Conneau et al., arXiv:1911.02116): a RoBERTa for a hundred languages."""

from nas.model.families.roberta import alike

FAMILY = alike("xlm-roberta", "XLM-RoBERTa")
