"""Encodes architectures as small integers, which Optuna's samplers and storages can handle.

Each integer is an index into the allowed values of one dimension of the search space. Most dimensions list their values
in ascending order. `Trials`, the samplers and `costs.cheapest` use `Encoding`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from nas.architecture import LAYER_BLOCKS, Architecture
from nas.space import SearchSpace


class Encoding:
    """Converts architectures of a search space to dictionaries of integer variables, and back.

    `decode` ignores the variables of layers that the architecture omits. It also repairs combinations that cannot be
    built (see `SearchSpace.repaired`), such as a layer without any block.
    """

    def __init__(self, space: SearchSpace) -> None:
        self.space = space
        self.global_dimensions: dict[str, tuple[Any, ...]] = {
            "layers": space.layer_sets,
            "hidden_size": space.dimensions.hidden_size,
            "embedding": space.compression.embedding,
        }
        if space.dimensions.exit_threshold:
            self.global_dimensions["exit_threshold"] = space.exit_options
        self._layer_dimensions: dict[str, tuple[Any, ...]] = {block: space.options(block) for block in LAYER_BLOCKS}
        if space.dimensions.keep_tokens:
            self._layer_dimensions["keep_tokens"] = space.keep_options

    def of_layer(self, source: int) -> list[str]:
        """Return the names of the integer variables that encode a candidate's choices for teacher layer `source`."""
        return [f"{block}_{source}" for block in self._layer_dimensions]

    def sizes(self) -> dict[str, int]:
        """Return how many values each integer variable can have, keyed by the name of the variable."""
        sizes = {name: len(values) for name, values in self.global_dimensions.items()}
        for source in range(self.space.teacher.num_hidden_layers):
            sizes |= dict(zip(self.of_layer(source), map(len, self._layer_dimensions.values()), strict=True))
        return sizes

    def decode(self, values: Mapping[str, int]) -> Architecture:
        """Return the architecture that `values` encodes, repaired if it cannot be built.

        `values` maps the name of each integer variable to its value.
        """
        chosen: dict[str, Any] = {name: options[values[name]] for name, options in self.global_dimensions.items()}
        dimensions = self._layer_dimensions.items()
        layers = tuple(
            self.space.layer(source, *(options[values[f"{block}_{source}"]] for block, options in dimensions))
            for source in chosen.pop("layers")
        )
        return self.space.repaired(Architecture(layers=layers, **chosen))

    def encode(self, architecture: Architecture) -> dict[str, int]:
        """Return values of the integer variables from which `decode` restores the architecture, keyed by name.

        The variables of omitted layers are 0.
        """
        values = dict.fromkeys(self.sizes(), 0)
        sources = tuple(layer.source for layer in architecture.layers)
        values["layers"] = self.space.layer_sets.index(sources)
        values["hidden_size"] = self.space.dimensions.hidden_size.index(architecture.hidden_size)
        values["embedding"] = self.space.compression.embedding.index(architecture.embedding)
        if "exit_threshold" in values:
            values["exit_threshold"] = self.space.exit_options.index(architecture.exit_threshold)
        for layer in architecture.layers:
            for block in LAYER_BLOCKS:
                values[f"{block}_{layer.source}"] = self.space.options(block).index(layer.option(block))
            if layer.keep_tokens:
                values[f"keep_tokens_{layer.source}"] = self.space.keep_options.index(layer.keep_tokens)
        return values
