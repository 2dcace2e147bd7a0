"""Gradients: stopping, taking, and compiling them."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from ..errors import TightreinError, require
from .library import Array, installed, is_jax, is_torch

_constants: Callable[[Array], Array] | None = None


def stop_gradient(x: Array) -> Array:
    """Return `x` as a constant: same value, no gradient."""
    if is_torch(x):
        return x.detach()
    if is_jax(x):
        import jax

        return jax.lax.stop_gradient(x)
    return x if _constants is None else _constants(x)


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


def value_and_gradient(function: Callable[[dict[str, Array]], Array], at: dict[str, Array]) -> tuple[Array, Any]:
    """A scalar function's value at named arrays of PyTorch or JAX, and its gradient by each of them.

    Raises TightreinError for NumPy arrays, which have no gradients.
    """
    first = next(iter(at.values()))
    if is_torch(first):
        torch = sys.modules["torch"]
        leaves = {name: x.detach().clone().requires_grad_() for name, x in at.items()}
        value = function(leaves)
        if not value.requires_grad:
            return value, {name: torch.zeros_like(x) for name, x in at.items()}
        found = torch.autograd.grad(value, list(leaves.values()), allow_unused=True, materialize_grads=True)
        return value.detach(), dict(zip(leaves, found, strict=True))
    if is_jax(first):
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
