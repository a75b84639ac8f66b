"""A new compression method needs only a class and a line in the registry, and methods must suit the search space."""

from __future__ import annotations

import random
import re
import runpy
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from onnx import TensorProto
from tiny import make_tokenizer, mixed_space
from tolerance import assert_same

from nas.architecture import LAYER_BLOCKS, compress_all
from nas.compression import BLOCKS, REGISTRY, compression
from nas.compression.base import Format
from nas.compression.none import NoCompression
from nas.device import Device
from nas.errors import SearchSpaceError
from nas.export.artefact import ONNX_FILE, write_artefact
from nas.export.verification import reload_alone
from nas.latency.profiling import ProfileRecipe, build_profile
from nas.model import CompactBert
from nas.model.sizes import stored_mb
from nas.runtimes.runner import onnx_session
from nas.search.encoding import Encoding
from nas.space import SearchSpace
from nas.supernet import BertSupernet


class Half(Format):
    """Weights that are stored in 16-bit floating point and multiplied in 32-bit floating point."""

    name = "half"
    examples = ("half",)
    blocks = frozenset(BLOCKS)
    operations = frozenset({"packed_weights"})

    @property
    def plain(self):
        return NoCompression()

    def _rounded(self, weight):
        return weight + (weight.half().to(weight.dtype) - weight).detach()

    def prepared(self, matrices):
        return {"weight": self._rounded(matrices["weight"])}

    def apply(self, x, prepared, bias):
        return F.linear(x, prepared["weight"], bias)

    def embed(self, ids, matrices):
        return self._rounded(F.embedding(ids, matrices["weight"]))

    def emit_linear(self, graph, x, matrices, bias, store=None):
        stored = (store or graph.constant)(matrices["weight"].T.astype(np.float16))
        product = graph.add("MatMul", x, graph.cast_to_float(stored))
        return product if bias is None else graph.add("Add", product, graph.constant(bias))

    def emit_embed(self, graph, ids, matrices):
        stored = graph.constant(matrices["weight"].astype(np.float16))
        return graph.add("Cast", graph.add("Gather", stored, ids, axis=0), to=TensorProto.FLOAT)

    def linear_bytes(self, rows, columns, bias=True):
        return 2 * rows * columns + 4 * rows * bias

    def table_bytes(self, rows, columns):
        return 2 * rows * columns


@pytest.fixture
def space(monkeypatch):
    monkeypatch.setitem(REGISTRY, "half", Half)
    compression.cache_clear()
    values = SearchSpace.load("tiny").model_dump()
    choices = {block: ["none", "half", "low_rank(4)+half"] for block in BLOCKS}
    choices |= {block: [*choices[block], "sparse(0.5)+half", "share"] for block in BLOCKS if block != "embedding"}
    yield SearchSpace.model_validate(values | {"compression": choices})
    compression.cache_clear()


@pytest.mark.parametrize("is_format", [False, True])
def test_space_search_export_and_sizes_accept_a_new_method(is_format, space, supernet_weights, config, batch, tmp_path):
    architecture = compress_all(space.sample(random.Random(3)), "half")
    if is_format:
        stored = {"attention": "sparse(0.5)+half", "feed_forward": "low_rank(4)+half"}
        layers = tuple(replace(layer, **stored) for layer in space.largest().layers)
        architecture = replace(space.largest(), layers=layers, embedding="low_rank(4)+half")
    assert all("half" in choice or choice == "share" for choice in architecture.choices)
    assert space.contains(architecture)
    assert Encoding(space).decode(Encoding(space).encode(architecture)) == architecture
    supernet = BertSupernet(supernet_weights)
    with torch.no_grad():
        active = supernet.run(architecture, **batch).logits
    write_artefact(supernet.extract(architecture), make_tokenizer(), tmp_path / "export")
    alone = reload_alone(tmp_path / "export")
    assert not isinstance(alone, CompactBert)
    with torch.no_grad():
        assert_same(alone(**batch).logits, active)
    inputs = {name: value.numpy() for name, value in batch.items()}
    served = onnx_session(str(tmp_path / "export" / ONNX_FILE), 1).run(["logits"], inputs)[0]
    assert_same(served, active, "float16")  # the attention's scale is folded into the queries before rounding
    compressed = config.with_architecture(architecture)
    assert stored_mb(compressed) < stored_mb(config.with_architecture(compress_all(architecture, "none")))
    assert supernet.run(architecture, **batch).logits.requires_grad


