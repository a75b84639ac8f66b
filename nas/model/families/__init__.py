"""The families of teachers that can be compressed.

`FAMILIES` is the registry, keyed by the family's `model_type` in transformers. Each family is defined in a file of this
folder as a `Family` (see `base.py`).
"""

from nas.errors import TeacherError, listed
from nas.model.families import bert, camembert, distilbert, electra, modernbert, mpnet, roberta, xlm_roberta
from nas.model.families.base import Family

FAMILIES: dict[str, Family] = {
    module.FAMILY.model_type: module.FAMILY
    for module in (bert, roberta, xlm_roberta, camembert, distilbert, electra, mpnet, modernbert)
}


def family_names() -> str:
    """Return the names of all families as part of a sentence, such as "BERT, RoBERTa or MPNet"."""
    return listed(family.title for family in FAMILIES.values())


def family_of(model_type: str) -> Family:
    """Return the family with this `model_type`. Raises `TeacherError` if the family is not supported."""
    if model_type not in FAMILIES:
        raise TeacherError(
            f"teacher.model: model_type must be {listed(FAMILIES)}, but got {model_type!r}; "
            "give a checkpoint of one of these families"
        )
    return FAMILIES[model_type]


__all__ = ["FAMILIES", "Family", "family_names", "family_of"]
