"""One line that says how far a run is, what it measures and how long it still takes."""

from __future__ import annotations

import sys
import time
from collections import deque
from types import TracebackType
from typing import Any

from tightrein.errors import require

PLAIN_EVERY = 10.0  # seconds between two lines where there is no terminal
WINDOW = 30.0  # seconds over which the rate is taken: compilation soon drops out of it


class Progress:
    """A context manager: a live line on a terminal, else a plain one every ten seconds, none when quiet."""

    def __init__(self, total: int, label: str, *, start: int = 0, quiet: bool = False) -> None:
        self.total, self.label = total, label
        self._seen: deque[tuple[float, int]] = deque([(time.monotonic(), start)])
        self._quiet = quiet
        self._live: Any = None
        self._task: Any = None
        self._printed = time.monotonic()

    def __enter__(self) -> Progress:
        if not self._quiet and sys.stdout.isatty():
            self._live = _live_line()
            start = self._seen[0][1]
            self._task = self._live.add_task(self.label, total=self.total, completed=start, shown="", pace="")
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()

    def update(self, done: int, **shown: float | int | str) -> None:
        """Show `done` of the total and the named values; cheap enough to be called after every update."""
        now = time.monotonic()
        self._seen.append((now, done))
        while len(self._seen) > 2 and now - self._seen[0][0] > WINDOW:
            self._seen.popleft()
        if self._live is not None:
            self._live.update(self._task, completed=done, shown=_values(shown), pace=self._pace())
        elif not self._quiet and (now - self._printed >= PLAIN_EVERY or done >= self.total):
            self._printed = now
            print(f"{self.label}  {done:,}/{self.total:,}  {_values(shown)}  {self._pace()}", flush=True)

    def _pace(self) -> str:
        (t0, first), (t1, last) = self._seen[0], self._seen[-1]
        if last <= first or t1 <= t0:
            return ""
        rate = (last - first) / (t1 - t0)
        return f"{_number(rate)}/s  {_duration(max(self.total - last, 0) / rate)} left"


def _live_line() -> Any:
    rich = require("rich.progress", "cli")
    return rich.Progress(
        rich.TextColumn("{task.description}"),
        rich.BarColumn(bar_width=20),
        rich.TaskProgressColumn(),
        rich.TextColumn("{task.fields[shown]}  [dim]{task.fields[pace]}"),
        refresh_per_second=4,
    )


def _values(shown: dict[str, float | int | str]) -> str:
    texts = (value if isinstance(value, str) else _number(value) for value in shown.values())
    return "  ".join(f"{name} {text}" for name, text in zip(shown, texts, strict=True))


def _number(value: float) -> str:
    size = abs(value)
    if size >= 1e5:
        return f"{value:,.0f}"
    return f"{value:.4g}" if size >= 1e-3 or size == 0 else f"{value:.1e}"


def _duration(seconds: float) -> str:
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
