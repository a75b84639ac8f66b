"""Architectures: single points of a search space, as values that never change.

Which of the teacher's layers stay, the hidden size, and for every layer its heads, its intermediate size, the
compression choice of both blocks and the tokens that go on.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from nas.compression import Block, compression
from nas.errors import SearchSpaceError
from nas.files import digest
from nas.form import Readout

LAYER_BLOCKS: tuple[Block, ...] = ("attention", "feed_forward")


@dataclass(frozen=True, slots=True)
class Layer:
    """One layer of an architecture. `source` is the number of the teacher's layer that it comes from.

    A block whose choice leaves it without weights of its own has size 0. `keep_tokens` is how many of the tokens that
    get most attention go on after the layer; 0 for all.
    """

    source: int
    num_attention_heads: int
    intermediate_size: int
    attention: str = "none"
    feed_forward: str = "none"
    keep_tokens: int = 0

    def to_json(self) -> dict[str, Any]:
        """The JSON form; all tokens go on where nothing is said."""
        return {name: value for name, value in asdict(self).items() if value or name != "keep_tokens"}

    def choice(self, block: Block) -> str:
        """The compression choice of one of its blocks."""
        return self.attention if block == "attention" else self.feed_forward

    def option(self, block: Block) -> tuple[int, str]:
        """Size and choice of one of its blocks."""
        return (self.num_attention_heads if block == "attention" else self.intermediate_size), self.choice(block)

    def having(self, block: Block, option: tuple[int, str]) -> Layer:
        """The same layer with another size and choice for one of its blocks."""
        size, choice = option
        if block == "attention":
            return replace(self, num_attention_heads=size, attention=choice)
        return replace(self, intermediate_size=size, feed_forward=choice)


@dataclass(frozen=True, slots=True)
class Architecture:
    """One point of a search space: an immutable, hashable value."""

    hidden_size: int
    layers: tuple[Layer, ...]
    embedding: str = "none"
    exit_threshold: float = 0.0
    """How sure (probability of the likeliest class) a classifier between two layers must be for the rest to be left
    out; 0 where there are none."""

    def to_json(self) -> dict[str, Any]:
        """The JSON form; `from_json` gives an equal architecture back."""
        values = {
            "hidden_size": self.hidden_size,
            "embedding": self.embedding,
            "layers": [layer.to_json() for layer in self.layers],
        }
        return values | ({"exit_threshold": self.exit_threshold} if self.exit_threshold else {})

    @classmethod
    def from_json(cls, value: Any) -> Architecture:
        """Read the JSON form. Raises `SearchSpaceError` if it is not one."""
        try:
            layers = tuple(Layer(**layer) for layer in value["layers"])
            threshold = value.get("exit_threshold", 0.0)
            found = cls(value["hidden_size"], layers, value["embedding"], threshold)
            for name in found.choices:
                compression(name)
            return found
        except (AttributeError, KeyError, TypeError, ValueError) as problem:
            raise SearchSpaceError(
                f"architecture: not the JSON form of an architecture ({problem}); "
                "it needs hidden_size, embedding and layers"
            ) from None

    @property
    def digest(self) -> str:
        """A name for the architecture: equal architectures have equal digests, on every machine."""
        return digest(self.to_json())

    @property
    def choices(self) -> frozenset[str]:
        """The compression choices that occur in it."""
        per_layer = {choice for layer in self.layers for choice in (layer.attention, layer.feed_forward)}
        return frozenset(per_layer | {self.embedding})

    def owner(self, number: int, block: Block) -> int | None:
        """The number of the layer whose weights a layer's block uses; None for a block without any."""
        layers = reversed(self.layers[: number + 1])
        for distance, layer in enumerate(layers):
            weights = compression(layer.choice(block)).weights
            if weights == "own":
                return number - distance
            if weights == "none" and distance == 0:
                return None
        raise SearchSpaceError(
            f"layer {self.layers[number].source}: its {block} shall share weights, but no layer below has any; "
            "give it weights of its own"
        )

    @property
    def resolved(self) -> tuple[Layer, ...]:
        """The layers as they compute: a block with borrowed weights has its owner's size and choice."""
        found = []
        for number in range(len(self.layers)):
            found.append(self.layers[number])
            for block in LAYER_BLOCKS:
                owner = self.owner(number, block)
                if owner not in (None, number):
                    found[-1] = found[-1].having(block, self.layers[owner].option(block))
        return tuple(found)

    @property
    def is_sound(self) -> bool:
        """Whether it is the plainest way to write something that can be computed.

        Every layer has a block that is there; what borrows weights has a layer to borrow from; tokens are dropped only
        where there is attention to choose them by, some are left to drop, and attention follows; one layer is not left
        early.
        """
        try:
            resolved = self.resolved
        except SearchSpaceError:
            return False
        layers_are = all(
            any(layer.option(block)[0] for block in LAYER_BLOCKS) and layer.keep_tokens == kept
            for layer, kept in zip(resolved, kept_tokens(resolved), strict=True)
        )
        return layers_are and not (self.exit_threshold and len(resolved) == 1)

    def describe(self) -> str:
        """One short line for tables: layer:heads/intermediate.

        A compressed block is marked by *, one with weights of a layer below is =, one that is left out is -; >8 says
        that eight tokens go on, and exit 0.9 that whoever is as sure between two layers leaves.
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
        leaving = f" exit {self.exit_threshold:g}" if self.exit_threshold else ""
        return f"h{block(self.hidden_size, self.embedding)} {layers}{leaving}"


def first_token_from(layers: Sequence[Layer], readout: Readout = "first") -> int:
    """The number of the layer from which on the first token alone is computed: the last one with attention.

    Nothing behind it reads other tokens. 0 where no layer of these resolved ones has attention, and the number of
    layers where the readout is of all tokens.
    """
    if readout != "first":
        return len(layers)
    return max((number for number, layer in enumerate(layers) if layer.num_attention_heads), default=0)


def kept_tokens(layers: Sequence[Layer]) -> Iterator[int]:
    """What `keep_tokens` comes to in each of some resolved layers; 0 where it changes nothing."""
    left, last = math.inf, first_token_from(layers)
    for number, layer in enumerate(layers):
        drops = 0 < layer.keep_tokens < left and layer.num_attention_heads and number < last
        left = layer.keep_tokens if drops else left
        yield layer.keep_tokens if drops else 0


def compress_all(architecture: Architecture, choice: str) -> Architecture:
    """The same sizes with one choice in every block that has weights of its own."""

    def compressed(layer: Layer) -> Layer:
        for block in LAYER_BLOCKS:
            size = layer.option(block)[0]
            layer = layer.having(block, (size, choice)) if size else layer
        return layer

    layers = tuple(compressed(layer) for layer in architecture.layers)
    return replace(architecture, embedding=choice, layers=layers)
