"""How attention knows where tokens stand, in torch and in ONNX.

In most families it does not, since positions are added to the embeddings. In MPNet each head has a learnt bias for the
distance between two tokens (as in T5, Raffel et al., arXiv:1910.10683). In ModernBERT queries and keys are rotated by
their position (Su et al., arXiv:2104.09864), and most layers attend to near tokens only (arXiv:2412.13663).

Queries are those of the first tokens of a text: all of them, or the first alone.
"""

from __future__ import annotations

import math
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import nn

from nas.architecture import Layer
from nas.model.axes import Axis, along
from nas.model.configuration import CompactBertConfig

if TYPE_CHECKING:
    from nas.graph import GraphBuilder

_FARTHEST = 128
"""The distance from which on MPNet has one bias for all."""


class Positions(nn.Module):
    """Attention that does not know where tokens stand."""

    rotates: bool = False
    """Whether queries and keys are rotated."""
    biases: bool = False
    """Whether something may be added to scores."""

    def rotated(self, features: torch.Tensor) -> torch.Tensor:
        """Return queries or keys, (batch, heads, tokens, head size), rotated by their position."""
        return features

    def bias(self, queries: int, keys: int, like: torch.Tensor) -> torch.Tensor | None:
        """Return what is added to scores, (heads or 1, queries, keys), on the device and in the format of `like`."""
        return None

    def emit_rotated(self, graph: GraphBuilder, features: str, tokens: str) -> str:
        """Write `rotated`; `tokens` is the number of tokens, (1,)."""
        return features

    def emit_bias(self, graph: GraphBuilder, queries: str, keys: str) -> str:
        """Write `bias`; the numbers of queries and keys are values (1,)."""
        raise NotImplementedError("nothing is added to scores")


class RelativePositions(Positions):
    """A learnt bias for each head and bucket of distances."""

    biases = True

    def __init__(self, buckets: int, heads: int, longest: int) -> None:
        super().__init__()
        self.buckets, self.longest = buckets, longest
        self.relative_attention_bias = along(nn.Embedding(buckets, heads), None, Axis.HEADS)

    def bias(self, queries: int, keys: int, like: torch.Tensor) -> torch.Tensor:
        table = self.relative_attention_bias.weight
        at = torch.arange(keys, device=table.device)
        by_distance = table[distance_buckets(torch.arange(1 - queries, keys, device=table.device), self.buckets)]
        biases = by_distance[at[None, :] - at[:queries, None] + queries - 1]
        return biases.permute(2, 0, 1).to(like)

    def emit_bias(self, graph: GraphBuilder, queries: str, keys: str) -> str:
        import numpy as np

        def buckets() -> str:
            known = distance_buckets(torch.arange(1 - self.longest, self.longest), self.buckets).numpy()
            first = graph.constant(np.array(self.longest - 1))
            shifted = graph.add("Add", emit_distances(graph, queries, keys), first)
            return graph.add("Gather", graph.constant(known.astype(np.int32)), shifted)

        of_heads = self.relative_attention_bias.weight.detach().float().cpu().numpy().T
        found = graph.once(("buckets", queries, keys), buckets)
        return graph.add("Gather", graph.constant(np.ascontiguousarray(of_heads)), found, axis=1)


