"""How the margin of a pair becomes a loss."""

from __future__ import annotations

from dataclasses import dataclass

from ...arrays import Array, namespace
from ...settings import Part, setting


@dataclass(frozen=True)
class Link(Part):
    """Base of the losses of a margin; beta times a log-ratio is what its answer is taken to have earned."""

    beta: float = setting(0.1, above=0)

    def __call__(self, margin: Array) -> Array:
        """Loss of each pair from log-ratio of the chosen less that of the rejected answer, elementwise."""
        raise NotImplementedError


@dataclass(frozen=True)
class Logistic(Link):
    """Negative log-likelihood of the preference under Bradley and Terry's model. arXiv 2305.18290, eq. 7."""

    equation = "-log sigmoid( beta Delta ),  Delta = u_chosen - u_rejected"

    def __call__(self, margin: Array) -> Array:
        """See Link."""
        xp = namespace(margin)
        return xp.logaddexp(-self.beta * margin, xp.zeros_like(margin))


@dataclass(frozen=True)
class Squared(Link):
    """Squared distance of the margin from 1 / (2 beta), however sure the preference. arXiv 2310.12036, eq. 17.

    The paper calls beta tau.
    """

    equation = "( Delta - 1 / (2 beta) )^2,  Delta = u_chosen - u_rejected"

    def __call__(self, margin: Array) -> Array:
        """See Link."""
        return (margin - 1 / (2 * self.beta)) ** 2
