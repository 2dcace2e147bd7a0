"""Credit: rewards -> advantages."""

from .gae import GAE
from .group import GroupCentred, GroupNormalised, LeaveOneOut

__all__ = ["GAE", "GroupCentred", "GroupNormalised", "LeaveOneOut"]
