"""How a loss per decision becomes one number.

Every mode is a weighted sum, so a mode is its weights: value = sum(weights * per_decision). Weights of a whole
batch can be taken before it is split, and the pieces then add up to the whole exactly.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from ..arrays import Array, atleast, namespace
from ..decisions import Decisions
from ..errors import TightreinError
from ..settings import Part, setting
from ..turns import turn_starts, turn_sum


def _count(mask: Array) -> Array:
    return atleast(namespace(mask).sum(mask), 1)


def _lengths(mask: Array) -> Array:
    return atleast(namespace(mask).sum(mask, axis=1, keepdims=True), 1)


@dataclass(frozen=True)
class Aggregation(Part):
    """Base of the aggregation modes. S_i = sum_t m_it l_it, L_i = sum_t m_it, N = answers with L_i > 0."""

    def __call__(self, d: Decisions) -> Array:
        """Weight of each decision of the batch, [B, T]; 0 where it is masked."""
        return self.weights(d.weights())

    def weights(self, mask: Array) -> Array:
        """Weight of each decision, [B, T]; 0 where mask is 0. mask: [B, T] floating point."""
        raise NotImplementedError


@dataclass(frozen=True)
class TokenMean(Aggregation):
    """Every decision of the batch counts alike (verl `token-mean`; TRL `dapo`, `bnpo`)."""

    equation = "sum_i S_i / sum_i L_i"

    def weights(self, mask: Array) -> Array:
        """See Aggregation."""
        return mask / _count(mask)


@dataclass(frozen=True)
class TokenSum(Aggregation):
    """The plain sum over all decisions."""

    equation = "sum_i S_i"

    def weights(self, mask: Array) -> Array:
        """See Aggregation."""
        return mask


@dataclass(frozen=True)
class SeqMean(Aggregation):
    """Base of the means over trajectories.

    `empty` counts trajectories without a decision too, as TRL does: what a selection drops then still shrinks the loss.
    """

    empty: bool = field(default=False, kw_only=True)

    def rows(self, mask: Array) -> Array | int:
        """Number of trajectories in the mean."""
        if self.empty:
            return int(mask.shape[0])
        xp = namespace(mask)
        return atleast(xp.sum(xp.astype(xp.any(mask != 0, axis=1), mask.dtype)), 1)


@dataclass(frozen=True)
class SeqMeanTokenSum(SeqMean):
    """Mean over trajectories of their summed loss: longer answers weigh more."""

    equation = "sum_i S_i / N"

    def weights(self, mask: Array) -> Array:
        """See Aggregation."""
        return mask / self.rows(mask)


@dataclass(frozen=True)
class SeqMeanTokenMean(SeqMean):
    """Mean over trajectories of their mean loss: every answer weighs alike (GRPO's own; TRL `grpo`)."""

    equation = "sum_i (S_i / L_i) / N"

    def weights(self, mask: Array) -> Array:
        """See Aggregation."""
        return mask / _lengths(mask) / self.rows(mask)


@dataclass(frozen=True)
class SeqMeanTokenSumNorm(SeqMean):
    """Mean over trajectories of summed loss over a constant length (Dr. GRPO): no bias by length.

    `length` is the generation limit. It must be given: the width of the padded array would make the loss
    depend on padding, as verl's mode of this name lets it where it is told no other.
    """

    equation = "sum_i S_i / (N L_max)"
    length: int | None = setting(None, at_least=1)

    def weights(self, mask: Array) -> Array:
        """See Aggregation."""
        if self.length is None:
            raise TightreinError(
                "aggregation SeqMeanTokenSumNorm needs its constant length",
                "give the generation limit, for example tr.method('dr_grpo', length=1024) or --set length=1024",
            )
        return mask / (self.rows(mask) * self.length)


@dataclass(frozen=True)
class SeqSumTokenMean(Aggregation):
    """Sum over trajectories of their mean loss: none is scaled by what else is in the batch (DCPO's OTM)."""

    equation = "sum_i S_i / L_i"

    def weights(self, mask: Array) -> Array:
        """See Aggregation."""
        return mask / _lengths(mask)


@dataclass(frozen=True)
class TurnMean(Aggregation):
    """Every turn of the batch counts alike, however long (Turn-PPO)."""

    equation = "mean over turns h of mean over t in h of l_t"
    needs = frozenset({"turn"})

    def __call__(self, d: Decisions) -> Array:
        """See Aggregation."""
        mask = d.weights()
        return mask / atleast(turn_sum(mask, d), 1) / _count(turn_starts(d))
