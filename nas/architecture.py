"""Architectures, which are the points of a search space, as immutable values.

An `Architecture` consists of a hidden size and the layers of the teacher that are kept. Each `Layer` has a number of
attention heads, an intermediate size, compression methods for its two blocks (attention and feed-forward), and the
number of tokens that it passes on to the next layer. The search proposes architectures, and the supernet extracts the
corresponding sub-networks.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from nas.compression import Block, compression
from nas.errors import SearchSpaceError, first_line
from nas.files import digest
from nas.form import Readout

LAYER_BLOCKS: tuple[Block, ...] = ("attention", "feed_forward")


@dataclass(frozen=True, slots=True)
class Layer:
    """One layer of an architecture. `source` is the index of this layer in the teacher.

    `attention` and `feed_forward` are the compression methods of the two blocks. If a method gives a block no weights
    of its own (`share`, `skip`), the number of heads or the intermediate size of the block is 0. If `keep_tokens` is
    above 0, only this many tokens are passed on to the next layer: those that receive the most attention. If it is 0,
    all tokens are passed on.
    """

    source: int
    num_attention_heads: int
    intermediate_size: int
    attention: str = "none"
    feed_forward: str = "none"
    keep_tokens: int = 0

    def to_json(self) -> dict[str, Any]:
        """Return the layer as a JSON object. `keep_tokens` is left out if it is 0."""
        return {name: value for name, value in asdict(self).items() if value or name != "keep_tokens"}

    def choice(self, block: Block) -> str:
        """Return the compression method of one of the layer's blocks, such as `int8` or `low_rank(8)`."""
        return self.attention if block == "attention" else self.feed_forward

    def option(self, block: Block) -> tuple[int, str]:
        """Return the size of a block (number of heads or intermediate size) and its compression method."""
        return (self.num_attention_heads if block == "attention" else self.intermediate_size), self.choice(block)

    def with_option(self, block: Block, option: tuple[int, str]) -> Layer:
        """Return a copy of the layer in which `block` has the size and the compression method in `option`."""
        size, choice = option
        if block == "attention":
            return replace(self, num_attention_heads=size, attention=choice)
        return replace(self, intermediate_size=size, feed_forward=choice)


