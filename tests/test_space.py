"""Search spaces define, count, draw and vary architectures, which are immutable values."""

from __future__ import annotations

import itertools
import random
from dataclasses import FrozenInstanceError

import pytest
from tiny import mixed_space

from nas.architecture import Architecture, compress_all
from nas.errors import SearchSpaceError
from nas.search.costs import cheapest
from nas.search.encoding import Encoding
from nas.space import SearchSpace, evenly_spaced, shipped_spaces

SMALL = """
name = "small"
[teacher]
num_hidden_layers = 2
hidden_size = 8
num_attention_heads = 2
intermediate_size = 4
[dimensions]
layers = [1, 2, [1]]
hidden_size = [4, 8]
num_attention_heads = [1, 2]
intermediate_size = [2, 4]
[compression]
attention = ["none", "int8"]
"""


SHARED = """
attention = ["none", "int8", "share", "skip"]
feed_forward = ["none", "low_rank(1)", "share", "skip"]
"""

DROPPING = (
    SMALL.partition("[compression]")[0].replace("[1, 2, [1]]", "[1, 2]\nkeep_tokens = [3, 5]\nexit_threshold = [0.9]")
    + "[compression]"
    + SHARED
)


def _all_combinations(space):
    """Yield every combination of options, valid or not."""
    options = list(itertools.product(space.options("attention"), space.options("feed_forward"), space.keep_options))
    for kept in space.layer_sets:
        for blocks in itertools.product(options, repeat=len(kept)):
            layers = tuple(space.layer(source, *pair) for source, pair in zip(kept, blocks, strict=True))
            for hidden in space.dimensions.hidden_size:
                for embedding, threshold in itertools.product(space.compression.embedding, space.exit_options):
                    yield Architecture(hidden, layers, embedding, threshold)


def _is_sound(architecture):
    """Whether an architecture follows the rules, which are written here a second time in the simplest form.

    Every layer has a block. A block can share weights only if an earlier layer has weights of its own. Tokens are
    dropped after attention, their number decreases, and attention in a later layer follows. A network with a single
    layer has no early exit.
    """
    if architecture.exit_threshold and len(architecture.layers) == 1:
        return False
    kept = [layer.keep_tokens for layer in architecture.layers if layer.keep_tokens]
    attend = [number for number, layer in enumerate(architecture.layers) if layer.attention != "skip"]
    if kept != sorted(set(kept), reverse=True):
        return False
    if any(layer.keep_tokens for layer in architecture.layers[max(attend, default=0) :]):
        return False
    for number, layer in enumerate(architecture.layers):
        if layer.keep_tokens and layer.attention == "skip":
            return False
        for block in ("attention", "feed_forward"):
            below = [getattr(other, block) for other in architecture.layers[:number]]
            if getattr(layer, block) == "share" and not set(below) - {"share", "skip"}:
                return False
        if layer.attention == layer.feed_forward == "skip":
            return False
    return True


@pytest.mark.parametrize(
    ("text", "number"), [(SMALL, 160), (SMALL.partition("attention = [")[0] + SHARED, 1680), (DROPPING, 7856)]
)
def test_the_count_and_membership_match_a_brute_force_enumeration(tmp_path, text, number):
    path = tmp_path / "small.toml"
    path.write_text(text)
    space = SearchSpace.load(path)
    combined = list(_all_combinations(space))
    everything = [architecture for architecture in combined if _is_sound(architecture)]
    assert all(space.contains(architecture) == _is_sound(architecture) for architecture in combined)
    assert space.count() == len(everything) == len(set(everything)) == number
    assert all(space.contains(architecture) for architecture in everything)
    assert len({architecture.digest for architecture in everything}) == len(everything)


@pytest.mark.parametrize("name", [*sorted(shipped_spaces()), "mixed"])
def test_sampling_crossover_and_mutation_stay_inside_the_space(name):
    space, rng = mixed_space() if name == "mixed" else SearchSpace.load(name), random.Random(0)
    encoding = Encoding(space)
    for _ in range(200):
        first, second = space.sample(rng), space.sample(rng)
        child = space.mutate(space.crossover(first, second, rng), rng)
        assert space.contains(first) and space.contains(child)
        assert encoding.decode(encoding.encode(child)) == child
    assert space.contains(space.smallest()) and space.contains(space.largest())


