"""A small builder of ONNX graphs. It names all values automatically.

Networks are not traced. Their operators are added one by one, with their weights as constants. The graph then contains
exactly the operators that the runtime executes. An int8 block and float blocks can be mixed without special handling.
Building the graph of a network takes only milliseconds, so hundreds of blocks can be measured. `nas.model.onnx` and the
compression methods use `GraphBuilder`.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from nas.files import write_atomically

OPSET = 20
"""The first operator set that has Gelu. onnxruntime has supported it since version 1.17."""


Shape = tuple[int | str | None, ...]
T = TypeVar("T")


class GraphBuilder:
    """A builder that collects the nodes and constants of an ONNX graph, and returns a checked model.

    If the graph is a branch (see `choose`), `outer` is the graph that contains the branch. A branch can use the values
    of the outer graph, and its constants are stored in the outer graph.
    """

    def __init__(self, outer: GraphBuilder | None = None) -> None:
        self._nodes: list[onnx.NodeProto] = []
        self._outer = outer
        self._constants: list[onnx.TensorProto] = []
        self._inputs: list[onnx.ValueInfoProto] = []
        self._outputs: list[onnx.ValueInfoProto] = []
        self._constant_names: dict[tuple[str, tuple[int, ...], bytes], str] = {}
        self._computed: dict[Hashable, Any] = dict(outer._computed) if outer else {}
        self._node_numbers: Iterator[int] = outer._node_numbers if outer else itertools.count()

    def input(self, name: str, kind: int, shape: Shape) -> str:
        """Declare an input and return its name. `kind` is its element type.

        In `shape`, a string is the name of a dynamic dimension, and None is an unknown dimension.
        """
        self._inputs.append(helper.make_tensor_value_info(name, kind, shape))
        return name

    def output(self, value: str, name: str, shape: Shape, kind: int = TensorProto.FLOAT) -> None:
        """Declare an output that returns `value`. `kind` is its element type."""
        self._nodes.append(helper.make_node("Identity", [value], [name]))
        self._outputs.append(helper.make_tensor_value_info(name, kind, shape))

    def constant(self, value: np.ndarray) -> str:
        """Store an array in the model and return its name. Equal arrays are stored only once."""
        if self._outer:
            return self._outer.constant(value)
        array = np.asarray(value, order="C")
        key = (array.dtype.str, array.shape, hashlib.sha256(array.tobytes()).digest())
        if key not in self._constant_names:
            name = f"constant_{len(self._constants)}"
            self._constants.append(numpy_helper.from_array(array, name))
            self._constant_names[key] = name
        return self._constant_names[key]

    def sparse_constant(self, value: np.ndarray) -> str:
        """Store an array as a bit mask and its non-zero values. Return the name of the restored array.

        A runtime computes everything that depends only on constants when it loads the model, so it restores the array
        only once.
        """
        flat = np.asarray(value, order="C").reshape(-1)
        is_nonzero = flat != 0
        nonzero = self.constant(np.concatenate([np.zeros(1, dtype=flat.dtype), flat[is_nonzero]]))
        octets = self.constant(np.packbits(is_nonzero, bitorder="little")[:, None])
        shifted = self.add("BitShift", octets, self.constant(np.arange(8, dtype=np.uint8)), direction="RIGHT")
        bits = self.add("BitwiseAnd", shifted, self.constant(np.array(1, dtype=np.uint8)))
        all_bits = self.add("Reshape", self.add("Cast", bits, to=TensorProto.INT32), self.constant(np.array([-1])))
        start, end = self.constant(np.array([0])), self.constant(np.array([flat.size]))
        mask = self.add("Slice", all_bits, start, end, start)
        order = self.add("Mul", self.add("CumSum", mask, self.constant(np.array(0))), mask)
        return self.add("Reshape", self.add("Gather", nonzero, order), self.constant(np.array(value.shape)))

    def once(self, key: Hashable, write: Callable[[], T]) -> T:
        """Call `write`, which adds values to the graph, and return its result: the name or names of these values.

        For each `key`, `write` is called only once. Later calls with the same key return the same result.
        """
        if key not in self._computed:
            self._computed[key] = write()
        return self._computed[key]

    def add(self, operator: str, *inputs: str, **attributes: Any) -> str:
        """Add a node with one output and return the output's name."""
        return self.add_many(operator, 1, *inputs, **attributes)[0]

    def add_many(self, operator: str, outputs: int, *inputs: str, **attributes: Any) -> list[str]:
        """Add a node with several outputs and return their names."""
        number = next(self._node_numbers)
        names = [f"{operator.lower()}_{number}_{index}" for index in range(outputs)]
        node = helper.make_node(operator, list(inputs), names, name=f"{operator}_{number}", **attributes)
        self._nodes.append(node)
        return names

    def choose(
        self, condition: str, shapes: Mapping[str, tuple[int, Shape]], then: Sequence[str], otherwise: GraphBuilder
    ) -> list[str]:
        """Add a conditional node with one output per item of `shapes`, and return the names of the outputs.

        If the value `condition` is true, the outputs equal the values `then`. Otherwise, the runtime executes the
        branch `otherwise`, and the outputs equal those of the branch. `shapes` holds the element type and the shape of
        each output, keyed by name.
        """
        then_branch = GraphBuilder(outer=self)
        for value, (name, (kind, shape)) in zip(then, shapes.items(), strict=True):
            then_branch.output(value, f"{name}_{next(self._node_numbers)}", shape, kind)
        branches = {"then_branch": then_branch._branch("then"), "else_branch": otherwise._branch("else")}
        return self.add_many("If", len(shapes), condition, **branches)

    def _branch(self, name: str) -> onnx.GraphProto:
        return helper.make_graph(self._nodes, name, [], self._outputs)

    def cast_to_float(self, value: str) -> str:
        """Add a node that converts a value to 32-bit floating point, and return the name of the converted value."""
        return self.add("Cast", value, to=TensorProto.FLOAT)

    def quantise_dynamically(self, value: str) -> list[str]:
        """Add a node that quantises a value to 8 bits. Return the names of the result, its scale and its zero point.

        Each value is quantised only once, even if several layers read it.
        """
        return self.once(("dynamic", value), lambda: self.add_many("DynamicQuantizeLinear", 3, value))

    def quantise_statically(self, value: str, scale: np.ndarray, zero_point: np.ndarray) -> str:
        """Add nodes that round a value to the 256 levels `scale` * (n - `zero_point`), with n from 0 to 255.

        Return the name of the rounded value. Runtimes merge the nodes into the 8-bit operators that read the value. A
        value is rounded only once for each scale and zero point, even if several layers read it.
        """

        def write() -> str:
            steps = self.constant(scale), self.constant(zero_point)
            return self.add("DequantizeLinear", self.add("QuantizeLinear", value, *steps), *steps)

        return self.once(("static", value, scale.tobytes(), zero_point.tobytes()), write)

    def model(self, name: str) -> onnx.ModelProto:
        """Return the finished model after checking it with `onnx.checker`."""
        graph = helper.make_graph(self._nodes, name, self._inputs, self._outputs, self._constants)
        other_domains = sorted(_operator_domains(self._nodes) - {""})
        opsets = [helper.make_opsetid("", OPSET), *(helper.make_opsetid(domain, 1) for domain in other_domains)]
        model = helper.make_model(graph, opset_imports=opsets, producer_name="nas")
        model.ir_version = 9
        onnx.checker.check_model(model)
        return model


def _operator_domains(nodes: Iterable[onnx.NodeProto]) -> set[str]:
    """Return the domains of the operators of all nodes, including those in branches."""
    domains = set()
    for node in nodes:
        domains.add(node.domain)
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:
                domains |= _operator_domains(attribute.g.node)
    return domains


def save(model: onnx.ModelProto, path: Path) -> None:
    """Write a model atomically to a single file."""
    write_atomically(path, lambda temporary: temporary.write_bytes(model.SerializeToString()))
