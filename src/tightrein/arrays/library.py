"""Which array library is at hand, and arrays from one to another."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any

import array_api_compat as compat
import numpy as np

from ..errors import require

Array = Any  # numpy.ndarray, torch.Tensor or jax.Array

MODULES = {"NumPy": "numpy", "PyTorch": "torch", "JAX": "jax.numpy"}
_EXTRAS = {"NumPy": "all", "PyTorch": "language", "JAX": "control"}


def is_torch(x: Any) -> bool:
    """Say whether `x` is a tensor of PyTorch, without importing it."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(x, torch.Tensor)


def is_jax(x: Any) -> bool:
    """Say whether `x` is an array of JAX, without importing it."""
    jax = sys.modules.get("jax")
    return jax is not None and isinstance(x, jax.Array)


def is_traced(x: Any) -> bool:
    """Say whether `x` stands for an array in a program that JAX is compiling."""
    jax = sys.modules.get("jax")
    return jax is not None and isinstance(x, jax.core.Tracer)


def namespace(*arrays: Array) -> Any:
    """Return the Array API namespace of `arrays`; the first one decides."""
    if is_torch(arrays[0]):
        import array_api_compat.torch as torch_namespace

        return torch_namespace
    return compat.array_namespace(arrays[0])


def is_array(x: Any) -> bool:
    """Say whether `x` is an array of one of the three libraries."""
    return is_torch(x) or is_jax(x) or isinstance(x, np.ndarray)


def library(x: Array) -> str:
    """Name the array library of `x`: "NumPy", "PyTorch" or "JAX"."""
    if is_torch(x):
        return "PyTorch"
    return "JAX" if is_jax(x) else "NumPy"


def is_floating(x: Array) -> bool:
    """Say whether the elements of `x` are real floating-point numbers."""
    if is_torch(x):
        return bool(x.dtype.is_floating_point)
    return bool(x.dtype.kind in "fV" or str(x.dtype) == "bfloat16")


def at_least_float32(x: Array) -> Array:
    """Widen half precision to float32 (ratios of probabilities need more than 8 bits); counts and flags become real."""
    xp = namespace(x)
    if not is_floating(x):
        return xp.astype(x, xp.asarray(0.5).dtype)
    return xp.astype(x, xp.float32) if x.dtype.itemsize < 4 else x


def like(x: Any, other: Array) -> Array:
    """`x` as an array of the library, the device and the number type of `other`."""
    if is_torch(other):
        return sys.modules["torch"].as_tensor(x, dtype=other.dtype, device=other.device)
    return namespace(other).asarray(x, dtype=other.dtype)


def holds(condition: Array) -> bool:
    """Whether a boolean scalar array is true, as far as can be known: while a function is traced it is taken to be."""
    if is_torch(condition):
        return sys.modules["torch"].compiler.is_compiling() or bool(condition)
    if is_jax(condition):
        import jax

        return isinstance(condition, jax.core.Tracer) or bool(condition)
    return bool(condition)


def finite(x: Array) -> bool:
    """Whether all of `x` is finite, as far as that can be known: while a function is traced it cannot."""
    xp = namespace(x)
    return holds(xp.all(xp.isfinite(x)))


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
    if is_torch(x):
        x = (at_least_float32(x) if is_floating(x) else x).detach().cpu()
    plain = np.asarray(x)
    return module.as_tensor(plain) if to == "PyTorch" else module.asarray(plain)
