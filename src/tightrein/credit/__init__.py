"""Credit: rewards -> advantages."""

from .conflict import ConflictAware
from .demonstrated import Demonstrated, Mixed
from .gae import GAE, LengthAdaptiveGAE
from .group import GroupCentred, GroupNormalised, InformativeScaled, LeaveOneOut
from .returns import ReturnToGo
from .sets import SetCredit
from .smooth import SmoothStandardised
from .tempered import EntropyTargeted
from .tokens import TokenNormalised
from .tracker import BetaTracker
from .turns import MonteCarloValues, TurnGAE

__all__ = [
    "GAE",
    "BetaTracker",
    "ConflictAware",
    "Demonstrated",
    "EntropyTargeted",
    "GroupCentred",
    "GroupNormalised",
    "InformativeScaled",
    "LeaveOneOut",
    "LengthAdaptiveGAE",
    "Mixed",
    "MonteCarloValues",
    "ReturnToGo",
    "SetCredit",
    "SmoothStandardised",
    "TokenNormalised",
    "TurnGAE",
]
