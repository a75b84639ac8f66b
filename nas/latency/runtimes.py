"""The runtimes PyTorch, ONNX Runtime and OpenVINO. Each of them writes networks to files, and loads and runs the files.

A network is either a complete model or a `BlockChain`. `measure.py` writes networks with the `Runtime` of the device,
and the measuring process loads them. The verification of exports computes outputs with `Runtime.session`.
"""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from nas.architecture import Layer
from nas.compression import Block
from nas.device import Device
from nas.errors import DeviceError
from nas.latency.runner import Clock, Run, load_file, onnx_session, openvino_request, wall_clock

if TYPE_CHECKING:
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


class Runtime(ABC):
    """A library that executes networks."""

    name: str

    @abstractmethod
    def write_model(self, model: CompactBert, path: Path) -> None:
        """Write a model to a file that `load` can read."""

    @abstractmethod
    def write_chain(self, chain: BlockChain, config: CompactBertConfig, path: Path) -> None:
        """Write a chain of blocks to a file that `load` can read.

        The inputs of the chain are `hidden` and `attention_mask`. A runtime may give each further block a separate
        input: `hidden_1`, `hidden_2` and so on.
        """

    @abstractmethod
    def load(self, path: Path, device: Device, inputs: Sequence[Inputs]) -> list[Run]:
        """For each set of inputs, return a function that runs the network on these inputs.

        Inputs that the network lacks are ignored.
        """

    def session(self, path: Path, device: Device) -> Callable[[Inputs], dict[str, np.ndarray]]:
        """Return a function that runs an exported file. The function maps inputs to outputs, both keyed by name."""
        raise NotImplementedError(f"{self.name} cannot serve a file")

    def check(self, device: Device) -> None:
        """Raise `DeviceError` if this machine lacks a GPU, a compiler or a provider that the device needs.

        The caller must make sure that the runtime's package is installed.
        """
        return

    def clock(self, device: Device) -> Clock:
        """Return the function that times a run on the device."""
        return wall_clock


class OnnxRuntime(Runtime):
    """ONNX Runtime on the CPU or with CUDA."""

    name = "onnxruntime"

    def write_model(self, model: CompactBert, path: Path) -> None:
        from nas.graph import save
        from nas.model.onnx import to_onnx

        save(to_onnx(model), path)

    def write_chain(self, chain: BlockChain, config: CompactBertConfig, path: Path) -> None:
        from onnx import TensorProto

        from nas.graph import GraphBuilder, save
        from nas.model.onnx import emit_attention, emit_feed_forward, emit_first, emit_mask, emit_most_attended

        # The dimensions are unnamed, like those of values inside a complete network. If shapes were known, ONNX
        # Runtime would fuse residual and norm into one operator that is six times slower than the two separate
        # operators (SkipLayerNormalization of version 1.32 on the CPU).
        graph, shape = GraphBuilder(), (None, None, None)
        hidden = graph.input("hidden", TensorProto.FLOAT, shape)
        # If only the first token is computed, every copy reads all tokens. Each copy gets an input of its own, because
        # otherwise the copies would share the quantisation of these tokens.
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
        save(graph.model(chain.kind), path)

    def load(self, path: Path, device: Device, inputs: Sequence[Inputs]) -> list[Run]:
        return load_file({"file": str(path)}, device.model_dump(mode="json"), inputs)

    def session(self, path: Path, device: Device) -> Callable[[Inputs], dict[str, np.ndarray]]:
        session = onnx_session(str(path), device.threads, device.processor)
        input_names = [value.name for value in session.get_inputs()]
        output_names = [value.name for value in session.get_outputs()]

        def run(inputs: Inputs) -> dict[str, np.ndarray]:
            fed = {name: value for name, value in inputs.items() if name in input_names}
            return dict(zip(output_names, session.run(output_names, fed), strict=True))

        return run

    def check(self, device: Device) -> None:
        import onnxruntime

        if device.processor == "cuda" and "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
            raise DeviceError(
                f"devices.{device.name}: this ONNX Runtime has no CUDA; pip install onnxruntime-gpu in place of "
                'onnxruntime, or set processor = "cpu"'
            )


class OpenVino(OnnxRuntime):
    """OpenVINO on the CPU, which reads the same files as ONNX Runtime."""

    name = "openvino"

    def session(self, path: Path, device: Device) -> Callable[[Inputs], dict[str, np.ndarray]]:
        request = openvino_request(str(path), device.threads, device.number_format)
        input_names = {port.get_any_name() for port in request.get_compiled_model().inputs}

        def run(inputs: Inputs) -> dict[str, np.ndarray]:
            fed = {name: value for name, value in inputs.items() if name in input_names}
            outputs = request.infer(fed).items()
            return {name: np.array(value) for port, value in outputs for name in port.get_names()}

        return run

    def check(self, device: Device) -> None:
        """Do nothing, because OpenVINO supports any CPU.

        If the CPU does not support bfloat16, OpenVINO emulates it, which increases the measured latency.
        """


