"""How attention takes the positions of tokens into account.

In most families, attention ignores positions, because position embeddings are added to the token embeddings. In MPNet,
each head has a learnt bias for the distance between two tokens (as in T5, Raffel et al., arXiv:1910.10683). In
ModernBERT, queries and keys are rotated by angles that depend on their position (Su et al., arXiv:2104.09864), and most
layers attend only to nearby tokens (arXiv:2412.13663).

`positions_of` returns the `Positions` of a layer, a module that computes rotations and biases in torch and exports them
to ONNX. Queries belong either to all tokens of a text or only to its first token. Keys always belong to all tokens.
"""

from __future__ import annotations

import math
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn

from nas.architecture import Layer
from nas.model.axes import Axis, along
from nas.model.configuration import CompactBertConfig

if TYPE_CHECKING:
    from nas.graph import GraphBuilder

_LARGEST_DISTANCE = 128
"""In MPNet, all distances of at least this many tokens share one bias per direction."""


class Positions(nn.Module):
    """The module for attention that ignores positions. It is also the base class of modules that use positions."""

    rotates: bool = False
    """Whether queries and keys are rotated."""
    biases: bool = False
    """Whether a bias may be added to attention scores."""

    def rotated(self, features: torch.Tensor) -> torch.Tensor:
        """Rotate queries or keys (batch, heads, tokens, head size) by angles that depend on their positions."""
        return features

    def bias(self, queries: int, keys: int, like: torch.Tensor) -> torch.Tensor | None:
        """Return the bias (heads or 1, queries, keys) to add to attention scores, or None if there is no bias.

        `queries` and `keys` are the numbers of queries and keys. The bias has the device and the data type of `like`.
        """
        return None

    def emit_rotated(self, graph: GraphBuilder, features: str, tokens: str) -> str:
        """Add the operators of `rotated` to an ONNX graph, and return the name of the result.

        `tokens` is the name of the value that holds the number of queries or keys, (1,).
        """
        return features

    def emit_bias(self, graph: GraphBuilder, queries: str, keys: str) -> str:
        """Add the operators of `bias` to an ONNX graph, and return the name of the result.

        `queries` and `keys` are the names of the values that hold the numbers of queries and keys, each (1,).
        """
        raise NotImplementedError("these positions add no bias to attention scores")


class RelativePositions(Positions):
    """A learnt bias for each attention head and each bucket. A bucket is a range of distances between tokens."""

    biases = True

    def __init__(self, buckets: int, heads: int, max_tokens: int) -> None:
        super().__init__()
        self.buckets, self.max_tokens = buckets, max_tokens
        self.relative_attention_bias = along(nn.Embedding(buckets, heads), None, Axis.HEADS)

    def bias(self, queries: int, keys: int, like: torch.Tensor) -> torch.Tensor:
        table = self.relative_attention_bias.weight
        positions = torch.arange(keys, device=table.device)
        by_distance = table[distance_buckets(torch.arange(1 - queries, keys, device=table.device), self.buckets)]
        biases = by_distance[positions[None, :] - positions[:queries, None] + queries - 1]
        return biases.permute(2, 0, 1).to(like)

    def emit_bias(self, graph: GraphBuilder, queries: str, keys: str) -> str:
        def buckets() -> str:
            bucket_of_distance = distance_buckets(
                torch.arange(1 - self.max_tokens, self.max_tokens), self.buckets
            ).numpy()
            first = graph.constant(np.array(self.max_tokens - 1))
            shifted = graph.add("Add", emit_distances(graph, queries, keys), first)
            return graph.add("Gather", graph.constant(bucket_of_distance.astype(np.int32)), shifted)

        bias_of_heads = self.relative_attention_bias.weight.detach().float().cpu().numpy().T
        bucket_numbers = graph.once(("buckets", queries, keys), buckets)
        return graph.add("Gather", graph.constant(np.ascontiguousarray(bias_of_heads)), bucket_numbers, axis=1)


