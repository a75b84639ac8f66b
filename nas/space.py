"""Search spaces: immutable definitions of the architectures that a search may choose.

A search space is designed for a teacher of certain sizes. It is read from a TOML file that lists the allowed values of
every dimension and the compression methods for each kind of block. Training and search use a `SearchSpace` to count,
sample, mutate and cross architectures.
"""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from itertools import pairwise, product
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import Discriminator, Field, Tag, field_validator, model_validator

from nas.architecture import LAYER_BLOCKS, Architecture, Layer, kept_tokens
from nas.compression import BLOCKS, REGISTRY, Block, compression
from nas.errors import SearchSpaceError, listed, shown
from nas.files import Positive, Settings, Whole, digest, read_toml, validate

T = TypeVar("T")
_SIZE_NAMES: dict[Block, str] = {"attention": "num_attention_heads", "feed_forward": "intermediate_size"}
"""The name of the dimension that lists the allowed sizes of each block of a layer."""
_MANY_ROWS = 10_000
"""A placeholder for the number of rows of an embedding table, which depends on the teacher and is also large."""


class Shape(Settings):
    """The sizes of the teacher for which a search space is designed, named as in Hugging Face's configurations."""

    num_hidden_layers: Positive
    hidden_size: Positive
    num_attention_heads: Positive
    intermediate_size: Positive

    @property
    def head_size(self) -> int:
        """The number of features per attention head."""
        return self.hidden_size // self.num_attention_heads

    @property
    def layer_weights(self) -> int:
        """The number of weights in the matrices of all layers."""
        return self.num_hidden_layers * self.hidden_size * (4 * self.hidden_size + 2 * self.intermediate_size)

    @model_validator(mode="after")
    def _heads_divide(self) -> Shape:
        if self.hidden_size % self.num_attention_heads:
            raise ValueError(
                f"num_attention_heads must divide hidden_size, but got {self.num_attention_heads} "
                f"and {self.hidden_size}; copy the sizes from the teacher's config.json"
            )
        return self


_LAYERS_DISCRIMINATOR = Discriminator(lambda item: "set" if isinstance(item, list | tuple) else "number")


class Dimensions(Settings):
    """The allowed values of every searched dimension. They are the same for all layers."""

    layers: tuple[
        Annotated[Annotated[Positive, Tag("number")] | Annotated[tuple[Whole, ...], Tag("set")], _LAYERS_DISCRIMINATOR],
        ...,
    ] = Field(min_length=1)
    """The allowed selections of layers. A number keeps that many layers, evenly spaced from the first to the last. A
    list contains the indices of the layers to keep.
    """
    hidden_size: tuple[Positive, ...] = Field(min_length=1)
    num_attention_heads: tuple[Positive, ...] = Field(min_length=1)
    intermediate_size: tuple[Positive, ...] = Field(min_length=1)
    keep_tokens: tuple[Positive, ...] = ()
    """The numbers of tokens that a layer may pass on to the next layer. It passes on the tokens that receive the most
    attention. Every layer may also pass on all tokens.
    """
    exit_threshold: tuple[Annotated[float, Field(gt=0.0, lt=1.0, strict=True)], ...] = ()
    """The allowed confidence thresholds for early exits. A text exits early if the classifier after a layer reaches the
    threshold. Networks without early exits are always allowed.
    """

    @field_validator("hidden_size", "num_attention_heads", "intermediate_size", "keep_tokens", "exit_threshold")
    @classmethod
    def _ascending(cls, values: tuple[float, ...]) -> tuple[float, ...]:
        if list(values) != sorted(set(values)):
            raise ValueError(
                f"values must ascend without repeats, but got {list(values)}; sort them or remove the repeats"
            )
        return values


