"""Credit: rewards -> advantages."""

from .demonstrated import Demonstrated, Mixed
from .gae import GAE, LengthAdaptiveGAE
from .group import GroupCentred, GroupNormalised, LeaveOneOut
from .smooth import SmoothStandardised
from .tracker import BetaTracker
from .turns import MonteCarloValues, TurnGAE

__all__ = [
    "GAE",
    "BetaTracker",
    "Demonstrated",
    "GroupCentred",
    "GroupNormalised",
    "LeaveOneOut",
    "LengthAdaptiveGAE",
    "Mixed",
    "MonteCarloValues",
    "SmoothStandardised",
    "TurnGAE",
]
