"""Who collects, what is kept of it, and how much of an episode a loss sees at a time."""

from __future__ import annotations

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import tightrein as tr
from tightrein.behaviour import PROPS
from tightrein.engines.control.actions import ContinuousActions, DiscreteActions
from tightrein.engines.control.behaviour import Sampler
from tightrein.engines.control.networks import Architecture, Inputs
from tightrein.engines.control.rollout import Rollout
from tightrein.errors import TightreinError


def chunk(steps: int, action: int) -> Rollout:
    """`steps` steps of two environments in which one action was always taken."""
    one = jnp.ones((steps, 2))
    observation = jnp.ones((steps, 2, 3))
    return Rollout(observation, jnp.full((steps, 2), action), one, 0 * one, 0 * one, observation, one)


def test_the_behaviour_policy_avoids_what_was_taken_too_often() -> None:
    sampler = Sampler(PROPS(rollouts=1, chunks=4, target=1.0), steps=8, updates=100)
    network = Architecture(hidden=(8,)).build(np.random.default_rng(0), (3,), DiscreteActions(2))
    kept = sampler.empty(network, jnp.zeros(3), 2)
    state = sampler.descent.init(network.actor)
    same, _ = sampler.derive(network, state, Inputs(kept.observation), kept, jax.random.key(0))
    assert jax.tree.all(jax.tree.map(lambda a, b: bool((a == b).all()), same.actor, network.actor))
    for _ in range(3):
        kept = sampler.pushed(kept, chunk(sampler.chunk, 1))
    assert kept.mask.shape == (8, 2)
    assert float(kept.mask.sum()) == 12
    other, _ = sampler.derive(network, state, Inputs(kept.observation), kept, jax.random.key(0))
    probability = [float(jnp.exp(n.policy(Inputs(jnp.ones(3))).log_probs())[1]) for n in (network, other)]
    assert probability[1] < probability[0] - 0.02


def test_chunks_divide_the_rollout(tmp_path: Path) -> None:
    with pytest.raises(TightreinError, match="8 chunks do not divide"):
        tr.train("control", method="props", envs=16, rollout=100, total_steps=1600, quiet=True, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_identity_of_actions() -> None:
    taken = jnp.asarray([[0, 1], [1, 1]])
    assert (DiscreteActions(2).identity(taken) == taken).all()
    vectors = ContinuousActions((-1.0,), (1.0,)).identity(jnp.zeros((2, 3, 1)))
    assert vectors.shape == (2, 3)
    assert len(set(np.asarray(vectors).ravel().tolist())) == 6
