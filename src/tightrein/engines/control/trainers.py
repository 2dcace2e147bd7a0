"""The two ways to run iterations: all on the device, or host environments with a compiled learner between."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from tightrein.engines.control import evaluate
from tightrein.engines.control.device import DeviceEnv
from tightrein.engines.control.environments import EnvSpec
from tightrein.engines.control.host import HostEnvs, env_seed
from tightrein.engines.control.learner import Learner
from tightrein.engines.control.rollout import DeviceState, Rollout, collect, observe, start

Array = Any


class Keys(NamedTuple):
    """The independent random streams of a seed; iterations and evaluations fold their number into them."""

    train: Array
    envs: Array
    evaluation: Array

    @classmethod
    def of(cls, seed: Array) -> Keys:
        """The streams of one seed."""
        return cls(*jax.random.split(jax.random.key(seed), 3))


class Figures(NamedTuple):
    """What some iterations gave, one entry a seed [S]: finished training episodes, and the last iteration's stats."""

    return_sum: Array
    length_sum: Array
    count: Array
    broken: Array  # the first iteration with a non-finite loss or parameter, -1 where all is well
    stats: dict[str, Array]


class Trainer(Protocol):
    """All seeds of a run."""

    state: Any

    def run(self, first: int, count: int) -> Figures:
        """Iterations first ... first + count - 1."""

    def evaluate(self, iteration: int) -> Array:
        """Mean evaluation return of each seed [S] after `iteration` iterations."""

    def cut(self, iteration: int) -> None:
        """Brings what a checkpoint cannot hold into a state that follows from `iteration` alone."""


class _Progress(eqx.Module):
    """Carry of a device run for one seed."""

    learner: Any
    envs: DeviceState


class DeviceTrainer:
    """Rollouts and learning in one compiled loop; seeds are one more axis of every array."""

    def __init__(self, learner: Learner, env: DeviceEnv, seeds: Sequence[int], steps: int, episodes: int) -> None:
        self._learner, self._env, self._steps = learner, env, steps
        self._keys = jax.vmap(Keys.of)(jnp.asarray(seeds))
        self._evaluate = evaluate.on_device(env, episodes)
        self._run = jax.jit(self._iterations, donate_argnums=0)
        self.state: _Progress = jax.jit(jax.vmap(self._begin))(networks(learner, seeds), self._keys)

    def run(self, first: int, count: int) -> Figures:
        """See Trainer."""
        self.state, figures = self._run(self.state, self._keys, first, count)
        return Figures(*jax.tree.map(np.asarray, tuple(figures)))

    def evaluate(self, iteration: int) -> Array:
        """See Trainer."""
        keys = jax.vmap(jax.random.fold_in, (0, None))(self._keys.evaluation, iteration)
        return np.asarray(self._evaluate(self.state.learner, keys))

    def cut(self, iteration: int) -> None:
        """Nothing: the environments are arrays too, and are saved."""

    def _begin(self, network: Any, keys: Keys) -> _Progress:
        return _Progress(self._learner.init(network), start(self._env, keys.envs, self._learner.envs))

    def _one(self, progress: _Progress, keys: Keys, iteration: Array, log: Array) -> tuple[_Progress, Any]:
        collect_key, learn_key = jax.random.split(jax.random.fold_in(keys.train, iteration))
        learner, envs, rollout = self._experience(progress, collect_key)
        learner, stats = self._learner.learn(learner, rollout, learn_key, iteration, log)
        return _Progress(learner, envs), stats

    def _experience(self, progress: _Progress, key: Array) -> tuple[Any, DeviceState, Rollout | None]:
        """Learner and environments after an iteration's steps, and the rollout where the learner does not keep it."""
        sampler, learner = self._learner.sampler, progress.learner
        if sampler is None:
            envs, rollout = collect(self._env, learner.network, learner.observations, progress.envs, key, self._steps)
            return learner, envs, rollout

        def chunk(carry: Any, key: Array) -> tuple[Any, None]:
            learner, envs = carry
            act_key, collect_key = jax.random.split(key)
            network, learner = self._learner.acting(learner, act_key)
            envs, rollout = collect(self._env, network, learner.observations, envs, collect_key, sampler.chunk)
            return (self._learner.keep(learner, rollout), envs), None

        (learner, envs), _ = jax.lax.scan(chunk, (learner, progress.envs), jax.random.split(key, sampler.rule.chunks))
        return learner, envs, None

    def _iterations(self, state: _Progress, keys: Keys, first: Array, count: Array) -> tuple[_Progress, Figures]:
        """The loop's length is an argument, so that chunks of every length share one compilation."""
        one = jax.vmap(self._one, (0, 0, None, None))

        def body(i: Array, carry: tuple[_Progress, Any, Array]) -> tuple[_Progress, Any, Array]:
            state, _, broken = carry
            state, stats = one(state, keys, first + i, i == count - 1)
            return state, stats, first_broken(broken, stats, first + i)

        shapes = jax.eval_shape(one, state, keys, first, jnp.asarray(True))[1]
        stats = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)
        state = eqx.tree_at(lambda s: s.envs.episodes, state, jax.vmap(lambda e: e.emptied())(state.envs.episodes))
        state, stats, broken = jax.lax.fori_loop(0, count, body, (state, stats, -jnp.ones(keys.train.shape, jnp.int32)))
        episodes = state.envs.episodes
        return state, Figures(episodes.return_sum, episodes.length_sum, episodes.count, broken, stats)