@dataclass(frozen=True, slots=True)
class Architecture:
    """The architecture of a network, as an immutable, hashable value."""

    hidden_size: int
    layers: tuple[Layer, ...]
    embedding: str = "none"
    exit_threshold: float = 0.0
    """The confidence threshold for early exits. If the classifier after a layer assigns at least this probability to a
    class, all later layers are skipped. 0 means that there are no early exits.
    """

    def to_json(self) -> dict[str, Any]:
        """Return the architecture as a JSON object, from which `from_json` restores an equal architecture."""
        values = {
            "hidden_size": self.hidden_size,
            "embedding": self.embedding,
            "layers": [layer.to_json() for layer in self.layers],
        }
        return values | ({"exit_threshold": self.exit_threshold} if self.exit_threshold else {})

    @classmethod
    def from_json(cls, value: Any) -> Architecture:
        """Return the architecture that a JSON object describes. Raises `SearchSpaceError` if the object is invalid."""
        try:
            layers = tuple(Layer(**layer) for layer in value["layers"])
            threshold = value.get("exit_threshold", 0.0)
            architecture = cls(value["hidden_size"], layers, value["embedding"], threshold)
            for name in architecture.choices:
                compression(name)
            return architecture
        except (AttributeError, KeyError, TypeError, ValueError) as problem:
            reason = f"{type(problem).__name__}: {first_line(problem)}"
            raise SearchSpaceError(
                "architecture: must be a JSON object with hidden_size, embedding and layers, but cannot be read "
                f"({reason}); copy the architecture of an export or a trial without changes"
            ) from None

    @property
    def digest(self) -> str:
        """A short identifier. Equal architectures have equal digests on every machine."""
        return digest(self.to_json())

    @property
    def choices(self) -> frozenset[str]:
        """The compression methods of the embeddings and of all blocks."""
        per_layer = {choice for layer in self.layers for choice in (layer.attention, layer.feed_forward)}
        return frozenset(per_layer | {self.embedding})

    def owner(self, number: int, block: Block) -> int | None:
        """Return the index in `layers` of the layer whose weights a block uses, or None if the block has no weights.

        `number` is the index in `layers` of the layer that contains the block. Raises `SearchSpaceError` if the block
        shares weights, but no lower layer has weights for it.
        """
        layers = reversed(self.layers[: number + 1])
        for distance, layer in enumerate(layers):
            weights = compression(layer.choice(block)).weights
            if weights == "own":
                return number - distance
            if weights == "none" and distance == 0:
                return None
        raise SearchSpaceError(
            f"layer {self.layers[number].source}: its {block} block shares the weights of a layer below, but none of "
            "the layers below has weights for it; give the block a compression method with weights of its own, such "
            "as none"
        )

    @property
    def resolved(self) -> tuple[Layer, ...]:
        """The layers with the real sizes of all blocks.

        A block that shares weights has the size and the compression method of the block that owns these weights.
        """
        layers = []
        for number in range(len(self.layers)):
            layers.append(self.layers[number])
            for block in LAYER_BLOCKS:
                owner = self.owner(number, block)
                if owner not in (None, number):
                    layers[-1] = layers[-1].with_option(block, self.layers[owner].option(block))
        return tuple(layers)

    @property
    def is_canonical(self) -> bool:
        """Whether the architecture can be computed and has no settings without effect.

        In such an architecture, every layer has at least one block. If a block shares weights, a lower layer has
        weights that it can share. A layer drops tokens only if it has attention, if it passes on fewer tokens than it
        receives, and if a later layer has attention too. A network with only one layer has no early exits.
        """
        try:
            resolved = self.resolved
        except SearchSpaceError:
            return False
        layers_are_canonical = all(
            any(layer.option(block)[0] for block in LAYER_BLOCKS) and layer.keep_tokens == kept
            for layer, kept in zip(resolved, kept_tokens(resolved), strict=True)
        )
        return layers_are_canonical and not (self.exit_threshold and len(resolved) == 1)

    def describe(self) -> str:
        """Return a one-line description for tables: the hidden size, and `layer:heads/intermediate` for each layer.

        `*` marks a compressed block, `=` a block that shares the weights of a lower layer, and `-` a block that is left
        out. `>8` means that a layer passes on eight tokens. `exit 0.9` means that texts exit early at a confidence of
        at least 0.9.
        """

        def block(size: int, choice: str) -> str:
            weights = compression(choice).weights
            if weights == "own":
                return f"{size}{'' if choice == 'none' else '*'}"
            return "=" if weights == "below" else "-"

        layers = " ".join(
            f"{layer.source}:{'/'.join(block(*layer.option(name)) for name in LAYER_BLOCKS)}"
            + (f">{layer.keep_tokens}" if layer.keep_tokens else "")
            for layer in self.layers
        )
        exit_text = f" exit {self.exit_threshold:g}" if self.exit_threshold else ""
        return f"h{block(self.hidden_size, self.embedding)} {layers}{exit_text}"


def first_token_from(layers: Sequence[Layer], readout: Readout = "first") -> int:
    """Return the index of the first layer that computes only the first token: the last layer with attention.

    No block after the attention block of that layer reads other tokens. `layers` must be those of
    `Architecture.resolved`. The result is 0 if no layer has attention. If `readout` is not `first`, the head reads all
    tokens, so every layer computes all tokens, and the result is the number of layers.
    """
    if readout != "first":
        return len(layers)
    return max((number for number, layer in enumerate(layers) if layer.num_attention_heads), default=0)


def kept_tokens(layers: Sequence[Layer]) -> Iterator[int]:
    """Yield the value of `keep_tokens` for each layer, or 0 if the layer's value has no effect.

    `layers` must be those of `Architecture.resolved`.
    """
    tokens_left, last_attention = math.inf, first_token_from(layers)
    for number, layer in enumerate(layers):
        drops = 0 < layer.keep_tokens < tokens_left and layer.num_attention_heads and number < last_attention
        tokens_left = layer.keep_tokens if drops else tokens_left
        yield layer.keep_tokens if drops else 0


def compress_all(architecture: Architecture, choice: str) -> Architecture:
    """Return a copy of the architecture in which the embeddings and all blocks with own weights use `choice`."""

    def compressed(layer: Layer) -> Layer:
        for block in LAYER_BLOCKS:
            size = layer.option(block)[0]
            layer = layer.with_option(block, (size, choice)) if size else layer
        return layer

    layers = tuple(compressed(layer) for layer in architecture.layers)
    return replace(architecture, embedding=choice, layers=layers)
