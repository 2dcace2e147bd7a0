"""Surrogates that see more than one decision of a trajectory at a time."""

from __future__ import annotations

from dataclasses import dataclass

from ...arrays import Array, linear_recurrence, namespace, zero_where_masked
from ...decisions import Decisions
from ...settings import setting
from .surrogate import Surrogate


@dataclass(frozen=True)
class TayPO(Surrogate):
    """The first terms of the expansion of J(pi) - J(pi_old) in r - 1. arXiv 2003.06259, section 3.

    The first order is the plain ratio surrogate, up to a constant; the second adds every ordered pair of decisions
    of an episode, discounted by the steps between them.
    """

    equation = "-(r_t - 1) A_t ( 1 + sum_{s<t} gamma^(t-s) (r_s - 1) )"
    order: int = setting(2, at_least=1, at_most=2)
    gamma: float = setting(0.99, at_least=0, at_most=1)

    @property
    def paired(self) -> bool:  # type: ignore[override]
        """See Surrogate: the second order is."""
        return self.order > 1

    def __call__(self, d: Decisions) -> Array:
        """Loss per decision: [B, T]."""
        gap = zero_where_masked(self.ratio(d) - 1, d.weights())
        first = -gap * self.advantage(d)
        return first if self.order == 1 else first * (1 + self._before(gap, d))

    def _before(self, gap: Array, d: Decisions) -> Array:
        """Discounted sum of r - 1 over the earlier decisions of the same episode: [B, T]."""
        mask = d.weights()
        xp = namespace(mask)
        decay = 1 - (1 - self.gamma) * mask
        for end in (d.terminated, d.truncated):
            if end is not None:
                goes_on = 1 - zero_where_masked(xp.astype(end, mask.dtype), mask)
                decay = decay * xp.concat([goes_on[:, :1], goes_on[:, :-1]], axis=1)
        return linear_recurrence(gap, decay, forwards=True) - gap
