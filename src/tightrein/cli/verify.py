"""`tightrein verify`."""

from __future__ import annotations

import sys
import time
from typing import Any

import tightrein
from tightrein.errors import require
from tightrein.verify import results
from tightrein.verify.table import draw, failures, run


def verify(keys: tuple[str, ...], learning: bool, write: bool, workers: int) -> int:
    """Check the methods, print the table, and return the exit code: 1 where something that is claimed fails.

    Raises:
        TightreinError: an unknown key.
    """
    for key in keys:
        tightrein.method(key)
    started = time.perf_counter()
    chosen = keys or tightrein.methods()
    with _bar(len(chosen)) as step:
        rows = run(chosen, learning, workers, step)
    console = _console()
    console.print(draw(rows))
    for key, cells in rows.items() if learning else ():
        console.print(f"{key}: {cells['learning'].says}", markup=False)
    wrong = failures(rows)
    for line in wrong:
        console.print(line, style="red", markup=False)
    if write:
        console.print(f"written: {results.write(rows, learning)}", style="dim")
    console.print(f"{len(rows)} methods in {time.perf_counter() - started:.0f} s", style="dim")
    return 1 if wrong else 0


def _console(**options: Any) -> Any:
    width = None if sys.stdout.isatty() else 160
    return require("rich.console", "cli").Console(width=width, highlight=False, **options)


class _bar:
    """A progress bar on stderr while the methods are checked."""

    def __init__(self, total: int) -> None:
        progress = require("rich.progress", "cli")
        self.progress = progress.Progress(
            progress.TextColumn("{task.description}"),
            progress.BarColumn(),
            progress.MofNCompleteColumn(),
            progress.TimeElapsedColumn(),
            console=_console(stderr=True),
            transient=True,
        )
        self.task = self.progress.add_task("verifying", total=total)

    def __enter__(self) -> Any:
        self.progress.start()
        return lambda key: self.progress.update(self.task, advance=1, description=f"verified {key}")

    def __exit__(self, *error: object) -> None:
        self.progress.stop()
