"""Policy surrogates and the objective they are part of."""

from .bounds import Bounds, Widths
from .clip import Cispo, Clip, PolicyGradient
from .objective import PolicyObjective
from .smooth import SAPO, SPO, DriftDPO, Importance
from .surrogate import Surrogate

__all__ = [
    "SAPO",
    "SPO",
    "Bounds",
    "Cispo",
    "Clip",
    "DriftDPO",
    "Importance",
    "PolicyGradient",
    "PolicyObjective",
    "Surrogate",
    "Widths",
]
