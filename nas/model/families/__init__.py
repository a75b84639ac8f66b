"""The families of teachers that can be compressed, by their `model_type`."""

from nas.errors import TeacherError
from nas.model.families import bert, camembert, distilbert, electra, modernbert, mpnet, roberta, xlm_roberta
from nas.model.families.base import Family

FAMILIES: dict[str, Family] = {
    module.FAMILY.model_type: module.FAMILY
    for module in (bert, roberta, xlm_roberta, camembert, distilbert, electra, mpnet, modernbert)
}


def in_words(before_last: str = "or") -> str:
    """The names of all families, in a row."""
    *others, last = (family.title for family in FAMILIES.values())
    return f"{', '.join(others)} {before_last} {last}"


def family_of(model_type: str) -> Family:
    """The family of a teacher's `model_type`. Raises `TeacherError` for one that is not supported."""
    if model_type not in FAMILIES:
        *others, last = FAMILIES
        raise TeacherError(
            f"teacher: a model of type {', '.join(others)} or {last} is needed, but got {model_type!r}; "
            "use a checkpoint of one of them"
        )
    return FAMILIES[model_type]


__all__ = ["FAMILIES", "Family", "family_of", "in_words"]
