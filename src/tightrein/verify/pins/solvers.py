"""Exact properties of the methods whose update is more than a gradient step."""

from __future__ import annotations

import numpy as np

from ...anchor.controller import AdamDual, MirrorStep
from ...arrays import Array, convert, value_and_gradient
from ...catalogue import method
from ...decisions import Decisions
from ...distributions import Categorical
from ...objective.divergence import ExactNewKL, ExactOldKL
from ...step import NaturalGradient
from ...step.natural import conjugate_gradient
from .. import batches
from ..pin import pin

FISHER, SLOPE = np.diag([2.0, 1.0]), np.array([1.0, 1.0])
EXACT = NaturalGradient(delta=0.01, damping=0.0)


def near(found: object, expected: object, tolerance: float = 1e-9) -> None:
    """Assert that numbers are those expected."""
    np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance)  # type: ignore[call-overload]


def fisher(v: Array) -> Array:
    """F v."""
    return FISHER @ v


def table(logits: Array, old: Array, advantage: Array | None = None) -> Decisions:
    """Every action of one state once, so that a mean over the rows is an expectation under the old policy.

    logits, old: [A], of the policy and of the old one. advantage: [A].
    """
    count, probabilities = len(old), np.exp(Categorical(old).log_probs())
    gain = np.zeros(count) if advantage is None else advantage
    rows = np.arange(count)
    return Decisions(
        logp=Categorical(logits).log_probs()[rows, None],
        logp_old=Categorical(old).log_probs()[rows, None],
        advantage=(count * probabilities * gain)[:, None],
        dist=Categorical(np.broadcast_to(logits, (count, 1, count)).copy()),
        dist_old=Categorical(np.broadcast_to(old, (count, 1, count)).copy()),
    )


@pin("trpo")
def numbers_of_the_step() -> None:
    """F = diag(2, 1), g = (1, 1), delta = 0.01: x = (0.5, 1), x'Fx = 1.5, the step is (0.057735, 0.115470)."""
    x = conjugate_gradient(fisher, SLOPE, iterations=10, tolerance=1e-10)
    near(x, [0.5, 1.0])
    near(x @ fisher(x), 1.5)
    near(EXACT.full_step(SLOPE, fisher), [0.057735027, 0.115470054])


@pin("trpo")
def the_step_uses_the_whole_region() -> None:
    """Half the squared length of the full step in the Fisher metric is delta."""
    step = EXACT.full_step(SLOPE, fisher)
    near(0.5 * step @ fisher(step), 0.01)


@pin("trpo")
def scale_of_advantages() -> None:
    """Advantages times c > 0 leave the full step as it is."""
    for scale in (1e-2, 3.0, 1e4):
        near(EXACT.full_step(scale * SLOPE, fisher), EXACT.full_step(SLOPE, fisher))


@pin("trpo")
def no_gradient_no_update() -> None:
    """Without a gradient nothing moves."""
    start = np.array([0.3, -0.7])
    new, report = EXACT.move(start, 0 * SLOPE, fisher, lambda x: (0 * x.sum(), 0 * x.sum()))
    near(new, start, 0)
    near(report["kl_step"], 0, 0)


@pin("trpo")
def the_search_halves_until_it_fits() -> None:
    """The step is halved until KL <= slack delta and the surrogate gains; where it never does, nothing moves."""
    start, full = np.zeros(2), EXACT.full_step(SLOPE, fisher)

    def evaluate(x: Array) -> tuple[Array, Array]:
        return -SLOPE @ x, 2.5 * x @ FISHER @ x  # five times the model of the KL: 0.05, 0.0125, 0.003125

    new, report = EXACT.replace(slack=1.5).move(start, -SLOPE, fisher, evaluate)
    near(new, full / 2)
    near([report["kl_step"], report["step_size"], report["accepted"]], [0.0125, 0.5, 1])
    near(EXACT.move(start, -SLOPE, fisher, evaluate)[0], full / 4)
    worse, report = EXACT.move(start, -SLOPE, fisher, lambda x: (SLOPE @ x, 0 * x.sum()))
    near(worse, start, 0)
    near(report["accepted"], 0, 0)
    unbounded = EXACT.replace(slack=None, improvement=0.1).move(start, -SLOPE, fisher, evaluate)
    near(unbounded[0], full)


