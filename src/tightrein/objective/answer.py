"""What pair and group losses see of an answer: one number for each, and means over groups of them."""

from __future__ import annotations

from dataclasses import dataclass

from ..arrays import Array, atleast, group_sum, namespace
from ..decisions import Decisions
from ..settings import Part
from .ratio import log_difference


@dataclass(frozen=True)
class AnswerLogRatio(Part):
    """Log-ratio of whole answers to another policy; times beta it is the implicit reward of DPO.

    `per_token` divides by the number of decisions.
    """

    per_token: bool = False

    def other(self, d: Decisions) -> Array:
        """Log-probabilities of the policy that is compared with: [B, T]."""
        raise NotImplementedError

    def __call__(self, d: Decisions) -> Array:
        """The log-ratio of each answer, 0 for one without decisions: [B]."""
        weights = d.weights()
        xp = namespace(weights)
        total = xp.sum(log_difference(d.logp, self.other(d), weights), axis=1)
        return total / atleast(xp.sum(weights, axis=1), 1) if self.per_token else total


@dataclass(frozen=True)
class ToReference(AnswerLogRatio):
    """Against the reference policy."""

    equation = "sum_t m_it (logp_it - logp_ref_it)"
    needs = frozenset({"logp", "logp_ref"})

    def other(self, d: Decisions) -> Array:
        """See AnswerLogRatio."""
        return d.logp_ref


@dataclass(frozen=True)
class ToOld(AnswerLogRatio):
    """Against the policy that answered."""

    equation = "sum_t m_it (logp_it - logp_old_it)"
    needs = frozenset({"logp", "logp_old"})

    def other(self, d: Decisions) -> Array:
        """See AnswerLogRatio."""
        return d.logp_old


def right(d: Decisions, threshold: float) -> Array:
    """1 for an answer whose reward reaches `threshold`, up to rounding, else 0: [B]."""
    living = d.alive()
    return living * namespace(living).astype(d.outcome() >= threshold - 1e-6, living.dtype)


def mean_over_groups(x: Array, group: Array, rows: Array) -> Array:
    """Mean over groups of what each has once; 0 without any.

    x: [B], the same on all rows of a group. rows: [B], 1 on those whose groups count.
    """
    xp = namespace(rows)
    share = rows / atleast(group_sum(rows, group), 1)  # the rows of a group weigh 1 together
    return xp.sum(share * xp.where(rows != 0, x, xp.zeros_like(x))) / atleast(xp.sum(share), 1)


def group_max(x: Array, rows: Array, group: Array) -> Array:
    """Largest x over the marked rows of each row's group, 0 where none is marked: [B]."""
    xp = namespace(x)
    marked = (group[:, None] == group[None, :]) & (rows != 0)[None, :]
    found = xp.max(xp.where(marked, x[None, :], xp.full_like(x, -xp.inf)[None, :]), axis=1)
    return xp.where(xp.any(marked, axis=1), found, xp.zeros_like(found))
