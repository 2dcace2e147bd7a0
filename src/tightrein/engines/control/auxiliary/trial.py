"""Small tasks on which the phases show what they are for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import tightrein as tr
from tightrein.engines.control import environments
from tightrein.engines.control.actions import DiscreteActions
from tightrein.engines.control.auxiliary.achievements import AchievementPhase, Steps
from tightrein.engines.control.auxiliary.episodes import Episodes
from tightrein.engines.control.config import ControlConfig, Plan
from tightrein.engines.control.device import DeviceEnv
from tightrein.engines.control.device_trainer import DeviceTrainer
from tightrein.engines.control.environments import EnvSpec
from tightrein.engines.control.learner import Learner
from tightrein.engines.control.networks import Architecture
from tightrein.engines.control.rollout import collect, start
from tightrein.engines.control.spaces import Observations
from tightrein.engines.control.trainer import Rows
from tightrein.method import Method

Array = Any
STATIONS, SIDE, LIMIT = 5, 3, 60


class ChainState(NamedTuple):
    """Where the agent is [2], where the stations are [5, 2], how many were used, and how many steps were taken."""

    agent: Array
    stations: Array
    used: Array
    time: Array


class Chain:
    """Five stations at random places of a grid, each of use only after the one before it; see DeviceEnv.

    Actions: four moves, and to use what is here. Each first use gives a reward of 1; the last one ends the episode,
    as do 60 steps. Observations [16]: how far each station is in either direction, and how many were used (one-hot).
    """

    time_limit = LIMIT

    def reset(self, key: Array) -> tuple[Array, ChainState]:
        """See DeviceEnv."""
        places = jax.random.permutation(key, SIDE * SIDE)[: STATIONS + 1]
        where = jnp.stack([places // SIDE, places % SIDE], axis=-1)
        state = ChainState(where[0], where[1:], jnp.int32(0), jnp.int32(0))
        return _shown(state), state

    def allowed(self, states: ChainState) -> None:
        """See DeviceEnv."""

    def step(self, key: Array, state: ChainState, action: Array) -> tuple[Array, ChainState, Array, Array, Array]:
        """See DeviceEnv."""
        moves = jnp.asarray([[1, 0], [-1, 0], [0, 1], [0, -1], [0, 0]])
        there = (state.stations[jnp.minimum(state.used, STATIONS - 1)] == state.agent).all()
        used = there & (action == STATIONS - 1)
        agent = jnp.clip(state.agent + moves[action], 0, SIDE - 1)
        state = ChainState(agent, state.stations, state.used + used, state.time + 1)
        terminated = state.used == STATIONS
        truncated = (state.time >= LIMIT) & ~terminated
        return _shown(state), state, used.astype(jnp.float32), terminated, truncated


def _shown(state: ChainState) -> Array:
    apart = (state.stations - state.agent).astype(jnp.float32) / (SIDE - 1)
    return jnp.concatenate([apart.ravel(), jax.nn.one_hot(state.used, STATIONS + 1)])


def chained(method: Method, seeds: int, steps: int, **settings: Any) -> tuple[DeviceTrainer, Learner]:
    """A trainer of the method on the chain, and how it learns; settings: those of ControlConfig."""
    config = ControlConfig(total_steps=steps, **settings)
    method = method.replace(training=replace(method.training, minibatches=config.minibatches or 8))
    shown = Observations((3 * STATIONS + 1,), "float32")
    spec = EnvSpec("Chain", "gymnax", shown, DiscreteActions(STATIONS), "int32", masked=False)
    plan = Plan.of(config, method.training)
    learner = Learner(method, plan, spec, Architecture(hidden=config.hidden, heads=method.heads), False, False)
    env: Any = Chain()
    return DeviceTrainer(learner, env, Rows(range(seeds)), episodes=50), learner


def unlocked(trainer: DeviceTrainer, learner: Learner, last: int = 10) -> Array:
    """Achievements an episode of each seed [S], in the `last` iterations of the training."""
    whole = learner.plan.iterations
    trainer.run(0, whole - last)
    figures = trainer.run(whole - last, last)
    return figures.return_sum / np.maximum(figures.count, 1)


def accuracy(trainer: DeviceTrainer, learner: Learner) -> tuple[Array, Array]:
    """How often the next achievement is the one whose mean embedding is nearest to what is predicted, of each seed.

    Of the decisions in what the phase keeps that one follows in the episode; whether any does is chance. Also the share
    of the most frequent achievement: [S] each.
    """
    phase = learner.phase
    assert isinstance(phase, AchievementPhase)

    def of_seed(state: Any) -> tuple[Array, Array]:
        unpack = phase.descent.pack((state.network, state.phase.predictor))[1]
        episodes = Episodes.of(state.phase.seen)
        steps = Steps(phase, state.network, unpack, episodes)
        every = jnp.arange(episodes.size)
        embedded = steps.embedded(state.network, episodes.next, episodes.more)
        used = episodes.seen.observation[episodes.next, 2 * STATIONS :].argmax(-1)
        asked = episodes.live & episodes.more
        kind = jax.nn.one_hot(used, STATIONS) * asked[:, None]
        means = kind.T @ embedded / jnp.maximum(kind.sum(0), 1)[:, None]
        near = steps.predicted(state.network, state.phase.predictor, every) @ means.T
        right = jnp.take_along_axis(kind, near.argmax(-1)[:, None], axis=1)[:, 0]
        count = jnp.maximum(asked.sum(), 1)
        return right.sum() / count, kind.sum(0).max() / count

    shares = jax.jit(jax.vmap(of_seed))(trainer.state.learner)
    return np.asarray(shares[0]), np.asarray(shares[1])


def explained_variance(key: str, steps: int, seeds: int, settings: Mapping[str, Any] | None = None) -> Array:
    """Of the discounted returns of CartPole by the critic, after training: 1 - var(R - V) / var(R), of each seed."""
    method = tr.method(key, **(settings or {}))
    spec = environments.find("CartPole-v1", "gymnax")
    plan = Plan.of(ControlConfig(method=key, total_steps=steps), method.training)
    learner = Learner(method, plan, spec, Architecture(heads=method.heads), False, False)
    env = DeviceEnv(*environments.make_gymnax(spec.name))
    trainer = DeviceTrainer(learner, env, Rows(range(seeds)), episodes=10)
    trainer.run(0, plan.iterations)
    whole = replace(learner, method=method.override({"credit.lam": 1.0}))

    def of_seed(state: Any, key: Array) -> Array:
        begin = start(env, state.network, key, plan.envs)
        _, rollout = collect(env, state.network, None, begin, key, 512)
        inputs, following = whole.inputs(state, rollout)
        d = whole.decisions(state, rollout, inputs, following, rollout.reward, key)
        return 1 - (d.returns - d.value_old).var() / d.returns.var()

    keys = jax.vmap(jax.random.key)(jnp.arange(seeds))
    return np.asarray(jax.jit(jax.vmap(of_seed))(trainer.state.learner, keys))
