"""Exact properties of natural policy gradients and of the trust region for values."""

from __future__ import annotations

import numpy as np

from ...arrays import Array, convert, installed, tanh
from ...catalogue import method
from ...step import GaussNewton, NaturalGradient, PlainNaturalGradient
from ...step.gauss_newton import Linearised, in_jax, in_torch
from ..pin import pin
from .solvers import near

EXACT = PlainNaturalGradient(damping=0.0, iterations=100, tolerance=1e-28)


def softmax(logits: Array) -> Array:
    """Probabilities over the last axis."""
    raised = np.exp(logits - logits.max(-1, keepdims=True))
    return raised / raised.sum(-1, keepdims=True)


def natural(logits: Array, q: Array, visits: Array | float = 1.0) -> Array:
    """The natural gradient of a table of logits [..., A], for values q [..., A] of its actions: [..., A].

    visits: how often each state is seen [..., 1]. The Fisher matrix of a state is diag(p) - pp'.
    """
    p = softmax(logits)
    slope = visits * p * (q - (p * q).sum(-1, keepdims=True))

    def fisher(v: Array) -> Array:
        rows = v.reshape(logits.shape)
        return (visits * p * (rows - (p * rows).sum(-1, keepdims=True))).ravel()

    return EXACT.direction(slope.ravel(), fisher)[0].reshape(logits.shape)


@pin("npg")
def multiplicative_weights() -> None:
    """Uniform over two actions, Q = (1, 0), eta / (1 - gamma) = 1: pi' = (e, 1) / (1 + e) = (.7311, .2689)."""
    start = np.zeros(2)
    near(softmax(start + natural(start, np.array([1.0, 0.0]))), [np.e / (1 + np.e), 1 / (1 + np.e)], 1e-12)
    logits, q = np.array([[0.3, -0.2, 1.0], [0.0, 2.0, -1.0]]), np.array([[1.0, -2.0, 0.4], [0.1, 0.2, 0.9]])
    for visits in (1.0, np.array([[0.9], [0.1]])):  # whichever states are seen how often
        near(softmax(logits + 0.7 * natural(logits, q, visits)), softmax(logits + 0.7 * q), 1e-12)


@pin("npg")
def a_baseline_changes_nothing() -> None:
    """What is added to the values of all actions of a state does not change the new policy."""
    logits, q = np.array([[0.3, -0.2, 1.0], [0.0, 2.0, -1.0]]), np.array([[1.0, -2.0, 0.4], [0.1, 0.2, 0.9]])
    moved = natural(logits, q + np.array([[5.0], [-3.0]]))
    near(softmax(logits + moved), softmax(logits + natural(logits, q)), 1e-12)


@pin("npg")
def whatever_the_parameters() -> None:
    """Parameters theta = B phi instead: the policy's logits take the same step, B dphi = dtheta."""
    rng = np.random.default_rng(0)
    root, slope, change = rng.standard_normal((5, 5)), rng.standard_normal(5), rng.standard_normal((5, 5))
    fisher = root @ root.T + np.eye(5)
    step = EXACT.full_step(slope, lambda v: fisher @ v)
    other = EXACT.full_step(change.T @ slope, lambda v: change.T @ fisher @ (change @ v))
    near(change @ other, step, 1e-9)


@pin("npg")
def the_direction_of_trpo() -> None:
    """The normalised step is TRPO's before its line search, and the plain one rate times F^-1 g."""
    rng = np.random.default_rng(1)
    root, slope = rng.standard_normal((6, 6)), rng.standard_normal(6)
    fisher = root @ root.T + 0.1 * np.eye(6)
    mine, theirs = method("npg").step, method("trpo").step
    assert isinstance(mine, PlainNaturalGradient)
    assert isinstance(theirs, NaturalGradient)
    near(mine.full_step(slope, lambda v: fisher @ v), theirs.full_step(slope, lambda v: fisher @ v), 0)

    def evaluate(x: Array) -> tuple[Array, Array]:
        return -slope @ x, 0.5 * x @ fisher @ x

    start = np.zeros(6)
    new, report = EXACT.move(start, -slope, lambda v: fisher @ v, evaluate)
    near(report["kl_step"], 0.01, 1e-9)  # the quadratic model is exact here
    near(new, report["natural_rate"] * np.linalg.solve(fisher, slope), 1e-9)
    plain, _ = EXACT.replace(rate=0.3).move(start, -slope, lambda v: fisher @ v, evaluate)
    near(plain, 0.3 * np.linalg.solve(fisher, slope), 1e-9)


