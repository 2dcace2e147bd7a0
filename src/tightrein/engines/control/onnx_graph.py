"""JAX functions as ONNX graphs, with a free batch axis."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.export import is_symbolic_dim
from jax.extend.core import Literal

from tightrein.engines.control.onnx_operations import OPERATIONS, unsupported
from tightrein.errors import require

Array = Any

OPSET = 18
BODIES = ("jaxpr", "call_jaxpr", "fun_jaxpr")  # parameters with the body of an operation that is a mere call
CALLS = ("jit", "pjit", "closed_call", "core_call", "custom_jvp_call", "custom_vjp_call", "custom_vjp_call_jaxpr",
         "remat", "remat2", "checkpoint")  # fmt: skip


class Graph:
    """An ONNX graph that grows node by node.

    A value is a NumPy array where it is known, else the name of a tensor. The same node is never added twice.
    """

    def __init__(self, first_input: str) -> None:
        self._onnx = require("onnx", "export")
        self._nodes: list[tuple[Any, list[str], list[str]]] = []
        self._made: dict[Any, list[str]] = {}
        self._constants: dict[Any, tuple[str, Array]] = {}
        ends = [np.asarray([n], np.int64) for n in (0, 1)]
        self._batch = self.add("Slice", self.add("Shape", first_input), *ends)  # [N]

    def add(self, operation: str, *inputs: Any, outputs: int = 1, name: str = "", **attributes: Any) -> Any:
        """A node; returns the tensor that it makes, or a list of `outputs` of them. name: of that tensor."""
        names = [self._name(x) for x in inputs]
        key = operation, tuple(names), outputs, name, repr(sorted(attributes.items()))
        if key not in self._made:
            label = name or f"{operation.lower()}_{len(self._nodes)}"
            made = [label] if outputs == 1 else [f"{label}_{k}" for k in range(outputs)]
            self._nodes.append((self._onnx.helper.make_node(operation, names, made, **attributes), names, made))
            self._made[key] = made
        return self._made[key] if outputs > 1 else self._made[key][0]

    def sizes(self, shape: Sequence[Any]) -> Any:
        """A shape as the integers that Expand and Reshape read.

        Raises:
            TightreinError: a length that is neither a number nor that of the batch.
        """
        for n in shape:
            if is_symbolic_dim(n) and str(n) != "N":
                raise unsupported(f"an axis of length {n}")
        parts = [self._batch if is_symbolic_dim(n) else np.asarray([n], np.int64) for n in shape]
        if self._batch not in [p for p in parts if isinstance(p, str)]:
            return np.asarray(shape, np.int64)
        return self.add("Concat", *parts, axis=0)

    def cast(self, value: Any, dtype: Any) -> Any:
        """The value with another type of element."""
        return self.add("Cast", value, to=self.kind(dtype))

    def kind(self, dtype: Any) -> int:
        """ONNX's number of a type of element."""
        return int(self._onnx.helper.np_dtype_to_tensor_dtype(np.dtype(dtype)))

    def info(self, name: str, dtype: Any, shape: Sequence[Any]) -> Any:
        """The description of an input or an output."""
        named = [str(n) if is_symbolic_dim(n) else int(n) for n in shape]
        return self._onnx.helper.make_tensor_value_info(name, self.kind(dtype), named)

    def model(self, inputs: list[Any], outputs: list[Any], metadata: Mapping[str, str]) -> Any:
        """The model with the nodes that its outputs need."""
        needed, kept = {output.name for output in outputs}, []
        for node, names, made in reversed(self._nodes):
            if needed & set(made):
                needed |= set(names)
                kept.append(node)
        helper, numpy_helper = self._onnx.helper, self._onnx.numpy_helper
        constants = [numpy_helper.from_array(a, name) for name, a in self._constants.values() if name in needed]
        graph = helper.make_graph(kept[::-1], "policy", inputs, outputs, initializer=constants)
        opsets = [helper.make_opsetid("", OPSET)]
        version = helper.find_min_ir_version_for(opsets)
        model = helper.make_model(graph, opset_imports=opsets, producer_name="tightrein", ir_version=version)
        helper.set_model_props(model, dict(metadata))
        self._onnx.checker.check_model(model, full_check=True)
        return model

    def _name(self, value: Any) -> str:
        """The tensor of a value; of a known one a constant."""
        if isinstance(value, str):
            return value
        array = np.asarray(value)
        key = str(array.dtype), array.shape, array.tobytes()
        return self._constants.setdefault(key, (f"constant_{len(self._constants)}", array))[0]


def to_onnx(
    function: Callable[..., dict[str, Array]],
    inputs: Mapping[str, tuple[tuple[int, ...], str]],
    dtypes: Mapping[str, str],
    metadata: Mapping[str, str],
) -> Any:
    """The model of `function`, which takes arrays [N, *shape] and returns a dict of arrays [N, ...].

    inputs: name -> (shape, dtype), in the function's order. dtypes: of outputs that get another than the function's.

    Raises:
        TightreinError: the function uses an operation that this does not know.
    """
    (n,) = jax.export.symbolic_shape("N")
    struct: Any = jax.ShapeDtypeStruct
    given = {name: struct((n, *shape), dtype) for name, (shape, dtype) in inputs.items()}
    closed, shapes = jax.make_jaxpr(function, return_shape=True)(*given.values())
    graph, outputs = Graph(next(iter(inputs))), []
    found = _run(graph, closed.jaxpr, closed.consts, list(inputs))
    for name, value in zip(sorted(shapes), found, strict=True):  # as JAX orders a dict
        dtype = dtypes.get(name, shapes[name].dtype)
        graph.add("Identity", graph.cast(value, dtype), name=name)
        outputs.append(graph.info(name, dtype, shapes[name].shape))
    order = list(shapes)
    outputs.sort(key=lambda output: order.index(output.name))
    return graph.model([graph.info(name, x.dtype, x.shape) for name, x in given.items()], outputs, metadata)


def _run(graph: Graph, jaxpr: Any, consts: Sequence[Any], inputs: Sequence[Any]) -> list[Any]:
    """The values of a jaxpr's outputs; what is known is computed, the rest becomes nodes."""
    values: dict[Any, Any] = dict(zip(jaxpr.constvars, map(np.asarray, consts), strict=True))
    values.update(zip(jaxpr.invars, inputs, strict=True))

    def read(atom: Any) -> Any:
        return np.asarray(atom.val, getattr(atom.aval, "dtype", None)) if isinstance(atom, Literal) else values[atom]

    for equation in jaxpr.eqns:
        made = _apply(graph, equation, [read(atom) for atom in equation.invars])
        values.update(zip(equation.outvars, made, strict=True))
    return [read(atom) for atom in jaxpr.outvars]


def _apply(graph: Graph, equation: Any, inputs: list[Any]) -> list[Any]:
    primitive, name = equation.primitive, equation.primitive.name
    if name in CALLS:
        body = next(equation.params[key] for key in BODIES if key in equation.params)
        return _run(graph, getattr(body, "jaxpr", body), getattr(body, "consts", ()), inputs)
    fixed = not any(is_symbolic_dim(n) for out in equation.outvars for n in out.aval.shape)
    if fixed and not any(isinstance(x, str) for x in inputs):
        found = primitive.bind(*map(jax.numpy.asarray, inputs), **equation.params)
        return [np.asarray(x) for x in (found if primitive.multiple_results else [found])]
    if name not in OPERATIONS:
        raise unsupported(f"the operation {name!r}")
    made = OPERATIONS[name](graph, equation, *inputs)
    return made if isinstance(made, list) else [made]
