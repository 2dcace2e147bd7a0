"""Leaving out the decisions that make the surrogate's sample variance large."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..arrays import Array, at_rank, atleast, namespace, stop_gradient, zero_where_masked
from ..decisions import Decisions
from ..settings import setting
from .correction import Correction

if TYPE_CHECKING:
    from .policy.surrogate import Surrogate

_STEP = 2.0**-20  # pairwise terms nearer than this, in units of the largest, are the same but for rounding


@dataclass(frozen=True)
class PairDropout(Correction):
    """Drops the decisions whose pairwise term is small; the loss is the mean over the others. arXiv 2310.20380.

    With X = r A the sample variance of n terms is (n - 1)/n^2 sum X_i^2 - 1/n^2 sum phi_i: what has a small phi makes
    it large. `by_sign` takes the share from the decisions with phi >= 0 and from those with phi < 0, each; otherwise
    it is that of all. Equal terms are dropped or kept together, and one at least is kept.
    """

    equation = "w = n / |K| on K, else 0;  K without the smallest phi_i = X_i sum_{j != i} X_j,  X = r A"
    fraction: float = setting(0.2, at_least=0, below=1)
    by_sign: bool = True

    def __call__(self, d: Decisions, surrogate: Surrogate) -> Array:
        """See Correction."""
        r, mask = stop_gradient(surrogate.ratio(d)), d.weights()
        if r.shape != mask.shape:
            mask = d.alive()[:, None]
        kept = self.kept(r * surrogate.advantage(d), mask)
        xp = namespace(kept)
        return kept * atleast(xp.sum(mask), 1) / atleast(xp.sum(kept), 1)

    def kept(self, x: Array, mask: Array) -> Array:
        """1 where x = r A is kept, else 0: in the shape of both."""
        xp = namespace(x)
        phi = rounded(pairwise(x, mask))
        there = xp.reshape(xp.where(xp.astype(mask, xp.bool, copy=False), phi, xp.inf), (-1,))
        negative, count = phi < 0, xp.sum(mask)
        if not self.by_sign:
            return mask * xp.astype(phi >= at_rank(there, self._place(count)), mask.dtype)
        below = xp.sum(xp.astype(negative, mask.dtype))
        bars = at_rank(there, xp.concat([self._place(below), below + self._place(count - below)]))
        return mask * xp.astype(((phi >= bars[0]) & negative) | ((phi >= bars[1]) & ~negative), mask.dtype)

    def _place(self, size: Array) -> Array:
        """How many of `size` terms go, which is the place of the smallest that stays: [1]."""
        xp = namespace(size)
        return xp.reshape(xp.floor(self.fraction * size + 1e-6), (1,))  # 0.2 * 5 is one


def pairwise(x: Array, mask: Array) -> Array:
    """phi_i = x_i times the sum of the others, 0 where masked; in the shape of both."""
    x = zero_where_masked(x, mask)
    return x * (namespace(x).sum(x) - x)


def rounded(phi: Array) -> Array:
    """Without the digits that depend on the order of a sum, so that equals stay equal."""
    xp = namespace(phi)
    top = xp.max(xp.abs(phi))
    return xp.round(phi / xp.where(top > 0, top * _STEP, xp.ones_like(top)))
