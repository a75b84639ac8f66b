"""Architectures and search spaces: what can be chosen, as values that never change.

A search space is a TOML file. An architecture is one point of it: which of the teacher's layers stay, the hidden
size, and for every layer its heads, its intermediate size and the compression choice of both blocks.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from importlib import resources
from itertools import product
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import Discriminator, Field, Tag, field_validator, model_validator

from nas.compression import BLOCKS, REGISTRY
from nas.errors import SearchSpaceError
from nas.files import Positive, Settings, Whole, digest, read_toml, validate

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Layer:
    """One layer of an architecture. `source` is the number of the teacher's layer that it comes from."""

    source: int
    num_attention_heads: int
    intermediate_size: int
    attention: str = "none"
    feed_forward: str = "none"


@dataclass(frozen=True, slots=True)
class Architecture:
    """One point of a search space: immutable, hashable, with a JSON form and a digest."""

    hidden_size: int
    layers: tuple[Layer, ...]
    embedding: str = "none"

    def to_json(self) -> dict[str, Any]:
        """The JSON form; `from_json` gives an equal architecture back."""
        return {
            "hidden_size": self.hidden_size,
            "embedding": self.embedding,
            "layers": [asdict(layer) for layer in self.layers],
        }

    @classmethod
    def from_json(cls, value: Any) -> Architecture:
        """Read the JSON form. Raises `SearchSpaceError` if it is not one."""
        try:
            layers = tuple(Layer(**layer) for layer in value["layers"])
            return cls(hidden_size=value["hidden_size"], embedding=value["embedding"], layers=layers)
        except (KeyError, TypeError) as problem:
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

    def describe(self) -> str:
        """One short line for tables: layer:heads/intermediate, with * for a compressed block."""

        def mark(choice: str) -> str:
            return "" if choice == "none" else "*"

        layers = " ".join(
            f"{layer.source}:{layer.num_attention_heads}{mark(layer.attention)}"
            f"/{layer.intermediate_size}{mark(layer.feed_forward)}"
            for layer in self.layers
        )
        return f"h{self.hidden_size}{mark(self.embedding)} {layers}"


class Shape(Settings):
    """The sizes of the teacher that a space is made for, in Hugging Face's names."""

    num_hidden_layers: Positive
    hidden_size: Positive
    num_attention_heads: Positive
    intermediate_size: Positive

    @property
    def head_size(self) -> int:
        """Features of one attention head."""
        return self.hidden_size // self.num_attention_heads

    @model_validator(mode="after")
    def _heads_divide(self) -> Shape:
        if self.hidden_size % self.num_attention_heads:
            raise ValueError(
                f"num_attention_heads must divide hidden_size, but got {self.num_attention_heads} "
                f"and {self.hidden_size}; take the sizes from the teacher's config.json"
            )
        return self


_KIND = Discriminator(lambda item: "set" if isinstance(item, list | tuple) else "number")


class Dimensions(Settings):
    """The values of every elastic dimension; every layer chooses from the same ones."""

    layers: tuple[
        Annotated[Annotated[Positive, Tag("number")] | Annotated[tuple[Whole, ...], Tag("set")], _KIND], ...
    ] = Field(min_length=1)
    """A number keeps that many layers, evenly spaced from first to last; a list keeps just those layers."""
    hidden_size: tuple[Positive, ...] = Field(min_length=1)
    num_attention_heads: tuple[Positive, ...] = Field(min_length=1)
    intermediate_size: tuple[Positive, ...] = Field(min_length=1)

    @field_validator("hidden_size", "num_attention_heads", "intermediate_size")
    @classmethod
    def _ascending(cls, values: tuple[int, ...]) -> tuple[int, ...]:
        if list(values) != sorted(set(values)):
            raise ValueError(f"values must ascend without repeats, but got {list(values)}; sort them")
        return values


class Choices(Settings):
    """The compression choices that each kind of block may take."""

    embedding: tuple[str, ...] = Field(default=("none",), min_length=1)
    attention: tuple[str, ...] = Field(default=("none",), min_length=1)
    feed_forward: tuple[str, ...] = Field(default=("none",), min_length=1)

    @model_validator(mode="after")
    def _known(self) -> Choices:
        for block in BLOCKS:
            names = getattr(self, block)
            valid = [name for name, choice in REGISTRY.items() if block in choice.blocks]
            for name in names:
                if name not in valid:
                    raise ValueError(
                        f"{block}: {name!r} is no compression choice of this block; use {', '.join(valid)}"
                    )
            if "none" not in names:
                raise ValueError(f"{block}: 'none' must be among the choices, but got {list(names)}; add it")
            if len(set(names)) != len(names):
                raise ValueError(f"{block}: each choice may stand once, but got {list(names)}; drop the repeat")
        return self


def evenly_spaced(count: int, total: int) -> tuple[int, ...]:
    """`count` of `total` layers, the first and the last among them: 3 of 6 are 0, 2, 5."""
    if count == 1:
        return (0,)
    return tuple(round(index * (total - 1) / (count - 1)) for index in range(count))


