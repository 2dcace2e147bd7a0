"""A run folder as seen by a process that trains along, and of which another one writes the folder."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tightrein.runs.checkpoints import Array
from tightrein.runs.run import Run


class Follower(Run):
    """Reads checkpoints, and writes nothing."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.quiet = Path(folder), True

    def log(self, step: int, **values: float | int | str) -> None:
        """Nothing."""

    def checkpoint(self, step: int, arrays: Mapping[str, Array], extra: Mapping[str, Any]) -> None:
        """Nothing."""

    def write(self, name: str, text: str) -> None:
        """Nothing."""

    def finish(self, summary: Mapping[str, Any]) -> None:
        """Nothing."""
