"""Step: how a gradient moves the parameters."""

from .base import Step
from .clipping import Clipping, ZClip, ZClipMean, ZClipPercentile
from .critic import Critic
from .fixup import FixUp
from .gauss_newton import GaussNewton
from .momentum import NTRMomentum
from .muon import AuxAdam, Muon
from .natural import NaturalGradient, PlainNaturalGradient, SecondOrder
from .norms import L1, L2, Layerwise, LInf, Norm, Spectral
from .optimizers import Adam, Optimizer, RMSprop
from .polar import ExactPolar, MatrixScale, NewtonSchulz, OperatorScale, Polar, RMSScale, Unscaled, WidthScale

__all__ = [
    "L1",
    "L2",
    "Adam",
    "AuxAdam",
    "Clipping",
    "Critic",
    "ExactPolar",
    "FixUp",
    "GaussNewton",
    "LInf",
    "Layerwise",
    "MatrixScale",
    "Muon",
    "NTRMomentum",
    "NaturalGradient",
    "NewtonSchulz",
    "Norm",
    "OperatorScale",
    "Optimizer",
    "PlainNaturalGradient",
    "Polar",
    "RMSScale",
    "RMSprop",
    "SecondOrder",
    "Spectral",
    "Step",
    "Unscaled",
    "WidthScale",
    "ZClip",
    "ZClipMean",
    "ZClipPercentile",
]
