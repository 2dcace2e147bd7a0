"""Selection: which prompts, answers and decisions count."""

from .answers import DropTruncated, DynamicSampling, Selection

__all__ = ["DropTruncated", "DynamicSampling", "Selection"]
