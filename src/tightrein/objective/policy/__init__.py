"""Policy surrogates and the objective they are part of."""

from .balance import BalancedBounds
from .bounds import Bounds, ProbabilityBounds, Widths
from .clip import Cispo, Clip, PolicyGradient
from .expansion import TayPO
from .likelihood import TrustedLikelihood
from .objective import PolicyObjective
from .projection import TROLL
from .smooth import PSPO, SAPO, SPO, DriftDPO, Importance
from .surrogate import Surrogate

__all__ = [
    "PSPO",
    "SAPO",
    "SPO",
    "TROLL",
    "BalancedBounds",
    "Bounds",
    "Cispo",
    "Clip",
    "DriftDPO",
    "Importance",
    "PolicyGradient",
    "PolicyObjective",
    "ProbabilityBounds",
    "Surrogate",
    "TayPO",
    "TrustedLikelihood",
    "Widths",
]
