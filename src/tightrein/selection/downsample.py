"""Keeping the answers and the decisions that teach most. arXiv 2509.22115 (D3S)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..arrays import Array, atleast, namespace, stop_gradient, zero_where_masked
from ..decisions import Decisions
from ..settings import Part, setting
from .answers import Selection

_STEP = 2.0**-20  # advantages nearer than this, in units of the largest, are the same but for rounding


@dataclass(frozen=True)
class Ramp(Part):
    """A share that grows linearly until `until` of the training is done."""

    equation = "start + (end - start) min(1, progress / until)"
    start: float = setting(0.25, above=0, at_most=1)
    end: float = setting(1.0, above=0, at_most=1)
    until: float = setting(0.5, above=0, at_most=1)

    def __call__(self, progress: Any, like: Array) -> Array:
        """The share at `progress` in [0, 1], as a number of the kind of `like`."""
        done = namespace(like).ones_like(like) * progress / self.until
        return self.start + (self.end - self.start) * (1 - atleast(1 - done, 0))


@dataclass(frozen=True)
class Scheduled(Selection):
    """Base of the rules that keep a share, by a schedule. The state is the progress of the training."""

    share: Ramp = Ramp()

    def init(self, prompts: int) -> float:
        """Training begins."""
        return 0.0

    def update(self, state: Any, decisions: Decisions, progress: Any) -> Any:
        """The progress of the training."""
        return progress


@dataclass(frozen=True)
class MaximumVariance(Scheduled):
    """Keeps the answers whose advantages vary most, at least two: those at both ends of their order.

    How many come from which end is found exactly, by one pass over the sorted advantages. The pool is the batch or,
    with `within_groups`, each group. Answers with the same advantage are taken by their mean entropy, highest first.
    """

    equation = "argmax Var(A_i : i in S) over the subsets S of m answers, m = share of the pool"
    within_groups: bool = False

    @property
    def needs(self) -> frozenset[str]:  # type: ignore[override]
        """The groups only where they matter."""
        return frozenset({"advantage", "entropy_old"} | ({"group"} if self.within_groups else set()))

    def __call__(self, d: Decisions, state: Any = 0.0) -> Decisions:
        """See Selection."""
        mask = d.weights()
        entropy = _mean(stop_gradient(d.entropy_old), mask)
        kept = widest(_level(d), entropy, self._pool(d), self.share(state, mask[:, 0]))
        return d.replace(mask=mask * namespace(mask).astype(kept, mask.dtype)[:, None])

    def _pool(self, d: Decisions) -> Array:
        """A number in [0, B) for each pool; B for answers without a decision: [B]."""
        mask = d.weights()
        xp, position = namespace(mask), _positions(mask[:, 0])
        pool = xp.searchsorted(xp.sort(d.group), d.group) if self.within_groups else xp.zeros_like(position)
        return xp.where(xp.any(mask != 0, axis=1), pool, xp.full_like(pool, mask.shape[0]))


@dataclass(frozen=True)
class InformativeTokens(Scheduled):
    """Keeps the decisions that matter and were uncertain: the largest |A| H of the batch.

    Equals are kept or dropped together.
    """

    equation = "mask = 1 for the largest |A_t| H_t, a share of all"
    needs = frozenset({"advantage", "entropy_old"})
    share: Ramp = Ramp(start=0.2)

    def __call__(self, d: Decisions, state: Any = 0.0) -> Decisions:
        """See Selection."""
        mask = d.weights()
        xp = namespace(mask)
        score = xp.abs(d.advantage) * zero_where_masked(stop_gradient(d.entropy_old), mask)
        score = xp.where(mask != 0, score, xp.full_like(score, -xp.inf))
        count = xp.sum(mask)
        ordered = xp.sort(xp.reshape(score, (-1,)))
        wanted = atleast(xp.round(self.share(state, count) * count), 1)
        threshold = ordered[ordered.shape[0] - xp.astype(wanted, xp.int32)]
        return d.replace(mask=mask * xp.astype(score >= threshold, mask.dtype))


def widest(level: Array, tie: Array, pool: Array, share: Array) -> Array:
    """The answers of each pool whose `level` varies most: [B] booleans.

    level, tie, pool: [B]; answers with the same level are taken by `tie`, highest first. share: of each pool, [B].
    An optimum is made of the k smallest and the m - k largest for some k: all are tried.
    """
    xp = namespace(level)
    order = xp.argsort(xp.where(level < 0, -tie, tie))
    order = order[xp.argsort(level[order])]
    order = order[xp.argsort(pool[order])]
    value, own = level[order], pool[order]
    start = xp.searchsorted(own, own)
    size = xp.searchsorted(own, own, side="right") - start
    rank = _positions(value) - start  # also the k that this answer's place in the order stands for
    m = xp.astype(xp.round(share * xp.astype(size, value.dtype)), rank.dtype)
    m = xp.where(m < 2, xp.where(size < 2, size, xp.full_like(size, 2)), m)
    variance = xp.round(_variance(value, start, size, rank, m) / _STEP)
    best = xp.argsort(xp.where(rank <= m, -variance, xp.ones_like(variance)))  # equals: the most from above
    best = best[xp.argsort(own[best])]
    below = rank[best[start]]
    kept = (rank < below) | (rank >= size - (m - below))
    return kept[xp.argsort(order)] & (pool < level.shape[0])


def _variance(value: Array, start: Array, size: Array, k: Array, m: Array) -> Array:
    """Variance of the k smallest and the m - k largest of each pool; 0 where k > m."""
    xp = namespace(value)
    k = xp.where(k <= m, k, m)
    number = xp.astype(m, value.dtype)

    def mean(x: Array) -> Array:
        upto = xp.concat([xp.zeros_like(x[:1]), xp.cumulative_sum(x, axis=0)])
        return (upto[start + k] - upto[start] + upto[start + size] - upto[start + size - (m - k)]) / number

    return mean(value**2) - mean(value) ** 2


def _level(d: Decisions) -> Array:
    """Mean advantage of each answer in units of the largest, rounded so that equals are equal: [B]."""
    mask = d.weights()
    xp = namespace(mask)
    advantage = zero_where_masked(stop_gradient(d.advantage), mask)
    top = xp.max(xp.where(mask != 0, advantage, xp.full_like(advantage, -xp.inf)), axis=1, keepdims=True)
    top = zero_where_masked(top, xp.any(mask != 0, axis=1, keepdims=True))
    level = top[:, 0] + _mean(advantage - top, mask)  # exact where all decisions of an answer have the same
    scale = xp.max(xp.abs(level))
    return xp.round(level / xp.where(scale > 0, scale, xp.ones_like(scale)) / _STEP) * _STEP


def _mean(x: Array, mask: Array) -> Array:
    """Mean over each row where mask = 1: [B]."""
    xp = namespace(mask)
    return xp.sum(zero_where_masked(x, mask), axis=1) / atleast(xp.sum(mask, axis=1), 1)


def _positions(x: Array) -> Array:
    """0, 1, 2, ... for the entries of `x` [B]."""
    xp = namespace(x)
    return xp.cumulative_sum(xp.ones_like(x, dtype=xp.int32), axis=0) - 1
