"""A reward function called, and its answer checked before it reaches a loss. Worker processes use this: no torch."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tightrein.errors import TightreinError


def called(name: str, function: Callable[..., Any], arguments: Mapping[str, Any], rows: int) -> list[float]:
    """The rewards of so many rows, as the function called `name` gives them.

    Raises:
        TightreinError: it raises, or returns what is no finite number per row.
    """
    try:
        values = function(**arguments)
    except TightreinError:
        raise
    except (Exception, SystemExit) as error:  # somebody else's code
        raise raised(f"reward function {name}", error, called_with(rows)) from error
    return _numbers(name, values, rows)


def called_with(rows: int) -> str:
    """Which rows a function of whole batches was given, for errors."""
    return f"called with rows 0 to {rows - 1}"


def number(who: str, row: int, value: Any) -> float:
    """The value as a finite number.

    Raises:
        TightreinError: it is none.
    """
    try:
        found = math.nan if value is None or isinstance(value, (str, bytes)) else float(value)
    except (TypeError, ValueError):
        found = math.nan
    if not math.isfinite(found):
        raise TightreinError(
            f"{who} gave {value!r} for row {row}, which is no finite number",
            "return a number for every completion (0.0 where it cannot be judged), then go on with --resume",
        )
    return found


def raised(who: str, error: BaseException, where: str) -> TightreinError:
    """The error for what somebody else's code raised."""
    return TightreinError(
        f"{who} raised {type(error).__name__}: {error} ({where}{_line_of(error)})",
        "correct it (it takes prompts, completions and **columns), then go on with --resume",
    )


def _numbers(name: str, values: Any, rows: int) -> list[float]:
    try:
        given = list(values)
    except TypeError:
        raise TightreinError(
            f"reward function {name} returned a {type(values).__name__}", "return a list with one number per completion"
        ) from None
    if len(given) != rows:
        raise TightreinError(
            f"reward function {name} returned {len(given)} values for {rows} completions; row {min(len(given), rows)} "
            + ("is the first without one" if len(given) < rows else "does not exist"),
            "return a list with one number per completion",
        )
    return [number(f"reward function {name}", row, value) for row, value in enumerate(given)]


def _line_of(error: BaseException) -> str:
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return "" if trace is None else f"; {Path(trace.tb_frame.f_code.co_filename).name} line {trace.tb_lineno}"
