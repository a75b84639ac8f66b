"""Sub-networks of a smaller hidden size have their own norms, and linear maps that predict the missing units."""

from __future__ import annotations

import pytest
import torch
from tiny import TEACHERS
from tolerance import assert_same, is_same

from nas.architecture import Architecture
from nas.model.stock import from_stock
from nas.supernet import BertSupernet, SupernetWeights
from nas.supernet.narrow import readers_of


def _uniform(space, hidden):
    return Architecture(hidden_size=hidden, layers=space.largest().layers)


@pytest.mark.parametrize("teacher_kind", TEACHERS)
def test_missing_units_that_depend_linearly_on_others_are_predicted(space, teacher, batch):
    """After the embeddings, the last 8 of 32 units are linear functions of the first 8, and the map predicts them."""
    largest = from_stock(teacher)
    bert = largest.bert
    with torch.no_grad():
        writer = bert.embeddings_project or bert.embeddings.LayerNorm
        if bert.embeddings_project is not None:
            writer.weight[24:], writer.bias[24:] = writer.weight[:8], writer.bias[:8]
        else:
            embeddings = bert.embeddings
            for table in (
                embeddings.word_embeddings,
                embeddings.position_embeddings,
                embeddings.token_type_embeddings,
            ):
                if table is not None:
                    table.weight[:, 24:] = table.weight[:, :8]
            writer.weight[24:] = writer.weight[:8] * 2.0
            if writer.bias is not None:
                writer.bias[24:] = writer.bias[:8] - 1.0
    weights = SupernetWeights.of(largest, (24, 32))
    weights.fit([batch] * 2)
    narrow = weights.narrow["24"].get_submodule("missing.bert.encoder.layer.0.attention.self")
    with torch.no_grad():
        states = weights(**batch, output_hidden_states=True).hidden_states[0][batch["attention_mask"].bool()]
        found = narrow(states[:, :24])
    assert (found - states[:, 24:]).square().mean() < 0.01 * states[:, 24:].var()


@pytest.mark.parametrize("teacher_kind", TEACHERS)
def test_the_map_is_the_least_squares_fit_over_tokens_that_are_not_padding(space, teacher, batch):
    weights = SupernetWeights.of(from_stock(teacher), (16, 32))
    many = [batch | {"input_ids": (batch["input_ids"] + shift) % 80 + 4} for shift in range(40)]
    weights.fit(many)
    name = "bert.encoder.layer.1.intermediate.dense"
    seen, completed = [], weights.narrow["16"].get_submodule(f"missing.{readers_of(weights)[name]}")
    hook = weights.get_submodule(name).register_forward_pre_hook(lambda _m, inputs: seen.append(inputs[0]))
    with torch.no_grad():
        for inputs in many:
            weights(**inputs)
    hook.remove()
    tokens = torch.cat([value[batch["attention_mask"].bool()] for value in seen]).double()
    constant = [] if completed.bias is None else [torch.ones(len(tokens), 1)]
    design = torch.cat([tokens[:, :16], *constant], dim=1)
    expected = torch.linalg.lstsq(design, tokens[:, 16:]).solution
    residual = (tokens[:, 16:] - completed(tokens[:, :16].float()).double()).square().mean()
    least = (tokens[:, 16:] - design @ expected).square().mean()
    assert least <= residual <= 1.01 * least


def test_each_smaller_hidden_size_has_its_own_norms_which_start_as_the_shared_ones(space, teacher, batch):
    weights = SupernetWeights.of(from_stock(teacher), space.dimensions.hidden_size)
    weights.fit([batch])
    supernet, (small, middle, full) = (
        BertSupernet(weights),
        (_uniform(space, hidden) for hidden in space.dimensions.hidden_size),
    )
    name = "bert.encoder.layer.0.attention.output.LayerNorm.weight"
    shared = weights.get_parameter(name)
    for architecture in (small, middle, full):
        assert torch.equal(supernet.slices(architecture)[name], shared[: architecture.hidden_size])
    before = {item: supernet.run(item, **batch).logits for item in (middle, full)}
    with torch.no_grad():
        weights.narrow[str(small.hidden_size)].get_parameter(f"norms.{name}").mul_(3.0)
        changed = supernet.run(small, **batch).logits
    assert not is_same(changed, before[middle])
    for item, logits in before.items():
        assert_same(supernet.run(item, **batch).logits, logits)


def test_saved_weights_are_loaded_unchanged(supernet_weights, tmp_path):
    supernet_weights.save_pretrained(tmp_path)
    again = SupernetWeights.from_pretrained(tmp_path)
    assert again.config.narrow_sizes == supernet_weights.config.narrow_sizes
    for name, value in supernet_weights.state_dict().items():
        assert torch.equal(again.state_dict()[name], value), name


def test_the_configuration_of_a_sub_network_has_no_settings_of_the_supernet(space, supernet_weights):
    config = BertSupernet(supernet_weights).extract(space.smallest()).config
    assert config.model_type == "compact_bert" and not hasattr(config, "narrow_sizes")
