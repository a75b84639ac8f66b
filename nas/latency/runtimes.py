"""Runtimes: how a network is handed over to one, and how the measuring process runs it.

What is handed over is either a whole sub-network or a chain of equal blocks, in the form that the runtime serves.
"""

from __future__ import annotations

import importlib.util
import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nas.architecture import Layer
from nas.compression import Block
from nas.errors import DeviceError

if TYPE_CHECKING:
    import numpy as np
    import torch

    from nas.model import CompactBertConfig, CompactBertForSequenceClassification

    Inputs = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class BlockChain:
    """The same kind of block several times in a row, each with weights of its own."""

    kind: Block
    layer: Layer
    """Its sizes and choices; those of the other kind do not matter. If it drops tokens, all are chosen to go on."""
    copies: int
    first_only: bool = False
    """Whether they are as at the end of a network, where the first token alone is computed: it goes from block to block
    while attention reads the same tokens each time."""


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
    def load(self, path: Path, threads: int, inputs: Sequence[Inputs]) -> list[Callable[[], Any]]:
        """For each of several inputs a function that runs what was written once on those of them that it takes."""


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
        from nas.model.onnx import emit_attention, emit_feed_forward, emit_first, emit_mask, emit_most_attended

        # Unnamed dimensions, as values inside a whole network have: with known shapes ONNX Runtime would fuse residual
        # and norm into an operator six times slower than the two (SkipLayerNormalization of 1.32 on the CPU).
        graph, shape = GraphBuilder(), (None, None, None)
        hidden = graph.input("hidden", TensorProto.FLOAT, shape)
        mask = emit_mask(graph, graph.input("attention_mask", TensorProto.INT64, (None, None)))
        reader = emit_first(graph, hidden) if chain.first_only else hidden
        for layer in _layers(chain, config):
            if chain.kind == "attention":
                read = hidden if chain.first_only else reader
                reader, weights = emit_attention(graph, config, layer.attention, reader, read, mask)
                if layer.keep_tokens:
                    reader, mask = emit_most_attended(graph, reader, mask, weights, layer.keep_tokens)
            else:
                reader = emit_feed_forward(graph, config, layer, reader)
        graph.output(reader, "output", shape)
        save(graph.model(chain.kind), path)

    def load(self, path: Path, threads: int, inputs: Sequence[Inputs]) -> list[Callable[[], Any]]:
        session = session_of(path, threads)
        known = {value.name for value in session.get_inputs()}
        fed = ({name: value for name, value in every.items() if name in known} for every in inputs)
        return [partial(session.run, None, every) for every in fed]


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

    def load(self, path: Path, threads: int, inputs: Sequence[Inputs]) -> list[Callable[[], Any]]:
        import torch

        from nas.model import CompactBertConfig, CompactBertForSequenceClassification

        torch.set_num_threads(threads)
        saved = json.loads(path.read_text())
        config = CompactBertConfig(**saved["config"])
        fed = [{name: torch.from_numpy(value) for name, value in every.items()} for every in inputs]
        if "chain" in saved:
            chain = BlockChain(**saved["chain"] | {"layer": Layer(**saved["chain"]["layer"])})
            run = _chain_in_torch(chain, config)
        else:
            model = CompactBertForSequenceClassification(config).eval()

            def run(given: dict[str, torch.Tensor]) -> Any:
                return model(**{name: given[name] for name in config.input_names})

        return [partial(torch.inference_mode()(run), every) for every in fed]


def _chain_in_torch(chain: BlockChain, config: CompactBertConfig) -> Callable[[dict[str, torch.Tensor]], Any]:
    import torch

    from nas.model.modeling import at_places, most_attended

    layers = _layers(chain, config)

    def run(given: dict[str, torch.Tensor]) -> torch.Tensor:
        hidden = given["hidden"]
        mask = (1.0 - given["attention_mask"][:, None, None, :].float()) * torch.finfo(torch.float32).min
        reader = hidden[:, :1] if chain.first_only else hidden
        for layer in layers:
            if chain.kind == "attention":
                read = hidden if chain.first_only else reader
                reader, received = layer.attention(reader, read, mask, weigh=layer.keep_tokens > 0)
                if received is not None:
                    reader = at_places(reader, most_attended(received, mask, layer.keep_tokens))
            else:
                reader = layer.output(layer.intermediate(reader), reader)
        return reader

    return run


def _layers(chain: BlockChain, config: CompactBertConfig) -> list[Any]:
    from nas.model.modeling import CompactBertLayer

    return [CompactBertLayer(config, chain.layer).eval() for _ in range(chain.copies)]


RUNTIMES: dict[str, Runtime] = {runtime.name: runtime for runtime in (OnnxRuntime(), Torch())}


def runtime_of(name: str) -> Runtime:
    """The runtime of that name. Raises `DeviceError` if its package is not installed."""
    if importlib.util.find_spec(name) is None:
        raise DeviceError(f"devices: the runtime {name!r} is not installed; pip install {name}")
    return RUNTIMES[name]


def load(name: str, path: Path, threads: int, inputs: Sequence[Inputs]) -> list[Callable[[], Any]]:
    """See `Runtime.load`."""
    return runtime_of(name).load(path, threads, inputs)
