"""Likelihood terms beside a policy loss."""

from __future__ import annotations

from dataclasses import dataclass

from ..arrays import Array
from ..decisions import Decisions
from ..settings import Part, setting


@dataclass(frozen=True)
class Imitation(Part):
    """Base of the terms coef * (negative log-likelihood of some trajectories)."""

    coef: float = setting(0.1, at_least=0)

    def __call__(self, d: Decisions) -> Array:
        """The term without its coefficient: a scalar with its gradient."""
        raise NotImplementedError
