"""Training on host environments, with a compiled learner between their steps."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import numpy as np

from tightrein.engines.control import evaluate
from tightrein.engines.control.environments import EnvSpec
from tightrein.engines.control.host import HostEnvs, env_seed
from tightrein.engines.control.host_policy import HostPolicy
from tightrein.engines.control.learner import Learner, LearnerState
from tightrein.engines.control.networks import Inputs
from tightrein.engines.control.parallel import Shares
from tightrein.engines.control.rollout import Rollout, observe
from tightrein.engines.control.trainer import Figures, Rows, first_broken

Array = Any


class HostTrainer:
    """One vectorised host environment drives all rows; acting and learning are compiled calls."""

    def __init__(self, learner: Learner, spec: EnvSpec, rows: Rows, episodes: int) -> None:
        self._learner, self._spec, self._rows, self._episodes = learner, spec, rows, episodes
        self._keys = rows.keys
        self._draw = jax.jit(jax.vmap(self._draws, (0, None)))
        self._act = jax.jit(jax.vmap(_sampled))
        self._best = jax.jit(jax.vmap(evaluate.best_action))
        axes = (0, 0, 1, 0, None, None)
        shares = Shares(len(rows.seeds))
        self._learn = jax.jit(shares.over(jax.vmap(_learn(learner), axes), axes), donate_argnums=1)
        self._acting = jax.jit(jax.vmap(self._as_behaviour))
        self._keep = jax.jit(jax.vmap(self._kept, (0, 1)), donate_argnums=0)
        self._remember = jax.jit(jax.vmap(evaluate.remembered))
        init = jax.jit(jax.vmap(lambda values, networks: learner.at(values).init(*networks)))
        self.state: LearnerState = shares.placed(init(rows.values, rows.networks(learner)))
        self._envs: HostEnvs | None = None
        self.cut(0)

    def run(self, first: int, count: int) -> Figures:
        """See Trainer."""
        sums = np.zeros((3, len(self._rows.seeds)))
        broken, stats = -np.ones(len(self._rows.seeds), np.int32), {}
        for i in range(first, first + count):
            noise, keys = self._draw(self._keys.train, i)
            rollout = self._experience(np.asarray(noise), keys, sums)
            self.state, stats = self._learn(self._rows.values, self.state, rollout, keys, i, i == first + count - 1)
            broken = first_broken(broken, stats, i)
        return Figures(sums[0], sums[1], sums[2], np.asarray(broken), jax.tree.map(np.asarray, stats))

    def evaluate(self, iteration: int) -> Array:
        """See Trainer."""
        seeds = [[env_seed(s, iteration, 1, e) for e in range(self._episodes)] for s in self._rows.seeds]
        return evaluate.on_host(self._spec, self.state, self._best, seeds)

    def cut(self, iteration: int) -> None:
        """Makes the environments anew: simulators cannot be saved, so every run does this at a checkpoint."""
        if self._envs is not None:
            self._envs.close()
        seeds, each = self._rows.seeds, range(self._learner.plan.envs)
        self._envs = HostEnvs(self._spec, [env_seed(s, iteration, 0, e) for s in seeds for e in each])
        shape = len(seeds), self._learner.plan.envs
        self._observation = self._split(self._envs.reset())
        self._memory = self.state.network.nothing(*shape)
        self._begins, self._resetting = np.ones(shape, np.float32), np.zeros(shape, bool)
        self._returns, self._lengths = np.zeros(shape), np.zeros(shape)

    def _split(self, x: Array) -> Array:
        """[S * E, ...] to [S, E, ...]."""
        return x.reshape(len(self._rows.seeds), self._learner.plan.envs, *x.shape[1:])

    def _draws(self, key: Array, iteration: Array) -> tuple[Array, Array]:
        plan = self._learner.plan
        noise_key, learn_key = jax.random.split(jax.random.fold_in(key, iteration))
        return self._spec.actions.noise(noise_key, (plan.rollout, plan.envs)), learn_key

    def _as_behaviour(self, values: Any, state: LearnerState, key: Array) -> tuple[LearnerState, LearnerState]:
        """The state to act with, and the state."""
        network, state = self._learner.at(values).acting(state, key)
        return eqx.tree_at(lambda s: s.network, state, network), state

    def _kept(self, state: LearnerState, chunk: Rollout) -> LearnerState:
        """The state with a chunk that was collected."""
        return self._learner.keep(state, chunk)

    def _experience(self, noise: Array, keys: Array, sums: Array) -> Rollout | None:
        """The rollout of an iteration; None where the learner keeps it."""
        sampler = self._learner.sampler
        if sampler is None:
            return self._collect(self.state, noise, sums)
        for c in range(sampler.rule.chunks):
            chunk_keys = jax.vmap(jax.random.fold_in, (0, None))(keys, c + 2)
            acting, self.state = self._acting(self._rows.values, self.state, chunk_keys)
            chunk = self._collect(acting, noise[:, c * sampler.chunk : (c + 1) * sampler.chunk], sums)
            self.state = self._keep(self.state, chunk)
        return None

    def _collect(self, acting: LearnerState, noise: Array, sums: Array) -> Rollout:
        """A rollout by the networks of `acting`, [T, S, E, ...]; noise: [S, T, E, ...].

        Finished episodes are added to `sums` (returns, lengths, count).
        """
        assert self._envs is not None
        act, remembers, steps = self._actor(acting), self._memory is not None, []
        for t in range(noise.shape[1]):
            observation, allowed, memory = self._observation, self._allowed(), self._memory
            begins = self._begins if remembers else None
            action, sent, self._memory = act(observation, allowed, begins, memory, noise[:, t])
            sent = np.asarray(sent)
            reached, reward, terminated, truncated = map(
                self._split, self._envs.step(sent.reshape(-1, *sent.shape[2:]))
            )
            if self._memory is not None and self.state.network.heeds_rewards:
                self._memory = self._remember(acting, self._memory, reached, reward)
            mask = ~self._resetting
            steps.append((observation, action, reward, terminated, truncated, reached, mask, allowed, begins, memory))
            self._begins = self._resetting.astype(np.float32)
            self._observation, self._resetting = reached, terminated | truncated
            self._count(reward, mask, sums)
        return Rollout(*(_stacked(column) for column in zip(*steps, strict=True)))

    def _actor(self, acting: LearnerState) -> Callable[..., tuple[Array, Array, Array | None]]:
        """What draws the actions of a rollout: (action, what is sent, memory) of observation, ..., memory and noise."""
        if self._allowed() is None and HostPolicy.knows(acting.network):
            policy = HostPolicy(acting.network, acting.observations)
            return lambda observation, allowed, begins, memory, noise: (*policy(observation, noise), None)
        return lambda *seen: self._act(acting, Inputs(*seen[:-1]), seen[-1])

    def _allowed(self) -> Array | None:
        """The actions that may be taken now [S, E, A]; None: all of them."""
        assert self._envs is not None
        return None if self._envs.allowed is None else self._split(self._envs.allowed)

    def _count(self, reward: Array, mask: Array, sums: Array) -> None:
        done = self._resetting
        self._returns += reward
        self._lengths += mask
        if done.any():
            sums += [(x * done).sum(1) for x in (self._returns, self._lengths, np.ones_like(self._returns))]
            self._returns *= ~done
            self._lengths *= ~done


def _sampled(state: LearnerState, seen: Inputs, noise: Array) -> tuple[Array, Array, Array | None]:
    """The action drawn, what the environment is sent, and the memory afterwards, for one row's environments [E]."""
    network = state.network
    seen = eqx.tree_at(lambda s: s.observation, seen, observe(seen.observation, state.observations))
    dist, memory = network.act(seen)
    action = network.actions.sample(dist, noise)
    return action, network.actions.bounded(action), memory


def _learn(learner: Learner) -> Any:
    """`learn` of a row."""

    def learn(values: dict[str, Array], *given: Any) -> tuple[LearnerState, dict[str, Array]]:
        return learner.at(values).learn(*given)

    return learn


def _stacked(steps: tuple[Array, ...]) -> Array | None:
    """Steps along a new leading axis; flags as floats."""
    if steps[0] is None:
        return None
    column = np.stack([np.asarray(x) for x in steps])
    return column.astype(np.float32) if column.dtype == bool else column
