"""Running normalisation of observations and rewards. Statistics move once a rollout, so a rollout has one policy."""

from __future__ import annotations

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

Array = Any

LIMIT = 10.0  # normalised observations and rewards are clipped to +-LIMIT
EPSILON = 1e-8


class Moments(eqx.Module):
    """Count, mean and (biased) variance of everything seen; before anything is seen they normalise to the identity."""

    count: Array
    mean: Array
    var: Array

    @classmethod
    def of_shape(cls, shape: tuple[int, ...]) -> Moments:
        """Nothing seen yet, elements of `shape`."""
        return cls(jnp.zeros(()), jnp.zeros(shape), jnp.ones(shape))

    def update(self, batch: Array, mask: Array) -> Moments:
        """Adds batch [..., *shape] where mask [...] is 1, by the parallel formula of Chan et al."""
        axes = tuple(range(mask.ndim))
        weight = mask.reshape(mask.shape + (1,) * self.mean.ndim)
        count = mask.sum()
        divisor = jnp.maximum(count, 1.0)
        mean = (batch * weight).sum(axes) / divisor
        var = (jnp.square(batch - mean) * weight).sum(axes) / divisor
        total = self.count + count
        share = count / jnp.maximum(total, 1.0)
        delta = mean - self.mean
        new_var = self.var * (1 - share) + var * share + jnp.square(delta) * share * (1 - share)
        return Moments(total, self.mean + delta * share, jnp.where(total > 0, new_var, self.var))

    def normalise(self, x: Array) -> Array:
        """(x - mean) / std, clipped."""
        return jnp.clip((x - self.mean) / jnp.sqrt(self.var + EPSILON), -LIMIT, LIMIT)


class RewardScale(eqx.Module):
    """Divides rewards by the running standard deviation of the discounted return of each environment."""

    moments: Moments
    discounted: Array  # [E], the discounted return so far

    @classmethod
    def of_envs(cls, envs: int) -> RewardScale:
        """For `envs` environments."""
        return cls(Moments.of_shape(()), jnp.zeros(envs))

    def update(self, reward: Array, done: Array, mask: Array, gamma: float) -> RewardScale:
        """Adds a rollout; arrays [T, E]. A finished episode starts the return anew."""

        def step(carry: Array, now: tuple[Array, Array]) -> tuple[Array, Array]:
            value = carry * gamma + now[0]
            return value * (1 - now[1]), value

        discounted, returns = jax.lax.scan(step, self.discounted, (reward, done))
        return RewardScale(self.moments.update(returns, mask), discounted)

    def normalise(self, reward: Array) -> Array:
        """Scaled and clipped; the mean is not subtracted, which would change the task."""
        return jnp.clip(reward / jnp.sqrt(self.moments.var + EPSILON), -LIMIT, LIMIT)