RNG = np.random.default_rng(2)
FEATURES, RETURNS = RNG.standard_normal((30, 4)), RNG.standard_normal(30)
TIGHT = GaussNewton(iterations=50, tolerance=1e-28)


def linear(weights: Array) -> Linearised:
    """V = features times weights."""
    return Linearised(FEATURES @ weights, lambda v: FEATURES @ v, lambda u: FEATURES.T @ u, lambda w: FEATURES @ w)


@pin("gae_value_trust_region")
def the_bound_is_met() -> None:
    """For a linear V the constraint holds with equality; the error falls."""
    start, mask = np.array([3.0, -2.0, 1.0, 0.5]), np.ones(30)
    for epsilon in (1e-3, 0.1):
        new, report = TIGHT.replace(epsilon=epsilon).move(start, linear(start), RETURNS, mask)
        error = FEATURES @ start - RETURNS
        near(np.mean((FEATURES @ (new - start)) ** 2) / (2 * np.mean(error**2)), epsilon, 1e-12)
        near(report["value_constraint"], epsilon, 1e-12)
        assert report["value_loss"] < 0.5 * np.mean(error**2)


@pin("gae_value_trust_region")
def without_a_bound_least_squares() -> None:
    """As epsilon grows the step becomes -H^-1 g, least squares for a linear V, and is not lengthened beyond."""
    start, mask = np.array([3.0, -2.0, 1.0, 0.5]), (np.arange(30) < 20).astype(float)
    best = np.linalg.lstsq(FEATURES[:20], RETURNS[:20], rcond=None)[0]
    unbounded = TIGHT.replace(slack=None)
    for epsilon in (10.0, 1e9):
        near(unbounded.replace(epsilon=epsilon).move(start, linear(start), RETURNS, mask)[0], best, 1e-9)
    tight, _ = unbounded.replace(epsilon=1e-4).move(start, linear(start), RETURNS, mask)
    near((tight - start) / np.linalg.norm(tight - start), (best - start) / np.linalg.norm(best - start), 1e-9)


@pin("gae_value_trust_region")
def nothing_to_learn() -> None:
    """Where the old values are the returns, g = 0 and nothing moves."""
    start = np.array([3.0, -2.0, 1.0, 0.5])
    new, report = TIGHT.move(start, linear(start), FEATURES @ start, np.ones(30))
    near(new, start, 0)
    near([report["value_constraint"], report["value_loss"]], [0, 0], 0)
    near([report["explained_variance_before"], report["explained_variance"]], [1, 1], 0)


@pin("gae_value_trust_region")
def products_are_those_of_the_jacobian() -> None:
    """H v, never a matrix, is (1 / N) J'J v of a network with a hidden layer, to rounding."""
    first, second, v = RNG.standard_normal((4, 3)), RNG.standard_normal(3), RNG.standard_normal(15)
    hidden = np.tanh(FEATURES @ first)
    by_first = FEATURES[:, :, None] * ((1 - hidden**2) * second)[:, None, :]
    jacobian = np.concatenate([by_first.reshape(30, 12), hidden], axis=1)
    for library in installed()[1:]:
        network, features = linearised(library, [first, second]), convert(FEATURES, library)
        given = convert(v, library)
        found = network.backward(network.forward(given) / len(features))
        near(convert(found, "NumPy"), jacobian.T @ (jacobian @ v) / 30, 1e-12)


def linearised(library: str, weights: list[Array]) -> Linearised:
    """A network with a hidden layer of tanh, in one of the libraries that have gradients."""
    features, given = convert(FEATURES, library), [convert(w, library) for w in weights]
    if library == "JAX":
        return in_jax(lambda w: tanh(features @ w[0]) @ w[1], given)[1]
    given = [w.requires_grad_() for w in given]
    return in_torch(lambda: (features @ given[0]).tanh() @ given[1], given)[1]
