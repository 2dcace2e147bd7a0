"""Selection: which prompts, answers and decisions count."""

from .answers import DropTruncated, DynamicSampling, Selection
from .downsample import InformativeTokens, MaximumVariance, Ramp
from .gate import AccuracyGate

__all__ = [
    "AccuracyGate",
    "DropTruncated",
    "DynamicSampling",
    "InformativeTokens",
    "MaximumVariance",
    "Ramp",
    "Selection",
]
