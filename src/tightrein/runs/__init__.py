"""Run folders: what was run, what it measured, and the state to go on from."""

from tightrein.runs.checkpoints import Checkpoint
from tightrein.runs.follower import Follower
from tightrein.runs.interrupt import Interrupt
from tightrein.runs.progress import Progress
from tightrein.runs.run import Run

__all__ = ["Checkpoint", "Follower", "Interrupt", "Progress", "Run"]
