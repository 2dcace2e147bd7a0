"""Policy surrogates and the objective they are part of."""

from .balance import BalancedBounds
from .bounds import Bounds, ProbabilityBounds, Widths
from .clip import Clip
from .elastic import ElasticBounds
from .expansion import TayPO
from .geometric import GeometricClip
from .heterogeneous import HeterogeneousClip, UncertaintyWidths
from .hybrid import HybridClip
from .keep import BinaryKL, BinaryTV, OneSided, Ring, TwoSided
from .learned import LearnedDrift
from .likelihood import TrustedLikelihood
from .logclip import LogClip
from .objective import PolicyObjective
from .posterior import TopHalf
from .preserving import PreservingClip
from .projection import TROLL
from .regularised import BehaviourWeight, DualSided, RegularisedScore
from .score import AdvantageWeight, GammaWeight, Keep, MirrorWeight, PolicyGradient, RatioWeight, Score, Weight
from .smooth import PSPO, SAPO, SPO, DriftDPO, Importance
from .surrogate import Surrogate

__all__ = [
    "PSPO",
    "SAPO",
    "SPO",
    "TROLL",
    "AdvantageWeight",
    "BalancedBounds",
    "BehaviourWeight",
    "BinaryKL",
    "BinaryTV",
    "Bounds",
    "Clip",
    "DriftDPO",
    "DualSided",
    "ElasticBounds",
    "GammaWeight",
    "GeometricClip",
    "HeterogeneousClip",
    "HybridClip",
    "Importance",
    "Keep",
    "LearnedDrift",
    "LogClip",
    "MirrorWeight",
    "OneSided",
    "PolicyGradient",
    "PolicyObjective",
    "PreservingClip",
    "ProbabilityBounds",
    "RatioWeight",
    "RegularisedScore",
    "Ring",
    "Score",
    "Surrogate",
    "TayPO",
    "TopHalf",
    "TrustedLikelihood",
    "TwoSided",
    "UncertaintyWidths",
    "Weight",
    "Widths",
]
