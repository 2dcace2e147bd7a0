"""Elementwise rules with a defined gradient, and means over a mask."""

from __future__ import annotations

import math
import sys

import numpy as np

from .library import Array, is_torch, library, namespace

LOG_RATIO_LIMIT = 20.0  # |logp - logp_old| beyond this is cut before exp(): e^20 squared still fits float32


def zero_where_masked(x: Array, mask: Array) -> Array:
    """Replace the masked entries of `x` by 0, so that not even a NaN there can reach a result or a gradient."""
    xp = namespace(x)
    return xp.where(xp.astype(mask, xp.bool, copy=False), x, 0)


def spread(x: Array, mask: Array) -> Array:
    """`x`, [B, T] or [B, 1], in the shape [B, T] of `mask`."""
    return namespace(x).broadcast_to(x, mask.shape)


def masked_mean(x: Array, mask: Array) -> Array:
    """Mean of `x` over mask = 1; 0 when nothing is left."""
    xp = namespace(x)
    weights = xp.broadcast_to(xp.astype(mask, x.dtype, copy=False), x.shape)
    return xp.sum(zero_where_masked(x, weights)) / atleast(xp.sum(weights), 1)


def masked_extreme(x: Array, mask: Array, largest: bool) -> Array:
    """Maximum (or minimum) of `x` over mask = 1; 0 when nothing is left."""
    xp = namespace(x)
    keep = (mask != 0) & (x == x)
    away = xp.asarray(-xp.inf if largest else xp.inf, dtype=x.dtype)
    found = (xp.max if largest else xp.min)(xp.where(keep, x, away))
    return xp.where(xp.any(keep), found, xp.zeros_like(found))


def atleast(x: Array, low: Array | float) -> Array:
    """Elementwise maximum of `x` and `low`; the gradient is 1 above `low` and exactly 0 elsewhere, in every library."""
    return clip(x, low, math.inf) if _by_hardtanh(x, low) else namespace(x).where(x > low, x, low)


def atmost(x: Array, high: Array | float) -> Array:
    """Elementwise minimum of `x` and `high`; the gradient is 1 below `high` and exactly 0 elsewhere."""
    return clip(x, -math.inf, high) if _by_hardtanh(x, high) else namespace(x).where(x < high, x, high)


def clip(x: Array, low: Array | float, high: Array | float) -> Array:
    """Cut `x` into [low, high]; the gradient is 1 strictly inside and exactly 0 elsewhere, in every library."""
    if _by_hardtanh(x, low, high):
        return sys.modules["torch"].nn.functional.hardtanh(x, low, high)
    return atmost(atleast(x, low), high)


def _by_hardtanh(x: Array, *bounds: Array | float) -> bool:
    """Whether PyTorch has the same in one operation, which is many times faster than its where() or clamp()."""
    return is_torch(x) and x.dtype.is_floating_point and not any(is_torch(bound) for bound in bounds)


def choose(condition: Array, x: Array, y: Array | float) -> Array:
    """`x` where the condition holds, else `y`; both finite.

    PyTorch's where() branches at every entry: where the condition comes and goes it takes ten times as long.
    """
    if is_torch(y) and x.dtype == y.dtype and x.dtype.is_floating_point:  # type: ignore[union-attr]
        return sys.modules["torch"].lerp(y, x, condition.to(x.dtype))  # exact where the weight is 0 or 1
    return namespace(x).where(condition, x, y)


def sigmoid(x: Array) -> Array:
    """1 / (1 + exp(-x)) without overflow on either side."""
    return x.sigmoid() if is_torch(x) else 0.5 * (1 + namespace(x).tanh(0.5 * x))


def sign(x: Array) -> Array:
    """1, 0 or -1."""
    return x.sign() if is_torch(x) else namespace(x).sign(x)  # the namespace's looks for NaN first


def log_sigmoid(x: Array) -> Array:
    """log(1 / (1 + exp(-x))), without losing digits on either side."""
    return sys.modules["torch"].nn.functional.logsigmoid(x) if is_torch(x) else -namespace(x).logaddexp(-x, 0 * x)


def tanh(x: Array) -> Array:
    """The hyperbolic tangent, to the last digit of 1 (PyTorch's own keeps more near 0, and takes six times as long)."""
    return 2 * (2 * x).sigmoid() - 1 if is_torch(x) else namespace(x).tanh(x)


def erf(x: Array) -> Array:
    """The error function, 2 / sqrt(pi) times the integral of exp(-u^2) from 0 to x."""
    kind = library(x)
    if kind == "NumPy":
        return np.vectorize(math.erf, otypes=[x.dtype])(x)
    return sys.modules["torch"].erf(x) if kind == "PyTorch" else sys.modules["jax"].scipy.special.erf(x)
