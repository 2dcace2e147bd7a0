"""Reward: what is added to, or taken from, the task's own reward before credit is given."""

from .best_of_n import best_of_n, best_of_n_kl
from .diversity import DistinctAnswers
from .ensemble import EnsembleReward, MeanScore, Reduction, UncertaintyWeighted, WorstScore
from .shaping import KLInReward, RewardPart, SoftOverlong

__all__ = [
    "DistinctAnswers",
    "EnsembleReward",
    "KLInReward",
    "MeanScore",
    "Reduction",
    "RewardPart",
    "SoftOverlong",
    "UncertaintyWeighted",
    "WorstScore",
    "best_of_n",
    "best_of_n_kl",
]
