"""Losses of the answers to one prompt together, without advantages."""

from .discriminative import DiscriminativeObjective, HingeKL, LogLikelihood, MeanRatio, AnswerScore
from .listwise import ListwiseObjective
from .regression import PairMean, PairSum, RegressionObjective, Spread, Variance

__all__ = [
    "DiscriminativeObjective",
    "HingeKL",
    "ListwiseObjective",
    "LogLikelihood",
    "MeanRatio",
    "PairMean",
    "PairSum",
    "RegressionObjective",
    "AnswerScore",
    "Spread",
    "Variance",
]
