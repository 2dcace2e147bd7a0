"""Steps of second order: conjugate gradient on Fisher products, then a line search or none.

The algorithm is written once, on flat vectors of any array library; `jax` and `torch` hand it their parameters.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from ..arrays import Array, library, namespace
from ..settings import setting
from .base import Step

Product = Callable[[Array], Array]  # v [n] -> F v [n]
Evaluation = Callable[[Array], tuple[Array, Array]]  # parameters [n] -> (surrogate loss, mean KL from the old policy)
Report = dict[str, Array]


@dataclass(frozen=True)
class SecondOrder(Step):
    """Base of the steps along the natural gradient x, where F x = g.

    F is the Hessian of the mean KL(pi_old || pi) at pi_old, the Fisher matrix, of which only products with vectors
    are made, on every `subsample`-th decision; `damping` is added to its diagonal.
    """

    needs = frozenset({"dist", "dist_old"})
    delta: float = setting(0.01, above=0)
    damping: float = setting(1e-3, at_least=0)
    iterations: int = setting(10, at_least=1)
    tolerance: float = setting(1e-10, at_least=0)
    subsample: int = setting(1, at_least=1)

    def move(self, old: Array, gradient: Array, product: Product, evaluate: Evaluation) -> tuple[Array, Report]:
        """New parameters and the report.

        old: parameters [n]. gradient: that of the surrogate loss there [n]. product: v -> F v, not damped yet.
        """
        raise NotImplementedError

    def direction(self, ascent: Array, product: Product) -> tuple[Array, Array]:
        """The natural gradient x [n] of `ascent`, and the rate at which its quadratic model of the KL is delta.

        The rate is 0 where the gradient is 0.
        """
        xp = namespace(ascent)

        def damped(v: Array) -> Array:
            return product(v) + self.damping * v

        x = conjugate_gradient(damped, ascent, self.iterations, self.tolerance)
        curvature = xp.sum(x * damped(x))
        positive = curvature > 0
        square = 2 * self.delta / xp.where(positive, curvature, xp.ones_like(curvature))
        return x, xp.where(positive, xp.sqrt(square), xp.zeros_like(square))

    def full_step(self, ascent: Array, product: Product) -> Array:
        """The step whose quadratic model of the KL is exactly delta; 0 where the gradient is 0: [n]."""
        x, rate = self.direction(ascent, product)
        return rate * x

    def jax(self, surrogate: Any, divergence: Any, parameters: Any, sample: Any = None) -> tuple[Any, Report]:
        """The step for a pytree of JAX arrays: new parameters and the report; can be compiled.

        surrogate, divergence: functions of the parameters that return a scalar, the loss to lower and the mean KL
        from the policy of `parameters`. sample: the same KL on fewer decisions, for the Fisher products.
        """
        import jax
        from jax.flatten_util import ravel_pytree

        old, unravel = ravel_pytree(parameters)
        gradient = jax.grad(lambda flat: surrogate(unravel(flat)))(old)
        _, product = jax.linearize(jax.grad(lambda flat: (sample or divergence)(unravel(flat))), old)

        def evaluate(flat: Array) -> tuple[Array, Array]:
            return surrogate(unravel(flat)), divergence(unravel(flat))

        new, report = self.move(old, gradient, product, evaluate)
        return unravel(new), report

    def torch(self, surrogate: Any, divergence: Any, parameters: Sequence[Any], sample: Any = None) -> Report:
        """The step for PyTorch parameters, which it changes in place; returns the report.

        surrogate, divergence, sample: as for `jax`, but functions without arguments of the parameters as they are.
        """
        import torch
        from torch.nn.utils import parameters_to_vector, vector_to_parameters

        def gradient(scalar: Array, again: bool = False) -> Array:
            kept: dict[str, Any] = {"create_graph": again, "retain_graph": True, "materialize_grads": True}
            return parameters_to_vector(torch.autograd.grad(scalar, parameters, **kept))

        @torch.no_grad()
        def evaluate(flat: Array) -> tuple[Array, Array]:
            vector_to_parameters(flat, parameters)
            return surrogate(), divergence()

        old = parameters_to_vector(parameters).detach().clone()
        slope = gradient((sample or divergence)(), again=True)
        new, report = self.move(old, gradient(surrogate()), lambda v: gradient(slope @ v), evaluate)
        vector_to_parameters(new, parameters)
        return report


@dataclass(frozen=True)
class NaturalGradient(SecondOrder):
    """The largest step along the natural gradient that the trust region allows. arXiv 1502.05477, appendix C.

    The line search shrinks the step up to `tries` times until the surrogate gains at least `improvement` of what its
    gradient promises and the measured KL is at most `slack` * delta (None: not checked); if no step does, the
    parameters stay.

    The report holds `kl_step` (mean KL of the step taken), `step_size` (alpha; 0 where none was accepted), `accepted`
    (1 or 0) and `surrogate_gain`.
    """

    equation = (
        "theta + alpha sqrt(2 delta / x'Fx) x,  F x = g,  alpha = 1, shrink, ... until KL <= slack delta, L grows"
    )
    tries: int = setting(10, at_least=1)
    shrink: float = setting(0.5, above=0, below=1)
    slack: float | None = setting(1.0, above=0)
    improvement: float = setting(0.0, at_least=0, below=1)

    def move(self, old: Array, gradient: Array, product: Product, evaluate: Evaluation) -> tuple[Array, Report]:
        """See SecondOrder."""
        step = self.full_step(-gradient, product)
        limit = math.inf if self.slack is None else self.slack * self.delta
        promised = -self.improvement * namespace(old).sum(gradient * step)
        new, found = line_search(old, step, evaluate, promised, limit, self.tries, self.shrink)
        named = {"kl_step": found.divergence, "surrogate_gain": found.gain}
        return new, {**named, "step_size": found.size, "accepted": found.accepted}


@dataclass(frozen=True)
class PlainNaturalGradient(SecondOrder):
    """One step along the natural gradient, without a line search. Kakade (2001); arXiv 1703.02660, eq. 6.

    Its length is such that the quadratic model of the KL is delta; with a `rate` it is theta + rate x instead, and
    delta means nothing.

    The report holds `kl_step` (measured mean KL), `surrogate_gain` and `natural_rate`, what x was multiplied by.
    """

    equation = "theta + sqrt(2 delta / x'Fx) x,  F x = g   or   theta + rate x"
    rate: float | None = setting(None, above=0)

    def move(self, old: Array, gradient: Array, product: Product, evaluate: Evaluation) -> tuple[Array, Report]:
        """See SecondOrder."""
        x, normalised = self.direction(-gradient, product)
        rate = normalised if self.rate is None else self.rate + 0 * normalised
        new = old + rate * x
        before, after = evaluate(old), evaluate(new)
        return new, {"kl_step": after[1], "surrogate_gain": before[0] - after[0], "natural_rate": rate}


class Found(NamedTuple):
    """What a line search came to: the share of the step, loss gained and divergence there, and 1; all 0 if nothing."""

    size: Array
    gain: Array
    divergence: Array
    accepted: Array


def line_search(
    old: Array, step: Array, evaluate: Evaluation, promised: Array, limit: Array | float, tries: int, shrink: float
) -> tuple[Array, Found]:
    """old + alpha step for the first alpha of 1, shrink, shrink^2, ... at which all is well; else old.

    That is where the loss falls by at least alpha `promised` and the divergence is at most `limit`, after at most
    `tries`. old, step: [n]. evaluate: [n] -> (loss, divergence).
    """
    xp = namespace(old)
    before, _ = evaluate(old)
    zero = xp.zeros_like(promised)

    def searching(carry: Any) -> Any:
        return (carry[0] < tries) & ~carry[-1]

    def smaller(carry: Any) -> Any:
        alpha = shrink * carry[1]
        after, divergence = evaluate(old + alpha * step)
        gain = before - after
        accepted = (gain >= alpha * promised) & (gain < xp.inf) & (divergence <= limit)
        return carry[0] + 1, alpha, gain, divergence, accepted

    start = (0, zero + 1 / shrink, zero, zero, zero > 0)
    _, alpha, gain, divergence, accepted = repeat_while(searching, smaller, start)
    found = (xp.where(accepted, x, zero) for x in (alpha, gain, divergence, xp.ones_like(zero)))
    return xp.where(accepted, old + alpha * step, old), Found(*found)


def conjugate_gradient(product: Product, b: Array, iterations: int, tolerance: float) -> Array:
    """Solve A x = b for a positive definite A, given as v -> A v: [n].

    Ends after `iterations`, or when the squared residual is at most `tolerance`.
    """
    xp = namespace(b)

    def unsolved(carry: Any) -> Any:
        return (carry[0] < iterations) & (carry[-1] > tolerance)

    def improve(carry: Any) -> Any:
        i, x, residual, direction, square = carry
        image = product(direction)
        curvature = xp.sum(direction * image)
        positive = curvature > 0
        rate = xp.where(positive, square / xp.where(positive, curvature, xp.ones_like(square)), xp.zeros_like(square))
        x, residual = x + rate * direction, residual - rate * image
        new = xp.sum(residual * residual)
        return i + 1, x, residual, residual + new / square * direction, new

    start = (0, xp.zeros_like(b), b, b, xp.sum(b * b))
    return repeat_while(unsolved, improve, start)[1]


def repeat_while(condition: Callable[[Any], Any], body: Callable[[Any], Any], carry: Any) -> Any:
    """`carry = body(carry)` as long as `condition(carry)`; compiled where the last of `carry` is a JAX array."""
    if library(carry[-1]) == "JAX":
        import jax

        return jax.lax.while_loop(condition, body, carry)
    while bool(condition(carry)):
        carry = body(carry)
    return carry