class CompressionMethods(Settings):
    """The compression methods allowed for each kind of block."""

    embedding: tuple[str, ...] = Field(default=("none",), min_length=1)
    attention: tuple[str, ...] = Field(default=("none",), min_length=1)
    feed_forward: tuple[str, ...] = Field(default=("none",), min_length=1)

    @model_validator(mode="after")
    def _methods_are_valid(self) -> CompressionMethods:
        for block in BLOCKS:
            names = getattr(self, block)
            for name in names:
                try:
                    choice = compression(name)
                except ValueError as problem:
                    raise ValueError(f"{block}: {problem}") from None
                if block not in choice.blocks:
                    raise ValueError(
                        f"{block}: {name!r} cannot be applied to this block, only to "
                        f"{' and '.join(sorted(choice.blocks))}; remove it"
                    )
            if "none" not in names:
                raise ValueError(f"{block}: 'none' must be among the methods, but got {list(names)}; add it")
            if len(set(names)) != len(names):
                raise ValueError(f"{block}: each method may occur only once, but got {list(names)}; remove the repeats")
        return self


def evenly_spaced(count: int, total: int) -> tuple[int, ...]:
    """Return `count` evenly spaced indices from 0 to `total` - 1, such as 0, 2 and 5 for 3 of 6 layers."""
    if count == 1:
        return (0,)
    return tuple(round(index * (total - 1) / (count - 1)) for index in range(count))


