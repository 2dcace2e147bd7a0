"""gymnax environments: they run inside the compiled training, one key and state an environment."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from tightrein.engines.control.spaces import Observations

Array = Any


def strong(tree: Any) -> Any:
    """Drops JAX's weak types, which would change a loop's carry after one step."""
    return jax.tree.map(lambda x: jax.lax.convert_element_type(x, jnp.asarray(x).dtype), tree)


class DeviceEnv:
    """One gymnax environment as pure functions, without its auto-reset (the rollout resets, keeping the last state).

    Observations are arrays in the environment's own shape. An environment with `action_mask(state, params)` tells which
    actions may be taken: it is not 0 there.

    gymnax >= 1.0 reports termination from `step_env` and the time limit from `is_truncated`, apart.
    """

    def __init__(self, env: Any, params: Any) -> None:
        self._env = env
        self.params = params
        self.time_limit = int(params.max_steps_in_episode)
        self._observations = Observations.of(type(env).__name__, env.observation_space(params))

    def reset(self, key: Array) -> tuple[Array, Any]:
        """A fresh state: observation and state."""
        observation, state = self._env.reset_env(key, self.params)
        return self._seen(observation), strong(state)

    def allowed(self, states: Any) -> Array | None:
        """The actions that may be taken in each of E states [E, A]; None: all of them, always."""
        if not hasattr(self._env, "action_mask"):
            return None
        return jax.vmap(lambda state: jnp.ravel(self._env.action_mask(state, self.params)))(states)

    def step(self, key: Array, state: Any, action: Array) -> tuple[Array, Any, Array, Array, Array]:
        """One step: observation of the state reached, state, reward, terminated, truncated (0 where terminated)."""
        observation, state, reward, terminated, _ = self._env.step_env(key, state, action, self.params)
        truncated = jnp.logical_and(self._env.is_truncated(state, self.params), jnp.logical_not(terminated))
        return self._seen(observation), strong(state), jnp.asarray(reward, jnp.float32), terminated, truncated

    def _seen(self, shown: Any) -> Array:
        return self._observations.seen(jax.tree.map(jnp.asarray, shown))
