"""How JAX's operations are said in ONNX: for each primitive the nodes that compute it."""

from __future__ import annotations

import string
from collections.abc import Callable
from typing import Any

import numpy as np
from jax.export import is_symbolic_dim

from tightrein.errors import TightreinError

Graph = Any  # onnx_graph.Graph
Equation = Any  # of a jaxpr: params, invars and outvars with their shapes and dtypes
Operation = Callable[..., Any]  # (graph, equation, *values) -> the value, or a list of several

OPERATIONS: dict[str, Operation] = {}

SAME = {
    "tanh": "Tanh", "exp": "Exp", "log": "Log", "neg": "Neg", "abs": "Abs", "sqrt": "Sqrt", "logistic": "Sigmoid",
    "erf": "Erf", "floor": "Floor", "ceil": "Ceil", "sign": "Sign", "sin": "Sin", "cos": "Cos", "tan": "Tan",
    "asin": "Asin", "acos": "Acos", "atan": "Atan", "sinh": "Sinh", "cosh": "Cosh", "asinh": "Asinh",
    "acosh": "Acosh", "atanh": "Atanh", "add": "Add", "sub": "Sub", "mul": "Mul", "div": "Div", "max": "Max",
    "min": "Min", "pow": "Pow", "eq": "Equal", "lt": "Less", "gt": "Greater", "le": "LessOrEqual",
    "ge": "GreaterOrEqual", "stop_gradient": "Identity", "copy": "Identity", "copy_p": "Identity",
    "optimization_barrier": "Identity",
}  # fmt: skip
LOGICAL = {"and": "And", "or": "Or", "xor": "Xor", "not": "Not"}
REDUCTIONS = {"reduce_sum": "ReduceSum", "reduce_max": "ReduceMax", "reduce_min": "ReduceMin",
              "reduce_prod": "ReduceProd"}  # fmt: skip


def unsupported(what: str) -> TightreinError:
    """The error for a network with something that has no translation."""
    return TightreinError(
        f"the network needs {what}, which the export to ONNX does not know",
        "write its translation in engines/control/onnx_operations.py, or use tightrein.load_policy in Python",
    )


def _operation(*names: str) -> Callable[[Operation], Operation]:
    def register(function: Operation) -> Operation:
        OPERATIONS.update(dict.fromkeys(names, function))
        return function

    return register


def _integers(*numbers: Any) -> np.ndarray[Any, Any]:
    return np.asarray(numbers, np.int64)


def _shape(equation: Equation, k: int = 0) -> tuple[Any, ...]:
    return tuple(equation.invars[k].aval.shape)


def _dtype(equation: Equation) -> Any:
    return equation.outvars[0].aval.dtype


@_operation(*SAME)
def _same(graph: Graph, equation: Equation, *inputs: Any) -> Any:
    return graph.add(SAME[equation.primitive.name], *inputs)


@_operation(*LOGICAL)
def _logical(graph: Graph, equation: Equation, *inputs: Any) -> Any:
    if _dtype(equation).kind != "b":
        raise unsupported(f"{equation.primitive.name!r} of integers")
    return graph.add(LOGICAL[equation.primitive.name], *inputs)


@_operation("ne")
def _unequal(graph: Graph, equation: Equation, a: Any, b: Any) -> Any:
    return graph.add("Not", graph.add("Equal", a, b))


@_operation("rsqrt")
def _rsqrt(graph: Graph, equation: Equation, x: Any) -> Any:
    return graph.add("Reciprocal", graph.add("Sqrt", x))


@_operation("log1p")
def _log1p(graph: Graph, equation: Equation, x: Any) -> Any:
    return graph.add("Log", graph.add("Add", x, np.ones((), _dtype(equation))))


@_operation("expm1")
def _expm1(graph: Graph, equation: Equation, x: Any) -> Any:
    return graph.add("Sub", graph.add("Exp", x), np.ones((), _dtype(equation)))


@_operation("square")
def _square(graph: Graph, equation: Equation, x: Any) -> Any:
    return graph.add("Mul", x, x)


@_operation("integer_pow")
def _integer_pow(graph: Graph, equation: Equation, x: Any) -> Any:
    return graph.add("Pow", x, np.asarray(equation.params["y"], _dtype(equation)))


@_operation("rem")
def _rem(graph: Graph, equation: Equation, a: Any, b: Any) -> Any:
    return graph.add("Mod", a, b, fmod=1)


@_operation("is_finite")
def _is_finite(graph: Graph, equation: Equation, x: Any) -> Any:
    return graph.add("Not", graph.add("Or", graph.add("IsInf", x), graph.add("IsNaN", x)))


@_operation("convert_element_type")
def _cast(graph: Graph, equation: Equation, x: Any) -> Any:
    return graph.cast(x, equation.params["new_dtype"])


@_operation("select_n")
def _select(graph: Graph, equation: Equation, which: Any, *cases: Any) -> Any:
    if equation.invars[0].aval.dtype.kind != "b":
        raise unsupported("a choice among more than two cases")
    return graph.add("Where", which, cases[1], cases[0])


