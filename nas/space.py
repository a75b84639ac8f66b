"""Architectures and search spaces: what can be chosen, as values that never change.

A search space is a TOML file. An architecture is one point of it: which of the teacher's layers stay, the hidden
size, and for every layer its heads, its intermediate size and the compression choice of both blocks.
"""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from importlib import resources
from itertools import product
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import Discriminator, Field, Tag, field_validator, model_validator

from nas.compression import BLOCKS, Block, compression
from nas.errors import SearchSpaceError
from nas.files import Positive, Settings, Whole, digest, read_toml, validate

T = TypeVar("T")
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
    """One point of a search space: immutable, hashable, with a JSON form and a digest."""

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
            return cls(value["hidden_size"], layers, value["embedding"], threshold)
        except (AttributeError, KeyError, TypeError) as problem:
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
                if owner is not None:
                    found[-1] = found[-1].having(block, self.layers[owner].option(block))
        return tuple(found)

    @property
    def is_sound(self) -> bool:
        """Whether it is the plainest way to write something that can be computed.

        Every layer has a block that is there; what borrows weights has a layer to borrow from; tokens are dropped only
        where there is attention to choose them by, some are left to drop, and another layer follows; one layer is not
        left early.
        """
        try:
            resolved = self.resolved
        except SearchSpaceError:
            return False
        layers_are = all(
            any(layer.option(block)[0] for block in LAYER_BLOCKS) and layer.keep_tokens == kept
            for layer, kept in zip(resolved, _kept_tokens(resolved), strict=True)
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


def _kept_tokens(layers: Sequence[Layer]) -> Iterator[int]:
    """What `keep_tokens` comes to in each of some resolved layers; 0 where it changes nothing."""
    left = math.inf
    for number, layer in enumerate(layers, 1):
        drops = 0 < layer.keep_tokens < left and layer.num_attention_heads and number < len(layers)
        left = layer.keep_tokens if drops else left
        yield layer.keep_tokens if drops else 0


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
    keep_tokens: tuple[Positive, ...] = ()
    """How many of the most attended tokens may go on after a layer; all always may."""
    exit_threshold: tuple[Annotated[float, Field(gt=0.0, lt=1.0, strict=True)], ...] = ()
    """How sure a classifier between two layers must be for the rest to be left out; having none is always allowed."""

    @field_validator("hidden_size", "num_attention_heads", "intermediate_size", "keep_tokens", "exit_threshold")
    @classmethod
    def _ascending(cls, values: tuple[float, ...]) -> tuple[float, ...]:
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
            for name in names:
                try:
                    choice = compression(name)
                except ValueError as problem:
                    raise ValueError(f"{block}: {problem}") from None
                if block not in choice.blocks:
                    raise ValueError(
                        f"{block}: {choice.name} is for {' and '.join(sorted(choice.blocks))}, "
                        f"but got {name!r}; remove it"
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
        for block in LAYER_BLOCKS:
            used = {choice for _, choice in self.options(block)}
            for name in getattr(self.compression, block):
                if name not in used:
                    raise ValueError(
                        f"compression.{block}: {name!r} suits none of this space's sizes; change or drop it"
                    )
        for name in self.compression.embedding:
            if not compression(name).suits(self.dimensions.hidden_size[0], self.dimensions.hidden_size[0] * 8):
                raise ValueError(f"compression.embedding: {name!r} does not suit this space's sizes; change or drop it")
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
        """The same space without some compression choices, each a name or written in full.

        Raises for `none`, which every block keeps.
        """
        if "none" in choices:
            raise SearchSpaceError(f"{self.name}: 'none' cannot be left out: the teacher belongs to the space; keep it")
        kept = {
            block: [
                spec for spec in getattr(self.compression, block) if not {spec, *compression(spec).names} & set(choices)
            ]
            for block in BLOCKS
        }
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
        return (
            architecture.hidden_size in self.dimensions.hidden_size
            and architecture.embedding in self.compression.embedding
            and tuple(layer.source for layer in architecture.layers) in self.layer_sets
            and all(
                layer.option(block) in self.options(block) for layer in architecture.layers for block in LAYER_BLOCKS
            )
            and all(layer.keep_tokens in self.keep_options for layer in architecture.layers)
            and architecture.exit_threshold in self.exit_options
            and architecture.is_sound
        )

    def count(self) -> int:
        """The exact number of architectures."""
        ends = len(self.dimensions.hidden_size) * len(self.compression.embedding)
        return ends * sum(
            self._count_layers(len(kept)) * (len(self.exit_options) if len(kept) > 1 else 1) for kept in self.layer_sets
        )

    def _count_layers(self, number: int) -> int:
        """Sound combinations of blocks and tokens for that many layers."""
        kinds = [Counter(compression(choice).weights for _, choice in self.options(block)) for block in LAYER_BLOCKS]
        # Layers so far, by whether each of the two blocks has an owner to borrow from, and the tokens left.
        ways: Counter[tuple[bool, bool, float]] = Counter({(False, False, math.inf): 1})
        for at in range(1, number + 1):
            longer: Counter[tuple[bool, bool, float]] = Counter()
            for (*owned, left), count in ways.items():
                for pair in product(*(kind.items() for kind in kinds)):
                    weights, numbers = zip(*pair, strict=True)
                    borrows_nothing = any(name == "below" and not own for name, own in zip(weights, owned, strict=True))
                    if borrows_nothing or set(weights) == {"none"}:
                        continue
                    attention, feed_forward = (
                        bool(own) or name == "own" for name, own in zip(weights, owned, strict=True)
                    )
                    fewer = [kept for kept in self.dimensions.keep_tokens if kept < left]
                    drops = fewer if at < number and weights[0] != "none" else []
                    for kept in (left, *drops):
                        longer[attention, feed_forward, kept] += count * math.prod(numbers)
            ways = longer
        return ways.total()

    @property
    def keep_options(self) -> tuple[int, ...]:
        """Values of `keep_tokens`: 0 for all, then fewer and fewer."""
        return (0, *reversed(self.dimensions.keep_tokens))

    def options(self, block: Block) -> tuple[tuple[int, str], ...]:
        """(size, choice) of a layer's block, small to large; last those that leave it without weights of its own."""
        return self.attention_options if block == "attention" else self.feed_forward_options

    @cached_property
    def attention_options(self) -> tuple[tuple[int, str], ...]:
        """(heads, choice) of an attention block."""
        return self._options("attention", self.dimensions.num_attention_heads)

    @cached_property
    def feed_forward_options(self) -> tuple[tuple[int, str], ...]:
        """(intermediate size, choice) of a feed-forward block."""
        return self._options("feed_forward", self.dimensions.intermediate_size)

    def _options(self, block: Block, sizes: tuple[int, ...]) -> tuple[tuple[int, str], ...]:
        choices = getattr(self.compression, block)
        own = [(size, choice) for size in sizes for choice in self._choices_at(block, size)]
        return (*own, *((0, choice) for choice in choices if compression(choice).weights != "own"))

    def _choices_at(self, block: Block, size: int) -> tuple[str, ...]:
        """The choices that leave a block of that size weights of its own and make sense for it."""
        width = size * self.teacher.head_size if block == "attention" else size
        found = ((name, compression(name)) for name in getattr(self.compression, block))
        narrowest = self.dimensions.hidden_size[0]
        return tuple(name for name, choice in found if choice.weights == "own" and choice.suits(width, narrowest))

    @property
    def exit_options(self) -> tuple[float, ...]:
        """Values of `exit_threshold`, those first that leave early; 0 for no classifiers between layers."""
        return (*self.dimensions.exit_threshold, 0.0)

    def layer(
        self, source: int, attention: tuple[int, str], feed_forward: tuple[int, str], keep_tokens: int = 0
    ) -> Layer:
        """A layer from one option for each of its blocks and the number of tokens that go on."""
        return Layer(source, attention[0], feed_forward[0], attention[1], feed_forward[1], keep_tokens)

    def repaired(self, architecture: Architecture) -> Architecture:
        """The nearest sound architecture.

        What shall borrow weights where there are none gets the smallest ones of its own, and so does the feed-forward
        block of a layer without any block. `keep_tokens` and `exit_threshold` go where they would change nothing.
        """

        def weights(layer: Layer, block: Block) -> str:
            return compression(layer.choice(block)).weights

        layers = list(architecture.layers)
        for number, layer in enumerate(layers):
            if all(weights(layer, block) == "none" for block in LAYER_BLOCKS):
                layers[number] = layer.having("feed_forward", self.feed_forward_options[0])
            for block in LAYER_BLOCKS:
                below = [weights(other, block) for other in layers[:number]]
                if weights(layer, block) == "below" and "own" not in below:
                    layers[number] = layers[number].having(block, self.options(block)[0])
        found = replace(architecture, layers=tuple(layers))
        kept = zip(found.layers, _kept_tokens(found.resolved), strict=True)
        threshold = architecture.exit_threshold if len(layers) > 1 else 0.0
        kept_layers = tuple(replace(layer, keep_tokens=tokens) for layer, tokens in kept)
        return replace(found, layers=kept_layers, exit_threshold=threshold)

    def sample(self, rng: random.Random, size: float | None = None) -> Architecture:
        """A random architecture, every dimension drawn uniformly and independently.

        With `size` from 0 (smallest) to 1 (largest) the sizes gather there: the place of each among its values is
        binomial. For a uniform `size` every dimension alone is uniform again.
        """

        def draw(values: Sequence[T]) -> T:
            if size is None:
                return rng.choice(values)
            return values[sum(rng.random() < size for _ in range(len(values) - 1))]

        def option(block: Block, sizes: Sequence[int]) -> tuple[int, str]:
            drawn = draw(sizes)
            without = [choice for number, choice in self.options(block) if not number]
            choice = rng.choice([*self._choices_at(block, drawn), *without])
            return (0 if choice in without else drawn), choice

        dimensions = self.dimensions
        drawn = Architecture(
            hidden_size=draw(dimensions.hidden_size),
            embedding=rng.choice(self.compression.embedding),
            layers=tuple(
                self.layer(
                    source,
                    option("attention", dimensions.num_attention_heads),
                    option("feed_forward", dimensions.intermediate_size),
                    rng.choice(self.keep_options),
                )
                for source in draw(self.layer_sets)
            ),
            exit_threshold=rng.choice(self.exit_options),
        )
        return self.repaired(drawn)

    def mutate(self, architecture: Architecture, rng: random.Random, rate: float = 0.15) -> Architecture:
        """Draw each dimension anew with probability `rate`; layers that stay keep their settings."""
        fresh = self.sample(rng)
        settings = {layer.source: layer for layer in (*fresh.layers, *architecture.layers)}
        kept = tuple(layer.source for layer in (fresh if rng.random() < rate else architecture).layers)

        def mutated(source: int) -> Layer:
            layer = settings.get(source) or rng.choice(architecture.layers)
            layer = replace(layer, source=source)
            for block in LAYER_BLOCKS:
                if rng.random() < rate:
                    layer = layer.having(block, rng.choice(self.options(block)))
            return replace(layer, keep_tokens=rng.choice(self.keep_options)) if rng.random() < rate else layer

        mutant = Architecture(
            hidden_size=fresh.hidden_size if rng.random() < rate else architecture.hidden_size,
            embedding=fresh.embedding if rng.random() < rate else architecture.embedding,
            layers=tuple(mutated(source) for source in kept),
            exit_threshold=fresh.exit_threshold if rng.random() < rate else architecture.exit_threshold,
        )
        return self.repaired(mutant)

    def crossover(self, first: Architecture, second: Architecture, rng: random.Random) -> Architecture:
        """A child with the depth of one parent and whole layers of either (where both have the layer)."""
        skeleton, other = (first, second) if rng.random() < 0.5 else (second, first)
        others = {layer.source: layer for layer in other.layers}
        child = Architecture(
            hidden_size=rng.choice((first, second)).hidden_size,
            embedding=rng.choice((first, second)).embedding,
            layers=tuple(rng.choice((layer, others.get(layer.source, layer))) for layer in skeleton.layers),
            exit_threshold=rng.choice((first, second)).exit_threshold,
        )
        return self.repaired(child)

    def smallest(self) -> Architecture:
        """The fewest layers at the smallest sizes, every block that is there compressed by the last choice that can."""
        embedding = self.compression.embedding[-1]
        return next(
            corner
            for corner in reversed(list(self.corners()))
            if corner.embedding == embedding
            and all(all(layer.option(b)[0] for b in LAYER_BLOCKS) for layer in corner.layers)
        )

    def corners(self) -> Iterator[Architecture]:
        """The fewest layers at the smallest sizes under every combination of choices for the three kinds of blocks.

        One of them is the fastest architecture; on small blocks that need not be the most compressed.
        """

        def options(block: Block) -> list[tuple[int, str]]:
            smallest = self.options(block)[0][0]
            return [option for option in self.options(block) if option[0] in (0, smallest)]

        for embedding in self.compression.embedding:
            for attention, feed_forward in product(*map(options, LAYER_BLOCKS)):
                layers = tuple(self.layer(source, attention, feed_forward) for source in self.layer_sets[0])
                corner = Architecture(hidden_size=self.dimensions.hidden_size[0], layers=layers, embedding=embedding)
                if corner.is_sound:
                    yield corner

    def largest(self) -> Architecture:
        """The teacher itself."""
        sizes = self.dimensions
        layer = Layer(0, sizes.num_attention_heads[-1], sizes.intermediate_size[-1])
        layers = tuple(replace(layer, source=source) for source in self.layer_sets[-1])
        return Architecture(hidden_size=sizes.hidden_size[-1], layers=layers)


def compress_all(architecture: Architecture, choice: str) -> Architecture:
    """The same sizes with one choice in every block that has weights of its own."""

    def compressed(layer: Layer) -> Layer:
        for block in LAYER_BLOCKS:
            size = layer.option(block)[0]
            layer = layer.having(block, (size, choice)) if size else layer
        return layer

    layers = tuple(compressed(layer) for layer in architecture.layers)
    return replace(architecture, embedding=choice, layers=layers)


def shipped_spaces() -> dict[str, Path]:
    """The search spaces that come with `nas`, by name."""
    return {path.stem: path for path in _space_files()}


def _space_files() -> Iterator[Path]:
    for folder in (Path(str(resources.files("nas"))) / "search_spaces", Path(__file__).parents[1] / "search_spaces"):
        if folder.is_dir():
            yield from sorted(folder.glob("*.toml"))
