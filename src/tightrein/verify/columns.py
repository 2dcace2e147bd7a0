"""The columns of `tightrein verify`, and one cell of it."""

from __future__ import annotations

import contextlib
import importlib
import io
import pkgutil
import time
import traceback
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from ..arrays import double_precision
from ..errors import NotInstalled
from . import checks, inputs, learning, peers, pins
from .pin import DEMONSTRATIONS, PEERS, PINS
from .relations import relations

State = Literal["passed", "failed", "not applicable", "not installed", "not run"]


@dataclass(frozen=True)
class Cell:
    """What a check of a method came to. `says`: what was found, or what is wrong or missing."""

    state: State
    says: str
    seconds: float = 0.0


def discover() -> None:
    """Import every module that holds pins, peers or demonstrations."""
    for package in (pins, peers, learning):
        for module in pkgutil.iter_modules(package.__path__):
            importlib.import_module(f"{package.__name__}.{module.name}")


def _pins(key: str) -> str:
    """Every exact property that was written down of the method holds."""
    mine = [pin for pin in PINS if pin.key == key]
    assert mine, "no exact property of it is written down"
    for pin in mine:
        try:
            pin.check()
        except AssertionError as error:
            raise AssertionError(f"{pin.says}: {_first_lines(error)}") from error
    return str(len(mine))


def _peers(key: str) -> str:
    """The method's numbers are those of the libraries that have it."""
    mine = [peer for peer in PEERS if peer.key == key]
    if not mine:
        raise checks.NotApplicable("neither TRL nor verl has it")
    for peer in mine:
        try:
            peer.check()
        except AssertionError as error:
            raise AssertionError(f"{peer.library} {peer.says}: {_first_lines(error)}") from error
    return ", ".join(sorted({peer.library for peer in mine}))


FAST: dict[str, Callable[[str], str]] = {
    "pins": _pins,
    "arrays": checks.arrays,
    "gradients": checks.gradients,
    "differences": checks.differences,
    "inputs": inputs.inputs,
    "compiled": checks.compilation,
    "relations": relations,
    "peers": _peers,
}


def learning_run(key: str) -> str:
    """A short training run shows what the method promises."""
    if key not in DEMONSTRATIONS:
        raise checks.NotApplicable("no run of it is written down")
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        shown = DEMONSTRATIONS[key]()
    assert shown.holds, shown.says
    return shown.says


def cell(check: Callable[[str], str], key: str) -> Cell:
    """One check of one method; every way in which it can end is a cell."""
    discover()
    started = time.perf_counter()

    def made(state: State, says: str) -> Cell:
        return Cell(state, says, time.perf_counter() - started)

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # extremes overflow on purpose; what comes of it is checked
            if check is learning_run:
                return made("passed", check(key))
            with double_precision():
                return made("passed", check(key))
    except checks.NotApplicable as reason:
        return made("not applicable", str(reason))
    except NotInstalled as missing:
        return made("not installed", missing.what)
    except AssertionError as error:
        return made("failed", _first_lines(error))
    except Exception as error:
        frames = traceback.extract_tb(error.__traceback__)[-3:]
        where = " < ".join(f"{frame.filename.rpartition('/')[2]}:{frame.lineno}" for frame in reversed(frames))
        return made("failed", f"{type(error).__name__}: {error} ({where})")


def _first_lines(error: AssertionError) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return "; ".join(lines[:6]) or "an assertion without words failed"
