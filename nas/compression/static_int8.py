"""`static_int8` and `static_int8(mean)`: 8-bit weights, and activations that are quantised with calibrated ranges.

Weights and embedding tables are quantised as in `int8`. Activations are quantised asymmetrically to 8 bits, with one
range per linear layer that does not depend on the text (static quantisation). When a network is exported, the ranges
are computed from texts of the search set, by one of two methods:

- `static_int8` (min-max): from the lowest to the highest activation over all texts. No activation of these texts is
  clipped.
- `static_int8(mean)`: from the mean of the texts' lowest activations to the mean of their highest activations. The
  levels are closer together, but the extreme activations of many texts are clipped.

During training and search, each batch is quantised with its own range, because every sub-network has different
activations. The gradients ignore the rounding and the clipping (straight-through gradients).

In ONNX, the activations pass through `QuantizeLinear` and `DequantizeLinear`, and the integer weights through
`DequantizeLinear` (QDQ format). OpenVINO and ONNX Runtime replace these operators with 8-bit matrix products.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

from nas.compression.base import BLOCKS, INPUT_RANGE, Calibrated, Format
from nas.compression.int8 import PRODUCT_LEVELS, EightBitWeights, quantised_integers

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    import torch

    from nas.compression.base import Arrays
    from nas.graph import GraphBuilder

_MEAN = "mean"
_NOMINAL_RANGE = (-1.0, 1.0)
"""The range in the ONNX graph of a layer that is not calibrated. The latency does not depend on the range."""


class StaticInt8(EightBitWeights, Calibrated):
    """Weights are stored as 8-bit integers, and activations are quantised with calibrated ranges."""

    name = "static_int8"
    examples = ("static_int8", "static_int8(mean)")
    blocks = frozenset(BLOCKS)
    operations = frozenset({"static_int8"})

    def __init__(self, averages: bool) -> None:
        self.averages = averages
        """Whether ranges are means over texts. If false, a range contains all values of all texts."""

    @classmethod
    def read(cls, parameter: str | None, stored: Format | None) -> Self:
        if parameter not in (None, _MEAN):
            raise ValueError(
                f"{cls.name} accepts only the parameter {_MEAN}, but got {parameter!r}; write {cls.name} (the range of "
                f"all texts) or {cls.name}({_MEAN}) (the mean range of the texts)"
            )
        return cls(parameter == _MEAN)

    @property
    def spec(self) -> str:
        return f"{self.name}({_MEAN})" if self.averages else self.name

    def range_of(self, extremes: torch.Tensor) -> torch.Tensor:
        import torch

        if self.averages:
            return extremes.mean(dim=0)
        return torch.stack([extremes[:, 0].amin(), extremes[:, 1].amax()])

    def quantised_within(self, x: torch.Tensor, input_range: torch.Tensor) -> torch.Tensor:
        from nas.compression.rounding import asymmetric

        return asymmetric(x, input_range[0].float(), input_range[1].float())

    def emit_linear(self, graph: GraphBuilder, x: str, matrices: Arrays, bias: np.ndarray | None) -> str:
        import numpy as np
        import torch

        from nas.compression.rounding import asymmetric_steps

        input_range = matrices.get(INPUT_RANGE, np.array(_NOMINAL_RANGE, dtype=np.float32))
        x_scale, x_zero_point = (steps.numpy() for steps in asymmetric_steps(*torch.from_numpy(input_range)))
        quantised = graph.quantise_statically(x, x_scale, x_zero_point.astype(np.uint8))
        integers, scale = quantised_integers(matrices["weight"], PRODUCT_LEVELS)
        weight = graph.add("DequantizeLinear", graph.constant(integers.T), graph.constant(scale[:, 0]), axis=1)
        product = graph.add("MatMul", quantised, weight)
        return product if bias is None else graph.add("Add", product, graph.constant(bias))

    def emit_linears(
        self, graph: GraphBuilder, x: str, layers: Sequence[tuple[Arrays, np.ndarray | None]]
    ) -> list[str]:
        # OpenVINO fuses the bias and the scales into a matrix product, but not if a Split follows the product.
        return [self.emit_linear(graph, x, matrices, bias) for matrices, bias in layers]