def test_the_contract_suite_tests_a_new_format_and_the_methods_stored_in_it(space):
    suite = runpy.run_path(str(Path(__file__).parents[1] / "contracts" / "test_compression.py"))
    stored = {"half", *(f"low_rank({rank})+half" for rank in (4, 6)), "sparse(0.5)+half", "sparse(2:4)+half"}
    assert stored < set(suite["SPECS"])
    passed = Counter()
    for test in (found for name, found in suite.items() if name.startswith("test_")):
        for mark in (mark for mark in getattr(test, "pytestmark", ()) if mark.args[0] == "choice"):
            for choice in (choice for choice in mark.args[1] if "half" in choice.names):
                test(choice)
                passed[choice.spec] += 1
    assert stored < passed.keys() and min(passed.values()) >= 9


@pytest.mark.slow
def test_a_profile_measures_the_blocks_of_a_new_method(space, config):
    small = SearchSpace.model_validate(
        space.model_dump()
        | {"dimensions": {"layers": [3], "hidden_size": [32], "num_attention_heads": [4], "intermediate_size": [64]}}
        | {
            "compression": {
                "embedding": ["none", "half"],
                **{block: ["none", "half", "share"] for block in LAYER_BLOCKS},
            }
        }
    )
    profile = build_profile(ProfileRecipe(Device(name="cpu", sequence_length=8), small, config, 0), "")
    assert {"attention/32/4/half", "feed_forward/32/64/half", "ends/32/half"} <= profile.blocks_ms.keys()
    shared = replace(
        small.largest(),
        layers=tuple(
            replace(layer, num_attention_heads=0, attention="share") if layer.source else layer
            for layer in small.largest().layers
        ),
    )
    assert profile.predict_ms(shared) == pytest.approx(profile.predict_ms(small.largest()))


def test_a_method_that_cannot_be_applied_to_a_block_is_refused(space, monkeypatch):
    monkeypatch.setattr(Half, "blocks", frozenset({"embedding"}))
    with pytest.raises(
        ValueError, match="attention: 'half' cannot be applied to this block, only to embedding; remove it"
    ):
        SearchSpace.model_validate(space.model_dump())


def test_a_method_that_suits_no_size_is_refused():
    values = mixed_space().model_dump()
    values["compression"] |= {"attention": ["none", "low_rank(500)"]}
    with pytest.raises(
        ValueError,
        match=r"compression.attention: 'low_rank\(500\)' must be applicable and save space at every hidden_size",
    ):
        SearchSpace.model_validate(values)


@pytest.mark.parametrize(
    ("block", "choice", "sizes"),
    [
        ("attention", "low_rank(12)", "16 even with num_attention_heads 4; change"),  # 24 and 32 are suitable
        ("feed_forward", "low_rank(14)", "16 even with intermediate_size 64; change"),
        ("embedding", "low_rank(20)", "16; change"),
        ("embedding", "low_rank(25)", "16 and 24; change"),
        ("attention", "sparse(0.1)+int8", "16, 24 and 32 even with"),  # its bits take more than its zeros save
    ],
)
def test_the_hidden_sizes_that_a_method_does_not_suit_are_named(block, choice, sizes):
    values = SearchSpace.load("tiny").model_dump()
    values["compression"] |= {block: ["none", choice]}
    with pytest.raises(ValueError, match=f"compression.{block}: {re.escape(repr(choice))} must .* fails at {sizes}"):
        SearchSpace.model_validate(values)


def test_a_method_suits_only_sizes_at_which_it_takes_fewer_bytes_than_its_format():
    assert compression("sparse(0.1)+int8").linear_bytes(384, 384, False) == 154_368 - 1536
    for spec in ("sparse(0.1)+int8", "low_rank(192)", "low_rank(192)+int8"):
        assert not compression(spec).suits(384, 384), spec
    for spec in ("sparse(0.1)", "sparse(0.2)+int8", "low_rank(191)", "low_rank(190)+int8", "low_rank(64)+int4"):
        assert compression(spec).suits(384, 384), spec


def test_a_block_can_share_weights_only_if_a_layer_below_has_some():
    space = mixed_space()
    largest = space.largest()
    first = replace(largest.layers[0], num_attention_heads=0, attention="share")
    architecture = replace(largest, layers=(first, *largest.layers[1:]))
    assert not space.contains(architecture)
    with pytest.raises(
        SearchSpaceError, match="layer 0: its attention block shares the weights of a layer below, but none"
    ):
        architecture.owner(0, "attention")
    repaired = space.repaired(architecture)
    assert space.contains(repaired) and repaired.layers[0].num_attention_heads == 1


def test_the_format_none_is_the_default_and_is_not_written():
    assert compression("low_rank(4)").stored.spec == NoCompression().spec
    with pytest.raises(ValueError, match=r"but got 'low_rank\(4\)\+none'; write 'low_rank\(4\)'"):
        compression("low_rank(4)+none")
