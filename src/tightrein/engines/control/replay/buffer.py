"""The newest transitions, as one array on the device."""

from __future__ import annotations

from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from tightrein.engines.control.rollout import Rollout
from tightrein.engines.control.snapshot import Stored, misfit

Array = Any


class Transitions(NamedTuple):
    """N transitions: vectors [N, n] and [N, D], reward and termination [N]. A time limit is no termination."""

    observation: Array
    following: Array
    action: Array
    reward: Array
    terminated: Array


class Buffer(Stored):
    """A ring of `capacity` transitions, a row each: one array, so that a batch is one gather.

    rows: [capacity, 2 n + D + 2]. count: how many were ever kept.
    """

    rows: Array
    count: Array
    observation: int = eqx.field(static=True)  # n
    action: int = eqx.field(static=True)  # D

    @classmethod
    def empty(cls, capacity: int, observation: int, action: int) -> Buffer:
        """Room for `capacity` transitions."""
        return cls(jnp.zeros((capacity, 2 * observation + action + 2)), jnp.int32(0), observation, action)

    def kept(self, rollout: Rollout) -> Buffer:
        """With all steps of a rollout [T, E] that were decisions; the oldest go. T E must not exceed the capacity."""
        capacity, steps = self.rows.shape[0], rollout.reward.size
        parts = rollout.observation, rollout.next_observation, rollout.action, rollout.reward, rollout.terminated
        new = jnp.concatenate([jnp.reshape(x, (steps, -1)).astype(jnp.float32) for x in parts], axis=1)
        counts = rollout.mask.reshape(-1) > 0
        place = (self.count + jnp.cumsum(counts) - 1) % capacity
        rows = self.rows.at[jnp.where(counts, place, capacity)].set(new, mode="drop")
        return Buffer(rows, self.count + counts.sum(), self.observation, self.action)

    def drawn(self, key: Array, count: int) -> Transitions:
        """`count` transitions, uniformly and with replacement."""
        n, d = self.observation, self.action
        held = jnp.minimum(self.count, self.rows.shape[0])
        rows = self.rows[jax.random.randint(key, (count,), 0, held)]
        return Transitions(rows[:, :n], rows[:, n : 2 * n], rows[:, 2 * n : 2 * n + d], rows[:, -2], rows[:, -1])

    def saved(self) -> dict[str, Array]:
        """See Stored: without the rows that are empty still, [S, held, ...]."""
        count = np.asarray(self.count)
        held = min(int(count.max(initial=0)), self.rows.shape[-2])
        return {"rows": np.asarray(self.rows[..., :held, :]), "count": count}

    def restored(self, arrays: dict[str, Array]) -> Buffer:
        """See Stored. A buffer that was not full yet may have grown with the budget."""
        rows, (capacity, width) = arrays["rows"], self.rows.shape[-2:]
        held = rows.shape[-2]
        if rows.shape[:-2] != self.rows.shape[:-2] or rows.shape[-1] != width or held > capacity:
            raise misfit(f"it holds transitions {rows.shape}, here is room for {self.rows.shape}")
        empty = np.zeros((*rows.shape[:-2], capacity - held, width), np.float32)
        whole = jnp.asarray(np.concatenate([rows, empty], axis=-2))
        return Buffer(whole, jnp.asarray(arrays["count"], jnp.int32), self.observation, self.action)
