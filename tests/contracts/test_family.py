"""Every family of teachers is converted to a `CompactBert` and back without changing its weights or its function.

A new family needs an entry in `TEACHERS` of tests/tiny.py, unless it differs from RoBERTa only in its name.
"""

from __future__ import annotations

from dataclasses import replace
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
from nas.supernet.distillation import Knowledge, hidden_loss
from nas.supernet.importance import magnitude, reorder

FORMS = [NetworkForm(), NetworkForm("token_classifier", "every"), NetworkForm("encoder", "mean")]
pytestmark = pytest.mark.parametrize("form", FORMS, ids=lambda form: form.network_type)
EVERY = [*TEACHERS, *(name for name in FAMILIES if name not in FAMILY_OF.values())]
"""All kinds of teachers in `TEACHERS`, and the families without an entry there."""


def _tiny_settings(kind: str) -> tuple[str, dict[str, Any]]:
    """Return the family of a kind of teacher, and the settings of a tiny model.

    Families without an entry in `TEACHERS` get RoBERTa's settings. Fails if such a family differs from RoBERTa in more
    than its name (see `alike` in nas/model/families/roberta.py).
    """
    if kind in TEACHERS:
        return TEACHERS[kind]
    family, roberta = FAMILIES[kind], FAMILIES["roberta"]
    if replace(family, model_type=roberta.model_type, title=roberta.title) != roberta:
        pytest.fail(
            f"the family {kind!r} must have an entry in TEACHERS of tests/tiny.py, because it differs from RoBERTa in "
            "more than its name; add the settings of a tiny model (docs/families.md)"
        )
    return kind, TEACHERS["roberta"][1]


def _teacher(kind: str, form: NetworkForm) -> Any:
    """Return a stock model with random weights, of a kind of teacher or of a family without an entry in `TEACHERS`."""
    family, settings = _tiny_settings(kind)
    settings = {"vocab_size": 90, "max_position_embeddings": POSITIONS, "num_labels": 3} | settings
    return randomise(AUTO_CLASSES[form.network_type].from_config(AutoConfig.for_model(family, **settings)))


def _texts(teacher: Any) -> dict[str, torch.Tensor]:
    """Return texts of one token, of the maximum number of tokens, and of other lengths, with padding after them."""
    padding = teacher.config.pad_token_id
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(5, 90, (5, POSITIONS), generator=generator)
    mask = torch.ones_like(ids)
    for row, length in enumerate((POSITIONS, 1, 7, 23, POSITIONS - 1)):
        ids[row, length:], mask[row, length:] = padding, 0
    return {"input_ids": ids, "attention_mask": mask}


def _outputs(output: Any, form: NetworkForm, mask: torch.Tensor) -> torch.Tensor:
    """Return the outputs for each text or, for other heads, for each token that is not padding."""
    if form.network_type == "sequence_classifier":
        return output.logits
    found = output.logits if form.network_type == "token_classifier" else output.last_hidden_state
    return found[mask.bool()]


@pytest.mark.parametrize("kind", EVERY)
def test_a_converted_teacher_computes_the_same_outputs(kind, form):
    teacher = _teacher(kind, form)
    texts, compact = _texts(teacher), from_stock(_teacher(kind, form), form)
    network = compact.bert if form.network_type == "encoder" else compact
    with torch.no_grad():
        expected, found = (_outputs(one(**texts), form, texts["attention_mask"]) for one in (teacher, network))
    assert expected.std(dim=0).mean() > 0.05
    assert_same(found, expected)


@pytest.mark.parametrize("kind", EVERY)
def test_every_weight_is_converted_and_converted_back_unchanged(kind, form):
    """Exceptions are unused rows of the position table, and the pooler of an encoder, whose output is not used."""
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


def test_a_family_without_an_entry_in_teachers_is_refused_unless_it_is_like_roberta(form, monkeypatch):
    monkeypatch.setitem(FAMILIES, "newcomer", replace(FAMILIES["bert"], model_type="newcomer", title="Newcomer"))
    with pytest.raises(pytest.fail.Exception, match="'newcomer' must have an entry in TEACHERS"):
        _teacher("newcomer", form)
    assert _tiny_settings("camembert") == ("camembert", TEACHERS["roberta"][1])


@pytest.mark.parametrize("kind", EVERY)
def test_every_parameter_has_axes_and_reordering_does_not_change_the_outputs(kind, form):
    compact = from_stock(_teacher(kind, form), form)
    with_axes = [parameter for module in compact.modules() for parameter, axes in labelled(module) if len(axes)]
    assert {id(parameter) for parameter in with_axes} == {id(parameter) for parameter in compact.parameters()}
    texts = _texts(compact)
    with torch.no_grad():
        before = compact(**texts).logits
        reorder(compact, magnitude(compact))
        real = texts["attention_mask"].bool() if form.readout == "every" else slice(None)
        assert_same(compact(**texts).logits[real], before[real])


@pytest.mark.parametrize("kind", EVERY)
def test_no_layer_dominates_the_loss_of_hidden_states(kind, form):
    compact = from_stock(_teacher(kind, form), form)
    texts = _texts(compact)
    with torch.no_grad():
        states = compact(**texts, output_hidden_states=True, every_token=True, details=True).hidden_states
    teacher = Knowledge((), states, (None,) * len(states))
    losses = []
    for index, state in enumerate(states):
        student = replace(teacher, states=(*states[:index], torch.zeros_like(state), *states[index + 1 :]))
        relative = compact.config.norm_first
        architecture, mask = compact.config.architecture, texts["attention_mask"]
        losses.append(hidden_loss(student, teacher, architecture, mask, relative).item())
    assert max(losses) < 10 * min(losses)


@pytest.mark.parametrize("name", FAMILIES)
def test_model_type_and_parameter_names_are_those_of_transformers(name, form):
    family = FAMILIES[name]
    assert family.model_type == name and name in CONFIG_MAPPING
    with torch.device("meta"):
        model = AUTO_CLASSES[form.network_type].from_config(AutoConfig.for_model(name))
    assert model.base_model_prefix == family.base
    encoder = model if form.network_type == "encoder" else getattr(model, family.base)
    assert encoder.get_parameter(family.token_embeddings) is encoder.get_input_embeddings().weight


def test_position_biases_that_differ_between_layers_do_not_fit_mpnets_own_class(form):
    compact = from_stock(_teacher("mpnet", form), form)
    assert fits_stock(compact)
    with torch.no_grad():
        compact.layers[1].attention.self.positions.relative_attention_bias.weight[0, 0] += 1.0
    assert not fits_stock(compact)
