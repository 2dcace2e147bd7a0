"""What is written for speed says the same as the plain form."""

import jax
import numpy as np
import pytest

from tightrein.engines.control.batch import orders
from tightrein.engines.control.compose import compose
from tightrein.engines.control.config import ControlConfig, Plan
from tightrein.engines.control.environments import find
from tightrein.engines.control.host_policy import HostPolicy
from tightrein.engines.control.host_trainer import _sampled
from tightrein.engines.control.networks import Inputs
from tightrein.engines.control.train import trainer_of


@pytest.mark.parametrize("rows", [1, 2, 100, 512, 2**16 + 1])
def test_orders_are_permutations_and_differ(rows):
    found = np.asarray(orders(jax.random.key(0), 3, rows))
    np.testing.assert_array_equal(np.sort(found), np.broadcast_to(np.arange(rows), (3, rows)))
    if rows > 10:
        assert (found[0] != found[1]).any()


def test_every_place_is_as_likely_for_every_row():
    places = np.argsort(np.asarray(orders(jax.random.key(1), 4000, 8)), axis=-1)
    assert np.abs(places.mean(0) - 3.5).max() < 0.15
    assert np.abs(places.std(0) - np.std(np.arange(8))).max() < 0.1


@pytest.mark.parametrize(("env", "normalise"), [("Pendulum-v1", True), ("CartPole-v1", False)])
def test_the_policy_on_the_host_is_the_compiled_one(env, normalise):
    config = ControlConfig(
        env=env, backend="gymnasium", envs=4, rollout=8, seeds=2, total_steps=320, minibatches=4,
        normalise_obs=normalise,
    )  # fmt: skip
    method, _ = compose(config)
    spec = find(env, "gymnasium")
    trainer = trainer_of(config, method, spec, Plan.of(config, method.training))
    trainer.run(0, 2)
    state = trainer.state
    assert HostPolicy.knows(state.network)
    rng = np.random.default_rng(0)
    observation = rng.standard_normal((2, 4, *spec.shape)).astype(np.float32)
    noise = np.asarray(jax.vmap(lambda key: spec.actions.noise(key, (4,)))(jax.random.split(jax.random.key(0), 2)))
    action, sent, _ = jax.vmap(_sampled)(state, Inputs(observation), noise)
    np.testing.assert_allclose(
        HostPolicy(state.network, state.observations)(observation, noise), (action, sent), atol=2e-5
    )
