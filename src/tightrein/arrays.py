"""The only file that knows which array library it is holding.

Formulas are written once in the Array API and run on NumPy, PyTorch and JAX. Whatever the Array API
does not have (stopping a gradient, a linear recurrence, sums over groups, registration with JAX) is here.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields, is_dataclass
from typing import Any, TypeVar, dataclass_transform

import array_api_compat as compat
import numpy as np

from .errors import TightreinError, require

Array = Any  # numpy.ndarray, torch.Tensor or jax.Array

LOG_RATIO_LIMIT = 20.0  # |logp - logp_old| beyond this is cut before exp(): e^20 squared still fits float32


def _is_torch(x: Any) -> bool:
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(x, torch.Tensor)


def _is_jax(x: Any) -> bool:
    jax = sys.modules.get("jax")
    return jax is not None and isinstance(x, jax.Array)


def namespace(*arrays: Array) -> Any:
    """Return the Array API namespace of `arrays`; the first one decides."""
    if _is_torch(arrays[0]):
        import array_api_compat.torch as torch_namespace

        return torch_namespace
    return compat.array_namespace(arrays[0])


def is_array(x: Any) -> bool:
    """Say whether `x` is an array of one of the three libraries."""
    return _is_torch(x) or _is_jax(x) or isinstance(x, np.ndarray)


def library(x: Array) -> str:
    """Name the array library of `x`: "NumPy", "PyTorch" or "JAX"."""
    if _is_torch(x):
        return "PyTorch"
    return "JAX" if _is_jax(x) else "NumPy"


def holds(condition: Array) -> bool:
    """Whether a boolean scalar array is true, as far as can be known: while a function is traced it is taken to be."""
    if _is_torch(condition):
        return sys.modules["torch"].compiler.is_compiling() or bool(condition)
    if _is_jax(condition):
        import jax

        return isinstance(condition, jax.core.Tracer) or bool(condition)
    return bool(condition)


def finite(x: Array) -> bool:
    """Whether all of `x` is finite, as far as that can be known: while a function is traced it cannot."""
    xp = namespace(x)
    return holds(xp.all(xp.isfinite(x)))


def like(x: Any, other: Array) -> Array:
    """`x` as an array of the library, the device and the number type of `other`."""
    if _is_torch(other):
        return sys.modules["torch"].as_tensor(x, dtype=other.dtype, device=other.device)
    return namespace(other).asarray(x, dtype=other.dtype)


def stop_gradient(x: Array) -> Array:
    """Return `x` as a constant: same value, no gradient."""
    if _is_torch(x):
        return x.detach()
    if _is_jax(x):
        import jax

        return jax.lax.stop_gradient(x)
    return x if _constants is None else _constants(x)


_constants: Callable[[Array], Array] | None = None


@contextmanager
def constants_held(constants: list[Array]) -> Iterator[None]:
    """Hold still what a formula on NumPy arrays takes as constant, so that its differences show its gradient.

    With an empty list `stop_gradient` records its values there; with a filled one it returns them again, in order,
    whatever its argument is now.
    """
    global _constants
    left = iter(constants)

    def record(x: Array) -> Array:
        constants.append(x)
        return x

    _constants = (lambda x: next(left)) if constants else record
    try:
        yield
    finally:
        _constants = None


def is_floating(x: Array) -> bool:
    """Say whether the elements of `x` are real floating-point numbers."""
    if _is_torch(x):
        return bool(x.dtype.is_floating_point)
    return bool(x.dtype.kind in "fV" or str(x.dtype) == "bfloat16")


def at_least_float32(x: Array) -> Array:
    """Widen half precision to float32 (ratios of probabilities need more than 8 bits); counts and flags become real."""
    xp = namespace(x)
    if not is_floating(x):
        return xp.astype(x, xp.asarray(0.5).dtype)
    return xp.astype(x, xp.float32) if x.dtype.itemsize < 4 else x


def zero_where_masked(x: Array, mask: Array) -> Array:
    """Replace the masked entries of `x` by 0, so that not even a NaN there can reach a result or a gradient."""
    xp = namespace(x)
    return xp.where(mask != 0, x, xp.zeros_like(x))


def masked_mean(x: Array, mask: Array) -> Array:
    """Mean of `x` over mask = 1; 0 when nothing is left."""
    xp = namespace(x)
    weights = xp.astype(mask, x.dtype)
    return xp.sum(zero_where_masked(x, weights * xp.ones_like(x))) / atleast(xp.sum(weights * xp.ones_like(x)), 1)


def masked_extreme(x: Array, mask: Array, largest: bool) -> Array:
    """Maximum (or minimum) of `x` over mask = 1; 0 when nothing is left."""
    xp = namespace(x)
    keep = (mask != 0) & (x == x)
    away = xp.asarray(-xp.inf if largest else xp.inf, dtype=x.dtype)
    found = (xp.max if largest else xp.min)(xp.where(keep, x, away))
    return xp.where(xp.any(keep), found, xp.zeros_like(found))


def atleast(x: Array, low: float) -> Array:
    """Elementwise maximum of `x` and the number `low`."""
    xp = namespace(x)
    return xp.where(x > low, x, xp.full_like(x, low))


def clip(x: Array, low: Array | float, high: Array | float) -> Array:
    """Cut `x` into [low, high]; the gradient is 1 inside and exactly 0 outside, in every library."""
    if _is_torch(x):
        return x.clamp(min=low).clamp(max=high)  # that very gradient, and many times faster
    xp = namespace(x)
    x = xp.where(x < low, low + xp.zeros_like(x), x)
    return xp.where(x > high, high + xp.zeros_like(x), x)


def largest(x: Array, count: int) -> Array:
    """The `count` largest values of `x`, descending: [count]."""
    xp = namespace(x)
    flat = xp.reshape(x, (-1,))
    if _is_torch(x):
        return flat.topk(count).values
    if _is_jax(x):
        import jax

        return jax.lax.top_k(flat, count)[0]
    return np.sort(np.partition(flat, -count)[-count:])[::-1]


def sigmoid(x: Array) -> Array:
    """1 / (1 + exp(-x)) without overflow on either side."""
    return 0.5 * (1 + namespace(x).tanh(0.5 * x))


def linear_recurrence(x: Array, decay: Array, last: Array | None = None) -> Array:
    """Solve y_t = x_t + decay_t * y_{t+1} backwards along the trailing axis.

    x, decay: [B, T]; last: [B], the value y_T behind the end (0 when None). Returns y: [B, T].
    """
    xp = namespace(x)
    y = xp.zeros_like(x[:, 0]) if last is None else last
    if _is_jax(x):
        import jax

        def step(carry: Array, pair: tuple[Array, Array]) -> tuple[Array, Array]:
            out = pair[0] + pair[1] * carry
            return out, out

        return jax.lax.scan(step, y, (x.T, decay.T), reverse=True)[1].T
    columns = []
    for t in reversed(range(x.shape[1])):
        y = x[:, t] + decay[:, t] * y
        columns.append(y)
    return xp.stack(columns[::-1], axis=1) if columns else x


def group_sum(x: Array, group: Array) -> Array:
    """Sum `x` over the rows that carry the same group id, and give each row its group's sum.

    x: [B]; group: [B] integers, in any order. Shapes are static, so this runs under jax.jit.
    """
    xp = namespace(x)
    first = xp.searchsorted(xp.sort(group), group)  # one slot in [0, B) per group
    return scatter_sum(x, first, x.shape[0])[first]


def scatter_sum(x: Array, index: Array, size: int) -> Array:
    """Sum the entries of `x` [B] that carry the same index in [0, size): [size]."""
    if _is_torch(x):
        return x.new_zeros(size).index_add(0, index, x)
    if _is_jax(x):
        return namespace(x).zeros(size, dtype=x.dtype).at[index].add(x)
    total = np.zeros(size, dtype=x.dtype)
    np.add.at(total, index, x)
    return total


MODULES = {"NumPy": "numpy", "PyTorch": "torch", "JAX": "jax.numpy"}
_EXTRAS = {"NumPy": "all", "PyTorch": "language", "JAX": "control"}


def installed() -> tuple[str, ...]:
    """Names of the array libraries that are at hand: "NumPy" and, where installed, "PyTorch" and "JAX"."""
    return tuple(name for name, module in MODULES.items() if at_hand(module.partition(".")[0]))


def at_hand(package: str) -> bool:
    """Whether a Python package is installed; it is not imported for that."""
    try:
        return importlib.util.find_spec(package) is not None
    except ModuleNotFoundError:
        return False


def convert(x: Any, to: str) -> Any:
    """Arrays and real numbers, also inside mappings, lists and dataclasses, as arrays of the library `to` on the CPU.

    Raises TightreinError when the library is not installed.
    """
    if isinstance(x, Mapping):
        return {name: convert(value, to) for name, value in x.items()}
    if isinstance(x, list):
        return [convert(value, to) for value in x]
    if is_dataclass(x) and not isinstance(x, type):
        return type(x)(**{f.name: convert(getattr(x, f.name), to) for f in fields(x)})
    if not is_array(x) and not isinstance(x, (float, np.floating)):
        return x
    module = require(MODULES[to], _EXTRAS[to])
    if is_array(x) and library(x) == to:
        return x
    if _is_torch(x):
        x = (at_least_float32(x) if is_floating(x) else x).detach().cpu()
    plain = np.asarray(x)
    return module.as_tensor(plain) if to == "PyTorch" else module.asarray(plain)


def value_and_gradient(function: Callable[[dict[str, Array]], Array], at: dict[str, Array]) -> tuple[Array, Any]:
    """A scalar function's value at named arrays of PyTorch or JAX, and its gradient by each of them.

    Raises TightreinError for NumPy arrays, which have no gradients.
    """
    first = next(iter(at.values()))
    if _is_torch(first):
        torch = sys.modules["torch"]
        leaves = {name: x.detach().clone().requires_grad_() for name, x in at.items()}
        value = function(leaves)
        if not value.requires_grad:
            return value, {name: torch.zeros_like(x) for name, x in at.items()}
        found = torch.autograd.grad(value, list(leaves.values()), allow_unused=True, materialize_grads=True)
        return value.detach(), dict(zip(leaves, found, strict=True))
    if _is_jax(first):
        import jax

        return jax.value_and_grad(function)(at)  # type: ignore[no-any-return]
    raise TightreinError("NumPy arrays have no gradients", "convert them to PyTorch or JAX")


def compiled(function: Callable[..., Any], library: str) -> Callable[..., Any]:
    """The function compiled as a whole: jax.jit, or torch.compile without a break; as it is for NumPy."""
    if library == "JAX":
        return require("jax", "control").jit(function)  # type: ignore[no-any-return]
    if library == "PyTorch":
        torch = require("torch", "language")
        torch._dynamo.reset()
        return torch.compile(function, fullgraph=True, backend="aot_eager")  # type: ignore[no-any-return]
    return function


@contextmanager
def double_precision() -> Iterator[None]:
    """Let JAX compute in float64, which it does only when told; the others do where they are given float64."""
    if "JAX" not in installed():
        yield
        return
    settings = require("jax", "control").config
    before = settings.jax_enable_x64
    settings.update("jax_enable_x64", True)
    try:
        yield
    finally:
        settings.update("jax_enable_x64", before)


_Class = TypeVar("_Class", bound=type)
_unregistered: list[type] = []


@dataclass_transform(frozen_default=True)
def pytree(cls: _Class) -> _Class:
    """Make `cls` a frozen dataclass of arrays that JAX can see through.

    JAX is not imported for this: a class is registered when its first instance is made while JAX is loaded.
    """
    own_check: Callable[[Any], None] | None = cls.__dict__.get("__post_init__")

    def check(self: Any) -> None:
        if _unregistered and "jax" in sys.modules:
            _register_all()
        if own_check is not None:
            own_check(self)

    cls.__post_init__ = check  # type: ignore[attr-defined]
    _unregistered.append(dataclass(frozen=True)(cls))  # dataclass() changes the class and returns it
    return cls


def _register_all() -> None:
    import jax

    while _unregistered:
        cls = _unregistered.pop()
        names = tuple(f.name for f in fields(cls))
        flatten, flatten_with_keys, unflatten = _flattening(cls, names, jax.tree_util.GetAttrKey)
        jax.tree_util.register_pytree_with_keys(cls, flatten_with_keys, unflatten, flatten)


def _flattening(cls: type, names: Sequence[str], key: Any) -> tuple[Any, Any, Any]:
    def flatten(node: Any) -> tuple[tuple[Any, ...], None]:
        return tuple(_plain(getattr(node, n)) for n in names), None

    def flatten_with_keys(node: Any) -> tuple[tuple[Any, ...], None]:
        return tuple((key(n), _plain(getattr(node, n))) for n in names), None

    def unflatten(_: None, children: Sequence[Any]) -> Any:
        # Not through __init__: JAX also puts placeholders where arrays were, and they would fail the checks.
        node: Any = object.__new__(cls)
        for name, child in zip(names, children, strict=True):
            object.__setattr__(node, name, child)
        return node

    return flatten, flatten_with_keys, unflatten


def _plain(child: Any) -> Any:
    """Lazy mappings become dicts here, because JAX can only carry what it knows."""
    return dict(child) if hasattr(child, "keys") and not isinstance(child, dict) else child