class Torch(Runtime):
    """PyTorch, eager or compiled. Networks are written without weights, because weights do not affect latency."""

    name = "torch"

    def write_model(self, model: CompactBert, path: Path) -> None:
        path.write_text(json.dumps({"config": model.config.to_dict()}))

    def write_chain(self, chain: BlockChain, config: CompactBertConfig, path: Path) -> None:
        path.write_text(json.dumps({"config": config.to_dict(), "chain": asdict(chain)}))

    def load(self, path: Path, device: Device, inputs: Sequence[Inputs]) -> list[Run]:
        import torch

        from nas.model import CompactBert, CompactBertConfig

        torch.set_num_threads(device.threads)
        saved = json.loads(path.read_text())
        config = CompactBertConfig(**saved["config"])
        names: tuple[str, ...] = config.input_names
        network: torch.nn.Module = CompactBert(config)
        if "chain" in saved:
            chain = BlockChain(**saved["chain"] | {"layer": Layer(**saved["chain"]["layer"])})
            names, network = ("hidden", "attention_mask"), _torch_chain(chain, config)
        placed = placed_in_torch(network, device)
        tensors = [
            {name: _torch_input(torch.from_numpy(arrays[name]), device) for name in names if name in arrays}
            for arrays in inputs
        ]

        @torch.inference_mode()
        def run(inputs_of_run: dict[str, torch.Tensor]) -> Any:
            return placed(**inputs_of_run)

        return [partial(run, inputs_of_run) for inputs_of_run in tensors]

    def check(self, device: Device) -> None:
        import torch

        if device.processor == "cuda" and not torch.cuda.is_available():
            raise DeviceError(f'devices.{device.name}: PyTorch finds no GPU on this machine; set processor = "cpu"')
        if device.compiled and device.processor == "cpu" and not shutil.which("g++"):
            raise DeviceError(f"devices.{device.name}: PyTorch needs g++ to compile for the CPU; install it")

    def clock(self, device: Device) -> Clock:
        return _cuda_clock if device.processor == "cuda" else wall_clock


def placed_in_torch(network: torch.nn.Module, device: Device) -> Callable[..., Any]:
    """Return a network on the device's processor, in its number format, and compiled if `device.compiled` is set."""
    import torch

    placed = network.eval().to(device.processor, getattr(torch, device.number_format))
    if not device.compiled:
        return placed
    mode = "reduce-overhead" if device.processor == "cuda" else "default"
    # Shapes are static: a network is compiled once for each length. The limits keep PyTorch from falling back to eager.
    limits = torch._dynamo.config
    limits.recompile_limit = limits.accumulated_recompile_limit = 2**20
    limits.fail_on_recompile_limit_hit = True
    compiled: Callable[..., Any] = torch.compile(placed, mode=mode, dynamic=False)
    return compiled


def _torch_input(value: torch.Tensor, device: Device) -> torch.Tensor:
    import torch

    return value.to(device.processor, getattr(torch, device.number_format) if value.is_floating_point() else None)


def _cuda_clock(run: Run) -> float:
    """Return the time of one run in milliseconds, measured between two events on the GPU."""
    import torch

    started, ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    started.record()
    run()
    ended.record()
    ended.synchronize()
    return float(started.elapsed_time(ended))


def _torch_chain(chain: BlockChain, config: CompactBertConfig) -> torch.nn.Module:
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


RUNTIMES: dict[str, Runtime] = {runtime.name: runtime for runtime in (OnnxRuntime(), Torch(), OpenVino())}
"""All runtimes, keyed by the value of `devices.runtime` in a study file."""


def runtime_of(device: Device) -> Runtime:
    """Return the runtime of a device."""
    return RUNTIMES[device.runtime]


def check_runtime(device: Device) -> None:
    """Raise `DeviceError` if the runtime of a device is not installed on this machine.

    Even if the device is a different machine, the runtime is needed here, because accuracy is computed on this machine.
    If the device is this machine, also raise `DeviceError` if the device cannot be used.
    """
    name = device.runtime
    if importlib.util.find_spec(name) is None:
        raise DeviceError(f"devices.{device.name}: the runtime {name!r} is not installed; pip install {name}")
    if device.where == "here":
        _check_cores(device)
        RUNTIMES[name].check(device)


def _check_cores(device: Device) -> None:
    """Raise `DeviceError` if this process may not use the cores that a device needs.

    Nothing is checked if the operating system does not report the available cores.
    """
    if not hasattr(os, "sched_getaffinity"):
        return
    cores = sorted(os.sched_getaffinity(0))
    core_list = ", ".join(map(str, cores))
    missing = [core for core in device.pin_to if core not in cores]
    if missing:
        raise DeviceError(
            f"devices.{device.name}: pin_to must name cores that this process may use ({core_list}), but got "
            f"{missing[0]}; name other cores"
        )
    if device.threads > len(cores):
        raise DeviceError(
            f"devices.{device.name}: threads must be at most the number of cores that this process may use "
            f"({len(cores)}), but got {device.threads}; lower it, or measure on another machine"
        )
