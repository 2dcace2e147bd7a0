"""The normalisers against NumPy."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np

from tightrein.engines.control.normalise import Moments, RewardScale


def test_moments_are_those_of_everything_unmasked() -> None:
    rng = np.random.default_rng(0)
    batches = [rng.normal(3, 2, (7, 4, 5)) for _ in range(6)]
    masks = [rng.random((7, 4)) < 0.7 for _ in batches]
    moments = Moments.of_shape((5,))
    np.testing.assert_allclose(moments.normalise(jnp.full(5, 0.5)), 0.5, rtol=1e-6)  # nothing seen: the identity
    for batch, mask in zip(batches, masks, strict=True):
        moments = moments.update(jnp.asarray(batch), jnp.asarray(mask, jnp.float32))
    kept = np.concatenate([batch[mask] for batch, mask in zip(batches, masks, strict=True)])
    np.testing.assert_allclose(moments.mean, kept.mean(0), rtol=1e-5)
    np.testing.assert_allclose(moments.var, kept.var(0), rtol=1e-5)
    assert float(moments.count) == len(kept)
    assert np.abs(moments.normalise(jnp.full(5, 1e6))).max() == 10


def test_an_empty_batch_changes_nothing() -> None:
    moments = Moments.of_shape((2,)).update(jnp.ones((3, 2)), jnp.zeros(3))
    assert float(moments.count) == 0
    assert np.isfinite(moments.normalise(jnp.ones(2))).all()


def test_rewards_are_divided_by_the_deviation_of_the_discounted_return() -> None:
    rng = np.random.default_rng(1)
    reward, done = rng.normal(1, 3, (40, 2)), (rng.random((40, 2)) < 0.1).astype(float)
    scale, gamma = RewardScale.of_envs(2), 0.9
    for half in (slice(0, 20), slice(20, 40)):  # the return runs on from rollout to rollout
        scale = scale.update(jnp.asarray(reward[half]), jnp.asarray(done[half]), jnp.ones((20, 2)), gamma)
    returns, running = [], np.zeros(2)
    for r, d in zip(reward, done, strict=True):
        running = running * gamma + r
        returns.append(running)
        running = running * (1 - d)
    np.testing.assert_allclose(scale.moments.var, np.var(returns), rtol=1e-4)
    np.testing.assert_allclose(scale.normalise(jnp.asarray(2.0)), 2 / np.std(returns), rtol=1e-4)
