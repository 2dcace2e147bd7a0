"""What a method learns beside its objective, as data and formulas; the engines do the learning."""

from .achievements import AchievementDistillation, AchievementMemory
from .base import Auxiliary
from .quantiles import QuantileCritic, QuantileDistillation

__all__ = ["AchievementDistillation", "AchievementMemory", "Auxiliary", "QuantileCritic", "QuantileDistillation"]
