"""The one error a user sees, and the help that goes with it."""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Iterable
from typing import Any


class TightreinError(ValueError):
    """Something the user can put right: `what` is wrong, and the `remedy`.

    `str(error)` is the two on lines of their own; the command prints that without a traceback.
    """

    def __init__(self, what: str, remedy: str) -> None:
        super().__init__(f"{what}\n  {remedy}")
        self.what = what
        self.remedy = remedy

    def __reduce__(self) -> tuple[type[TightreinError], tuple[str, str]]:
        return type(self), (self.what, self.remedy)  # so that it can cross between processes


class NotInstalled(TightreinError):
    """A package is missing that the base install does without."""


def nearest(name: str, options: Iterable[str], n: int = 3) -> list[str]:
    """The up to `n` options most like `name`, best first; empty when none is at all alike.

    Case and the choice between `-` and `_` do not count, and the beginning of a name finds it. For a dotted path
    the last segment counts by itself too, so that `epsilon` finds `objective.surrogate.epsilon`.
    """

    def plain(text: str) -> str:
        return text.lower().replace("-", "_")

    wanted = plain(name)

    def likeness(option: str) -> float:
        candidates = {plain(option), plain(option).rpartition(".")[2]}
        if any(candidate.startswith(wanted) for candidate in candidates):
            return 1.0
        return max(difflib.SequenceMatcher(None, wanted, candidate).ratio() for candidate in candidates)

    ranked = sorted(((likeness(option), option) for option in options), key=lambda pair: (-pair[0], pair[1]))
    return [option for ratio, option in ranked[:n] if ratio >= 0.5]


def unknown(kind: str, name: str, options: Iterable[str], remedy: str | None = None) -> TightreinError:
    """The error for a `name` that is not among `options`: "unknown method 'spoo'; nearest: spo, ..."."""
    known = sorted(options)
    close = nearest(name, known)
    label, shown = ("nearest", close) if close else ("known", known[:12])
    more = ", ..." if not close and len(known) > len(shown) else ""
    return TightreinError(
        f"unknown {kind} '{name}'; {label}: {', '.join(shown) or 'none'}{more}",
        remedy or f"use the name of a known {kind}",
    )


def require(module: str, extra: str) -> Any:
    """Import and return `module`, which the base install lacks.

    Raises:
        NotInstalled: a TightreinError; the remedy names the `extra` that brings it.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        missing = (error.name or module).partition(".")[0]
        if missing == __package__:  # a fault of ours, not of the installation
            raise
        raise NotInstalled(
            f"this needs the Python package '{missing}', which is not installed",
            f'pip install "tightrein[{extra}]"',
        ) from error
