"""What every family of teachers must do. A new one has a line in `tiny.TEACHERS`, or shares RoBERTa's class."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tiny import FAMILY_OF, POSITIONS, TEACHERS, randomise
from tolerance import assert_same
from transformers import CONFIG_MAPPING, AutoConfig

from nas.form import NetworkForm
from nas.model.axes import labelled
from nas.model.families import FAMILIES, family_of
from nas.model.stock import AUTO_CLASSES, fits_stock, from_stock, to_stock
from nas.supernet.importance import magnitude, reorder

FORMS = [NetworkForm(), NetworkForm("token_classifier", "every"), NetworkForm("encoder", "mean")]
pytestmark = pytest.mark.parametrize("form", FORMS, ids=lambda form: form.network_type)
EVERY = [*TEACHERS, *(name for name in FAMILIES if name not in FAMILY_OF.values())]


def _teacher(kind: str, form: NetworkForm) -> Any:
    """A stock model of a kind of teacher, or of a family that shares RoBERTa's class."""
    family, settings = TEACHERS.get(kind) or (kind, TEACHERS["roberta"][1])
    settings = {"vocab_size": 90, "max_position_embeddings": POSITIONS, "num_labels": 3} | settings
    return randomise(AUTO_CLASSES[form.network_type].from_config(AutoConfig.for_model(family, **settings)))


def _texts(teacher: Any) -> dict[str, torch.Tensor]:
    """Texts of the longest length, of one token, and between, with padding behind them."""
    padding = teacher.config.pad_token_id
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(5, 90, (5, POSITIONS), generator=generator)
    mask = torch.ones_like(ids)
    for row, length in enumerate((POSITIONS, 1, 7, 23, POSITIONS - 1)):
        ids[row, length:], mask[row, length:] = padding, 0
    return {"input_ids": ids, "attention_mask": mask}


def _outputs(output: Any, form: NetworkForm, mask: torch.Tensor) -> torch.Tensor:
    """What is computed for texts, or for their tokens."""
    if form.network_type == "sequence_classifier":
        return output.logits
    found = output.logits if form.network_type == "token_classifier" else output.last_hidden_state
    return found[mask.bool()]


@pytest.mark.parametrize("kind", EVERY)
def test_the_teachers_function_is_unchanged(kind, form):
    teacher = _teacher(kind, form)
    texts, compact = _texts(teacher), from_stock(_teacher(kind, form), form)
    network = compact.bert if form.network_type == "encoder" else compact
    with torch.no_grad():
        expected, found = (_outputs(one(**texts), form, texts["attention_mask"]) for one in (teacher, network))
    assert expected.std(dim=0).mean() > 0.05
    assert_same(found, expected)


@pytest.mark.parametrize("kind", EVERY)
def test_every_weight_goes_there_and_back(kind, form):
    """But for rows of positions that no token takes, and the pooler of an encoder, which nothing reads."""
    teacher = _teacher(kind, form)
    compact = from_stock(teacher, form)
    assert fits_stock(compact)
    state = to_stock(compact).state_dict()
    first = family_of(teacher.config.model_type).first_position(teacher.config.pad_token_id)
    for name, value in teacher.state_dict().items():
        if name.startswith("pooler.") and form.network_type == "encoder":
            continue
        used = slice(first if "position_embeddings" in name else 0, None)
        assert torch.equal(state[name][used], value[used]), name


@pytest.mark.parametrize("kind", EVERY)
def test_every_parameter_has_axes_and_ordering_keeps_the_function(kind, form):
    compact = from_stock(_teacher(kind, form), form)
    noted = [parameter for module in compact.modules() for parameter, axes in labelled(module) if len(axes)]
    assert {id(parameter) for parameter in noted} == {id(parameter) for parameter in compact.parameters()}
    texts = _texts(compact)
    with torch.no_grad():
        before = compact(**texts).logits
        reorder(compact, magnitude(compact))
        real = texts["attention_mask"].bool() if form.readout == "every" else slice(None)
        assert_same(compact(**texts).logits[real], before[real])


@pytest.mark.parametrize("name", FAMILIES)
def test_it_is_what_transformers_calls_so(name, form):
    family = FAMILIES[name]
    assert family.model_type == name and name in CONFIG_MAPPING
    with torch.device("meta"):
        model = AUTO_CLASSES[form.network_type].from_config(AutoConfig.for_model(name))
    assert model.base_model_prefix == family.base
    encoder = model if form.network_type == "encoder" else getattr(model, family.base)
    assert encoder.get_parameter(family.token_embeddings) is encoder.get_input_embeddings().weight


def test_a_table_that_layers_do_not_share_does_not_fit_mpnets_own_class(form):
    compact = from_stock(_teacher("mpnet", form), form)
    assert fits_stock(compact)
    with torch.no_grad():
        compact.layers[1].attention.self.positions.relative_attention_bias.weight[0, 0] += 1.0
    assert not fits_stock(compact)