class SearchSpace(Settings):
    """A search space: the allowed values of every dimension, for teachers of one shape."""

    name: str = Field(min_length=1)
    description: str = ""
    teacher: Shape
    dimensions: Dimensions
    compression: CompressionMethods = CompressionMethods()

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
                    f"dimensions.layers: between 1 and {total} layers can be kept, but got {shown(item)}; change or "
                    "remove this entry"
                )
            if not isinstance(item, int) and (list(item) != sorted(set(item)) or item[-1] >= total):
                raise ValueError(
                    f"dimensions.layers: a list must contain ascending, distinct indices of layers from 0 to "
                    f"{total - 1}, but got {list(item)}; use the form [0, 2]"
                )
        if repeated := [list(one) for one, next_one in pairwise(self.layer_sets) if one == next_one]:
            raise ValueError(f"dimensions.layers: two entries keep the same layers, {repeated[0]}; remove one of them")
        for block in LAYER_BLOCKS:
            usable = {choice for _, choice in self.options(block)}
            for name in getattr(self.compression, block):
                if name not in usable:
                    key = _SIZE_NAMES[block]
                    largest = getattr(self.dimensions, key)[-1]
                    unsuited = self._unsuited_hidden_sizes(block, largest, name)
                    raise _unsuitable_error(block, name, unsuited, f" even with {key} {largest}")
        for name in self.compression.embedding:
            unsuited = [
                hidden for hidden in self.dimensions.hidden_size if not compression(name).suits(_MANY_ROWS, hidden)
            ]
            if unsuited:
                raise _unsuitable_error("embedding", name, unsuited)
        if self.layer_sets[-1] != tuple(range(total)):
            raise ValueError(
                f"dimensions.layers: one entry must keep all of the teacher's {total} layers, "
                f"but the largest entry keeps {list(self.layer_sets[-1])}; add {total}"
            )
        return self

    @classmethod
    def load(cls, name_or_path: str | Path, base: Path | None = None) -> SearchSpace:
        """Load a search space by its name if `nas` provides it, or by the path of a TOML file, relative to `base`.

        Raises `SearchSpaceError` if the file is missing or malformed. The message names the file, the key, the rule and
        the remedy.
        """
        path = Path(name_or_path)
        if path.suffix == ".toml":
            path = (base or Path()) / path
        else:
            path = shipped_spaces().get(str(name_or_path), path)
            if not path.suffix:
                raise SearchSpaceError(
                    f"no search space named {str(name_or_path)!r} is shipped with nas; use one of "
                    f"{', '.join(sorted(shipped_spaces()))}, or the path of a .toml file"
                )
        return validate(cls, read_toml(path, SearchSpaceError), path, SearchSpaceError)

    def excluding(self, choices: tuple[str, ...]) -> SearchSpace:
        """Return a copy of the space without the compression methods in `choices`.

        A choice without a parameter, such as `low_rank` or `int8`, excludes all methods that contain it, with any
        parameter. A choice with a parameter, such as `low_rank(8)`, excludes only this variant. Raises
        `SearchSpaceError` for `none`, which cannot be excluded, and for a choice that is neither a method's name nor a
        variant that the space contains.
        """
        if "none" in choices:
            raise SearchSpaceError(
                "search_space.exclude_compression: 'none' cannot be excluded, because the search space must contain "
                "the uncompressed teacher; remove 'none'"
            )
        offered = {spec for block in BLOCKS for spec in getattr(self.compression, block)}
        for choice in choices:
            if choice not in REGISTRY and choice not in offered:
                raise SearchSpaceError(
                    "search_space.exclude_compression: must name compression methods of the search space "
                    f"{self.name!r} ({', '.join(sorted(offered - {'none'})) or 'none'}), but got {choice!r}; remove it"
                )
        kept = {
            block: [
                spec for spec in getattr(self.compression, block) if not {spec, *compression(spec).names} & set(choices)
            ]
            for block in BLOCKS
        }
        return SearchSpace.model_validate(self.model_dump() | {"compression": kept})

    @cached_property
    def layer_sets(self) -> tuple[tuple[int, ...], ...]:
        """The sets of layers that can be kept, smallest first."""
        total = self.teacher.num_hidden_layers
        sets = [evenly_spaced(item, total) if isinstance(item, int) else item for item in self.dimensions.layers]
        return tuple(sorted(sets, key=lambda kept: (len(kept), kept)))

    @property
    def digest(self) -> str:
        """An identifier that changes if anything in the space except its name and description changes."""
        return digest(self.definition)

    @property
    def definition(self) -> dict[str, Any]:
        """All settings of the space except its name and description, as JSON values."""
        return self.model_dump(mode="json", exclude={"description", "name"})

    def contains(self, architecture: Architecture) -> bool:
        """Whether the architecture belongs to this space."""
        return (
            architecture.hidden_size in self.dimensions.hidden_size
            and architecture.embedding in self.compression.embedding
            and tuple(layer.source for layer in architecture.layers) in self.layer_sets
            and all(
                layer.option(block) in self.options(block) for layer in architecture.layers for block in LAYER_BLOCKS
            )
            and all(layer.keep_tokens in self.keep_options for layer in architecture.layers)
            and architecture.exit_threshold in self.exit_options
            and architecture.is_canonical
        )

    def count(self) -> int:
        """Return the exact number of architectures in this space."""
        embedding_count = len(self.dimensions.hidden_size) * len(self.compression.embedding)
        return embedding_count * sum(
            self._count_layers(len(kept)) * (len(self.exit_options) if len(kept) > 1 else 1) for kept in self.layer_sets
        )

    def _count_layers(self, number: int) -> int:
        """Return the number of valid combinations of blocks and `keep_tokens` for `number` layers."""
        kinds = [Counter(compression(choice).weights for _, choice in self.options(block)) for block in LAYER_BLOCKS]
        # The number of ways to build the layers so far, keyed by state. A state has four parts: for each of the two
        # blocks, whether any layer has weights to share; how many tokens are left; and whether tokens have been dropped
        # since the last attention block. If they have been dropped, a later layer must have an attention block.
        ways: Counter[tuple[bool, bool, float, bool]] = Counter({(False, False, math.inf, False): 1})
        for _ in range(number):
            longer: Counter[tuple[bool, bool, float, bool]] = Counter()
            for (*owned, tokens_left, dropped), count in ways.items():
                for pair in product(*(kind.items() for kind in kinds)):
                    weights, numbers = zip(*pair, strict=True)
                    borrows_nothing = any(
                        name == "below" and not has_own for name, has_own in zip(weights, owned, strict=True)
                    )
                    if borrows_nothing or set(weights) == {"none"}:
                        continue
                    attention, feed_forward = (
                        bool(has_own) or name == "own" for name, has_own in zip(weights, owned, strict=True)
                    )
                    attends = weights[0] != "none"
                    longer[attention, feed_forward, tokens_left, bool(dropped) and not attends] += count * math.prod(
                        numbers
                    )
                    for tokens_kept in self.dimensions.keep_tokens if attends else ():
                        if tokens_kept < tokens_left:
                            longer[attention, feed_forward, tokens_kept, True] += count * math.prod(numbers)
            ways = longer
        return sum(count for (*_, dropped), count in ways.items() if not dropped)

    @property
    def keep_options(self) -> tuple[int, ...]:
        """The allowed values of `keep_tokens`: first 0 (all tokens), then the numbers of tokens in descending order."""
        return (0, *reversed(self.dimensions.keep_tokens))

    def options(self, block: Block) -> tuple[tuple[int, str], ...]:
        """Return the options (size, compression method) of a block in a layer, in ascending order of size.

        Methods that give the block no weights of its own, such as `share` and `skip`, have size 0, but come last.
        """
        return self._options[block]

    @cached_property
    def _options(self) -> dict[Block, tuple[tuple[int, str], ...]]:
        options_by_block: dict[Block, tuple[tuple[int, str], ...]] = {}
        for block in LAYER_BLOCKS:
            choices, sizes = getattr(self.compression, block), getattr(self.dimensions, _SIZE_NAMES[block])
            with_weights = [choice for choice in choices if compression(choice).weights == "own"]
            suitable = (
                (size, choice)
                for size, choice in product(sizes, with_weights)
                if not self._unsuited_hidden_sizes(block, size, choice)
            )
            options_by_block[block] = (*suitable, *((0, choice) for choice in choices if choice not in with_weights))
        return options_by_block

    def _unsuited_hidden_sizes(self, block: Block, size: int, name: str) -> list[int]:
        """Return the hidden sizes at which a method does not suit a block of this size; see `Compression.suits`."""
        width = size * self.teacher.head_size if block == "attention" else size
        return [hidden for hidden in self.dimensions.hidden_size if not compression(name).suits(width, hidden)]

    @property
    def exit_options(self) -> tuple[float, ...]:
        """The allowed values of `exit_threshold`: first the thresholds in ascending order, then 0 (no early exits)."""
        return (*self.dimensions.exit_threshold, 0.0)

    def layer(
        self, source: int, attention: tuple[int, str], feed_forward: tuple[int, str], keep_tokens: int = 0
    ) -> Layer:
        """Return a layer. `attention` and `feed_forward` are pairs (size, compression method).

        If `keep_tokens` is 0, the layer keeps all tokens.
        """
        return Layer(source, attention[0], feed_forward[0], attention[1], feed_forward[1], keep_tokens)

    def repaired(self, architecture: Architecture) -> Architecture:
        """Return the most similar canonical architecture (see `Architecture.is_canonical`).

        If a block shares weights, but no lower layer has weights for it, it gets its own weights and the smallest size.
        A layer without any block gets a feed-forward block of the smallest size. `keep_tokens` and `exit_threshold` are
        set to 0 if they would have no effect.
        """

        def weights(layer: Layer, block: Block) -> str:
            return compression(layer.choice(block)).weights

        layers = list(architecture.layers)
        for number, layer in enumerate(layers):
            if all(weights(layer, block) == "none" for block in LAYER_BLOCKS):
                layers[number] = layer.with_option("feed_forward", self.options("feed_forward")[0])
            for block in LAYER_BLOCKS:
                if weights(layer, block) != "below":
                    continue
                if not any(weights(other, block) == "own" for other in layers[:number]):
                    layers[number] = layers[number].with_option(block, self.options(block)[0])
        threshold = architecture.exit_threshold if len(layers) > 1 else 0.0
        canonical = replace(architecture, layers=tuple(layers), exit_threshold=threshold)
        if not any(layer.keep_tokens for layer in layers):
            return canonical
        kept = zip(layers, kept_tokens(canonical.resolved), strict=True)
        return replace(canonical, layers=tuple(replace(layer, keep_tokens=tokens) for layer, tokens in kept))

    def sample(self, rng: random.Random, size: float | None = None) -> Architecture:
        """Return a random architecture. If `size` is None, every dimension is drawn uniformly and independently.

        Otherwise, `size` is a number from 0 (smallest) to 1 (largest), and the drawn sizes concentrate around it. The
        index of each drawn value in its list follows a binomial distribution. If the caller draws `size` uniformly,
        each single dimension is again uniformly distributed. `share` and `skip` are treated as the smallest size of a
        block.
        """

        def draw(values: Sequence[T]) -> T:
            if size is None:
                return rng.choice(values)
            return values[sum(rng.random() < size for _ in range(len(values) - 1))]

        def option(block: Block) -> tuple[int, str]:
            sizes = getattr(self.dimensions, _SIZE_NAMES[block])
            is_optional = any(not number for number, _ in self.options(block))
            size_drawn = draw([0, *sizes] if is_optional else sizes)
            return rng.choice([option for option in self.options(block) if option[0] == size_drawn])

        drawn = Architecture(
            hidden_size=draw(self.dimensions.hidden_size),
            embedding=rng.choice(self.compression.embedding),
            layers=tuple(
                self.layer(source, option("attention"), option("feed_forward"), rng.choice(self.keep_options))
                for source in draw(self.layer_sets)
            ),
            exit_threshold=rng.choice(self.exit_options),
        )
        return self.repaired(drawn)

    def mutate(self, architecture: Architecture, rng: random.Random, rate: float = 0.15) -> Architecture:
        """Return a copy in which each dimension is redrawn with probability `rate`.

        If the set of layers is redrawn, layers that are in both the old and the new set keep their settings.
        """
        kept = architecture.layers
        if rng.random() < rate:
            kept_of_source = {layer.source: layer for layer in kept}
            kept = tuple(kept_of_source.get(layer.source, layer) for layer in self.sample(rng).layers)

        def mutated(layer: Layer) -> Layer:
            for block in LAYER_BLOCKS:
                if rng.random() < rate:
                    layer = layer.with_option(block, rng.choice(self.options(block)))
            return replace(layer, keep_tokens=rng.choice(self.keep_options)) if rng.random() < rate else layer

        def drawn(values: Sequence[T], current: T) -> T:
            return rng.choice(values) if rng.random() < rate else current

        mutant = Architecture(
            hidden_size=drawn(self.dimensions.hidden_size, architecture.hidden_size),
            embedding=drawn(self.compression.embedding, architecture.embedding),
            layers=tuple(mutated(layer) for layer in kept),
            exit_threshold=drawn(self.exit_options, architecture.exit_threshold),
        )
        return self.repaired(mutant)

    def crossover(self, first: Architecture, second: Architecture, rng: random.Random) -> Architecture:
        """Return a child of two architectures. It has the same set of layers as one of them.

        If both parents have a layer, the child copies the layer from one of them at random. The child also copies every
        other dimension from a random parent.
        """
        parent, other = (first, second) if rng.random() < 0.5 else (second, first)
        other_layers = {layer.source: layer for layer in other.layers}
        child = Architecture(
            hidden_size=rng.choice((first, second)).hidden_size,
            embedding=rng.choice((first, second)).embedding,
            layers=tuple(rng.choice((layer, other_layers.get(layer.source, layer))) for layer in parent.layers),
            exit_threshold=rng.choice((first, second)).exit_threshold,
        )
        return self.repaired(child)

    def smallest(self) -> Architecture:
        """Return the architecture with the fewest layers and the smallest sizes.

        No block is left out. Each block uses the last compression method in its list that suits the block.
        """

        def option(block: Block) -> tuple[int, str]:
            size = self.options(block)[0][0]
            return [option for option in self.options(block) if option[0] == size][-1]

        layer = self.layer(0, option("attention"), option("feed_forward"))
        layers = tuple(replace(layer, source=source) for source in self.layer_sets[0])
        return Architecture(self.dimensions.hidden_size[0], layers, self.compression.embedding[-1])

    def largest(self) -> Architecture:
        """Return the architecture of the teacher: all layers at full size, without compression."""
        sizes = self.dimensions
        layer = Layer(0, sizes.num_attention_heads[-1], sizes.intermediate_size[-1])
        layers = tuple(replace(layer, source=source) for source in self.layer_sets[-1])
        return Architecture(hidden_size=sizes.hidden_size[-1], layers=layers)


def _unsuitable_error(block: Block, name: str, hidden: Sequence[int], condition: str = "") -> ValueError:
    return ValueError(
        f"compression.{block}: {name!r} must be applicable and save space at every hidden_size, but fails at "
        f"{listed(map(str, hidden), 'and')}{condition}; change or remove the method or these sizes"
    )


def shipped_spaces() -> dict[str, Path]:
    """Return the paths of the search spaces that `nas` provides, keyed by name."""
    package, checkout = Path(__file__).parents[:2]
    files = (path for folder in (checkout, package) for path in sorted(folder.glob("search_spaces/*.toml")))
    return {path.stem: path for path in files}
