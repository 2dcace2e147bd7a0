"""Likelihood weighed by the exponential of the advantage: the policy moves towards a better one that is known."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ...anchor.controller import AdamDual, Controller
from ...arrays import Array, at_rank, atleast, namespace, stop_gradient
from ...decisions import Decisions
from ...errors import TightreinError
from ..aggregate import TokenMean
from ..ratio import finite_logp
from .score import PolicyGradient
from .surrogate import own_advantage

_COLDEST = 1e-8


@dataclass(frozen=True)
class TopHalf(PolicyGradient):
    """Maximum likelihood of the better half of the batch, each by the softmax of its advantage. arXiv 1909.12238.

    Source: V-MPO, section 4.1. The better half are the n/2 decisions with A >= median A. Under the mean over the batch
    the loss is -sum psi logp. The temperature eta is the dual variable of KL(psi || uniform) <= bound: it is what
    `temperature` steers, with every gradient step, on eta bound + eta log mean exp(A / eta).
    """

    equation = "-n psi_t logp_t,   psi = softmax( A / eta ) over A >= median A;   eta by its dual"
    temperature: Controller = AdamDual(coef=1.0, bound=0.01, factor=1.0, learning_rate=3e-4)

    def misfit(self, objective: Any) -> tuple[str, str] | None:
        """See Part: its weights are those of the batch's mean."""
        if isinstance(objective.aggregate, TokenMean):
            return super().misfit(objective)
        name = type(objective.aggregate).__name__
        return f"TopHalf weighs the decisions of a batch itself, and {name} would again", "set aggregate=TokenMean"

    def check(self) -> None:
        """See Part: a temperature of 0 has no softmax."""
        if not self.temperature.coef:
            raise TightreinError("the temperature is 0", "set temperature.coef above 0, for example 1.0")

    @property
    def every_step(self) -> bool:  # type: ignore[override]
        """See Part."""
        return self.temperature.every_step

    def init(self, prompts: int) -> Any:
        """The temperature and what moves it."""
        return self.temperature.start()

    def update(self, state: Any, decisions: Decisions, progress: Any) -> Any:
        """The temperature after a step down its dual."""
        divergence = self.divergence(decisions, self.temperature.value(state))
        return self.temperature.next(state, divergence, progress)

    def given(self, state: Any) -> Callable[[Decisions], Array]:
        """See Surrogate."""
        return functools.partial(self._loss, self.temperature.coef if state is None else self.temperature.value(state))

    def __call__(self, d: Decisions) -> Array:
        """Loss per decision at the first temperature: [B, T]."""
        return self.given(None)(d)

    def _loss(self, eta: Array, d: Decisions) -> Array:
        mask = d.weights()
        psi, _ = self.weights(d, eta)
        return -namespace(mask).sum(mask) * psi * finite_logp(d)

    def weights(self, d: Decisions, eta: Array) -> tuple[Array, Array]:
        """(psi, 1 where a decision belongs to the better half), without gradient: [B, T] each."""
        heat, better, _ = self._heated(d, eta)
        return heat / _positive(namespace(heat).sum(heat)), better

    def divergence(self, d: Decisions, eta: Array) -> Array:
        """KL of psi from the uniform distribution over the better half, in nats: a scalar."""
        heat, better, exponent = self._heated(d, eta)
        xp = namespace(heat)
        total = _positive(xp.sum(heat))
        return xp.sum(heat * exponent) / total - xp.log(total) + xp.log(atleast(xp.sum(better), 1))

    def dual(self, d: Decisions, eta: Array, bound: float) -> Array:
        """eta bound + eta log mean exp(A / eta) over the better half: a scalar; its slope is bound - divergence."""
        heat, better, _ = self._heated(d, eta)
        xp, advantage = namespace(heat), _advantage(d)
        top = xp.max(xp.where(better != 0, advantage, xp.full_like(advantage, -xp.inf)))
        return eta * bound + top + eta * xp.log(xp.sum(heat) / xp.sum(better))

    def _heated(self, d: Decisions, eta: Array) -> tuple[Array, Array, Array]:
        """exp((A - max A) / eta) on the better half, the half, and the exponent: [B, T] each."""
        mask, advantage = d.weights(), _advantage(d)
        xp = namespace(advantage)
        there = xp.astype(mask, xp.bool, copy=False)
        beyond = xp.where(there, advantage, xp.inf)
        middle = xp.reshape(xp.floor(xp.sum(mask) / 2), (1,))
        better = mask * xp.astype(advantage >= at_rank(xp.reshape(beyond, (-1,)), middle), mask.dtype)
        top = xp.max(xp.where(there, advantage, xp.finfo(advantage.dtype).min))
        exponent = better * (advantage - top) / atleast(eta + 0 * advantage[:1, :1], _COLDEST)
        return better * xp.exp(exponent), better, exponent

    def figures(self, d: Decisions, state: Any) -> dict[str, Array]:
        """See Surrogate."""
        eta = self.temperature.coef if state is None else self.temperature.value(state)
        zero = 0 * namespace(d.logp).sum(d.weights())
        return {"temperature": eta + zero, "kl_target": self.divergence(d, eta)}


def _advantage(d: Decisions) -> Array:
    return stop_gradient(own_advantage(d))


def _positive(x: Array) -> Array:
    """The number, or 1 where it is 0."""
    xp = namespace(x)
    return xp.where(x > 0, x, xp.ones_like(x))
