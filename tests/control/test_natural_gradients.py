"""Steps of second order without a search, and value networks fitted inside a trust region."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from helpers import assert_goes_on_bit_for_bit, config, trainer
from jax.flatten_util import ravel_pytree
from test_solvers import Watched

import tightrein as tr
from tightrein.engines.control.batch import evaluate
from tightrein.engines.control.compose import compose
from tightrein.errors import TightreinError
from tightrein.step import GaussNewton, NaturalGradient, PlainNaturalGradient

RNG = np.random.default_rng(0)
STATES, RETURNS, MASK = RNG.normal(size=(40, 3)), 2 + RNG.normal(size=40), (np.arange(40) < 30).astype(float)
WEIGHTS = {"first": RNG.normal(size=(3, 4)), "second": RNG.normal(size=4)}


@pytest.fixture
def float64():
    jax.config.update("jax_enable_x64", True)
    yield
    jax.config.update("jax_enable_x64", False)


def by_jax(step: GaussNewton, returns: np.ndarray = RETURNS) -> tuple[Any, Any]:
    def values(w: Any) -> Any:
        return jnp.tanh(jnp.asarray(STATES) @ w["first"]) @ w["second"]

    weights = {name: jnp.asarray(w) for name, w in WEIGHTS.items()}
    return jax.jit(lambda w: step.jax(values, jnp.asarray(returns), jnp.asarray(MASK), w))(weights)


def by_torch(step: GaussNewton) -> tuple[Any, Any]:
    weights = {name: torch.nn.Parameter(torch.as_tensor(w).clone()) for name, w in WEIGHTS.items()}
    states, returns, mask = (torch.as_tensor(x) for x in (STATES, RETURNS, MASK))
    values = lambda: torch.tanh(states @ weights["first"]) @ weights["second"]  # noqa: E731
    return weights, step.torch(values, returns, mask, list(weights.values()))


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("slack", [1.1, None])
def test_both_libraries_fit_the_same_values(slack: float | None) -> None:
    step = GaussNewton(slack=slack, iterations=4)
    (ours, report), (theirs, other) = by_jax(step), by_torch(step)
    for name in WEIGHTS:
        np.testing.assert_allclose(ours[name], theirs[name].detach(), rtol=0, atol=1e-9)
        assert np.abs(ours[name] - WEIGHTS[name]).max() > 1e-3
    for name, value in report.items():
        assert float(value) == pytest.approx(float(other[name]), abs=1e-9), name
    assert float(report["explained_variance"]) > float(report["explained_variance_before"])
    assert slack is None or 0.01 < float(report["value_constraint"]) <= 1.1 * 0.1


@pytest.mark.usefixtures("float64")
def test_visits_that_do_not_count_do_not_matter() -> None:
    unseen = np.where(MASK == 1, RETURNS, np.nan)
    for mine, theirs in zip(*(jax.tree.leaves(by_jax(GaussNewton(), r)) for r in (RETURNS, unseen)), strict=True):
        np.testing.assert_array_equal(mine, theirs)


def test_the_fit_of_values_stays_in_its_region_and_leaves_the_policy() -> None:
    watched = Watched(trainer(config(method="gae_value_trust_region")))
    for seed in range(3):
        before, solved, batch = watched.once(64, seed)
        stats = {name: float(x) for name, x in solved.stats.items()}
        was, now = (evaluate(network, batch) for network in (before.network, solved.network))
        errors = [np.asarray(d.value - batch.decisions.returns) for d in (was, now)]
        measured = np.mean((errors[1] - errors[0]) ** 2) / (2 * np.mean(errors[0] ** 2))
        assert stats["value_constraint"] == pytest.approx(measured, rel=1e-3)
        assert measured <= 1.1 * 0.1
        assert stats["value_loss"] == pytest.approx(0.5 * np.mean(errors[1] ** 2), rel=1e-4)
        assert np.mean(errors[1] ** 2) < np.mean(errors[0] ** 2)
    alone = watched.learner.solver.policy
    moved = jax.jit(alone.solve)(before.network, (), before.method, batch, jax.random.key(seed), 0.5).network
    for mine, theirs in zip(*(jax.tree.leaves(n.actor) for n in (moved, solved.network)), strict=True):
        np.testing.assert_allclose(mine, theirs, atol=1e-5)


def test_npg_takes_the_step_that_trpo_begins_with() -> None:
    watched = Watched(trainer(config(method="npg")))
    before, solved, batch = watched.once(64, 0)
    moved = evaluate(solved.network, batch)
    assert float(solved.stats["kl_step"]) == pytest.approx(float(moved.dist_old.kl(moved.dist).mean()), rel=1e-3)
    eager = NaturalGradient(tries=1, slack=None)

    def surrogate(actor: Any) -> Any:
        return watched.learner.method.loss(evaluate(before.network.with_actor(actor), batch)).value

    def divergence(actor: Any) -> Any:
        d = evaluate(before.network.with_actor(actor), batch)
        return d.dist_old.kl(d.dist).mean()

    theirs, report = eager.jax(surrogate, divergence, before.network.actor)
    assert report["accepted"] == 1
    vectors = (ravel_pytree(actor)[0] for actor in (before.network.actor, theirs, solved.network.actor))
    old, whole, mine = (np.asarray(v, np.float64) for v in vectors)
    assert np.linalg.norm(mine - whole) < 0.05 * np.linalg.norm(whole - old)  # rounding of conjugate gradient
    _, report = PlainNaturalGradient(rate=0.05).jax(surrogate, divergence, before.network.actor)
    assert report["natural_rate"] == pytest.approx(0.05)
    assert float(report["kl_step"]) < float(solved.stats["kl_step"])


@pytest.mark.parametrize("method", [pytest.param("npg", marks=pytest.mark.slow), "gae_value_trust_region"])
def test_they_go_on_bit_for_bit_from_a_checkpoint(method: str) -> None:
    made = trainer(config(method=method, seeds=2, rollout=32))
    assert_goes_on_bit_for_bit(made, 2)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"method": "trpo", "set": ("critic.step=NaturalGradient",)}, "cannot fit a value network"),
        ({"method": "gae_value_trust_region", "set": ("critic.loss.clip_range=0.2",)}, "minimises the squared error"),
        ({"method": "npg", "set": ("critic=none",)}, r"PlainNaturalGradient moves the policy alone(.|\n)*trpo"),
    ],
)
def test_what_does_not_fit_together_is_told(changes: dict, message: str) -> None:
    with pytest.raises(TightreinError, match=message):
        compose(config(**changes))


def test_any_method_may_fit_its_values_so() -> None:
    method = tr.method("mdpo_on", **{"critic.loss.clip_range": None, "critic.step": GaussNewton(epsilon=0.05)})
    assert isinstance(method.critic.step, GaussNewton)
    watched = Watched(trainer(config(method="mdpo_on", set=("critic.loss.clip_range=none", "critic.step=GaussNewton"))))
    _, solved, _ = watched.once(64, 0)
    assert 0 < float(solved.stats["value_constraint"]) <= 0.11
