"""Losses of pairs: a preferred answer and another to the same prompt."""

from .link import Link, Logistic, Squared
from .objective import PairObjective

__all__ = ["Link", "Logistic", "PairObjective", "Squared"]
