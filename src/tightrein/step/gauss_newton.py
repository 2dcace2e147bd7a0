"""A value network fitted inside a trust region: one constrained Gauss-Newton step.

The algorithm is written once, on flat vectors of any array library; `jax` and `torch` hand it their parameters.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from ..arrays import Array, atmost, masked_mean, namespace, zero_where_masked
from ..settings import setting
from .base import Step
from .natural import Product, Report, conjugate_gradient, line_search


class Linearised(NamedTuple):
    """A value network at some parameters [n].

    values: V [...], one for each visit. forward: v [n] -> J v [...]. backward: u [...] -> J'u [n]. at: parameters -> V.
    """

    values: Array
    forward: Callable[[Array], Array]
    backward: Callable[[Array], Array]
    at: Callable[[Array], Array]


@dataclass(frozen=True)
class GaussNewton(Step):
    """The value function nearest to the returns within a trust region around the old one. arXiv 1506.02438, section 5.

    V is made linear in its parameters. The constraint is a mean KL between normal distributions around V_old and V, of
    the variance sigma^2 that the old values' errors have. Of H = mean( j j' ), j the gradient of V, only products with
    vectors are made. Where the minimum itself lies inside the trust region, the step ends there.

    A line search then halves the step, up to `tries` times, until the error falls and the constraint, measured, is at
    most `slack` * epsilon (None: the step is taken as it is).

    The report holds `value_constraint` (measured), `value_step` (the share of the step taken), `value_loss` (half the
    mean squared error afterwards), and the share of the returns' variance that the values explain,
    `explained_variance_before` and `explained_variance`.
    """

    equation = "min mean( (V + Js - R)^2 )  with  mean( (Js)^2 ) / (2 sigma^2) <= epsilon,  sigma^2 = mean( (V - R)^2 )"
    needs = frozenset({"value", "returns"})
    epsilon: float = setting(0.1, above=0)
    iterations: int = setting(10, at_least=1)
    tolerance: float = setting(1e-10, at_least=0)
    tries: int = setting(10, at_least=1)
    slack: float | None = setting(1.1, above=0)

    def full_step(self, gradient: Array, product: Product, variance: Array) -> Array:
        """The step s [n]: the minimiser of g's + s'Hs / 2 with s'Hs / 2 <= epsilon variance; 0 where g is 0.

        Conjugate gradient ends after `iterations`, or when the squared residual has fallen by the factor `tolerance`.
        """
        xp = namespace(gradient)
        x = conjugate_gradient(product, -gradient, self.iterations, self.tolerance * xp.sum(gradient * gradient))
        curvature = xp.sum(x * product(x))
        positive = curvature > 0
        square = 2 * self.epsilon * variance / xp.where(positive, curvature, xp.ones_like(curvature))
        return xp.where(positive, atmost(xp.sqrt(square), 1), xp.zeros_like(square)) * x

    def move(self, old: Array, network: Linearised, target: Array, mask: Array) -> tuple[Array, Report]:
        """New parameters and the report.

        old: parameters [n], where `network` was linearised. target: returns [...]. mask: 1 where a visit counts [...].
        """
        xp = namespace(old)
        share = mask / xp.where(xp.sum(mask) > 0, xp.sum(mask), xp.ones_like(xp.sum(mask)))
        target = zero_where_masked(target, mask)
        error = zero_where_masked(network.values, mask) - target
        variance = xp.sum(share * error**2)

        def product(v: Array) -> Array:
            return network.backward(share * network.forward(v))

        def evaluate(flat: Array) -> tuple[Array, Array]:
            after = zero_where_masked(network.at(flat), mask) - target
            moved = 0.5 * xp.sum(share * (after - error) ** 2)
            return 0.5 * xp.sum(share * after**2), moved / xp.where(variance > 0, variance, xp.ones_like(variance))

        step = self.full_step(network.backward(share * error), product, variance)
        if self.slack is None:
            new, size = old + step, xp.ones_like(variance)
        else:
            limit, nothing = self.slack * self.epsilon, xp.zeros_like(variance)
            new, found = line_search(old, step, evaluate, nothing, limit, self.tries, shrink=0.5)
            size = found.size
        loss, constraint = evaluate(new)
        return new, {
            "value_constraint": constraint,
            "value_step": size,
            "value_loss": loss,
            "explained_variance_before": explained_variance(error, target, mask),
            "explained_variance": explained_variance(zero_where_masked(network.at(new), mask) - target, target, mask),
        }

    def jax(self, values: Any, target: Any, mask: Any, parameters: Any) -> tuple[Any, Report]:
        """The step for a pytree of JAX arrays: new parameters and the report; can be compiled.

        values: function of the parameters that returns V [...].
        """
        old, network, unravel = in_jax(values, parameters)
        new, report = self.move(old, network, target, mask)
        return unravel(new), report

    def torch(self, values: Any, target: Any, mask: Any, parameters: Sequence[Any]) -> Report:
        """The step for PyTorch parameters, which it changes in place; returns the report.

        values: function without arguments that returns V [...] for the parameters as they are.
        """
        from torch.nn.utils import vector_to_parameters

        new, report = self.move(*in_torch(values, parameters), target, mask)
        vector_to_parameters(new, parameters)
        return report


def in_jax(values: Any, parameters: Any) -> tuple[Array, Linearised, Callable[[Array], Any]]:
    """A pytree as a vector [n], `values` of it linearised there, and the way from a vector to a pytree again."""
    import jax
    from jax.flatten_util import ravel_pytree

    old, unravel = ravel_pytree(parameters)

    def at(flat: Array) -> Array:
        return values(unravel(flat))

    now, forward = jax.linearize(at, old)
    transposed = jax.linear_transpose(forward, old)
    return old, Linearised(now, forward, lambda u: transposed(u)[0], at), unravel


def in_torch(values: Any, parameters: Sequence[Any]) -> tuple[Array, Linearised]:
    """The parameters as a vector [n], and `values` linearised there; evaluating elsewhere changes them in place."""
    import torch
    from torch.nn.utils import parameters_to_vector, vector_to_parameters

    now = values()
    probe = torch.zeros_like(now, requires_grad=True)  # J v is the derivative of (J'u) v by u

    def backward(u: Array, again: bool = False) -> Array:
        kept: dict[str, Any] = {"create_graph": again, "retain_graph": True, "materialize_grads": True}
        return parameters_to_vector(torch.autograd.grad(now, parameters, u, **kept))

    slope = backward(probe, again=True)

    def forward(v: Array) -> Array:
        return torch.autograd.grad(slope, probe, v, retain_graph=True)[0]

    @torch.no_grad()
    def at(flat: Array) -> Array:
        vector_to_parameters(flat, parameters)
        return values()

    old = parameters_to_vector(parameters).detach().clone()
    return old, Linearised(now.detach(), forward, backward, at)


def explained_variance(error: Array, target: Array, mask: Array) -> Array:
    """1 - Var(error) / Var(target) over mask = 1: 1 where the values are the targets, 0 where they are a constant."""
    xp = namespace(error)

    def variance(x: Array) -> Array:
        return masked_mean((x - masked_mean(x, mask)) ** 2, mask)

    spread = variance(target)
    positive = spread > 0
    return xp.where(positive, 1 - variance(error) / xp.where(positive, spread, xp.ones_like(spread)), 0 * spread)
