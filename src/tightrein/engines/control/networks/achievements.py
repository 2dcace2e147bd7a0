"""A network that remembers the last achievement of an episode."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from tightrein.auxiliary import AchievementMemory
from tightrein.auxiliary.achievements import unit
from tightrein.engines.control.actions import Actions
from tightrein.engines.control.networks.actor_critic import ActorCritic
from tightrein.engines.control.networks.architecture import Scalar, heads
from tightrein.engines.control.networks.layers import MLP, Features

Array = Any


class LastAchievement(eqx.Module):
    """Memory [..., 2 F]: the features of the last observation, and the embedding of the last achievement."""

    features: int = eqx.field(static=True)
    threshold: float = eqx.field(static=True)
    recurs: ClassVar[bool] = False
    heeds_rewards: ClassVar[bool] = True

    @property
    def size(self) -> int:
        """2 F."""
        return 2 * self.features

    def __call__(self, features: Array, begins: Array, memory: Array) -> Array:
        """See Memory."""
        return jnp.concatenate([features, self.embedding(memory) * (1 - begins[..., None])], axis=-1)

    def unrolled(self, features: Array, begins: Array, memory: Array) -> Array:
        """See Memory: it does not recur, so each decision is seen by itself."""
        raise NotImplementedError

    def rewarded(self, memory: Array, reached: Array, reward: Array) -> Array:
        """See Memory: a reward above the threshold puts the achievement's embedding into it, as a constant."""
        before, last = jnp.split(memory, 2, axis=-1)
        new = (reward > self.threshold)[..., None]
        return jax.lax.stop_gradient(jnp.concatenate([before, jnp.where(new, unit(reached - before), last)], axis=-1))

    def embedding(self, memory: Array) -> Array:
        """Of the last achievement: [..., F]."""
        return memory[..., self.features :]

    def remembering(self, embedding: Array) -> Array:
        """A memory of an achievement [..., F] alone."""
        return jnp.concatenate([jnp.zeros_like(embedding), embedding], axis=-1)


class Encoder(eqx.Module):
    """Hidden layers that policy and value share."""

    layers: Features
    axes: int = eqx.field(static=True)  # of an observation

    def __call__(self, seen: Array) -> Array:
        """[..., *shape] -> [..., F]."""
        return self.layers(seen.reshape(*seen.shape[: seen.ndim - self.axes], -1).astype(jnp.float32))


@heads.register
def _(kind: AchievementMemory, rng: np.random.Generator, sizes: list[int], actions: Actions) -> Any:
    features = sizes[-1]
    layers = Features(MLP(rng, sizes, math.sqrt(2.0))) if len(sizes) > 1 else None
    policy, value = MLP(rng, [2 * features, actions.outputs], 0.01), MLP(rng, [2 * features, 1], 0.1)
    log_std = jnp.zeros(actions.outputs) if actions.has_scale else None
    core = LastAchievement(features, kind.threshold)

    def made(torso: Any, _: None, axes: int) -> ActorCritic:
        shared = torso if layers is None else Encoder(layers, axes)
        return ActorCritic(policy, value, log_std, shared, core, axes, actions, Scalar())

    return made
