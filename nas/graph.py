"""A small writer of ONNX graphs: operators by name, constants by value, every value named automatically.

Networks are written operator by operator from their weights, not traced: the graph then holds what the runtime
shall execute and nothing else, one int8 block among float blocks is an ordinary case, and a network takes
milliseconds to write, which makes it practical to measure hundreds of blocks.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from nas.files import write_atomically

OPSET = 20
"""The first operator set with Gelu; onnxruntime has it since 1.17."""


Shape = tuple[int | str | None, ...]


class GraphBuilder:
    """Collects nodes and constants and makes a checked model of them.

    `outer` is the graph that this one is a branch of: its values can be used, and constants lie there.
    """

    def __init__(self, outer: GraphBuilder | None = None) -> None:
        self._nodes: list[onnx.NodeProto] = []
        self._outer = outer
        self._constants: list[onnx.TensorProto] = []
        self._inputs: list[onnx.ValueInfoProto] = []
        self._outputs: list[onnx.ValueInfoProto] = []
        self._quantised: dict[str, tuple[str, str, str]] = dict(outer._quantised) if outer else {}
        self._known: dict[tuple[str, tuple[int, ...], bytes], str] = {}
        self._computed: dict[Hashable, str] = dict(outer._computed) if outer else {}
        self._numbers: Iterator[int] = outer._numbers if outer else itertools.count()

    def input(self, name: str, kind: int, shape: Shape) -> str:
        """Declare an input; a dimension given as text is dynamic, as None unknown."""
        self._inputs.append(helper.make_tensor_value_info(name, kind, shape))
        return name

    def output(self, value: str, name: str, shape: Shape, kind: int = TensorProto.FLOAT) -> None:
        """Declare an output that carries `value`."""
        self._nodes.append(helper.make_node("Identity", [value], [name]))
        self._outputs.append(helper.make_tensor_value_info(name, kind, shape))

    def constant(self, value: np.ndarray) -> str:
        """Store an array in the model and return its name. Equal arrays are stored once."""
        if self._outer:
            return self._outer.constant(value)
        array = np.asarray(value, order="C")
        key = (array.dtype.str, array.shape, hashlib.sha256(array.tobytes()).digest())
        if key not in self._known:
            name = f"constant_{len(self._constants)}"
            self._constants.append(numpy_helper.from_array(array, name))
            self._known[key] = name
        return self._known[key]

    def sparse_constant(self, value: np.ndarray) -> str:
        """Store an array as one bit for each number and those that are not zero.

        A runtime puts it together when it loads the model, as it folds all that depends on constants alone.
        """
        flat = np.asarray(value, order="C").reshape(-1)
        kept = flat != 0
        numbers = self.constant(np.concatenate([np.zeros(1, dtype=flat.dtype), flat[kept]]))
        octets = self.constant(np.packbits(kept, bitorder="little")[:, None])
        shifted = self.add("BitShift", octets, self.constant(np.arange(8, dtype=np.uint8)), direction="RIGHT")
        bits = self.add("BitwiseAnd", shifted, self.constant(np.array(1, dtype=np.uint8)))
        every = self.add("Reshape", self.add("Cast", bits, to=TensorProto.INT32), self.constant(np.array([-1])))
        start, end = self.constant(np.array([0])), self.constant(np.array([flat.size]))
        mask = self.add("Slice", every, start, end, start)
        order = self.add("Mul", self.add("CumSum", mask, self.constant(np.array(0))), mask)
        return self.add("Reshape", self.add("Gather", numbers, order), self.constant(np.array(value.shape)))

    def once(self, key: Hashable, write: Callable[[], str]) -> str:
        """The value that `write` adds and returns, added only when it is first asked for under that key."""
        if key not in self._computed:
            self._computed[key] = write()
        return self._computed[key]

    def add(self, operator: str, *inputs: str, **attributes: Any) -> str:
        """Add a node with one output and return the output's name."""
        return self.add_many(operator, 1, *inputs, **attributes)[0]

    def add_many(self, operator: str, outputs: int, *inputs: str, **attributes: Any) -> list[str]:
        """Add a node with several outputs and return their names."""
        number = next(self._numbers)
        names = [f"{operator.lower()}_{number}_{index}" for index in range(outputs)]
        node = helper.make_node(operator, list(inputs), names, name=f"{operator}_{number}", **attributes)
        self._nodes.append(node)
        return names

    def choose(
        self, condition: str, shapes: Mapping[str, tuple[int, Shape]], then: Sequence[str], otherwise: GraphBuilder
    ) -> list[str]:
        """Give the values `then` if a condition holds, else the outputs of a branch, which is run only in that case.

        `shapes` are kind and shape of each of the values.
        """
        ready = GraphBuilder(outer=self)
        for value, (name, (kind, shape)) in zip(then, shapes.items(), strict=True):
            ready.output(value, f"{name}_{next(self._numbers)}", shape, kind)
        branches = {"then_branch": ready._branch("then"), "else_branch": otherwise._branch("else")}
        return self.add_many("If", len(shapes), condition, **branches)

    def _branch(self, name: str) -> onnx.GraphProto:
        return helper.make_graph(self._nodes, name, [], self._outputs)

    def cast_to_float(self, value: str) -> str:
        """Convert a value to 32-bit floating point."""
        return self.add("Cast", value, to=TensorProto.FLOAT)

    def quantise_dynamically(self, value: str) -> tuple[str, str, str]:
        """Quantise a value to 8 bits, once however many layers read it: (integers, scale, zero point)."""
        if value not in self._quantised:
            integers, scale, zero_point = self.add_many("DynamicQuantizeLinear", 3, value)
            self._quantised[value] = (integers, scale, zero_point)
        return self._quantised[value]

    def model(self, name: str) -> onnx.ModelProto:
        """The finished model, checked."""
        graph = helper.make_graph(self._nodes, name, self._inputs, self._outputs, self._constants)
        others = sorted(_domains(self._nodes) - {""})
        opsets = [helper.make_opsetid("", OPSET), *(helper.make_opsetid(domain, 1) for domain in others)]
        model = helper.make_model(graph, opset_imports=opsets, producer_name="nas")
        model.ir_version = 9
        onnx.checker.check_model(model)
        return model


def _domains(nodes: Iterable[onnx.NodeProto]) -> set[str]:
    """The operator sets that nodes belong to, those in branches too."""
    found = set()
    for node in nodes:
        found.add(node.domain)
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:
                found |= _domains(attribute.g.node)
    return found


def save(model: onnx.ModelProto, path: Path) -> None:
    """Write a model to one file, atomically."""
    write_atomically(path, lambda temporary: temporary.write_bytes(model.SerializeToString()))
