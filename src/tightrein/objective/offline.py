"""Penalties that keep a policy gradient sound on decisions that another policy made."""

from __future__ import annotations

from dataclasses import dataclass

from ..anchor.controller import Constant, Controller
from ..arrays import Array, atleast, namespace
from ..decisions import Decisions
from .divergence import Divergence, SampledOldKL
from .ratio import finite_logp, log_ratio


@dataclass(frozen=True)
class Likelihood(Divergence):
    """The log-likelihood of whatever was sampled: KL(pi_behaviour || pi), but for a constant.

    It is also a baseline that is lower by its coefficient: -A logp - beta logp = -(A + beta) logp. Source: AsymRE,
    arXiv 2506.20520, as arXiv 2509.24203 reads it.
    """

    equation = "- beta logp"
    named = "nll"
    needs = frozenset({"logp"})
    controller: Controller = Constant(0.1)

    def __call__(self, d: Decisions) -> Array:
        """See Divergence."""
        return -finite_logp(d)


@dataclass(frozen=True)
class AnswerOldKL(SampledOldKL):
    """The estimate of whole answers instead of single decisions, spread evenly over the decisions of each.

    With SeqMeanTokenSum the penalty is the mean over the answers of k(sum_t logp_old - logp). Source: Kimi k1.5, arXiv
    2501.12599, section 2.3.2.
    """

    equation = "+ beta k( sum_t m_t (logp_old - logp) ) / L"

    def __call__(self, d: Decisions) -> Array:
        """See Divergence: the same at each decision of an answer."""
        mask = d.weights()
        xp = namespace(mask)
        whole = self.of(xp.sum(log_ratio(d), axis=1, keepdims=True))
        return mask * whole / atleast(xp.sum(mask, axis=1, keepdims=True), 1)