@pin("trpo")
def fisher_matrix_of_a_softmax() -> None:
    """The Hessian of KL(pi_old || pi) by the logits, at pi_old, is diag(p) - pp'."""
    logits, step = np.array([0.4, -0.3, 1.1, 0.0]), 1e-5
    p = np.exp(Categorical(logits).log_probs())

    def slope(x: Array) -> Array:
        old = Categorical(convert(logits, batches.autodiff()))
        given = {"x": convert(x, batches.autodiff())}
        _, found = value_and_gradient(lambda new: old.kl(Categorical(new["x"])), given)
        return np.asarray(convert(found["x"], "NumPy"))

    columns = [(slope(logits + step * e) - slope(logits - step * e)) / (2 * step) for e in np.eye(4)]
    near(np.stack(columns), np.diag(p) - np.outer(p, p), 1e-9)


@pin("fixpo")
def the_multiplier_follows_the_largest_divergence() -> None:
    """max KL 0.3 at bound 0.2 and factor 2: the slope is -0.4 and beta grows; at max KL 0.1 it rests; never below 0."""
    dual = AdamDual()
    grown = dual.next(dual.start(), np.asarray(0.3), 0.0)
    near([grown["beta"], grown["mean"]], [1.01, 0.1 * -0.4], 1e-8)
    near(dual.next(dual.start(), np.asarray(0.1), 0.0)["beta"], 1.0)
    near(dual.next({**dual.start(), "beta": 0.005}, np.asarray(0.0), 0.0)["beta"], 0.0)
    trust = method("fixpo").objective.trust  # type: ignore[attr-defined]
    d = table(np.array([1.0, 0.0, -1.0]), np.zeros(3))
    further = Categorical(np.array([1.0, 2.0, 9.0])[:, None, None] * np.array([1.0, 0.0, -1.0]))
    d = d.replace(mask=np.array([[1.0], [1.0], [0.0]]), dist=further)  # the furthest of the three does not count
    kl = d.dist_old.kl(d.dist)  # type: ignore[union-attr,arg-type]
    near(trust.measured(d), kl[1, 0])


@pin("fixpo")
def the_penalty_is_beta_times_the_mean() -> None:
    """The loss is -r A + beta KL(pi_old || pi) - 0.01 H at the multiplier that the state holds."""
    m = method("fixpo").override({"objective.value.coef": 0.0, "objective.standardise": False})
    d = table(np.array([0.6, -0.2, 0.1]), np.array([0.0, 0.3, -0.1]), np.array([1.0, -1.0, 0.5]))
    d = d.replace(entropy=d.dist.entropy())  # type: ignore[union-attr]
    kl = float(d.dist_old.kl(d.dist)[0, 0])  # type: ignore[union-attr,arg-type]
    plain = -float(np.mean(np.exp(d.logp - d.logp_old) * d.advantage)) - 0.01 * float(d.entropy[0, 0])
    for beta in (0.0, 0.7, 3.0):
        near(m.loss(d, {"objective.trust": {**AdamDual().start(), "beta": beta}}).value, plain + beta * kl)


@pin("mdpo_on")
def direction_of_the_divergence() -> None:
    """pi_old = (.5, .5), pi = (.6, .4): KL(pi || pi_old) = 0.0201355, the other way 0.0204110."""
    d = table(np.log([0.6, 0.4]), np.log([0.5, 0.5]))
    near(ExactNewKL()(d)[0, 0], 0.0201355, 5e-8)
    near(ExactOldKL()(d)[0, 0], 0.0204110, 5e-8)


@pin("mdpo_on")
def minimiser_of_a_table() -> None:
    """The exact minimiser is pi_old exp(t A), normalised: the gradient vanishes there, and only the loss's."""
    old, advantage = np.array([0.2, -0.5, 0.9, 0.0]), np.array([1.0, -2.0, 0.3, 0.5])
    m = method("mdpo_on")
    for left in (1.0, 0.5, 0.05):
        state = {"objective.trust": 1 / left}
        best = old + left * advantage
        found = batches.gradients(m, table(best, old, advantage), state)
        total = found["dist.logits"].sum((0, 1)) + by_logits(found["logp"][:, 0], best)
        near(total, 0, 1e-12)
        at_best = float(m.loss(table(best, old, advantage), state).value)
        for shift in 0.1 * np.eye(4):
            assert float(m.loss(table(best + shift, old, advantage), state).value) > at_best


def by_logits(by_logp: Array, logits: Array) -> Array:
    """The gradient by logits that one by the log-probabilities of all actions amounts to."""
    return by_logp - np.exp(Categorical(logits).log_probs()) * by_logp.sum()


@pin("mdpo_on")
def schedule_of_the_step_size() -> None:
    """t_k = 1 - k/K: the coefficient is 1 at first, 2 halfway, 10 at nine tenths, and finite at the end."""
    mirror = MirrorStep()
    near(mirror.start(), 1.0)
    found = [mirror.next(np.asarray(1.0), np.asarray(0.3), progress) for progress in (0.5, 0.9, 1.0)]
    near(found, [2.0, 10.0, 1000.0], 1e-9)
