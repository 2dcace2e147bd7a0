"""Learning from a replay buffer: another learner for the same trainers."""

from tightrein.engines.control.replay.learner import ReplayLearner

__all__ = ["ReplayLearner"]
