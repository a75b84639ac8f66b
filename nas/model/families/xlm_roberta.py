"""XLM-RoBERTa (Conneau et al., arXiv:1911.02116): RoBERTa for a hundred languages."""

from nas.model.families.roberta import alike

FAMILY = alike("xlm-roberta", "XLM-RoBERTa")