class RotaryPositions(Positions):
    """Queries and keys rotated by angles that grow with the position; attention within a window where there is one."""

    rotates = True

    def __init__(self, head_size: int, theta: float, window: int | None) -> None:
        super().__init__()
        self.head_size, self.theta, self.window = head_size, theta, window

    @property
    def biases(self) -> bool:  # type: ignore[override]
        return self.window is not None

    def _frequencies(self) -> torch.Tensor:
        """Return the angles between neighbouring tokens, (head size / 2)."""
        return 1.0 / (self.theta ** (torch.arange(0, self.head_size, 2, dtype=torch.float) / self.head_size))

    def rotated(self, features: torch.Tensor) -> torch.Tensor:
        places = torch.arange(features.shape[2], device=features.device)
        angles = places[:, None].float() * self._frequencies().to(features.device)
        first, second = features.float().chunk(2, dim=-1)
        cosine, sine = angles.cos(), angles.sin()
        turned = (first * cosine - second * sine, second * cosine + first * sine)
        return torch.cat(turned, dim=-1).to(features.dtype)

    def bias(self, queries: int, keys: int, like: torch.Tensor) -> torch.Tensor | None:
        if self.window is None or keys <= self.window + 1:
            return None
        at = torch.arange(keys, device=like.device)
        far = (at[None, :] - at[:queries, None]).abs() > self.window
        return far.to(like.dtype)[None] * (torch.finfo(like.dtype).min / 2)

    def emit_rotated(self, graph: GraphBuilder, features: str, tokens: str) -> str:
        import numpy as np

        def angles() -> str:
            places = graph.cast_to_float(emit_places(graph, tokens))
            column = graph.add("Unsqueeze", places, graph.constant(np.array([1])))
            return graph.add("Mul", column, graph.constant(self._frequencies().numpy()[None]))

        at = graph.once(("angles", tokens, self.theta), angles)
        cosine, sine = (graph.once((name, at), partial(graph.add, name, at)) for name in ("Cos", "Sin"))
        first, second = graph.add_many("Split", 2, features, axis=-1, num_outputs=2)
        left = graph.add("Sub", graph.add("Mul", first, cosine), graph.add("Mul", second, sine))
        right = graph.add("Add", graph.add("Mul", second, cosine), graph.add("Mul", first, sine))
        return graph.add("Concat", left, right, axis=-1)

    def emit_bias(self, graph: GraphBuilder, queries: str, keys: str) -> str:
        import numpy as np

        def far() -> str:
            distances = graph.add("Abs", emit_distances(graph, queries, keys))
            beyond = graph.add("Greater", distances, graph.constant(np.array(self.window)))
            blocked, free = (graph.constant(np.array(number, dtype=np.float32)) for number in (-1e9, 0.0))
            return graph.add("Unsqueeze", graph.add("Where", beyond, blocked, free), graph.constant(np.array([0])))

        return graph.once(("far", queries, keys, self.window), far)


def positions_of(config: CompactBertConfig, layer: Layer) -> Positions:
    """Return how the attention of a layer knows where tokens stand."""
    if config.relative_attention_num_buckets:
        buckets, longest = config.relative_attention_num_buckets, config.max_position_embeddings
        return RelativePositions(buckets, layer.num_attention_heads, longest)
    if config.rope_thetas:
        window = (config.attention_windows or {layer.source: None})[layer.source]
        return RotaryPositions(config.attention_head_size, config.rope_thetas[layer.source], window)
    return Positions()


def distance_buckets(distances: torch.Tensor, buckets: int) -> torch.Tensor:
    """Return the bucket of each distance from a query to a key, negative where the key comes first.

    Half of the buckets are for each direction. The first half of those holds one distance each, the other half ranges
    that grow with the logarithm of the distance, up to 128.
    """
    half = buckets // 2
    single = half // 2
    far = distances.abs()
    share = torch.log(far.float().clamp(min=1.0) / single) / math.log(_FARTHEST / single)
    ranges = (single + (share * (half - single)).long()).clamp(max=half - 1)
    return (distances > 0).long() * half + torch.where(far < single, far, ranges)


def emit_places(graph: GraphBuilder, tokens: str) -> str:
    """Write 0, 1, 2 and so on for so many tokens."""
    import numpy as np

    def places() -> str:
        zero, one = (graph.constant(np.array(number)) for number in (0, 1))
        return graph.add("Range", zero, graph.add("Squeeze", tokens), one)

    return graph.once(("places", tokens), places)


def emit_distances(graph: GraphBuilder, queries: str, keys: str) -> str:
    """Write the distance from each query to each key, (queries, keys)."""
    import numpy as np

    def distances() -> str:
        row = graph.add("Unsqueeze", emit_places(graph, keys), graph.constant(np.array([0])))
        column = graph.add("Unsqueeze", emit_places(graph, queries), graph.constant(np.array([1])))
        return graph.add("Sub", row, column)

    return graph.once(("distances", queries, keys), distances)
