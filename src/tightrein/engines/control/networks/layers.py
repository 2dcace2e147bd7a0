"""Layers: dense with orthogonal initialisation, and what becomes of an observation before the first of them."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

Array = Any


class MLP(eqx.Module):
    """Dense layers with tanh between them. Weights are [in, out], so that a batch is one plain product a layer."""

    weights: tuple[Array, ...]
    biases: tuple[Array, ...]

    def __init__(self, rng: np.random.Generator, sizes: Sequence[int], last_gain: float) -> None:
        """Layers sizes[0] -> ... -> sizes[-1]; orthogonal with gain sqrt(2), `last_gain` on the last; biases 0."""
        gains = [math.sqrt(2.0)] * (len(sizes) - 2) + [last_gain]
        pairs = itertools.pairwise(sizes)
        self.weights = tuple(orthogonal(rng, *pair, gain) for gain, pair in zip(gains, pairs, strict=True))
        self.biases = tuple(jnp.zeros(size) for size in sizes[1:])

    def __call__(self, x: Array) -> Array:
        """[..., sizes[0]] -> [..., sizes[-1]]."""
        for weight, bias in zip(self.weights[:-1], self.biases[:-1], strict=True):
            x = jnp.tanh(x @ weight + bias)
        return x @ self.weights[-1] + self.biases[-1]

    @property
    def hidden_matrices(self) -> tuple[Array, ...]:
        """The matrices between the first layer and the last."""
        return self.weights[1:-1]


class Features(eqx.Module):
    """An MLP whose last layer too is followed by tanh: features for the layers after it."""

    layers: MLP

    def __call__(self, x: Array) -> Array:
        """[..., inputs] -> [..., features]."""
        return jnp.tanh(self.layers(x))

    @property
    def hidden_matrices(self) -> tuple[Array, ...]:
        """The matrices after the first layer."""
        return self.layers.weights[1:]


class Encoder(eqx.Module):
    """Features of observations of any shape, as vectors."""

    layers: Features
    axes: int = eqx.field(static=True)  # of an observation

    def __call__(self, seen: Array) -> Array:
        """[..., *shape] -> [..., features]."""
        return self.layers(scaled(seen.reshape(*seen.shape[: seen.ndim - self.axes], -1)))


def scaled(observation: Array) -> Array:
    """An observation as floats; whole numbers of 0 to 255 (uint8) become 0 to 1."""
    floats = observation.astype(jnp.float32)
    return floats / 255 if observation.dtype == jnp.uint8 else floats


def out_axes(network: Any) -> tuple[int | None, ...]:
    """Of each leaf: the axis of its outputs if it is a hidden layer's matrix (not the first or last), else None."""
    nodes = jax.tree.leaves(network, is_leaf=lambda node: hasattr(node, "hidden_matrices"))
    hidden = {id(weight) for node in nodes for weight in getattr(node, "hidden_matrices", ())}
    return tuple(1 if id(leaf) in hidden else None for leaf in jax.tree.leaves(network))


def orthogonal(rng: np.random.Generator, rows: int, columns: int, gain: float) -> Array:
    """A random matrix [rows, columns] with orthogonal rows or columns (whichever are fewer), times `gain`.

    Made by NumPy: JAX's batched QR waits for helpers of the very thread pool it runs in, and with two threads and
    several seeds can wait for ever.
    """
    tall = rng.standard_normal((max(rows, columns), min(rows, columns)))
    q, r = np.linalg.qr(tall)
    q *= np.sign(np.diag(r))  # makes the draw uniform over orthogonal matrices
    return jnp.asarray(gain * (q if rows >= columns else q.T), jnp.float32)
