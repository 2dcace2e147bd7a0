"""Training as one compiled loop: environments, learning and all rows on the device."""

from __future__ import annotations

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from tightrein.engines.control import evaluate
from tightrein.engines.control.batch import zeros
from tightrein.engines.control.device import DeviceEnv
from tightrein.engines.control.learner import Learner, LearnerState
from tightrein.engines.control.parallel import Shares
from tightrein.engines.control.rollout import DeviceState, Rollout, collect, start
from tightrein.engines.control.trainer import Figures, Keys, Rows, first_broken

Array = Any


class Progress(eqx.Module):
    """Carry of a device run for one row."""

    learner: LearnerState
    envs: DeviceState


class DeviceTrainer:
    """Rollouts and learning in one compiled loop; rows are one more axis of every array."""

    def __init__(self, learner: Learner, env: DeviceEnv, rows: Rows, episodes: int) -> None:
        shares = Shares(len(rows.seeds))
        self._learner, self._env = learner, env
        self._keys, self._values = shares.placed((rows.keys, rows.values))
        self._evaluate = jax.jit(shares.over(evaluate.on_device(env, episodes), (0, 0)))
        self._run = jax.jit(shares.over(self._iterations, (0, 0, 0, None, None)), donate_argnums=0)
        begin = jax.jit(jax.vmap(self._begin))
        self.state: Progress = shares.placed(begin(rows.networks(learner), rows.keys, rows.values))

    def run(self, first: int, count: int) -> Figures:
        """See Trainer."""
        self.state, figures = self._run(self.state, self._keys, self._values, first, count)
        return Figures(*jax.tree.map(np.asarray, tuple(figures)))

    def evaluate(self, iteration: int) -> Array:
        """See Trainer."""
        keys = jax.vmap(jax.random.fold_in, (0, None))(self._keys.evaluation, iteration)
        return np.asarray(self._evaluate(self.state.learner, keys))

    def cut(self, iteration: int) -> None:
        """Nothing: the environments are arrays too, and are saved."""

    def _begin(self, networks: Any, keys: Keys, values: dict[str, Array]) -> Progress:
        learner = self._learner.at(values)
        return Progress(learner.init(*networks), start(self._env, networks[0], keys.envs, learner.plan.envs))

    def _one(
        self, progress: Progress, keys: Keys, values: dict[str, Array], iteration: Array, log: Array
    ) -> tuple[Progress, Any]:
        learner = self._learner.at(values)
        collect_key, learn_key = jax.random.split(jax.random.fold_in(keys.train, iteration))
        state, envs, rollout = self._experience(learner, progress, collect_key)
        state, stats = learner.learn(state, rollout, learn_key, iteration, log)
        return Progress(state, envs), stats

    def _experience(
        self, learner: Learner, progress: Progress, key: Array
    ) -> tuple[LearnerState, DeviceState, Rollout | None]:
        """Learner and environments after an iteration's steps, and the rollout where the learner does not keep it."""
        sampler, state = learner.sampler, progress.learner
        if sampler is None:
            steps = learner.plan.rollout
            envs, rollout = collect(self._env, state.network, state.observations, progress.envs, key, steps)
            return state, envs, rollout

        def chunk(carry: Any, key: Array) -> tuple[Any, None]:
            state, envs = carry
            act_key, collect_key = jax.random.split(key)
            network, state = learner.acting(state, act_key)
            envs, rollout = collect(self._env, network, state.observations, envs, collect_key, sampler.chunk)
            return (learner.keep(state, rollout), envs), None

        (state, envs), _ = jax.lax.scan(chunk, (state, progress.envs), jax.random.split(key, sampler.rule.chunks))
        return state, envs, None

    def _iterations(
        self, state: Progress, keys: Keys, values: dict[str, Array], first: Array, count: Array
    ) -> tuple[Progress, Figures]:
        """The loop's length is an argument, so that chunks of every length share one compilation."""
        one = jax.vmap(self._one, (0, 0, 0, None, None))

        def body(i: Array, carry: tuple[Progress, Any, Array]) -> tuple[Progress, Any, Array]:
            state, _, broken = carry
            state, stats = one(state, keys, values, first + i, i == count - 1)
            return state, stats, first_broken(broken, stats, first + i)

        shapes = jax.eval_shape(one, state, keys, values, first, jnp.asarray(True))[1]
        stats = zeros(shapes)
        state = eqx.tree_at(lambda s: s.envs.episodes, state, jax.vmap(lambda e: e.emptied())(state.envs.episodes))
        state, stats, broken = jax.lax.fori_loop(0, count, body, (state, stats, -jnp.ones(keys.train.shape, jnp.int32)))
        episodes = state.envs.episodes
        return state, Figures(episodes.return_sum, episodes.length_sum, episodes.count, broken, stats)
