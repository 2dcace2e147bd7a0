"""Selection: which prompts, answers and decisions count."""

from .answers import DropTruncated, DynamicSampling, Selection, ThresholdResampling
from .balance import BalancedSigns
from .curvature import AdamStep, CurvatureMask, GradientStep
from .downsample import InformativeTokens, MaximumVariance, Ramp
from .gate import AccuracyGate
from .marks import EntropySegments, UncertaintyScale
from .mismatch import EachToken, Pool, RejectMismatch, SequenceMax, SequenceMean, SequenceSum

__all__ = [
    "AccuracyGate",
    "AdamStep",
    "BalancedSigns",
    "CurvatureMask",
    "DropTruncated",
    "DynamicSampling",
    "EachToken",
    "EntropySegments",
    "GradientStep",
    "InformativeTokens",
    "MaximumVariance",
    "Pool",
    "Ramp",
    "RejectMismatch",
    "Selection",
    "SequenceMax",
    "SequenceMean",
    "SequenceSum",
    "ThresholdResampling",
    "UncertaintyScale",
]
