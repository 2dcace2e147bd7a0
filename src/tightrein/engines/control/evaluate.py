"""Evaluation episodes: their own environments and keys, frozen normalisation, the most probable action."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from tightrein.engines.control.device import DeviceEnv
from tightrein.engines.control.environments import EnvSpec
from tightrein.engines.control.host import HostEnvs
from tightrein.engines.control.learner import LearnerState
from tightrein.engines.control.rollout import observe

Array = Any

STEP_LIMIT = 30_000  # for environments that never end an episode; what has not finished counts as far as it came


def best_action(state: LearnerState, observation: Array) -> Array:
    """What the environment is sent for raw observations [N, D] of one seed."""
    actions = state.network.actions
    dist = state.network.policy(observe(observation, state.observations))
    return actions.bounded(actions.mode(dist))


def on_device(env: DeviceEnv, episodes: int) -> Callable[[LearnerState, Array], Array]:
    """A compiled function of all seeds' states and keys [S] that returns the mean return of each seed [S]."""
    limit = min(env.time_limit, STEP_LIMIT)

    def evaluate(states: LearnerState, keys: Array) -> Array:
        streams = jax.vmap(lambda key: jax.random.split(key, episodes))(keys)
        each = jax.vmap(jax.vmap(env.reset))(streams)
        zero = jnp.zeros(streams.shape)
        # Not vmapped over seeds: one loop that ends when the last episode of any seed does.
        return jax.lax.while_loop(running, step(states, streams), (0, each, zero, zero + 1))[2].mean(1)

    def running(carry: Any) -> Array:
        return jnp.logical_and(carry[0] < limit, carry[3].any())

    def step(states: LearnerState, streams: Array) -> Callable[[Any], Any]:
        def once(carry: Any) -> Any:
            t, (observation, state), returns, alive = carry
            action = jax.vmap(best_action)(states, observation)
            keys = jax.vmap(jax.vmap(lambda key: jax.random.fold_in(key, t)))(streams)
            reached, state, reward, terminated, truncated = jax.vmap(jax.vmap(env.step))(keys, state, action)
            over = jnp.logical_or(terminated, truncated)
            return t + 1, (reached, state), returns + reward * alive, alive * (1 - over)

        return once

    return jax.jit(evaluate)


def on_host(spec: EnvSpec, states: LearnerState, act: Callable[..., Array], seeds: list[list[int]]) -> Array:
    """Mean return of each seed [S]; `seeds` [S][N] are those of the environments, `act` is best_action over seeds."""
    shape = len(seeds), len(seeds[0])
    envs = HostEnvs(spec, [seed for row in seeds for seed in row])
    observation, returns, alive = envs.reset(), np.zeros(shape), np.ones(shape, bool)
    for _ in range(STEP_LIMIT):
        action = np.asarray(act(states, observation.reshape(*shape, -1)))
        observation, reward, terminated, truncated = envs.step(action.reshape(-1, *action.shape[2:]))
        returns += reward.reshape(shape) * alive
        alive &= ~(terminated | truncated).reshape(shape)
        if not alive.any():
            break
    envs.close()
    return returns.mean(1)
