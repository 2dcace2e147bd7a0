"""The phases of learning beside the objective that there are."""

from tightrein.engines.control.auxiliary import achievements, iqn
from tightrein.engines.control.phases import phase_of

__all__ = ["achievements", "iqn", "phase_of"]
