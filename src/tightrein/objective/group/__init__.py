"""Losses of the answers to one prompt together, without advantages."""

from .discriminative import AnswerScore, DiscriminativeObjective, HingeKL, LogLikelihood, MeanRatio
from .listwise import ListwiseObjective
from .regression import PairMean, PairSum, RegressionObjective, Spread, Variance

__all__ = [
    "AnswerScore",
    "DiscriminativeObjective",
    "HingeKL",
    "ListwiseObjective",
    "LogLikelihood",
    "MeanRatio",
    "PairMean",
    "PairSum",
    "RegressionObjective",
    "Spread",
    "Variance",
]
