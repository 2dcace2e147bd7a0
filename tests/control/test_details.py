"""The details of an implementation that decide results: each setting does what its name says."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from helpers import config, trainer

import tightrein as tr
from tightrein.parts import GAE, Adam, ValueLoss


def batch(**fields: Any) -> tr.Decisions:
    """Four rows of five steps, a truncation inside the second and a termination inside the third."""
    rng = np.random.default_rng(0)
    made: dict[str, Any] = {name: rng.standard_normal((4, 5)) for name in ("reward", "value_old", "value_next")}
    made |= {"terminated": np.zeros((4, 5)), "truncated": np.zeros((4, 5))}
    made["truncated"][1, 2] = made["terminated"][2, 3] = 1.0
    return tr.Decisions(**{**made, **fields})


def test_a_truncation_that_terminates_is_a_termination_and_the_end_of_a_row_is_none() -> None:
    d, merged = batch(), GAE(truncation_terminates=True)
    both = d.replace(terminated=np.maximum(d.terminated, d.truncated), truncated=0 * d.truncated)
    np.testing.assert_array_equal(merged(d).advantage, GAE()(both).advantage)
    apart = merged(d).advantage != GAE()(d).advantage
    assert apart[1, :3].all()
    assert apart.sum() == 3
    last = GAE()(d).advantage[:, -1]
    np.testing.assert_allclose(last, (d.reward + 0.99 * d.value_next - d.value_old)[:, -1])
    np.testing.assert_array_equal(merged(d).advantage[:, -1], last)


def test_a_truncation_without_a_value_behind_it_needs_none_where_it_terminates() -> None:
    d = batch(value_next=None)
    with pytest.raises(tr.TightreinError, match="behind the cuts"):
        GAE()(d)
    assert np.isfinite(GAE(truncation_terminates=True)(d).advantage).all()


@pytest.mark.parametrize("backend", ["gymnax", "envpool"])
def test_both_kinds_of_environments_tell_truncations(backend: str) -> None:
    given = {
        "env": "Pendulum-v1", "backend": backend, "rollout": 201, "total_steps": 402, "minibatches": 1, "epochs": 1,
        "normalise_obs": False, "normalise_reward": False,
    }  # fmt: skip
    learned = []
    for merged in ("false", "true"):
        made = trainer(config(**given, set=(f"truncation_terminates={merged}",)))
        learned.append(float(made.run(0, 1).stats["value_loss"][0]))  # of the target: episodes end after 200 steps
    assert np.abs(learned[0] - learned[1]) > 1e-3


def test_advantages_are_standardised_over_the_batch_or_in_each_minibatch() -> None:
    whole = GAE(standardise=True)(batch()).advantage
    np.testing.assert_allclose([whole.mean(), whole.std(ddof=1)], [0.0, 1.0], atol=1e-7)
    method = tr.method("ppo_clip", **{"objective.standardise": True, "objective.value.coef": 0.0})
    rng = np.random.default_rng(0)
    advantage, logp, old = rng.standard_normal((3, 8, 1))
    d = tr.Decisions(logp=logp, logp_old=old, advantage=advantage)
    moved = d.replace(advantage=7 * advantage + 3)
    np.testing.assert_allclose(method.loss(d).value, method.loss(moved).value, rtol=1e-6)
    plain = method.override({"objective.standardise": False})
    assert abs(plain.loss(d).value - plain.loss(moved).value) > 0.1


def test_the_value_loss_is_the_worse_of_the_plain_and_the_clipped_one() -> None:
    d = tr.Decisions(
        value=np.array([[1.0, 0.1, -1.0]]), value_old=np.zeros((1, 3)), returns=np.array([[2.0, 2.0, 2.0]])
    )
    np.testing.assert_allclose(ValueLoss()(d), 0.5 * np.array([[1.0, 1.9**2, 9.0]]))
    np.testing.assert_allclose(ValueLoss(clip_range=0.2)(d), 0.5 * np.array([[1.8**2, 1.9**2, 9.0]]))


def test_the_learning_rate_falls_linearly_to_0_over_all_gradient_steps_of_a_run() -> None:
    step = Adam(anneal=True)
    assert [float(step.schedule(np.asarray(n), 100)) for n in (0, 25, 100)] == [1.0, 0.75, 0.0]
    learner = trainer(config(set=("step.anneal=true",)))._learner
    assert learner.solver.descent.updates == 320 // 32 * 2 * 2  # iterations, epochs, minibatches


def test_the_global_norm_is_what_is_clipped_and_epsilon_stands_beside_the_root() -> None:
    gradient = {"a": jnp.full(3, 3.0), "b": jnp.full((2, 2), -2.0)}
    rule = Adam(max_grad_norm=0.5).optax(10)
    _, state = rule.update(gradient, rule.init(gradient), gradient)
    assert float(state.norm) == pytest.approx(43**0.5, rel=1e-5)
    assert float(state.applied) == pytest.approx(0.5, rel=1e-5)
    one = jnp.ones(1)
    for eps, moved in ((1e-8, 1.0), (1.0, 0.5)):
        adam = Adam(learning_rate=1.0, eps=eps).optax(10)
        np.testing.assert_allclose(adam.update(one, adam.init(one), one)[0], [-moved], rtol=1e-5)
