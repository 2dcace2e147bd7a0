"""Environments on the host: EnvPool and Gymnasium behind one batched interface."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tightrein.engines.control.environments import EnvSpec, make_envpool

Array = np.ndarray[Any, Any]


def env_seed(seed: int, *path: int) -> int:
    """A 31-bit seed for one environment, spread well however close the numbers of `path` are."""
    return int(np.random.SeedSequence([seed, *path]).generate_state(1)[0] >> 1)


class HostEnvs:
    """N environments of one kind, stepped together.

    Both libraries reset at the step after the one that ended an episode: that step ignores its action, gives
    reward 0 and the first observation of the next episode. The observation of the step that ended the episode
    therefore is the last state really reached, and whoever collects masks the resetting step.
    """

    def __init__(self, spec: EnvSpec, seeds: Sequence[int]) -> None:
        self.size = len(seeds)
        self._env, self._first = _MAKERS[spec.backend](spec.name, [int(s) for s in seeds])
        self._shape, self._dtype, self._action_dtype = spec.shape, spec.dtype, spec.action_dtype

    def reset(self) -> Array:
        """First observations [N, *shape]; call it once, after making them."""
        return self._shaped(self._first())

    def step(self, actions: Array) -> tuple[Array, Array, Array, Array]:
        """Observation [N, *shape], reward [N], terminated [N], truncated [N] (False where terminated)."""
        observation, reward, terminated, truncated, _ = self._env.step(np.asarray(actions, self._action_dtype))
        ended = np.asarray(terminated, bool)
        cut = np.asarray(truncated, bool) & ~ended
        return self._shaped(observation), np.asarray(reward, np.float32), ended, cut

    def close(self) -> None:
        """Frees the simulators."""
        self._env.close()

    def _shaped(self, observation: Any) -> Array:
        return np.asarray(observation, self._dtype).reshape(self.size, *self._shape)


def _make_envpool(name: str, seeds: list[int]) -> tuple[Any, Callable[[], Any]]:
    env = make_envpool(name, seeds, threads=min(len(seeds), os.cpu_count() or 1))
    return env, lambda: env.reset()[0]


def _make_gymnasium(name: str, seeds: list[int]) -> tuple[Any, Callable[[], Any]]:
    import gymnasium
    from gymnasium.vector import AutoresetMode, SyncVectorEnv

    makers = [lambda: gymnasium.make(name)] * len(seeds)
    env = SyncVectorEnv(makers, autoreset_mode=AutoresetMode.NEXT_STEP)
    return env, lambda: env.reset(seed=list(seeds))[0]


_MAKERS: dict[str, Callable[[str, list[int]], tuple[Any, Callable[[], Any]]]] = {
    "envpool": _make_envpool,
    "gymnasium": _make_gymnasium,
}
