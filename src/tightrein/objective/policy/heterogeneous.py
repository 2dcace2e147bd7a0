"""A clip that treats decisions by how uncertain the old policy was of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ...arrays import Array, at_least_float32, atleast, masked_mean, namespace, stop_gradient
from ...decisions import Decisions
from ...errors import TightreinError
from ...settings import setting
from ..ratio import SequenceRatio
from .bounds import Bounds, Widths
from .clip import Clip


@dataclass(frozen=True)
class UncertaintyWidths(Widths):
    """Widths that grow by up to `alpha`: above 1 for uncertain decisions, below 1 for certain ones.

    Source: HAPO, arXiv 2509.16591, asymmetric adaptive clipping.
    """

    equation = "[1 - low (1 + alpha max(-u, 0)), 1 + high (1 + alpha max(u, 0))]"
    needs = frozenset({"uncertainty"})
    alpha: float = setting(1.0, at_least=0)

    def misfit(self, objective: Any) -> tuple[str, str] | None:
        """See Part: it is single decisions that are uncertain."""
        if not isinstance(objective.surrogate.ratio, SequenceRatio):
            return None
        return (
            "UncertaintyWidths are those of single decisions, not of whole answers",
            "set bounds=Widths, or a TokenRatio",
        )

    def __call__(self, d: Decisions, r: Array, advantage: Array) -> tuple[Array, Array]:  # type: ignore[override]
        """See Bounds."""
        u = uncertainty(d)
        above = atleast(u, 0)
        below = above - u
        return 1 - self.low - self.low * self.alpha * below, 1 + self.high + self.high * self.alpha * above

    def stats(self, d: Decisions, r: Array, advantage: Array) -> dict[str, Array]:
        """The mean upper width of decisions above the quantile, and of the others."""
        high, u = self(d, r, advantage)[1] - 1, uncertainty(d)
        mask = d.weights()
        above = mask * namespace(mask).astype(u > 0, mask.dtype)
        return {"width_uncertain": masked_mean(high, above), "width_certain": masked_mean(high, mask - above)}


@dataclass(frozen=True)
class HeterogeneousClip(Clip):
    """A clip whose advantages are scaled by the uncertainty u: outside a neutral zone if u > 0, inside it otherwise.

    The zone reaches half way to the bounds on either side. Source: HAPO, arXiv 2509.16591.
    """

    equation = "-min( r A', clip(r, low, high) A' ),   A' = A (1 + beta u) if (u > 0) != (r in the zone) else A"
    bounds: Bounds = UncertaintyWidths()
    dual: float | None = setting(10.0, above=1)
    beta: float = setting(1.0, at_least=0, at_most=1)

    def check(self) -> None:
        """See Part: the zone lies within bounds of single decisions."""
        if isinstance(self.ratio, SequenceRatio):
            raise TightreinError(
                "HeterogeneousClip looks at single decisions, not at whole answers",
                "set surrogate=Clip, or a TokenRatio",
            )

    @property
    def needs(self) -> frozenset[str]:  # type: ignore[override]
        """What a clip reads, and the uncertainty."""
        return super().needs | {"uncertainty"}

    def __call__(self, d: Decisions) -> Array:
        """Loss per decision: [B, T]."""
        xp = namespace(d.logp)
        r, advantage = self.ratio(d), self.advantage(d)
        low, high = self.bounds(d, r, advantage)
        u, doubled = uncertainty(d), 2 * stop_gradient(r) - 1  # of the distance to 1, to be compared with the bounds
        inside = (doubled > low) & (doubled < high)
        advantage = advantage * (1 + self.beta * u * xp.astype(inside != (u > 0), u.dtype))
        return self.within(r, advantage, low, high)


def uncertainty(d: Decisions) -> Array:
    """As `prepare` made it: [B, T]. What it says of masked positions reaches no result, as no loss there does."""
    return at_least_float32(d.uncertainty)
