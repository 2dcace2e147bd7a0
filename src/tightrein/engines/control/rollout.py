"""What a policy did for T steps in E environments, and how a device environment fills it."""

from __future__ import annotations

from functools import partial
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

from tightrein.engines.control.device import DeviceEnv
from tightrein.engines.control.networks import ActorCritic, Inputs
from tightrein.engines.control.normalise import Moments

Array = Any


class Rollout(eqx.Module):
    """Time-major raw experience, [T, E] and [T, E, *shape]. Flags are floats 0 or 1.

    `next_observation` is the state really reached, before any reset. `mask` is 0 where the environment
    ignored the action (the reset step of host environments): such a step is no decision. `allowed` are the actions
    that could be taken, where the environment tells; `begins` and `memory` belong to networks with memory.
    """

    observation: Array
    action: Array
    reward: Array
    terminated: Array
    truncated: Array
    next_observation: Array
    mask: Array
    allowed: Array | None = None
    begins: Array | None = None
    memory: Array | None = None

    @property
    def done(self) -> Array:
        """1 where an episode ended, for either reason."""
        return jnp.maximum(self.terminated, self.truncated)

    def inputs(self, moments: Moments | None) -> Inputs:
        """What the networks read at each decision."""
        return Inputs(observe(self.observation, moments), self.allowed, self.begins, self.memory)

    def following(self, moments: Moments | None, network: ActorCritic) -> Inputs:
        """What they read in the state that was reached."""
        seen = observe(self.next_observation, moments)
        if self.memory is None or self.begins is None:
            return Inputs(seen)
        memory = network.remembered(network.advance(self.inputs(moments)), seen, self.reward)
        return Inputs(seen, None, jnp.zeros_like(self.begins), memory)


class Episodes(eqx.Module):
    """Sums over finished training episodes, and the running figures of the unfinished ones [E]."""

    running_return: Array
    running_length: Array
    return_sum: Array
    length_sum: Array
    count: Array

    @classmethod
    def of_envs(cls, envs: int) -> Episodes:
        """Nothing finished, nothing running."""
        zero = jnp.zeros(())
        return cls(jnp.zeros(envs), jnp.zeros(envs), zero, zero, zero)

    def step(self, reward: Array, done: Array) -> Episodes:
        """One step of every environment [E]."""
        returns, lengths = self.running_return + reward, self.running_length + 1
        return Episodes(
            returns * (1 - done),
            lengths * (1 - done),
            self.return_sum + (returns * done).sum(),
            self.length_sum + (lengths * done).sum(),
            self.count + done.sum(),
        )

    def emptied(self) -> Episodes:
        """The same running episodes, with the sums back at 0."""
        zero = jnp.zeros_like(self.count)
        return Episodes(self.running_return, self.running_length, zero, zero, zero)


class DeviceState(eqx.Module):
    """Where the E environments of one seed stand; begins and memory: of networks that have one."""

    state: Any
    observation: Array
    episodes: Episodes
    begins: Array | None
    memory: Array | None


def turned(x: Any) -> Any:
    """Time-major arrays [T, E, ...] to [E, T, ...]."""
    return jax.tree.map(lambda a: jnp.swapaxes(a, 0, 1), x)


def start(env: DeviceEnv, network: ActorCritic, key: Array, envs: int) -> DeviceState:
    """`envs` fresh environments."""
    observation, state = jax.vmap(env.reset)(jax.random.split(key, envs))
    memory = network.nothing(envs)
    begins = None if memory is None else jnp.ones(envs)
    return DeviceState(state, observation, Episodes.of_envs(envs), begins, memory)


def observe(observation: Array, moments: Moments | None) -> Array:
    """What the networks see of a raw observation [..., *shape]."""
    return observation if moments is None else moments.normalise(observation)


def collect(
    env: DeviceEnv, network: ActorCritic, moments: Moments | None, begin: DeviceState, key: Array, steps: int
) -> tuple[DeviceState, Rollout]:
    """Runs the policy for `steps` steps.

    Everything random (action noise, dynamics keys, the states that resets lead to) is drawn before the loop in
    large calls: the loop body then is a handful of small operations, which is what its speed depends on.
    """
    envs = begin.observation.shape[0]
    noise_key, step_key, reset_key = jax.random.split(key, 3)
    noise = network.actions.noise(noise_key, (steps, envs))
    step_keys = jax.random.split(step_key, (steps, envs))
    fresh = jax.vmap(jax.vmap(env.reset))(jax.random.split(reset_key, (steps, envs)))

    def step(now: DeviceState, given: tuple[Any, ...]) -> tuple[DeviceState, Rollout]:
        draw, keys, (fresh_observation, fresh_state) = given
        allowed = env.allowed(now.state)
        seen = Inputs(observe(now.observation, moments), allowed, now.begins, now.memory)
        dist, memory = network.act(seen)
        action = network.actions.sample(dist, draw)
        reached, state, reward, terminated, truncated = jax.vmap(env.step)(
            keys, now.state, network.actions.bounded(action)
        )
        done = jnp.logical_or(terminated, truncated)
        over = done.astype(jnp.float32)
        following = DeviceState(
            jax.tree.map(partial(_where, done), fresh_state, state),
            _where(done, fresh_observation, reached),
            now.episodes.step(reward, over),
            None if memory is None else over,
            None if memory is None else network.remembered(memory, observe(reached, moments), reward),
        )
        flags = terminated.astype(jnp.float32), truncated.astype(jnp.float32)
        return following, Rollout(
            now.observation, action, reward, *flags, reached, jnp.ones_like(reward), allowed, now.begins, now.memory
        )

    return jax.lax.scan(step, begin, (noise, step_keys, fresh))


def _where(flag: Array, new: Array, old: Array) -> Array:
    """`new` [E, ...] where flag [E], else `old`."""
    return jnp.where(flag.reshape(flag.shape + (1,) * (new.ndim - 1)), new, old)
