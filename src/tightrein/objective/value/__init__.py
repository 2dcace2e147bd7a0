"""Losses of value estimates."""

from .regression import ValueLoss

__all__ = ["ValueLoss"]
