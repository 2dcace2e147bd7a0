"""The natural-gradient step on the parameters of both libraries, against dense linear algebra."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from tightrein import TightreinError
from tightrein.engines.settings import check_step
from tightrein.step import NaturalGradient, Optimizer
from tightrein.step.natural import conjugate_gradient

RNG = np.random.default_rng(0)
STATES, ACTION, ADVANTAGE = RNG.normal(size=(64, 3)), RNG.integers(0, 4, 64), RNG.normal(size=64)
WEIGHTS = {"first": 0.5 * RNG.normal(size=(3, 5)), "second": 0.5 * RNG.normal(size=(5, 4))}
STEP = NaturalGradient(damping=1e-2, iterations=200, tolerance=1e-20, slack=1.5)


@pytest.fixture(autouse=True)
def float64():
    jax.config.update("jax_enable_x64", True)
    yield
    jax.config.update("jax_enable_x64", False)


def log_probs(weights: Any, xp: Any) -> Any:
    """Of a small network: [64, 4]."""
    logits = xp.tanh(as_array(STATES, xp) @ weights["first"]) @ weights["second"]
    return logits - xp.logsumexp(logits, 1)[:, None]


def as_array(x: np.ndarray, xp: Any) -> Any:
    return torch.as_tensor(x) if xp is torch else jnp.asarray(x)


class Jax:
    """jax.numpy with a logsumexp where torch has it."""

    tanh, logsumexp = staticmethod(jnp.tanh), staticmethod(jax.scipy.special.logsumexp)


def problem(xp: Any, old: Any) -> tuple[Any, Any]:
    """The surrogate loss and the mean KL from the policy of `old`, as functions of the weights."""
    before, rows = log_probs(old, xp), np.arange(64)

    def surrogate(weights: Any) -> Any:
        ratio = log_probs(weights, xp)[rows, ACTION] - before[rows, ACTION]
        return -(ratio * as_array(ADVANTAGE, xp)).mean()

    def divergence(weights: Any) -> Any:
        return (xp_exp(before, xp) * (before - log_probs(weights, xp))).sum(1).mean()

    return surrogate, divergence


def xp_exp(x: Any, xp: Any) -> Any:
    return torch.exp(x) if xp is torch else jnp.exp(x)


def by_jax() -> tuple[Any, Any]:
    weights = {name: jnp.asarray(w) for name, w in WEIGHTS.items()}
    return jax.jit(lambda w: STEP.jax(*problem(Jax, weights), w))(weights)


def by_torch() -> tuple[Any, Any]:
    weights = {name: torch.nn.Parameter(torch.as_tensor(w).clone()) for name, w in WEIGHTS.items()}
    old = {name: w.detach().clone() for name, w in weights.items()}
    surrogate, divergence = problem(torch, old)
    report = STEP.torch(lambda: surrogate(weights), lambda: divergence(weights), list(weights.values()))
    return weights, report


def test_both_libraries_take_the_same_step() -> None:
    (ours, report), (theirs, other) = by_jax(), by_torch()
    for name in WEIGHTS:
        np.testing.assert_allclose(ours[name], theirs[name].detach(), rtol=0, atol=1e-10)
        assert np.abs(ours[name] - WEIGHTS[name]).max() > 1e-3
    for name, value in report.items():
        assert float(value) == pytest.approx(float(other[name]), abs=1e-10), name
    assert 0 < float(report["kl_step"]) <= 0.015
    assert float(report["surrogate_gain"]) > 0


def test_the_step_solves_the_damped_system() -> None:
    weights = {name: jnp.asarray(w) for name, w in WEIGHTS.items()}
    flat, unravel = jax.flatten_util.ravel_pytree(weights)
    surrogate, divergence = problem(Jax, weights)
    fisher = jax.hessian(lambda x: divergence(unravel(x)))(flat) + STEP.damping * jnp.eye(flat.size)
    slope = -jax.grad(lambda x: surrogate(unravel(x)))(flat)
    x = jnp.linalg.solve(fisher, slope)
    expected = jnp.sqrt(2 * STEP.delta / (x @ fisher @ x)) * x
    moved, report = by_jax()
    found = (jax.flatten_util.ravel_pytree(moved)[0] - flat) / report["step_size"]
    np.testing.assert_allclose(found, expected, atol=1e-8)


def test_fisher_products_are_those_of_the_scores() -> None:
    """F = E[grad logp grad logp'], with the actions drawn from the policy."""
    weights = {name: jnp.asarray(w) for name, w in WEIGHTS.items()}
    flat, unravel = jax.flatten_util.ravel_pytree(weights)
    fisher = jax.hessian(lambda x: problem(Jax, weights)[1](unravel(x)))(flat)
    scores = jax.jacrev(lambda x: log_probs(unravel(x), Jax))(flat)
    p = jnp.exp(log_probs(weights, Jax))
    np.testing.assert_allclose(fisher, jnp.einsum("sa,sai,saj->ij", p, scores, scores) / 64, atol=1e-10)


@pytest.mark.parametrize("make", [np.asarray, torch.as_tensor, jnp.asarray])
def test_conjugate_gradient_in_every_library(make: Any) -> None:
    root = RNG.normal(size=(6, 6))
    matrix, b = root @ root.T + np.eye(6), RNG.normal(size=6)
    given = make(matrix)
    x = conjugate_gradient(lambda v: given @ v, make(b), iterations=50, tolerance=1e-24)
    np.testing.assert_allclose(np.asarray(x), np.linalg.solve(matrix, b), atol=1e-9)


def test_losses_that_are_not_finite_are_never_accepted() -> None:
    old = np.array([1.0, 2.0])
    for bad in (np.nan, -np.inf):
        new, report = STEP.move(old, np.ones(2), lambda v: v, lambda x, b=bad: (b if x[0] < 1 else 0.0, np.float64(0)))
        np.testing.assert_array_equal(new, old)
        assert report["accepted"] == 0


def test_an_engine_without_this_step_says_so() -> None:
    import tightrein as tr

    with pytest.raises(TightreinError, match=r"trpo moves its parameters by NaturalGradient(.|\n)*control"):
        check_step(tr.method("trpo"), "language", (Optimizer,))
    check_step(tr.method("grpo"), "language", (Optimizer,))
