"""Credit for what a set of answers achieves together. arXiv 2509.25424 (Poly-PPO)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..arrays import Array, at_least_float32, atleast, clip, group_sum, namespace, scatter_sum, stop_gradient
from ..decisions import Decisions
from ..settings import setting
from .base import Credit
from .group import spread


@dataclass(frozen=True)
class SetCredit(Credit):
    """The reward of a set times its diversity, shared by all its members, less the mean over the group's sets.

    A group's answers are put in a random order; its `sets` are windows of `size` answers of that order, at even
    distances and around its end, so that each is a random subset and together they hold every answer equally often,
    as far as that can be. An answer in several sets gets their mean, one in none 0. Diversity is the share of different
    `signature`s in the set. Rewards should not be negative: they are multiplied with it. Where a prompt has a single
    right answer the best sets hold wrong ones too (of 4, two or three right), and accuracy ends there: it is for
    prompts with several.
    """

    equation = "A_i = mean over sets g that hold i of f(g) - mean f,   f(g) = mean R (g) * different answers (g) / n"
    needs = frozenset({"reward", "group", "signature", "random"})
    size: int = setting(4, at_least=1)
    sets: int = setting(4, at_least=1)

    def __call__(self, d: Decisions, state: Any = None) -> Decisions:
        """See Credit."""
        xp, living = namespace(d.weights()), d.alive()
        members, begins, there = self._windows(d, living)
        reward = stop_gradient(d.outcome())
        count = atleast(xp.sum(there, axis=1), 1)
        fitness = xp.sum(_at(reward, members) * there, axis=1) / count * self._different(d, members, there) / count
        sets = atleast(group_sum(begins, d.group), 1)
        advantage = _settled(fitness - group_sum(fitness * begins, d.group) / sets, fitness)
        return spread(d, self._shared(advantage * begins, begins, members, there) * living)

    def _windows(self, d: Decisions, living: Array) -> tuple[Array, Array, Array]:
        """For the window that begins at each answer: rows of its members [B, n], whether it is a set [B], and which
        members there are [B, n]; the order is that of the random number of each answer's first decision.
        """
        xp = namespace(living)
        group, key = d.group, at_least_float32(d.random)[:, 0]
        key = xp.where(living != 0, key, xp.full_like(key, xp.inf))
        key = xp.where(key == key, key, xp.full_like(key, xp.inf))
        order = xp.argsort(key)
        order = order[xp.argsort(group[order], stable=True)]
        first = xp.searchsorted(group[order], group)
        row = xp.cumulative_sum(xp.ones_like(order), axis=0) - 1
        place = xp.zeros_like(row) + xp.argsort(order) - first
        number = xp.astype(group_sum(living, group), row.dtype)
        whole = xp.where(number > 0, number, xp.ones_like(number))
        step = xp.stack([xp.zeros_like(row) + j for j in range(self.size)], axis=1)
        members = xp.take(order, xp.reshape((place[:, None] + step) % whole[:, None] + first[:, None], (-1,)), axis=0)
        there = xp.astype((step < number[:, None]) & (living != 0)[:, None], living.dtype)
        spaced = place * self.sets // whole != (place - 1) * self.sets // whole
        return xp.reshape(members, step.shape), xp.astype(spaced, living.dtype) * living, there

    def _different(self, d: Decisions, members: Array, there: Array) -> Array:
        """How many different signatures a window holds: [B]."""
        xp, own = namespace(there), _at(d.signature, members)
        new = []
        for j in range(self.size):
            before = [xp.astype(own[:, i] == own[:, j], there.dtype) * there[:, i] for i in range(j)]
            new.append(there[:, j] * (1 - clip(sum(before, xp.zeros_like(there[:, j])), 0.0, 1.0)))
        return sum(new[1:], new[0])

    def _shared(self, advantage: Array, begins: Array, members: Array, there: Array) -> Array:
        """Mean of the advantages [B] of the sets that hold each answer: [B]."""
        xp, rows = namespace(there), members.shape[0]
        flat = xp.reshape(members, (-1,))
        total = scatter_sum(xp.reshape(advantage[:, None] * there, (-1,)), flat, rows)
        return total / atleast(scatter_sum(xp.reshape(begins[:, None] * there, (-1,)), flat, rows), 1)


def _at(x: Array, rows: Array) -> Array:
    """The entries of x [B] at rows [B, n]: [B, n]."""
    xp = namespace(rows)
    return xp.reshape(xp.take(x, xp.reshape(rows, (-1,)), axis=0), rows.shape)


def _settled(advantage: Array, fitness: Array) -> Array:
    """Exactly 0 where it is 0 but for rounding: equal sets have no advantage."""
    xp = namespace(advantage)
    return xp.where(xp.abs(advantage) <= 16 * xp.finfo(fitness.dtype).eps * xp.abs(fitness), advantage * 0, advantage)
