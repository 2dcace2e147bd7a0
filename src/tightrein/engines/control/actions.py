"""Kinds of action spaces: how a network's outputs become a distribution, and how an action is drawn and sent."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Protocol

import jax
import jax.numpy as jnp

import tightrein as tr

Array = Any


class Actions(Protocol):
    """What the engine needs to know about an action space. Leading axes of all arrays are free."""

    @property
    def options(self) -> tuple[int, ...]:
        """Alternatives of each choice that an action is made of, which masks say 1 or 0 of; none: no masks."""

    @property
    def outputs(self) -> int:
        """Outputs of the policy network."""

    @property
    def has_scale(self) -> bool:
        """Whether the policy also owns a state-independent log standard deviation."""

    def distribution(self, outputs: Array, log_std: Array | None, allowed: Array | None = None) -> Any:
        """Network outputs [..., outputs] to a distribution; allowed: [..., sum(options)], not 0 where it may be taken.

        Where a choice has nothing that is allowed, it has all.
        """

    def noise(self, key: Array, shape: tuple[int, ...]) -> Array:
        """All randomness of `shape` draws at once: one large call is far cheaper than one per step."""

    def sample(self, dist: Any, noise: Array) -> Array:
        """The action that `noise` picks from `dist`."""

    def mode(self, dist: Any) -> Array:
        """The most probable action."""

    def bounded(self, action: Array) -> Array:
        """What the environment is sent."""

    def identity(self, action: Array) -> Array:
        """Integers that are equal where two actions of a batch are the same."""


@dataclass(frozen=True)
class DiscreteActions:
    """One of `n` actions; arrays of integers [...] from 0, which the environment counts from `start`."""

    n: int
    start: int = 0

    @property
    def options(self) -> tuple[int, ...]:
        """All actions."""
        return (self.n,)

    @property
    def outputs(self) -> int:
        """One logit an action."""
        return self.n

    @property
    def has_scale(self) -> bool:
        """A categorical distribution has no scale."""
        return False

    def distribution(self, outputs: Array, log_std: Array | None, allowed: Array | None = None) -> Any:
        """Logits [..., n] to a categorical distribution over the actions allowed."""
        dist = tr.Categorical(outputs)
        return dist if allowed is None else dist.among(allowed)

    def noise(self, key: Array, shape: tuple[int, ...]) -> Array:
        """Gumbel noise [*shape, n]."""
        return jax.random.gumbel(key, (*shape, self.n))

    def sample(self, dist: Any, noise: Array) -> Array:
        """Gumbel-max: argmax of logits + noise is an exact categorical draw."""
        return jnp.argmax(dist.logits + noise, axis=-1)

    def mode(self, dist: Any) -> Array:
        """The action with the largest logit."""
        return jnp.argmax(dist.logits, axis=-1)

    def bounded(self, action: Array) -> Array:
        """Counted as the environment does."""
        return action + self.start if self.start else action

    def identity(self, action: Array) -> Array:
        """The number of the action."""
        return action


@dataclass(frozen=True)
class MultiDiscreteActions:
    """Several choices at once, among `options` alternatives each; arrays of integers [..., K] from 0.

    The environment counts them from `start`, in an array of `shape`.
    """

    options: tuple[int, ...]
    start: tuple[int, ...]
    shape: tuple[int, ...]

    @property
    def n(self) -> int:
        """Actions in all."""
        return math.prod(self.options)

    @property
    def outputs(self) -> int:
        """One logit an alternative."""
        return sum(self.options)

    @property
    def has_scale(self) -> bool:
        """Categorical distributions have no scale."""
        return False

    def distribution(self, outputs: Array, log_std: Array | None, allowed: Array | None = None) -> Any:
        """Logits [..., outputs], choice after choice, to independent categorical distributions."""
        dist = tr.MultiCategorical.of(outputs, self.options)
        return dist if allowed is None else dist.among(allowed, self.options)

    def noise(self, key: Array, shape: tuple[int, ...]) -> Array:
        """Gumbel noise [*shape, K, most options of a choice]."""
        return jax.random.gumbel(key, (*shape, len(self.options), max(self.options)))

    def sample(self, dist: Any, noise: Array) -> Array:
        """Gumbel-max, choice by choice."""
        return jnp.argmax(dist.logits + noise, axis=-1)

    def mode(self, dist: Any) -> Array:
        """The alternatives with the largest logits."""
        return jnp.argmax(dist.logits, axis=-1)

    def bounded(self, action: Array) -> Array:
        """Counted and shaped as the environment does."""
        counted = action + jnp.asarray(self.start) if any(self.start) else action
        return counted if len(self.shape) == 1 else counted.reshape(*action.shape[:-1], *self.shape)

    def identity(self, action: Array) -> Array:
        """The number of the action; where there are too many, its rank among those of the batch."""
        if self.n < 2**31:
            return action @ jnp.asarray([math.prod(self.options[k + 1 :]) for k in range(len(self.options))])
        rows = action.reshape(-1, len(self.options))
        found = jnp.unique(rows, axis=0, size=len(rows), return_inverse=True)[1]
        return found.reshape(action.shape[:-1])


@dataclass(frozen=True)
class ContinuousActions:
    """Real vectors [..., D] between `low` and `high` (one bound a dimension)."""

    low: tuple[float, ...]
    high: tuple[float, ...]

    @property
    def options(self) -> tuple[int, ...]:
        """None are counted."""
        return ()

    @property
    def outputs(self) -> int:
        """One mean a dimension."""
        return len(self.low)

    @property
    def has_scale(self) -> bool:
        """The standard deviation is a parameter of its own."""
        return True

    def distribution(self, outputs: Array, log_std: Array | None, allowed: Array | None = None) -> Any:
        """Means [..., D] and log standard deviations [D] to a diagonal Gaussian."""
        assert log_std is not None  # networks for actions with a scale have one
        return tr.DiagonalGaussian(outputs, jnp.broadcast_to(log_std, outputs.shape))

    def noise(self, key: Array, shape: tuple[int, ...]) -> Array:
        """Standard normal noise [*shape, D]."""
        return jax.random.normal(key, (*shape, self.outputs))

    def sample(self, dist: Any, noise: Array) -> Array:
        """Mean + std * noise: not clipped, so that its log-probability is that of the Gaussian."""
        return dist.mean + jnp.exp(dist.log_std) * noise

    def mode(self, dist: Any) -> Array:
        """The mean."""
        return dist.mean

    def bounded(self, action: Array) -> Array:
        """Clipped to the bounds of the environment."""
        return jnp.clip(action, jnp.asarray(self.low), jnp.asarray(self.high))

    def identity(self, action: Array) -> Array:
        """No two vectors are the same: their places in the batch."""
        shape = action.shape[:-1]
        return jnp.arange(math.prod(shape)).reshape(shape)


@dataclass(frozen=True)
class SquashedActions(ContinuousActions):
    """Real vectors that tanh keeps within their bounds; the arrays hold them before it, [..., D]."""

    def distribution(self, outputs: Array, log_std: Array | None, allowed: Array | None = None) -> Any:
        """Means [..., D] and log standard deviations [D], before tanh, to a squashed Gaussian."""
        plain = super().distribution(outputs, log_std, allowed)
        log_scale = jnp.broadcast_to(jnp.log(self._half), outputs.shape)
        return tr.SquashedGaussian(plain.mean, plain.log_std, log_scale)

    def mode(self, dist: Any) -> Array:
        """The mean before tanh, which becomes the median."""
        return dist.mode()

    def bounded(self, action: Array) -> Array:
        """tanh, scaled to the bounds of the environment."""
        low, high = jnp.asarray(self.low), jnp.asarray(self.high)
        return jnp.clip((low + high) / 2 + self._half * jnp.tanh(action), low, high)

    @property
    def _half(self) -> Array:
        return (jnp.asarray(self.high) - jnp.asarray(self.low)) / 2
