"""Which decisions drive the entropy down: the covariance of advantage and log-probability, and a share of a batch.

Source: The Entropy Mechanism of Reinforcement Learning for Reasoning Language Models, arXiv 2505.22617, section 4.
"""

from __future__ import annotations

from ..arrays import (
    Array,
    at_least_float32,
    atleast,
    choose,
    largest,
    namespace,
    spread,
    stop_gradient,
    zero_where_masked,
)
from ..decisions import Decisions
from .ratio import finite_logp


def covariance(d: Decisions) -> Array:
    """(A - mean A)(logp - mean logp) of each decision, without gradient, 0 where masked: [B, T].

    Its mean over the batch is the covariance of advantage and log-probability.
    """
    mask = d.weights()
    xp = namespace(mask)
    advantage = zero_where_masked(spread(at_least_float32(d.advantage), mask), mask)
    logp = stop_gradient(finite_logp(d))
    count = atleast(xp.sum(mask), 1)
    return mask * (advantage - xp.sum(advantage) / count) * (logp - xp.sum(logp) / count)


def top_share(x: Array, candidates: Array, share: float, mask: Array) -> Array:
    """Whether a decision is a candidate and among the n largest of them, n = max(1, floor(share * decisions)).

    x: [B, T]; candidates: [B, T] booleans, a part of the mask; equal values are taken or left together. With fewer
    candidates than n all are taken. Returns booleans [B, T].
    """
    xp = namespace(x)
    hair = 1e-6  # 0.0002 * 5000 is one
    most = max(1, int(share * mask.shape[0] * mask.shape[1] + hair))
    values = largest(choose(candidates, zero_where_masked(x, mask), xp.full_like(x, xp.finfo(x.dtype).min)), most)
    n = atleast(xp.floor(share * xp.sum(mask) + hair), 1)
    last = xp.cumulative_sum(xp.ones_like(values)) == n
    bar = xp.sum(xp.where(last, values, xp.zeros_like(values)))
    return candidates & (x >= bar)
