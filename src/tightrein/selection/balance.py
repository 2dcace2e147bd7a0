"""Leaving answers out so that good and bad ones are equally many."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..arrays import Array, at_least_float32, atleast, group_sum, namespace, zero_where_masked
from ..decisions import Decisions, last_decision
from .answers import Selection


@dataclass(frozen=True)
class BalancedSigns(Selection):
    """Where a group has more bad answers than good ones, leaves out as many bad ones, at random, as there are more.

    Bad are those of negative advantage. The advantages of a group that lost answers are then taken from the mean of
    those that stay. `random` at an answer's last decision chooses. Source: arXiv 2509.24203 (RED-Drop).
    """

    equation = "drop #(A < 0) - #(A >= 0) of those with A < 0;   A = A - mean of the kept"
    needs = frozenset({"advantage", "group", "random"})

    def __call__(self, d: Decisions, state: Any = None) -> Decisions:
        """See Selection."""
        kept = super().__call__(d, state)
        mask, before = kept.weights(), d.weights()
        xp = namespace(mask)
        level = _level(kept)
        alive = kept.alive()
        mean = group_sum(level * alive, d.group) / atleast(group_sum(alive, d.group), 1)
        lost = group_sum(d.alive() - alive, d.group) > 0
        shift = xp.where(lost, mean, xp.zeros_like(mean))[:, None]
        every = at_least_float32(d.advantage) + xp.zeros_like(before)
        return kept.replace(advantage=zero_where_masked(every - shift, mask))

    def keep(self, d: Decisions) -> Array:
        """See Selection."""
        alive = d.alive()
        xp = namespace(alive)
        bad = xp.astype(_level(d) < 0, alive.dtype) * alive
        extra = group_sum(2 * bad - alive, d.group)  # bad ones minus the others
        mask = d.weights()
        chance = xp.sum(
            zero_where_masked(at_least_float32(d.random) + xp.zeros_like(mask), last_decision(mask)), axis=1
        )
        return (bad == 0) | (_rank(chance, bad, d.group) >= extra)


def _level(d: Decisions) -> Array:
    """Mean advantage of each answer: [B]."""
    mask = d.weights()
    xp = namespace(mask)
    every = zero_where_masked(at_least_float32(d.advantage) + xp.zeros_like(mask), mask)
    return xp.sum(every, axis=1) / atleast(xp.sum(mask, axis=1), 1)


def _rank(chance: Array, among: Array, group: Array) -> Array:
    """How many of its group come before each answer by `chance`, counting only those with among = 1: [B]."""
    xp = namespace(chance)
    order = xp.argsort(xp.where(among != 0, chance, xp.full_like(chance, 2.0)))
    order = order[xp.argsort(group[order])]
    own = group[order]
    position = xp.cumulative_sum(xp.ones_like(chance), axis=0) - 1
    start = xp.astype(xp.searchsorted(own, own), chance.dtype)
    return (position - start)[xp.argsort(order)]