@_operation("clamp")
def _clamp(graph: Graph, equation: Equation, low: Any, x: Any, high: Any) -> Any:
    return graph.add("Min", graph.add("Max", x, low), high)


@_operation("reshape")
def _reshape(graph: Graph, equation: Equation, x: Any) -> Any:
    sizes = equation.params["new_sizes"]
    if sum(map(is_symbolic_dim, sizes)) == 1:
        return graph.add("Reshape", x, _integers(*(-1 if is_symbolic_dim(n) else n for n in sizes)))
    return graph.add("Reshape", x, graph.sizes(sizes))


@_operation("squeeze")
def _squeeze(graph: Graph, equation: Equation, x: Any) -> Any:
    return graph.add("Squeeze", x, _integers(*equation.params["dimensions"]))


@_operation("transpose")
def _transpose(graph: Graph, equation: Equation, x: Any) -> Any:
    return _turned(graph, x, equation.params["permutation"])


@_operation("broadcast_in_dim")
def _broadcast(graph: Graph, equation: Equation, x: Any, *_: Any) -> Any:
    shape, kept = equation.params["shape"], equation.params["broadcast_dimensions"]
    new = [axis for axis in range(len(shape)) if axis not in kept]
    wide = graph.add("Unsqueeze", x, _integers(*new)) if new else x
    lengths = dict(zip(kept, _shape(equation), strict=True))
    same = all(str(lengths.get(axis, 1)) == str(n) for axis, n in enumerate(shape))
    return wide if same else graph.add("Expand", wide, graph.sizes(shape))


@_operation("concatenate")
def _concatenate(graph: Graph, equation: Equation, *parts: Any) -> Any:
    return graph.add("Concat", *parts, axis=int(equation.params["dimension"]))


@_operation("stack")
def _stack(graph: Graph, equation: Equation, *parts: Any) -> Any:
    axis = int(equation.params["axis"])
    return graph.add("Concat", *(graph.add("Unsqueeze", part, _integers(axis)) for part in parts), axis=axis)


@_operation("split")
def _split(graph: Graph, equation: Equation, x: Any) -> Any:
    sizes = equation.params["sizes"]
    made = graph.add("Split", x, _integers(*sizes), outputs=len(sizes), axis=int(equation.params["axis"]))
    return made if len(sizes) > 1 else [made]


@_operation("slice")
def _slice(graph: Graph, equation: Equation, x: Any) -> Any:
    starts, ends = equation.params["start_indices"], equation.params["limit_indices"]
    strides = equation.params["strides"] or (1,) * len(starts)
    cut = [a for a, n in enumerate(_shape(equation)) if (str(starts[a]), str(ends[a]), strides[a]) != ("0", str(n), 1)]
    if any(is_symbolic_dim(n) for a in cut for n in (starts[a], ends[a])):
        raise unsupported("a part of the batch")
    if not cut:
        return x
    return graph.add("Slice", x, *(_integers(*(at[a] for a in cut)) for at in (starts, ends)), _integers(*cut),
                     _integers(*(strides[a] for a in cut)))  # fmt: skip


@_operation("rev")
def _reverse(graph: Graph, equation: Equation, x: Any) -> Any:
    axes = equation.params["dimensions"]
    ends = [np.iinfo(np.int64).min] * len(axes)
    return graph.add("Slice", x, *(_integers(*n) for n in ([-1] * len(axes), ends, axes, [-1] * len(axes))))


@_operation("pad")
def _pad(graph: Graph, equation: Equation, x: Any, value: Any) -> Any:
    low, high, between = zip(*equation.params["padding_config"], strict=True)
    if any(between) or min(*low, *high) < 0:
        raise unsupported("padding between elements, or less than none")
    return graph.add("Pad", x, _integers(*low, *high), value)


@_operation("gather")
def _gather(graph: Graph, equation: Equation, x: Any, indices: Any) -> Any:
    """Parts of x that begin at known places: one part, x[..., 2, 1:3], or along one axis several, x[..., [3, 1]]."""
    numbers, sizes = equation.params["dimension_numbers"], equation.params["slice_sizes"]
    axes, shape = numbers.start_index_map, _shape(equation)
    whole = all(str(n) == str(sizes[axis]) for axis, n in enumerate(shape) if axis not in axes)
    if isinstance(indices, str) or numbers.operand_batching_dims or not whole:
        raise unsupported("elements at places that it computes")
    places = np.asarray(indices).astype(np.int64)
    if places.ndim == 1:
        ends = [place + sizes[axis] for place, axis in zip(places, axes, strict=True)]
        part = graph.add("Slice", x, places, _integers(*ends), _integers(*axes))
        dropped = numbers.collapsed_slice_dims
        return graph.add("Squeeze", part, _integers(*dropped)) if dropped else part
    if len(axes) != 1 or numbers.collapsed_slice_dims != axes:
        raise unsupported("several parts of an array at once")
    taken = graph.add("Gather", x, places[..., 0], axis=int(axes[0]))
    own = range(axes[0], axes[0] + places.ndim - 1)  # the axes of the indices, which belong elsewhere in the result
    rank = len(shape) + places.ndim - 2
    mine, others = iter(own), iter(axis for axis in range(rank) if axis not in own)
    return _turned(graph, taken, [next(others if axis in numbers.offset_dims else mine) for axis in range(rank)])


