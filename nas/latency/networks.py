"""Networks in the forms in which runtimes execute them: ONNX files, and torch modules.

A network is either a complete model or a `BlockChain`. `measure.py` writes networks with `write_network`, and the
measuring process loads them with `load_network`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from nas.architecture import Layer
from nas.compression import Block
from nas.device import Device
from nas.runtimes import FileRuntime, ModuleRuntime, runtime_of
from nas.runtimes.runner import Run

if TYPE_CHECKING:
    import numpy as np
    import onnx
    import torch

    from nas.model import CompactBert, CompactBertConfig

    Inputs = Mapping[str, np.ndarray]

M = TypeVar("M", bound="torch.nn.Module")
_WEIGHT_PERIOD = 4096


@dataclass(frozen=True)
class BlockChain:
    """A sequence of blocks of the same kind and size. Each block has its own weights."""

    kind: Block
    layer: Layer
    """A layer that defines the size and the compression method of the blocks.

    Only the layer's block of the kind `kind` is used. The other block has no effect.
    """
    copies: int
    first_only: bool = False
    """Whether the blocks compute only the first token, as at the end of a network.

    Each block passes this token to the next block. The attention of each block reads all tokens of the chain's input.
    """


def write_network(network: CompactBert | tuple[BlockChain, CompactBertConfig], device: Device, path: Path) -> None:
    """Write a model, or a chain of blocks with its configuration, to a file that `load_network` can read.

    The inputs of a chain are `hidden` and `attention_mask`. In a file, each further block may have a separate input:
    `hidden_1`, `hidden_2` and so on. If the device's runtime executes torch modules, the weights are not written,
    because they do not affect latency.
    """
    runtime = runtime_of(device)
    if isinstance(runtime, FileRuntime):
        runtime.save(_to_onnx(network), path)
    elif isinstance(network, tuple):
        chain, config = network
        path.write_text(json.dumps({"config": config.to_dict(), "chain": asdict(chain)}))
    else:
        path.write_text(json.dumps({"config": network.config.to_dict()}))


def load_network(path: Path, device: Device, inputs: Sequence[Inputs]) -> list[Run]:
    """For each set of inputs, return a function that runs the network in a file on these inputs.

    Inputs that the network lacks are ignored.
    """
    runtime = runtime_of(device)
    if isinstance(runtime, FileRuntime):
        return runtime.load(path, device, inputs)
    assert isinstance(runtime, ModuleRuntime)
    from nas.model import CompactBert, CompactBertConfig

    saved = json.loads(path.read_text())
    config = CompactBertConfig(**saved["config"])
    chain = BlockChain(**saved["chain"] | {"layer": Layer(**saved["chain"]["layer"])}) if "chain" in saved else None
    names = ("hidden", "attention_mask") if chain else config.input_names

    def build() -> torch.nn.Module:
        return _chain_module(chain, config) if chain else CompactBert(config)

    return runtime.load(build, device, [{name: arrays[name] for name in names if name in arrays} for arrays in inputs])


def _to_onnx(network: CompactBert | tuple[BlockChain, CompactBertConfig]) -> onnx.ModelProto:
    from nas.model.onnx import to_onnx

    return _chain_to_onnx(*network) if isinstance(network, tuple) else to_onnx(network)


def _chain_to_onnx(chain: BlockChain, config: CompactBertConfig) -> onnx.ModelProto:
    from onnx import TensorProto

    from nas.graph import GraphBuilder
    from nas.model.onnx import emit_attention, emit_feed_forward, emit_first, emit_mask, emit_most_attended

    # The dimensions are unnamed, like those of values inside a complete network. If shapes were known, ONNX
    # Runtime would fuse residual and norm into one operator that is six times slower than the two separate
    # operators (SkipLayerNormalization of version 1.32 on the CPU).
    graph, shape = GraphBuilder(), (None, None, None)
    hidden = graph.input("hidden", TensorProto.FLOAT, shape)
    # If only the first token is computed, the attention of every copy reads all tokens of the input. Each copy gets an
    # input of its own, because otherwise the copies would share the quantisation of these tokens.
    input_count = chain.copies if chain.first_only and chain.kind == "attention" else 1
    tokens = [hidden, *(graph.input(f"hidden_{copy}", TensorProto.FLOAT, shape) for copy in range(1, input_count))]
    mask = emit_mask(graph, graph.input("attention_mask", TensorProto.INT64, (None, None)))
    reader = emit_first(graph, hidden) if chain.first_only else hidden
    for copy, layer in enumerate(_layers(chain, config)):
        if chain.kind == "attention":
            source = tokens[copy] if chain.first_only else reader
            reader, weights = emit_attention(graph, config, layer.attention, reader, source, mask)
            if layer.keep_tokens:
                reader, mask = emit_most_attended(graph, reader, mask, weights, layer.keep_tokens)
        else:
            reader = emit_feed_forward(graph, config, layer, reader)
    graph.output(reader, "output", shape)
    return graph.model(chain.kind)


def _chain_module(chain: BlockChain, config: CompactBertConfig) -> torch.nn.Module:
    import torch

    from nas.model.layers import additive_mask, at_positions, most_attended

    class Chain(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers: Any = torch.nn.ModuleList(_layers(chain, config))

        def forward(self, hidden: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
            mask = additive_mask(attention_mask, hidden)
            reader = hidden[:, :1] if chain.first_only else hidden
            for layer in self.layers:
                if chain.kind == "attention":
                    source = hidden if chain.first_only else reader
                    reader, weights = layer.attention(reader, source, mask, return_attentions=layer.keep_tokens > 0)
                    if weights is not None:
                        reader = at_positions(reader, most_attended(weights, mask, layer.keep_tokens))
                else:
                    reader = layer.fed_forward(reader)
            return reader

    return Chain()


def _layers(chain: BlockChain, config: CompactBertConfig) -> list[Any]:
    import torch

    from nas.model.layers import CompactBertLayer

    layers = torch.nn.ModuleList(CompactBertLayer(config, chain.layer) for _ in range(chain.copies))
    return list(with_repeating_weights(layers).eval())


def with_repeating_weights(module: M) -> M:
    """Overwrite the module's parameters with weights that repeat within each matrix, and return the module.

    Such weights compress well in archives, and runtimes compute with them as fast as with any other weights. No two
    matrices are equal, so that a runtime cannot merge them.
    """
    import torch

    numbers = torch.randn(_WEIGHT_PERIOD, generator=torch.Generator().manual_seed(0)) * 0.02
    with torch.no_grad():
        for index, parameter in enumerate(module.parameters()):
            repetitions = -(-parameter.numel() // _WEIGHT_PERIOD)
            values = (numbers * (1.0 + 0.001 * index)).repeat(repetitions)[: parameter.numel()]
            parameter.copy_(values.view_as(parameter))
    return module
