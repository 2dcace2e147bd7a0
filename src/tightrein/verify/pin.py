"""Pins and demonstrations: what each method must satisfy, and what it must show when it runs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

Check = Callable[[], None]


@dataclass(frozen=True)
class Pin:
    """An exact property of a method. `says` is what holds; `check` raises AssertionError where it does not."""

    key: str
    says: str
    check: Check


@dataclass(frozen=True)
class Peer:
    """A comparison with another library that has the method. `says` is what is compared."""

    key: str
    library: str
    says: str
    check: Check


@dataclass(frozen=True)
class Shown:
    """What a run showed, in one line with its figures, and whether that is what the method promises."""

    says: str
    holds: bool


PINS: list[Pin] = []
PEERS: list[Peer] = []
DEMONSTRATIONS: dict[str, Callable[[], Shown]] = {}


def pin(*keys: str) -> Callable[[Check], Check]:
    """Register a function without arguments as a pin of the methods `keys`; its docstring says what holds."""

    def register(check: Check) -> Check:
        PINS.extend(Pin(key, _says(check), check) for key in keys)
        return check

    return register


def peer(library: str, *keys: str) -> Callable[[Check], Check]:
    """Register a comparison of the methods `keys` with another library; its docstring says what is compared."""

    def register(check: Check) -> Check:
        PEERS.extend(Peer(key, library, _says(check), check) for key in keys)
        return check

    return register


def shows(key: str) -> Callable[[Callable[[], Shown]], Callable[[], Shown]]:
    """Register a short run as the demonstration of the method `key`."""

    def register(run: Callable[[], Shown]) -> Callable[[], Shown]:
        DEMONSTRATIONS[key] = run
        return run

    return register


def _says(check: Check) -> str:
    return (check.__doc__ or check.__name__.replace("_", " ")).splitlines()[0].rstrip(".")
