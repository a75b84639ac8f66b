"""CamemBERT (Martin et al., arXiv:1911.03894): a RoBERTa for French."""

from nas.model.families.roberta import roberta_variant

FAMILY = roberta_variant("camembert", "CamemBERT")
