"""Environments on the host: EnvPool and Gymnasium behind one batched interface."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tightrein.engines.control import spaces
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

    `allowed` are the actions that may be taken at the observations given last [N, A]; None where environments do not
    tell.
    """

    def __init__(self, spec: EnvSpec, seeds: Sequence[int]) -> None:
        self.size = len(seeds)
        self.allowed: Array | None = None
        self._env, self._first = _MAKERS[spec.backend](spec.name, [int(s) for s in seeds])
        self._spec = spec

    def reset(self) -> Array:
        """First observations [N, *shape]; call it once, after making them."""
        shown, info = self._first()
        return self._seen(shown, info, np.zeros(self.size, bool))

    def step(self, actions: Array) -> tuple[Array, Array, Array, Array]:
        """Observation [N, *shape], reward [N], terminated [N], truncated [N] (False where terminated)."""
        shown, reward, terminated, truncated, info = self._env.step(np.asarray(actions, self._spec.action_dtype))
        ended = np.asarray(terminated, bool)
        cut = np.asarray(truncated, bool) & ~ended
        return self._seen(shown, info, ended | cut), np.asarray(reward, np.float32), ended, cut

    def close(self) -> None:
        """Frees the simulators."""
        self._env.close()

    def _seen(self, shown: Any, info: Any, over: Array) -> Array:
        """Observations [N, *shape]; keeps what is allowed at them. over: [N], whose episodes ended with them."""
        spec = self._spec
        if spec.masked:
            self.allowed = spaces.allowed(spec.name, spec.actions, shown, info, over)
        seen: Array = spec.observations.seen(shown).reshape(self.size, *spec.shape)
        return seen


def _make_envpool(name: str, seeds: list[int]) -> tuple[Any, Callable[[], Any]]:
    env = make_envpool(name, seeds, threads=min(len(seeds), os.cpu_count() or 1))
    return env, env.reset


def _make_gymnasium(name: str, seeds: list[int]) -> tuple[Any, Callable[[], Any]]:
    import gymnasium
    from gymnasium.vector import AutoresetMode, SyncVectorEnv

    makers = [lambda: gymnasium.make(name)] * len(seeds)
    env = SyncVectorEnv(makers, autoreset_mode=AutoresetMode.NEXT_STEP)
    return env, lambda: env.reset(seed=list(seeds))


_MAKERS: dict[str, Callable[[str, list[int]], tuple[Any, Callable[[], Any]]]] = {
    "envpool": _make_envpool,
    "gymnasium": _make_gymnasium,
}
