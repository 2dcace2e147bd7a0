"""Reward: what is added to, or taken from, the task's own reward before credit is given."""

from .shaping import KLInReward, RewardPart, SoftOverlong

__all__ = ["KLInReward", "RewardPart", "SoftOverlong"]