def test_crossover_takes_whole_layers_from_the_parents(space):
    rng = random.Random(0)
    for _ in range(100):
        first, second = space.sample(rng), space.sample(rng)
        child = space.crossover(first, second, rng)
        assert set(child.layers) <= set(first.layers) | set(second.layers)


def test_mutation_changes_every_dimension_and_a_rate_of_zero_changes_none(space):
    rng = random.Random(0)
    start = space.largest()
    assert all(space.mutate(start, rng, rate=0.0) == start for _ in range(20))
    mutants = [space.mutate(start, rng, rate=0.5) for _ in range(200)]
    assert len({mutant.hidden_size for mutant in mutants}) == 3
    assert len({len(mutant.layers) for mutant in mutants}) == 3
    assert {choice for mutant in mutants for choice in mutant.choices} == {"none", "int8"}


def test_an_architecture_is_an_immutable_value_with_a_json_form(space):
    architecture = space.sample(random.Random(3))
    twin = Architecture.from_json(architecture.to_json())
    assert twin == architecture and hash(twin) == hash(architecture) and twin.digest == architecture.digest
    with pytest.raises(FrozenInstanceError):
        architecture.hidden_size = 3
    with pytest.raises(SearchSpaceError, match="hidden_size"):
        Architecture.from_json({"layers": []})
    with pytest.raises(SearchSpaceError, match="'int3' is not a compression method"):
        Architecture.from_json(architecture.to_json() | {"embedding": "int3"})


def test_the_digest_of_an_architecture_does_not_change_between_versions(space):
    assert space.largest().digest == "bbb02e863c7e2dc1"


def test_layers_are_spaced_evenly():
    assert [evenly_spaced(count, 6) for count in (1, 2, 3, 4)] == [(0,), (0, 5), (0, 2, 5), (0, 2, 3, 5)]
    assert evenly_spaced(12, 12) == tuple(range(12))


def test_the_smallest_and_largest_networks_have_the_extreme_values(space):
    smallest, largest = space.smallest(), space.largest()
    assert (smallest.hidden_size, len(smallest.layers), smallest.choices) == (16, 1, {"int8"})
    assert (largest.hidden_size, len(largest.layers), largest.choices) == (32, 3, {"none"})
    assert compress_all(largest, "int8").choices == {"int8"}


@pytest.mark.parametrize("layers", ["[1, 2]", "[2]"])
def test_the_cheapest_network_is_found_if_costs_add_up_over_blocks(tmp_path, layers):
    """It is seldom the smallest network, because shared weights, dropped tokens and omitted blocks save more."""
    path = tmp_path / "small.toml"
    path.write_text(DROPPING.replace("layers = [1, 2]", f"layers = {layers}"))
    space, rng = SearchSpace.load(path), random.Random(0)
    everything = [architecture for architecture in _all_combinations(space) if _is_sound(architecture)]
    weights: dict[str, float] = {}

    def cost(architecture):
        tokens, total = 8, 0.0
        for layer in architecture.resolved:
            for block in ("attention", "feed_forward"):
                part = str(layer.option(block))
                weights.setdefault(part, rng.random())
                total += tokens * architecture.hidden_size * weights[part] if layer.option(block)[0] else 0.0
            tokens = layer.keep_tokens or tokens
        return total

    for _ in range(20):
        weights.clear()
        assert cost(cheapest(space, cost)) == min(map(cost, everything))


def test_excluded_compression_methods_are_removed_from_every_block(space):
    assert space.count() == 295_704
    without = space.excluding(("int8",))
    assert without.compression.attention == ("none",) and without.digest != space.digest
    assert without.count() == 2_700 and space.count() == 295_704
    assert mixed_space().excluding(("int8", "low_rank(4)")).compression.attention == (
        "none",
        "sparse(0.5)",
        "share",
        "skip",
    )
    with pytest.raises(SearchSpaceError, match=r"low_rank\(8\)\+int8.*, but got 'low_rank\(7\)'"):
        mixed_space().excluding(("low_rank(7)",))
    with pytest.raises(SearchSpaceError, match=r"\(int8\), but got 'int3'"):
        space.excluding(("int3",))
    with pytest.raises(SearchSpaceError, match="'none' cannot be excluded"):
        space.excluding(("int8", "none"))
