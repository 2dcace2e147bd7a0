"""Losses of value estimates."""

from .categorical import Bins, CategoricalValueLoss
from .normalised import NormalisedValueLoss
from .regression import TurnValueLoss, ValueLoss

__all__ = ["Bins", "CategoricalValueLoss", "NormalisedValueLoss", "TurnValueLoss", "ValueLoss"]