class SearchSpace(Settings):
    """The allowed values of every dimension, for one shape of teacher."""

    name: str = Field(min_length=1)
    description: str = ""
    teacher: Shape
    dimensions: Dimensions
    compression: Choices = Choices()

    @model_validator(mode="after")
    def _fits_teacher(self) -> SearchSpace:
        for key in ("hidden_size", "num_attention_heads", "intermediate_size"):
            largest, limit = getattr(self.dimensions, key)[-1], getattr(self.teacher, key)
            if largest != limit:
                raise ValueError(
                    f"dimensions.{key}: the largest value must be the teacher's {limit}, but got {largest}; "
                    f"end the list with {limit}"
                )
        total = self.teacher.num_hidden_layers
        for item in self.dimensions.layers:
            kept = (item,) if isinstance(item, int) else item
            if not kept or (isinstance(item, int) and item > total):
                raise ValueError(
                    f"dimensions.layers: between 1 and {total} layers can stay, but got {item!r}; correct it"
                )
            if not isinstance(item, int) and (list(item) != sorted(set(item)) or item[-1] >= total):
                raise ValueError(
                    f"dimensions.layers: a set must ascend within 0..{total - 1} without repeats, "
                    f"but got {list(item)}; correct it"
                )
        if len(set(self.layer_sets)) != len(self.layer_sets):
            raise ValueError(
                "dimensions.layers: two entries keep the same layers "
                f"({[list(kept) for kept in self.layer_sets]}); drop one"
            )
        if self.layer_sets[-1] != tuple(range(total)):
            raise ValueError(
                f"dimensions.layers: the teacher's {total} layers must be among them, "
                f"but the largest set is {list(self.layer_sets[-1])}; add {total}"
            )
        return self

    @classmethod
    def load(cls, name_or_path: str | Path, base: Path | None = None) -> SearchSpace:
        """Load a shipped space by its name, or a file by its path (relative to `base`).

        Raises `SearchSpaceError` for a missing or malformed file, with file, key, rule and remedy.
        """
        path = Path(name_or_path)
        if path.suffix == ".toml":
            path = (base or Path()) / path
        else:
            path = shipped_spaces().get(str(name_or_path), path)
            if not path.suffix:
                raise SearchSpaceError(
                    f"search space {str(name_or_path)!r} is not shipped; use one of "
                    f"{', '.join(sorted(shipped_spaces()))}, or the path of a .toml file"
                )
        return validate(cls, read_toml(path, SearchSpaceError), path, SearchSpaceError)

    def excluding(self, choices: tuple[str, ...]) -> SearchSpace:
        """The same space without some compression choices. Raises for `none`, which every block keeps."""
        if "none" in choices:
            raise SearchSpaceError(f"{self.name}: 'none' cannot be left out: the teacher belongs to the space; keep it")
        kept = {block: [name for name in getattr(self.compression, block) if name not in choices] for block in BLOCKS}
        return SearchSpace.model_validate(self.model_dump() | {"compression": kept})

    @cached_property
    def layer_sets(self) -> tuple[tuple[int, ...], ...]:
        """The sets of layers that can stay, smallest first."""
        total = self.teacher.num_hidden_layers
        sets = [evenly_spaced(item, total) if isinstance(item, int) else item for item in self.dimensions.layers]
        return tuple(sorted(sets, key=lambda kept: (len(kept), kept)))

    @property
    def digest(self) -> str:
        """Changes when the space changes; its description does not count."""
        return digest(self.definition)

    @property
    def definition(self) -> dict[str, Any]:
        """All that defines the space, as JSON values."""
        return self.model_dump(mode="json", exclude={"description", "name"})

    def contains(self, architecture: Architecture) -> bool:
        """Whether the architecture is a point of this space."""
        dimensions, compression = self.dimensions, self.compression
        return (
            architecture.hidden_size in dimensions.hidden_size
            and architecture.embedding in compression.embedding
            and tuple(layer.source for layer in architecture.layers) in self.layer_sets
            and all(
                layer.num_attention_heads in dimensions.num_attention_heads
                and layer.intermediate_size in dimensions.intermediate_size
                and layer.attention in compression.attention
                and layer.feed_forward in compression.feed_forward
                for layer in architecture.layers
            )
        )

    def count(self) -> int:
        """The exact number of architectures."""
        per_layer = len(self.attention_options) * len(self.feed_forward_options)
        ends = len(self.dimensions.hidden_size) * len(self.compression.embedding)
        return ends * sum(per_layer ** len(kept) for kept in self.layer_sets)

    @cached_property
    def attention_options(self) -> tuple[tuple[int, str], ...]:
        """(heads, choice) of an attention block, small to large."""
        heads = self.dimensions.num_attention_heads
        return tuple((size, choice) for size in heads for choice in self.compression.attention)

    @cached_property
    def feed_forward_options(self) -> tuple[tuple[int, str], ...]:
        """(intermediate size, choice) of a feed-forward block, small to large."""
        sizes = self.dimensions.intermediate_size
        return tuple((size, choice) for size in sizes for choice in self.compression.feed_forward)

    def layer(self, source: int, attention: tuple[int, str], feed_forward: tuple[int, str]) -> Layer:
        """A layer from one option for each of its blocks."""
        return Layer(source, attention[0], feed_forward[0], attention[1], feed_forward[1])

    def sample(self, rng: random.Random, size: float | None = None) -> Architecture:
        """A random architecture, every dimension drawn uniformly and independently.

        With `size` from 0 (smallest) to 1 (largest) the sizes gather there: the place of each among its values is
        binomial. For a uniform `size` every dimension alone is uniform again.
        """

        def draw(values: Sequence[T]) -> T:
            if size is None:
                return rng.choice(values)
            return values[sum(rng.random() < size for _ in range(len(values) - 1))]

        dimensions, compression = self.dimensions, self.compression
        return Architecture(
            hidden_size=draw(dimensions.hidden_size),
            embedding=rng.choice(compression.embedding),
            layers=tuple(
                Layer(
                    source,
                    draw(dimensions.num_attention_heads),
                    draw(dimensions.intermediate_size),
                    rng.choice(compression.attention),
                    rng.choice(compression.feed_forward),
                )
                for source in draw(self.layer_sets)
            ),
        )

    def mutate(self, architecture: Architecture, rng: random.Random, rate: float = 0.15) -> Architecture:
        """Draw each dimension anew with probability `rate`; layers that stay keep their settings."""
        fresh = self.sample(rng)
        settings = {layer.source: layer for layer in (*fresh.layers, *architecture.layers)}
        kept = tuple(layer.source for layer in (fresh if rng.random() < rate else architecture).layers)

        def mutated(source: int) -> Layer:
            layer = settings.get(source) or rng.choice(architecture.layers)
            attention = (layer.num_attention_heads, layer.attention)
            feed_forward = (layer.intermediate_size, layer.feed_forward)
            if rng.random() < rate:
                attention = rng.choice(self.attention_options)
            if rng.random() < rate:
                feed_forward = rng.choice(self.feed_forward_options)
            return self.layer(source, attention, feed_forward)

        return Architecture(
            hidden_size=fresh.hidden_size if rng.random() < rate else architecture.hidden_size,
            embedding=fresh.embedding if rng.random() < rate else architecture.embedding,
            layers=tuple(mutated(source) for source in kept),
        )

    def crossover(self, first: Architecture, second: Architecture, rng: random.Random) -> Architecture:
        """A child with the depth of one parent and whole layers of either (where both have the layer)."""
        skeleton, other = (first, second) if rng.random() < 0.5 else (second, first)
        others = {layer.source: layer for layer in other.layers}
        return Architecture(
            hidden_size=rng.choice((first, second)).hidden_size,
            embedding=rng.choice((first, second)).embedding,
            layers=tuple(rng.choice((layer, others.get(layer.source, layer))) for layer in skeleton.layers),
        )

    def smallest(self) -> Architecture:
        """The fewest layers at the smallest sizes, compressed wherever it can be."""
        return self._uniform(self.layer_sets[0], largest=False)

    def corners(self) -> Iterator[Architecture]:
        """The smallest sizes under every combination of choices for the three kinds of blocks.

        One of them is the fastest architecture; on small blocks that need not be the most compressed.
        """
        sizes, options = self.smallest(), (self.compression.embedding, self.compression.attention)
        for embedding, attention, feed_forward in product(*options, self.compression.feed_forward):
            layers = tuple(replace(layer, attention=attention, feed_forward=feed_forward) for layer in sizes.layers)
            yield replace(sizes, embedding=embedding, layers=layers)

    def largest(self) -> Architecture:
        """The teacher's own sizes, with no compression where the space allows that."""
        return self._uniform(self.layer_sets[-1], largest=True)

    def _uniform(self, kept: tuple[int, ...], largest: bool) -> Architecture:
        def pick(names: tuple[str, ...]) -> str:
            ordered = sorted(names, key=lambda name: name != "none")
            return ordered[0] if largest else ordered[-1]

        end = -1 if largest else 0
        attention = (self.dimensions.num_attention_heads[end], pick(self.compression.attention))
        feed_forward = (self.dimensions.intermediate_size[end], pick(self.compression.feed_forward))
        return Architecture(
            hidden_size=self.dimensions.hidden_size[end],
            embedding=pick(self.compression.embedding),
            layers=tuple(self.layer(source, attention, feed_forward) for source in kept),
        )


def compress_all(architecture: Architecture, choice: str) -> Architecture:
    """The same sizes with one choice in every block."""
    layers = tuple(replace(layer, attention=choice, feed_forward=choice) for layer in architecture.layers)
    return replace(architecture, embedding=choice, layers=layers)


def shipped_spaces() -> dict[str, Path]:
    """The search spaces that come with `nas`, by name."""
    return {path.stem: path for path in _space_files()}


def _space_files() -> Iterator[Path]:
    for folder in (Path(str(resources.files("nas"))) / "search_spaces", Path(__file__).parents[1] / "search_spaces"):
        if folder.is_dir():
            yield from sorted(folder.glob("*.toml"))
