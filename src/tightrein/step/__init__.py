"""Step: how a gradient moves the parameters."""

from .optimizers import Adam, Optimizer, RMSprop

__all__ = ["Adam", "Optimizer", "RMSprop"]