class HostTrainer:
    """One vectorised host environment drives all seeds; acting and learning are compiled calls."""

    def __init__(self, learner: Learner, spec: EnvSpec, seeds: Sequence[int], steps: int, episodes: int) -> None:
        self._learner, self._spec, self._seeds, self._steps, self._episodes = learner, spec, seeds, steps, episodes
        self._keys = jax.vmap(Keys.of)(jnp.asarray(seeds))
        self._draw = jax.jit(jax.vmap(self._draws, (0, None)))
        self._act = jax.jit(jax.vmap(_sampled))
        self._best = jax.jit(jax.vmap(evaluate.best_action))
        self._learn = jax.jit(jax.vmap(learner.learn, (0, 1, 0, None, None)), donate_argnums=0)
        self._acting = jax.jit(jax.vmap(self._as_behaviour))
        self._keep = jax.jit(jax.vmap(learner.keep, (0, 1)), donate_argnums=0)
        self.state = jax.jit(jax.vmap(learner.init))(networks(learner, seeds))
        self._envs: HostEnvs | None = None
        self.cut(0)

    def run(self, first: int, count: int) -> Figures:
        """See Trainer."""
        sums = np.zeros((3, len(self._seeds)))
        broken, stats = -np.ones(len(self._seeds), np.int32), {}
        for i in range(first, first + count):
            noise, keys = self._draw(self._keys.train, i)
            rollout = self._experience(np.asarray(noise), keys, sums)
            self.state, stats = self._learn(self.state, rollout, keys, i, i == first + count - 1)
            broken = first_broken(broken, stats, i)
        return Figures(sums[0], sums[1], sums[2], np.asarray(broken), jax.tree.map(np.asarray, stats))

    def evaluate(self, iteration: int) -> Array:
        """See Trainer."""
        seeds = [[env_seed(s, iteration, 1, e) for e in range(self._episodes)] for s in self._seeds]
        return evaluate.on_host(self._spec, self.state, self._best, seeds)

    def cut(self, iteration: int) -> None:
        """Makes the environments anew: simulators cannot be saved, so every run does this at a checkpoint."""
        if self._envs is not None:
            self._envs.close()
        each = range(self._learner.envs)
        self._envs = HostEnvs(self._spec, [env_seed(s, iteration, 0, e) for s in self._seeds for e in each])
        shape = len(self._seeds), self._learner.envs
        self._observation = self._envs.reset().reshape(*shape, -1)
        self._resetting = np.zeros(shape, bool)
        self._returns, self._lengths = np.zeros(shape), np.zeros(shape)

    def _draws(self, key: Array, iteration: Array) -> tuple[Array, Array]:
        noise_key, learn_key = jax.random.split(jax.random.fold_in(key, iteration))
        return self._learner.actions.noise(noise_key, (self._steps, self._learner.envs)), learn_key

    def _as_behaviour(self, state: Any, key: Array) -> tuple[Any, Any]:
        """The state to act with, and the state."""
        network, state = self._learner.acting(state, key)
        return eqx.tree_at(lambda s: s.network, state, network), state

    def _experience(self, noise: Array, keys: Array, sums: Array) -> Rollout | None:
        """The rollout of an iteration; None where the learner keeps it."""
        sampler = self._learner.sampler
        if sampler is None:
            return self._collect(self.state, noise, sums)
        for c in range(sampler.rule.chunks):
            acting, self.state = self._acting(self.state, jax.vmap(jax.random.fold_in, (0, None))(keys, c + 2))
            chunk = self._collect(acting, noise[:, c * sampler.chunk : (c + 1) * sampler.chunk], sums)
            self.state = self._keep(self.state, chunk)
        return None

    def _collect(self, acting: Any, noise: Array, sums: Array) -> Rollout:
        """A rollout by the networks of `acting`, [T, S, E, ...]; noise: [S, T, E, ...].

        Finished episodes are added to `sums` (returns, lengths, count).
        """
        assert self._envs is not None
        steps, shape = [], self._resetting.shape
        for t in range(noise.shape[1]):
            action, sent = self._act(acting, self._observation, noise[:, t])
            sent = np.asarray(sent)
            reached, *outcome = self._envs.step(sent.reshape(-1, *sent.shape[2:]))
            reached = reached.reshape(*shape, -1)
            reward, terminated, truncated = (x.reshape(shape) for x in outcome)
            mask = ~self._resetting
            steps.append((self._observation, action, reward, terminated, truncated, reached, mask))
            self._observation, self._resetting = reached, terminated | truncated
            self._count(reward, mask, sums)
        columns = [np.stack([np.asarray(x) for x in column]) for column in zip(*steps, strict=True)]
        return Rollout(*(c.astype(np.float32) if c.dtype == bool else c for c in columns))

    def _count(self, reward: Array, mask: Array, sums: Array) -> None:
        done = self._resetting
        self._returns += reward
        self._lengths += mask
        if done.any():
            sums += [(x * done).sum(1) for x in (self._returns, self._lengths, np.ones_like(self._returns))]
            self._returns *= ~done
            self._lengths *= ~done


def _sampled(state: Any, observation: Array, noise: Array) -> tuple[Array, Array]:
    """The action drawn and what the environment is sent, for one seed's observations [E, D]."""
    actions = state.network.actions
    action = actions.sample(state.network.policy(observe(observation, state.observations)), noise)
    return action, actions.bounded(action)


def first_broken(broken: Array, stats: dict[str, Array], iteration: Array) -> Array:
    """The first iteration whose `finite` was 0, per seed; -1 while there is none."""
    return jnp.where((broken < 0) & (stats["finite"] == 0), iteration, broken)


def networks(learner: Learner, seeds: Sequence[int]) -> Any:
    """The seeds' initial networks, stacked along a leading axis [S]."""
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *(learner.network(seed) for seed in seeds))
