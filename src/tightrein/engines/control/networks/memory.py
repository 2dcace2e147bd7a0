"""What a policy remembers of an episode: a gated recurrent unit."""

from __future__ import annotations

from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from tightrein.engines.control.networks.layers import orthogonal

Array = Any


class GRU(eqx.Module):
    """A gated recurrent unit (Cho et al. 2014, in the form of cuDNN: the reset gate acts after the product)."""

    into: Array  # [features, 3 H]: reset, update, candidate
    within: Array  # [H, 3 H]
    bias: Array  # [3 H]
    candidate_bias: Array  # [H], of the recurrent product of the candidate
    recurs: ClassVar[bool] = True
    heeds_rewards: ClassVar[bool] = False

    def __init__(self, rng: np.random.Generator, features: int, size: int) -> None:
        """Orthogonal matrices with gain 1, gate by gate; biases 0."""
        self.into = jnp.concatenate([orthogonal(rng, features, size, 1.0) for _ in range(3)], axis=1)
        self.within = jnp.concatenate([orthogonal(rng, size, size, 1.0) for _ in range(3)], axis=1)
        self.bias = jnp.zeros(3 * size)
        self.candidate_bias = jnp.zeros(size)

    @property
    def size(self) -> int:
        """H."""
        return int(self.within.shape[-2])  # the last but one: networks may be stacked over rows

    def __call__(self, features: Array, begins: Array, memory: Array) -> Array:
        """Memory [..., H] after `features` [..., F]; where `begins` [...] is 1 nothing is remembered from before."""
        return self._next(features @ self.into + self.bias, begins, memory)

    def unrolled(self, features: Array, begins: Array, memory: Array) -> Array:
        """Memory after each of W consecutive features [M, W, F], from `memory` [M, H] on: [M, W, H]."""
        gates = jnp.swapaxes(features @ self.into + self.bias, 0, 1)  # one product for all steps

        def step(memory: Array, given: tuple[Array, Array]) -> tuple[Array, Array]:
            after = self._next(given[0], given[1], memory)
            return after, after

        memories = jax.lax.scan(step, memory, (gates, jnp.swapaxes(begins, 0, 1)))[1]
        return jnp.swapaxes(memories, 0, 1)

    def rewarded(self, memory: Array, reached: Array, reward: Array) -> Array:
        """Rewards change nothing: see ActorCritic.remembered."""
        return memory

    def _next(self, gates: Array, begins: Array, memory: Array) -> Array:
        before = memory * (1 - begins[..., None])
        reset_in, update_in, candidate_in = jnp.split(gates, 3, axis=-1)
        reset_of, update_of, candidate_of = jnp.split(before @ self.within, 3, axis=-1)
        reset, update = jax.nn.sigmoid(reset_in + reset_of), jax.nn.sigmoid(update_in + update_of)
        candidate = jnp.tanh(candidate_in + reset * (candidate_of + self.candidate_bias))
        return (1 - update) * candidate + update * before
