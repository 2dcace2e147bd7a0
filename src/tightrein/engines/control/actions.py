"""Kinds of action spaces: how a network's outputs become a distribution, and how an action is drawn and sent."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Protocol

import jax
import jax.numpy as jnp

import tightrein as tr

Array = Any

IMPOSSIBLE = -1e9  # the logit of an action that is not allowed


class Actions(Protocol):
    """What the engine needs to know about an action space. Leading axes of all arrays are free."""

    @property
    def outputs(self) -> int:
        """Outputs of the policy network."""

    @property
    def has_scale(self) -> bool:
        """Whether the policy also owns a state-independent log standard deviation."""

    def distribution(self, outputs: Array, log_std: Array | None, allowed: Array | None = None) -> Any:
        """Network outputs [..., outputs] to a distribution; allowed: 1 where an action may be taken."""

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
    """One of `n` actions; arrays of integers [...]."""

    n: int

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
        return tr.Categorical(outputs if allowed is None else jnp.where(allowed > 0, outputs, IMPOSSIBLE))

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
        """Discrete actions are sent as they are."""
        return action

    def identity(self, action: Array) -> Array:
        """The number of the action."""
        return action


@dataclass(frozen=True)
class ContinuousActions:
    """Real vectors [..., D] between `low` and `high` (one bound a dimension)."""

    low: tuple[float, ...]
    high: tuple[float, ...]

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
