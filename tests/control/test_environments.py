"""Environments: found by name, and terminated, truncated and resets told apart on every backend."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import config, trainer

from tightrein.engines.control import environments
from tightrein.engines.control.actions import ContinuousActions, DiscreteActions
from tightrein.engines.control.device import DeviceEnv
from tightrein.engines.control.host import HostEnvs, env_seed
from tightrein.engines.control.learner import Learner
from tightrein.engines.control.networks import Inputs
from tightrein.engines.control.rollout import collect, start
from tightrein.errors import TightreinError

HOSTS = ("envpool", "gymnasium")


def test_auto_prefers_the_device_then_envpool() -> None:
    assert environments.find("CartPole-v1").backend == "gymnax"
    cheetah = environments.find("HalfCheetah-v5")
    assert (cheetah.backend, cheetah.shape, cheetah.normalises) == ("envpool", (17,), True)
    assert isinstance(cheetah.actions, ContinuousActions)
    assert not environments.find("CartPole-v1", "gymnasium").normalises


def test_unknown_environment_names_the_nearest() -> None:
    with pytest.raises(TightreinError, match=r"CartPol'(.|\n)*gymnax offers .*CartPole-v1(.|\n)*gymnasium offers"):
        environments.find("CartPol")
    with pytest.raises(TightreinError, match="unknown backend 'gym'"):
        environments.find("CartPole-v1", "gym")
    with pytest.raises(TightreinError, match="not supported"):
        environments.find("Blackjack-v1", "gymnasium")


def small_device(limit: int, steps: int, envs: int = 3):
    env, params = environments.make_gymnax("CartPole-v1")
    device = DeviceEnv(env, params.replace(max_steps_in_episode=limit))
    made = trainer(config())
    network = made._learner.network(0)
    return collect(device, network, None, start(device, network, jax.random.key(0), envs), jax.random.key(1), steps)


def test_device_truncation_keeps_the_state_really_reached() -> None:
    state, rollout = small_device(limit=5, steps=17)
    truncated = np.asarray(rollout.truncated)
    assert (truncated[4::5] == 1).all()
    assert truncated.sum() == 3 * 3
    assert not np.asarray(rollout.terminated).any()
    assert np.asarray(rollout.mask).all()
    reached, seen = np.asarray(rollout.next_observation), np.asarray(rollout.observation)
    going = truncated[:-1] == 0
    np.testing.assert_array_equal(reached[:-1][going], seen[1:][going])
    assert (np.abs(reached[:-1][~going] - seen[1:][~going]).max(-1) > 1e-3).all()  # a reset lies between
    assert (np.abs(seen[5::5]) <= 0.05).all()
    assert float(state.episodes.count) == 9
    assert float(state.episodes.return_sum) == 45
    assert np.asarray(state.episodes.running_length).tolist() == [2, 2, 2]


def test_device_termination_is_not_truncation() -> None:
    _, rollout = small_device(limit=1000, steps=200)
    ended = np.asarray(rollout.terminated) == 1
    assert ended.any()
    assert not np.asarray(rollout.truncated).any()
    out = np.asarray(rollout.next_observation)[ended]
    assert ((np.abs(out[:, 2]) > 0.2094) | (np.abs(out[:, 0]) > 2.4)).all()


@pytest.mark.parametrize("backend", HOSTS)
def test_host_resets_one_step_after_the_end(backend: str) -> None:
    envs = HostEnvs(environments.find("CartPole-v1", backend), [3, 4])
    observation, seen = envs.reset(), []
    for _ in range(30):
        reached, reward, terminated, truncated = envs.step(np.ones(2, np.int64))  # pushing one way soon ends it
        seen.append((observation, reached, reward, terminated, truncated))
        observation = reached
    ends = [t for t, step in enumerate(seen[:-1]) if step[3][0]]
    assert ends
    for t in ends:
        assert abs(seen[t][1][0, 2]) > 0.2094  # the state really reached
        assert seen[t + 1][2][0] == 0
        assert not seen[t + 1][3][0]
        assert (np.abs(seen[t + 1][1][0]) <= 0.05).all()  # gives the first state of the next episode


@pytest.mark.parametrize("backend", HOSTS)
def test_host_time_limit_is_truncation(backend: str) -> None:
    envs = HostEnvs(environments.find("Pendulum-v1", backend), [0])
    envs.reset()
    flags = [envs.step(np.zeros((1, 1)))[2:] for _ in range(201)]
    assert [bool(cut[0]) for _, cut in flags].index(True) == 199
    assert not any(ended[0] for ended, _ in flags)


@pytest.mark.parametrize("backend", HOSTS)
def test_host_environments_do_not_depend_on_their_neighbours(backend: str) -> None:
    spec = environments.find("CartPole-v1", backend)
    both, alone = HostEnvs(spec, [3, 9]), HostEnvs(spec, [9])
    np.testing.assert_array_equal(both.reset()[1], alone.reset()[0])
    for t in range(40):
        pair = both.step(np.array([1, t % 2]))
        single = alone.step(np.array([t % 2]))
        for a, b in zip(pair, single, strict=True):
            np.testing.assert_array_equal(a[1], b[0])


@pytest.mark.parametrize("backend", HOSTS)
def test_host_rollout_masks_the_resetting_step(backend: str) -> None:
    made = trainer(config(backend=backend, rollout=64, seeds=2))
    noise, _ = made._draw(made._keys.train, 0)
    sums = np.zeros((3, 2))
    rollout = made._collect(made.state, np.asarray(noise), sums)
    done = (rollout.terminated + rollout.truncated) > 0
    assert done.any()
    np.testing.assert_array_equal(rollout.mask[1:] == 0, done[:-1])
    assert rollout.mask[0].all()
    np.testing.assert_array_equal(rollout.next_observation[:-1], rollout.observation[1:])
    assert sums[2].sum() == done.sum()
    assert (sums[0] == sums[1]).all()


def test_gae_sees_the_value_of_the_state_reached_and_cuts_at_ends() -> None:
    made = trainer(config())
    learner: Learner = made._learner
    state = learner.init(learner.network(0))
    _, rollout = small_device(limit=5, steps=12)
    d = learner.decisions(state, rollout, *learner.inputs(state, rollout), rollout.reward, jax.random.key(2))
    gamma, lam = learner.method.credit.gamma, learner.method.credit.lam
    value, after = (np.asarray(state.network.value(Inputs(x))) for x in (rollout.observation, rollout.next_observation))
    expected, running = np.zeros_like(value), np.zeros(3)
    for t in reversed(range(12)):
        delta = 1 + gamma * (1 - np.asarray(rollout.terminated)[t]) * after[t] - value[t]
        running = delta + gamma * lam * (1 - np.asarray(rollout.done)[t]) * running
        expected[t] = running
    np.testing.assert_allclose(np.asarray(d.returns).T, expected + value, atol=1e-5)


def test_actions_are_clipped_only_for_the_environment() -> None:
    actions = ContinuousActions((-1.0,), (1.0,))
    dist = actions.distribution(jnp.array([[5.0]]), jnp.zeros(1))
    assert float(actions.sample(dist, jnp.zeros((1, 1)))[0, 0]) == 5.0
    assert float(actions.bounded(actions.mode(dist))[0, 0]) == 1.0


def test_categorical_draws_have_the_right_frequencies() -> None:
    actions = DiscreteActions(3)
    probabilities = jnp.array([0.2, 0.5, 0.3])
    noise = actions.noise(jax.random.key(0), (20_000,))
    drawn = actions.sample(actions.distribution(jnp.log(probabilities), None), noise)
    np.testing.assert_allclose(np.bincount(drawn) / 20_000, probabilities, atol=0.015)


def test_env_seeds_differ() -> None:
    assert len({env_seed(s, i, k, e) for s in range(5) for i in range(5) for k in (0, 1) for e in range(5)}) == 250
