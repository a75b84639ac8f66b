"""Runtimes: how a network is handed over to one, and how the measuring process runs it.

What is handed over is either a whole sub-network or a chain of equal blocks, in the form that the runtime serves.
"""

from __future__ import annotations

import importlib.util
import json
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nas.compression import Block
from nas.errors import DeviceError
from nas.space import Layer

if TYPE_CHECKING:
    import numpy as np

    from nas.model import CompactBertConfig, CompactBertForSequenceClassification


@dataclass(frozen=True)
class BlockChain:
    """The same kind of block several times in a row, each with weights of its own.

    In the last layer of a network blocks compute the first token alone. There the first token goes from block to block
    while attention reads the same tokens each time.
    """

    kind: Block
    layer: Layer
    """Its sizes and choices; those of the other kind do not matter."""
    copies: int
    last: bool = False
    """Whether the blocks are as in the last layer."""


class Runtime(ABC):
    """One way to execute networks."""

    name: str

    @abstractmethod
    def write_model(self, model: CompactBertForSequenceClassification, path: Path) -> None:
        """Write a whole sub-network."""

    @abstractmethod
    def write_chain(self, chain: BlockChain, config: CompactBertConfig, path: Path) -> None:
        """Write a chain of blocks whose inputs are `hidden` and `attention_mask`."""

    @abstractmethod
    def load(self, path: Path, threads: int, inputs: dict[str, np.ndarray]) -> Callable[[], Any]:
        """A function without arguments that runs what was written once on those of the inputs that it takes."""


class OnnxRuntime(Runtime):
    """ONNX Runtime on the CPU."""

    name = "onnxruntime"

    def write_model(self, model: CompactBertForSequenceClassification, path: Path) -> None:
        from nas.graph import save
        from nas.model.onnx import to_onnx

        save(to_onnx(model), path)

    def write_chain(self, chain: BlockChain, config: CompactBertConfig, path: Path) -> None:
        from onnx import TensorProto

        from nas.graph import GraphBuilder, save
        from nas.model.onnx import emit_attention, emit_feed_forward, emit_first, emit_mask

        # Unnamed dimensions, as values inside a whole network have: with known shapes ONNX Runtime would fuse residual
        # and norm into an operator six times slower than the two (SkipLayerNormalization of 1.32 on the CPU).
        graph, shape = GraphBuilder(), (None, None, None)
        hidden = graph.input("hidden", TensorProto.FLOAT, shape)
        mask = emit_mask(graph, graph.input("attention_mask", TensorProto.INT64, (None, None)))
        reader = emit_first(graph, hidden) if chain.last else hidden
        for layer in _layers(chain, config):
            if chain.kind == "attention":
                read = hidden if chain.last else reader
                reader, _ = emit_attention(graph, config, layer.attention, reader, read, mask)
            else:
                reader = emit_feed_forward(graph, config, layer, reader)
        graph.output(reader, "output", shape)
        save(graph.model(chain.kind), path)

    def load(self, path: Path, threads: int, inputs: dict[str, np.ndarray]) -> Callable[[], Any]:
        session = session_of(path, threads)
        known = {value.name for value in session.get_inputs()}
        fed = {name: value for name, value in inputs.items() if name in known}
        return lambda: session.run(None, fed)


def session_of(path: Path, threads: int) -> Any:
    """An ONNX Runtime session as sub-networks are served: CPU, `threads` threads, all graph optimisations."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


class Torch(Runtime):
    """Eager PyTorch on the CPU; networks travel as their configuration, since weights do not change latency."""

    name = "torch"

    def write_model(self, model: CompactBertForSequenceClassification, path: Path) -> None:
        path.write_text(json.dumps({"config": model.config.to_dict()}))

    def write_chain(self, chain: BlockChain, config: CompactBertConfig, path: Path) -> None:
        path.write_text(json.dumps({"config": config.to_dict(), "chain": asdict(chain)}))

    def load(self, path: Path, threads: int, inputs: dict[str, np.ndarray]) -> Callable[[], Any]:
        import torch

        from nas.model import CompactBertConfig, CompactBertForSequenceClassification

        torch.set_num_threads(threads)
        saved = json.loads(path.read_text())
        config = CompactBertConfig(**saved["config"])
        fed = {name: torch.from_numpy(value) for name, value in inputs.items()}
        if "chain" not in saved:
            model = CompactBertForSequenceClassification(config).eval()
            taken = {name: fed[name] for name in config.input_names}
            return torch.inference_mode()(lambda: model(**taken))
        chain = BlockChain(**saved["chain"] | {"layer": Layer(**saved["chain"]["layer"])})
        layers = _layers(chain, config)
        mask = (1.0 - fed["attention_mask"][:, None, None, :].float()) * torch.finfo(torch.float32).min

        def run() -> torch.Tensor:
            hidden = fed["hidden"]
            reader = hidden[:, :1] if chain.last else hidden
            for layer in layers:
                if chain.kind == "attention":
                    reader, _ = layer.attention(reader, hidden if chain.last else reader, mask)
                else:
                    reader = layer.output(layer.intermediate(reader), reader)
            return reader

        return torch.inference_mode()(run)


def _layers(chain: BlockChain, config: CompactBertConfig) -> list[Any]:
    from nas.model.modeling import CompactBertLayer

    return [CompactBertLayer(config, chain.layer).eval() for _ in range(chain.copies)]


RUNTIMES: dict[str, Runtime] = {runtime.name: runtime for runtime in (OnnxRuntime(), Torch())}


def runtime_of(name: str) -> Runtime:
    """The runtime of that name. Raises `DeviceError` if its package is not installed."""
    if importlib.util.find_spec(name) is None:
        raise DeviceError(f"devices: the runtime {name!r} is not installed; pip install {name}")
    return RUNTIMES[name]


def load(name: str, path: Path, threads: int, inputs: dict[str, np.ndarray]) -> Callable[[], Any]:
    """See `Runtime.load`."""
    return runtime_of(name).load(path, threads, inputs)