@_operation("dot_general")
def _dot(graph: Graph, equation: Equation, a: Any, b: Any) -> Any:
    (left, right), (batch_a, batch_b) = equation.params["dimension_numbers"]
    ranks = len(_shape(equation, 0)), len(_shape(equation, 1))
    if (tuple(left), tuple(right), ranks[1], len(batch_a)) == ((ranks[0] - 1,), (0,), 2, 0):
        return graph.add("MatMul", a, b)
    letters = iter(string.ascii_lowercase)
    of_a = [next(letters) for _ in range(ranks[0])]
    shared = dict(zip((*right, *batch_b), (of_a[k] for k in (*left, *batch_a)), strict=True))
    of_b = [shared.get(k) or next(letters) for k in range(ranks[1])]
    made = [of_a[k] for k in batch_a]
    made += [x for k, x in enumerate(of_a) if k not in (*left, *batch_a)]
    made += [x for k, x in enumerate(of_b) if k not in (*right, *batch_b)]
    return graph.add("Einsum", a, b, equation=f"{''.join(of_a)},{''.join(of_b)}->{''.join(made)}")


@_operation(*REDUCTIONS)
def _reduce(graph: Graph, equation: Equation, x: Any) -> Any:
    return graph.add(REDUCTIONS[equation.primitive.name], x, _integers(*equation.params["axes"]), keepdims=0)


@_operation("reduce_and", "reduce_or")
def _reduce_flags(graph: Graph, equation: Equation, x: Any) -> Any:
    kind = "ReduceMin" if equation.primitive.name == "reduce_and" else "ReduceMax"
    return graph.cast(graph.add(kind, graph.cast(x, "int32"), _integers(*equation.params["axes"]), keepdims=0), "bool")


@_operation("argmax", "argmin")
def _argmax(graph: Graph, equation: Equation, x: Any) -> Any:
    kind = "ArgMax" if equation.primitive.name == "argmax" else "ArgMin"
    found = graph.add(kind, x, axis=int(equation.params["axes"][0]), keepdims=0)
    return graph.cast(found, equation.params["index_dtype"])


@_operation("cumsum")
def _cumsum(graph: Graph, equation: Equation, x: Any) -> Any:
    axis = np.asarray(equation.params["axis"], np.int64)
    return graph.add("CumSum", x, axis, reverse=int(equation.params["reverse"]))


@_operation("conv_general_dilated")
def _convolution(graph: Graph, equation: Equation, x: Any, kernel: Any) -> Any:
    params = equation.params
    numbers = params["dimension_numbers"]
    if set(params["lhs_dilation"]) != {1} or params["batch_group_count"] != 1:
        raise unsupported("a transposed convolution")
    low, high = zip(*params["padding"], strict=True)
    made = graph.add(
        "Conv", _turned(graph, x, numbers.lhs_spec), _turned(graph, kernel, numbers.rhs_spec),
        strides=_list(params["window_strides"]), pads=_list((*low, *high)), dilations=_list(params["rhs_dilation"]),
        group=int(params["feature_group_count"]),
    )  # fmt: skip
    return _turned(graph, made, np.argsort(numbers.out_spec))


@_operation("reduce_window_max", "reduce_window_sum")
def _pool(graph: Graph, equation: Equation, x: Any) -> Any:
    """Windows over the axes behind the first, one of which is the channels'."""
    params = equation.params
    window, strides, padding = params["window_dimensions"], params["window_strides"], params["padding"]
    still = [k for k, size in enumerate(window) if (size, strides[k], tuple(padding[k])) == (1, 1, (0, 0))]
    dilated = {*params["base_dilation"], *params["window_dilation"]} != {1}
    if dilated or len(window) < 3 or 0 not in still or len(still) < 2:
        raise unsupported("windows of this kind")
    channel = still[-1] if still[-1] == len(window) - 1 else still[1]
    order = [0, channel, *(k for k in range(1, len(window)) if k != channel)]
    pads = [padding[k][side] for side in (0, 1) for k in order[2:]]
    shape = {"kernel_shape": _list(window[k] for k in order[2:]), "strides": _list(strides[k] for k in order[2:])}
    turned = _turned(graph, x, order)
    if equation.primitive.name == "reduce_window_max":
        made = graph.add("MaxPool", turned, pads=_list(pads), **shape)
    else:
        mean = graph.add("AveragePool", turned, pads=_list(pads), count_include_pad=1, **shape)
        made = graph.add("Mul", mean, np.asarray(np.prod(window), _dtype(equation)))
    return _turned(graph, made, np.argsort(order))


def _turned(graph: Graph, x: Any, order: Any) -> Any:
    """x with its axes in another order; nothing is added where it is the same."""
    order = _list(order)
    if order == sorted(order):
        return x
    return graph.add("Transpose", x, perm=order) if isinstance(x, str) else np.transpose(x, order)


def _list(numbers: Any) -> list[int]:
    return [int(n) for n in numbers]
