"""Whole episodes in the newest rollouts, and where their achievements are: fixed shapes, masks for what is there."""

from __future__ import annotations

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

Array = Any


class Seen(eqx.Module):
    """What is kept of R rollouts: [E, R, T, ...]. memory is the embedding of the last achievement [..., F]."""

    observation: Array
    memory: Array
    action: Array
    returns: Array
    begins: Array
    done: Array
    mask: Array
    achieved: Array


class Episodes(eqx.Module):
    """The decisions of all environments one after another, [N, ...], and of each where its episode lies.

    number: the episode, counted from 0. Of episodes [N]: first and last, whole (1 where both are in the rollouts),
    achievements (how many there are) and slot, where the first of them stands in `places`. Of decisions: `live`, 1
    where the episode is whole and has an achievement; `next`, the decision that achieves what comes next, and `more`,
    0 where nothing does and `next` is the last.
    """

    seen: Seen
    number: Array
    first: Array
    last: Array
    whole: Array
    achievements: Array
    slot: Array
    places: Array
    live: Array
    next: Array
    more: Array

    @classmethod
    def of(cls, kept: Seen) -> Episodes:
        """Those in what is kept, whose rollouts must lie in the order of time."""
        length = kept.mask.shape[1] * kept.mask.shape[2]
        seen: Seen = jax.tree.map(lambda x: x.reshape(-1, *x.shape[3:]), kept)
        size = seen.mask.shape[0]
        index = jnp.arange(size)
        opens = (seen.begins > 0) | (index % length == 0)
        number = jnp.cumsum(opens) - 1

        def per_episode(x: Array) -> Array:
            return jax.ops.segment_sum(x, number, size)

        counts = seen.mask > 0
        ends = counts & (seen.done > 0)
        first = jax.ops.segment_min(index, number, size)
        last = per_episode(jnp.where(ends, index, 0))
        begun = per_episode(jnp.where(seen.begins > 0, 1, 0)) > 0
        whole = begun & (per_episode(ends.astype(jnp.int32)) == 1)
        achieved = (seen.achieved > 0) & counts & ~ends & whole[number]
        achievements = per_episode(achieved.astype(jnp.int32))
        before = jnp.cumsum(achieved) - achieved
        upcoming = jax.lax.cummin(jnp.where(achieved, index, size), reverse=True)
        more = upcoming <= last[number]
        return cls(
            seen, number, first, last, whole & (achievements > 0), achievements, before[first],
            jnp.nonzero(achieved, size=size, fill_value=0)[0],
            whole[number] & counts & (achievements[number] > 0),
            jnp.where(more, upcoming, last[number]), more,
        )  # fmt: skip

    @property
    def size(self) -> int:
        """N."""
        return int(self.number.shape[0])

    def of_episode(self, episode: Array, most: int) -> tuple[Array, Array]:
        """The decisions that achieved something in episodes [...], and 1 where there is one: [..., most] each."""
        each = jnp.arange(most)
        place = jnp.minimum(self.slot[episode][..., None] + each, self.size - 1)
        return self.places[place], (each < self.achievements[episode][..., None]).astype(jnp.float32)

    def somewhere(self, key: Array, episode: Array) -> Array:
        """A random decision of each episode [...]."""
        length = self.last[episode] - self.first[episode] + 1
        return self.first[episode] + jnp.minimum(
            (jax.random.uniform(key, episode.shape) * length).astype(jnp.int32), length - 1
        )


def shuffled(key: Array, chosen: Array) -> tuple[Array, Array]:
    """Indices of `chosen` [N] with those where it is true first, in a random order, and how many these are."""
    order = jnp.argsort(jnp.where(chosen, jax.random.uniform(key, chosen.shape), 2.0))
    return order, chosen.sum()