class RotaryPositions(Positions):
    """Rotation of queries and keys by angles that grow with the position. Attention may be limited to nearby tokens."""

    rotates = True

    def __init__(self, head_size: int, theta: float, window: int | None) -> None:
        super().__init__()
        self.head_size, self.theta, self.window = head_size, theta, window

    @property
    def biases(self) -> bool:  # type: ignore[override]
        return self.window is not None

    def _frequencies(self) -> torch.Tensor:
        """Return the rotation angles per position, in radians, (head size / 2,)."""
        return 1.0 / (self.theta ** (torch.arange(0, self.head_size, 2, dtype=torch.float) / self.head_size))

    def rotated(self, features: torch.Tensor) -> torch.Tensor:
        positions = torch.arange(features.shape[2], device=features.device)
        angles = positions[:, None].float() * self._frequencies().to(features.device)
        first, second = features.float().chunk(2, dim=-1)
        cosine, sine = angles.cos(), angles.sin()
        halves = (first * cosine - second * sine, second * cosine + first * sine)
        return torch.cat(halves, dim=-1).to(features.dtype)

    def bias(self, queries: int, keys: int, like: torch.Tensor) -> torch.Tensor | None:
        if self.window is None or keys <= self.window + 1:
            return None
        positions = torch.arange(keys, device=like.device)
        is_far = (positions[None, :] - positions[:queries, None]).abs() > self.window
        return is_far.to(like.dtype)[None] * (torch.finfo(like.dtype).min / 2)

    def emit_rotated(self, graph: GraphBuilder, features: str, tokens: str) -> str:
        def angles() -> str:
            positions = graph.cast_to_float(emit_positions(graph, tokens))
            column = graph.add("Unsqueeze", positions, graph.constant(np.array([1])))
            return graph.add("Mul", column, graph.constant(self._frequencies().numpy()[None]))

        angles_name = graph.once(("angles", tokens, self.theta), angles)
        cosine, sine = (
            graph.once((name, angles_name), partial(graph.add, name, angles_name)) for name in ("Cos", "Sin")
        )
        first, second = graph.add_many("Split", 2, features, axis=-1, num_outputs=2)
        first_rotated = graph.add("Sub", graph.add("Mul", first, cosine), graph.add("Mul", second, sine))
        second_rotated = graph.add("Add", graph.add("Mul", second, cosine), graph.add("Mul", first, sine))
        return graph.add("Concat", first_rotated, second_rotated, axis=-1)

    def emit_bias(self, graph: GraphBuilder, queries: str, keys: str) -> str:
        def far() -> str:
            distances = graph.add("Abs", emit_distances(graph, queries, keys))
            is_far = graph.add("Greater", distances, graph.constant(np.array(self.window)))
            blocked, free = (graph.constant(np.array(number, dtype=np.float32)) for number in (-1e9, 0.0))
            return graph.add("Unsqueeze", graph.add("Where", is_far, blocked, free), graph.constant(np.array([0])))

        return graph.once(("far", queries, keys, self.window), far)


def positions_of(config: CompactBertConfig, layer: Layer) -> Positions:
    """Return the module through which a layer's attention takes positions into account."""
    if config.relative_attention_num_buckets:
        buckets, longest = config.relative_attention_num_buckets, config.max_position_embeddings
        return RelativePositions(buckets, layer.num_attention_heads, longest)
    if config.rope_thetas:
        window = (config.attention_windows or {layer.source: None})[layer.source]
        return RotaryPositions(config.attention_head_size, config.rope_thetas[layer.source], window)
    return Positions()


def distance_buckets(distances: torch.Tensor, buckets: int) -> torch.Tensor:
    """Return the bucket of each distance from a query to a key. Distances are negative if the key comes first.

    Half of the buckets are for negative distances and zero, and the other half are for positive distances. Each half
    starts with buckets for single distances. The second part of each half consists of buckets for ranges of distances.
    The ranges have equal widths on a logarithmic scale up to a distance of 128. The last bucket of each half includes
    all larger distances.
    """
    half = buckets // 2
    single_count = half // 2
    absolute = distances.abs()
    share = torch.log(absolute.float().clamp(min=1.0) / single_count) / math.log(_LARGEST_DISTANCE / single_count)
    ranges = (single_count + (share * (half - single_count)).long()).clamp(max=half - 1)
    return (distances > 0).long() * half + torch.where(absolute < single_count, absolute, ranges)


def emit_positions(graph: GraphBuilder, tokens: str) -> str:
    """Add the positions 0, 1, 2 and so on to an ONNX graph, as int64.

    `tokens` is the name of the value that holds the number of positions.
    """

    def positions() -> str:
        zero, one = (graph.constant(np.array(number)) for number in (0, 1))
        return graph.add("Range", zero, graph.add("Squeeze", tokens), one)

    return graph.once(("positions", tokens), positions)


def emit_distances(graph: GraphBuilder, queries: str, keys: str) -> str:
    """Add the distance from each query to each key to an ONNX graph, (queries, keys)."""

    def distances() -> str:
        row = graph.add("Unsqueeze", emit_positions(graph, keys), graph.constant(np.array([0])))
        column = graph.add("Unsqueeze", emit_positions(graph, queries), graph.constant(np.array([1])))
        return graph.add("Sub", row, column)

    return graph.once(("distances", queries, keys), distances)
