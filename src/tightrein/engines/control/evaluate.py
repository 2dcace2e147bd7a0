"""Evaluation episodes: their own environments and keys, frozen normalisation, the most probable action."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from tightrein.engines.control.device import DeviceEnv
from tightrein.engines.control.environments import EnvSpec
from tightrein.engines.control.host import HostEnvs
from tightrein.engines.control.learner import LearnerState
from tightrein.engines.control.networks import Inputs
from tightrein.engines.control.rollout import observe

Array = Any

STEP_LIMIT = 30_000  # for environments that never end an episode; what has not finished counts as far as it came


def best_action(state: LearnerState, seen: Inputs) -> tuple[Array, Array | None]:
    """What the environment is sent where one row reads `seen` (observations raw), and the memory afterwards."""
    actions = state.network.actions
    seen = eqx.tree_at(lambda s: s.observation, seen, observe(seen.observation, state.observations))
    dist, memory = state.network.act(seen)
    return actions.bounded(actions.mode(dist)), memory


def remembered(state: LearnerState, memory: Array, reached: Array, reward: Array) -> Array:
    """The memory of one row after a step that led to `reached`, as the environment shows it."""
    return state.network.remembered(memory, observe(reached, state.observations), reward)


def first_memory(states: LearnerState, *leading: int) -> tuple[Array | None, Array | None]:
    """(begins, memory) of episodes that begin: both 0, as nothing has to be forgotten; None where none is kept."""
    memory = states.network.nothing(*leading)
    return None if memory is None else jnp.zeros(leading), memory


def on_device(env: DeviceEnv, episodes: int) -> Callable[[LearnerState, Array], Array]:
    """A function of all rows' states and keys [S] that returns the mean return of each [S], to be compiled."""
    limit = min(env.time_limit, STEP_LIMIT)

    def evaluate(states: LearnerState, keys: Array) -> Array:
        streams = jax.vmap(lambda key: jax.random.split(key, episodes))(keys)
        each = jax.vmap(jax.vmap(env.reset))(streams)
        zero = jnp.zeros(streams.shape)
        begins, memory = first_memory(states, *streams.shape)
        # Not vmapped over seeds: one loop that ends when the last episode of any seed does.
        once = step(states, streams, begins)
        return jax.lax.while_loop(running, once, (0, each, zero, zero + 1, memory))[2].mean(1)

    def running(carry: Any) -> Array:
        return jnp.logical_and(carry[0] < limit, carry[3].any())

    def step(states: LearnerState, streams: Array, begins: Array | None) -> Callable[[Any], Any]:
        def once(carry: Any) -> Any:
            t, (observation, state), returns, alive, memory = carry
            seen = Inputs(observation, jax.vmap(env.allowed)(state), begins, memory)
            action, memory = jax.vmap(best_action)(states, seen)
            keys = jax.vmap(jax.vmap(lambda key: jax.random.fold_in(key, t)))(streams)
            reached, state, reward, terminated, truncated = jax.vmap(jax.vmap(env.step))(keys, state, action)
            if memory is not None:
                memory = jax.vmap(remembered)(states, memory, reached, reward)
            over = jnp.logical_or(terminated, truncated)
            return t + 1, (reached, state), returns + reward * alive, alive * (1 - over), memory

        return once

    return evaluate


def on_host(spec: EnvSpec, states: LearnerState, act: Callable[..., Array], seeds: list[list[int]]) -> Array:
    """Mean return of each seed [S]; `seeds` [S][N] are those of the environments, `act` is best_action over rows."""
    shape = len(seeds), len(seeds[0])
    envs = HostEnvs(spec, [seed for row in seeds for seed in row])
    observation, returns, alive = envs.reset(), np.zeros(shape), np.ones(shape, bool)
    begins, memory = first_memory(states, *shape)
    remember = jax.jit(jax.vmap(remembered))
    for _ in range(STEP_LIMIT):
        allowed = None if envs.allowed is None else envs.allowed.reshape(*shape, -1)
        seen = Inputs(observation.reshape(*shape, *spec.shape), allowed, begins, memory)
        action, memory = act(states, seen)
        action = np.asarray(action)
        observation, reward, terminated, truncated = envs.step(action.reshape(-1, *action.shape[2:]))
        if memory is not None and states.network.heeds_rewards:
            memory = remember(states, memory, observation.reshape(*shape, *spec.shape), reward.reshape(shape))
        returns += reward.reshape(shape) * alive
        alive &= ~(terminated | truncated).reshape(shape)
        if not alive.any():
            break
    envs.close()
    return returns.mean(1)
