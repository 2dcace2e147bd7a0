"""Credit that spares what good and bad answers share."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from ..arrays import Array, at_least_float32, atleast, masked_mean, namespace, stop_gradient, zero_where_masked
from ..decisions import Decisions
from ..labels import pair_labels, sum_where_same
from ..settings import setting
from .base import Credit
from .group import moments

_UNKNOWN = -1.0


@dataclass(frozen=True)
class ConflictAware(Credit):
    """Centred rewards that neither punish what good answers begin or end with, nor follow uncertain answers.

    A decision is in conflict where answers of the group with opposite advantages hold the same token at its position,
    counted from their starts or from their ends, and so do all positions before it. Such a decision weighs `good` in a
    good answer and `bad` in a bad one, once for each end. An answer whose mean entropy exceeds `threshold` is dropped,
    unless the very first batch was more uncertain than that (`switch`); from the others scale * entropy is taken.
    `per_conflict` divides the advantage of an answer by the number of its conflicts, as the released code does.

    The state is the mean entropy of the first batch. Source: GTPO, arXiv 2508.03772.
    """

    equation = "A_t = w_t ( R - mean_g - scale H ) if H <= threshold else 0,   w_t = good^n or bad^n for n conflicts"
    needs = frozenset({"reward", "group", "token", "entropy_old"})
    good: float = setting(2.0, at_least=0)
    bad: float = setting(0.0, at_least=0)
    threshold: float = setting(math.log(2), above=0)
    scale: float = setting(0.1, at_least=0)
    switch: bool = True
    per_conflict: bool = False

    def init(self, prompts: int) -> Any:
        """Nothing is known of the first batch."""
        return _UNKNOWN if self.switch else None

    def update(self, state: Any, decisions: Decisions, progress: Any) -> Any:
        """The mean entropy of the first batch, for good."""
        return _first(state, decisions)

    def __call__(self, d: Decisions, state: Any = None) -> Decisions:
        """See Credit."""
        mask = d.weights()
        xp = namespace(mask)
        centred = moments(d)[0][:, None]
        ends = conflicts(d, centred)
        entropy = _entropy(d)
        entropy = xp.sum(entropy, axis=1, keepdims=True) / atleast(xp.sum(mask, axis=1, keepdims=True), 1)
        kept = entropy <= self.threshold
        if self.switch:
            kept = kept | (_first(_UNKNOWN if state is None else state, d) > self.threshold)
        advantage = xp.where(kept, centred - self.scale * entropy, xp.zeros_like(entropy))
        for end in ends:
            advantage = advantage * xp.where(end, xp.where(centred > 0, self.good, self.bad) + 0 * mask, 1 + 0 * mask)
        if self.per_conflict:
            either = xp.astype(ends[0] | ends[1], mask.dtype)
            advantage = advantage / atleast(xp.sum(either, axis=1, keepdims=True), 1)
        return d.replace(advantage=zero_where_masked(advantage, mask))


def conflicts(d: Decisions, centred: Array) -> tuple[Array, Array]:
    """Which decisions are in conflict, counted from the start of their answers and from the end: booleans [B, T] each.

    centred: [B, 1], whose sign says whether an answer is good or bad; one of 0 takes no part.
    """
    mask = d.weights()
    xp = namespace(mask)
    position = xp.cumulative_sum(mask, axis=1) - 1
    length = xp.sum(mask, axis=1, keepdims=True)
    shared = (_shared(d, centred, place) for place in (position, length - 1 - position))
    forward, backward = (mask * xp.astype(~s, mask.dtype) for s in shared)
    counts = mask * xp.astype(centred != 0, mask.dtype) != 0
    before = xp.cumulative_sum(forward, axis=1)
    behind = xp.sum(backward, axis=1, keepdims=True) - xp.cumulative_sum(backward, axis=1) + backward
    return counts & (before == 0), counts & (behind == 0)


def _shared(d: Decisions, centred: Array, position: Array) -> Array:
    """Whether a good and a bad answer of the group hold the token at that position: booleans [B, T]."""
    mask = d.weights()
    xp, (rows, width) = namespace(mask), mask.shape
    slot = xp.searchsorted(xp.sort(d.group), d.group)
    place = slot[:, None] * width + xp.astype(zero_where_masked(position, mask), slot.dtype)
    label = pair_labels(xp.reshape(place, (-1,)), xp.reshape(d.token, (-1,)))

    def held(by: Array) -> Array:
        each = mask * xp.astype(by, mask.dtype)
        return xp.reshape(sum_where_same(xp.reshape(each, (-1,)), label), (rows, width)) > 0

    return held(centred > 0) & held(centred < 0)


def _entropy(d: Decisions) -> Array:
    return zero_where_masked(at_least_float32(stop_gradient(d.entropy_old)), d.weights())


def _first(state: Any, d: Decisions) -> Array:
    """The mean entropy of the first batch, which this one is where `state` knows of none (a scalar)."""
    mean = masked_mean(_entropy(d), d.weights())
    xp = namespace(mean)
    known = state + xp.zeros_like(mean)
    return xp.where(known >= 0, known, mean)
