"""Losses of value estimates."""

from .regression import TurnValueLoss, ValueLoss

__all__ = ["TurnValueLoss", "ValueLoss"]
