"""Running the columns over the methods, and printing them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any

from ..errors import require
from .columns import FAST, Cell, cell, learning_run
from .results import recorded

Rows = dict[str, dict[str, Cell]]
MARKS = {"passed": "[green]✓[/]", "failed": "[bold red]✗[/]", "not applicable": "[dim]–[/]"}


def row(key: str, learning: bool) -> tuple[str, dict[str, Cell]]:
    """The cells of one method, by column; learning is run now, or as it was recorded."""
    cells = {name: cell(check, key) for name, check in FAST.items()}
    return key, cells | {"learning": cell(learning_run, key) if learning else recorded(key)}


def run(keys: Sequence[str], learning: bool, workers: int, step: Callable[[str], None]) -> Rows:
    """The rows of the methods `keys`, by key. step: called with each key when it is done."""
    found: Rows = {}
    for key, cells in _finished(keys, learning, min(workers, len(keys))):
        found[key] = cells
        step(key)
    return {key: found[key] for key in keys}


def _finished(keys: Sequence[str], learning: bool, workers: int) -> Iterator[tuple[str, dict[str, Cell]]]:
    if workers <= 1:
        yield from (row(key, learning) for key in keys)
        return
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # one core each: these arrays are too small to gain from more
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        yield from pool.map(row, keys, [learning] * len(keys))


def draw(rows: Rows) -> Any:
    """The rows as a table."""
    table = require("rich.table", "cli").Table(box=require("rich.box", "cli").SIMPLE_HEAD, pad_edge=False)
    columns = list(next(iter(rows.values()), {}))
    table.add_column("method", style="bold cyan", no_wrap=True)
    for name in columns:
        table.add_column(name, no_wrap=True)
    for key, cells in rows.items():
        table.add_row(key, *(_cell(cells[name], name) for name in columns))
    return table


def _cell(cell: Cell, column: str) -> str:
    if cell.state in ("not installed", "not run"):
        return f"[yellow]{cell.state}[/]"
    shown = cell.says if cell.state == "passed" and column not in ("inputs", "learning") else ""
    return f"{MARKS[cell.state]} {shown}".strip()


def failures(rows: Rows) -> list[str]:
    """One line for each cell that failed."""
    return [
        f"{key} {name}: {found.says}"
        for key, cells in rows.items()
        for name, found in cells.items()
        if found.state == "failed"
    ]
