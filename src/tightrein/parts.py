"""Every part by name, for composing methods of one's own."""

from .anchor.controller import AdaptiveKL, Constant
from .credit import GAE, GroupCentred, GroupNormalised, LeaveOneOut
from .objective.aggregate import (
    Aggregation,
    SeqMeanTokenMean,
    SeqMeanTokenSum,
    SeqMeanTokenSumNorm,
    TokenMean,
    TokenSum,
)
from .objective.divergence import K1, K2, K3, Divergence, ExactOldKL, ReferenceKL, SampledOldKL
from .objective.policy import (
    SAPO,
    SPO,
    Bounds,
    Cispo,
    Clip,
    DriftDPO,
    Importance,
    PolicyGradient,
    PolicyObjective,
    Surrogate,
    Widths,
)
from .objective.ratio import Ratio, SequenceMeanRatio, SequenceProductRatio, TokenRatio
from .objective.value import ValueLoss
from .reward import KLInReward, SoftOverlong
from .selection import DropTruncated, DynamicSampling
from .settings import Part, setting
from .step import Adam, RMSprop

__all__ = [
    "GAE",
    "K1",
    "K2",
    "K3",
    "SAPO",
    "SPO",
    "Adam",
    "AdaptiveKL",
    "Aggregation",
    "Bounds",
    "Cispo",
    "Clip",
    "Constant",
    "Divergence",
    "DriftDPO",
    "DropTruncated",
    "DynamicSampling",
    "ExactOldKL",
    "GroupCentred",
    "GroupNormalised",
    "Importance",
    "KLInReward",
    "LeaveOneOut",
    "Part",
    "PolicyGradient",
    "PolicyObjective",
    "RMSprop",
    "Ratio",
    "ReferenceKL",
    "SampledOldKL",
    "SeqMeanTokenMean",
    "SeqMeanTokenSum",
    "SeqMeanTokenSumNorm",
    "SequenceMeanRatio",
    "SequenceProductRatio",
    "SoftOverlong",
    "Surrogate",
    "TokenMean",
    "TokenRatio",
    "TokenSum",
    "ValueLoss",
    "Widths",
    "setting",
]
