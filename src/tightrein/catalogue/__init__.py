"""The published methods, as data: one module per family."""

from __future__ import annotations

from typing import Any

from ..errors import TightreinError, unknown
from ..method import Method
from . import (
    auxiliary,
    classic,
    clipping,
    control,
    credit,
    drift,
    entropy,
    hyperbolic,
    imitation,
    language,
    options,
    preference,
    replay,
    score,
    signals,
    solvers,
    steps,
    trust,
)

_FAMILIES = (
    classic,
    control,
    language,
    clipping,
    score,
    drift,
    entropy,
    signals,
    trust,
    options,
    credit,
    preference,
    imitation,
    solvers,
    hyperbolic,
    replay,
    auxiliary,
    steps,
)
_ALL: dict[str, Method] = {m.key: m for family in _FAMILIES for m in family.METHODS}


def methods() -> tuple[str, ...]:
    """Keys of all methods, in the order of the catalogue."""
    return tuple(_ALL)


def register(method: Method) -> Method:
    """Put a method of your own into the catalogue of this process, so that engines find it by its key. Returns it.

    Raises TightreinError when another method has the key.
    """
    if _ALL.get(method.key, method) != method:
        raise TightreinError(
            f"there is a method {method.key!r} already", "give yours another key: method.replace(key=...)"
        )
    _ALL[method.key] = method
    return method


def method(key: str, variant: str = "paper", **overrides: Any) -> Method:
    """Return the method `key`, with settings changed.

    Settings are given by path, `method("spo", **{"objective.surrogate.epsilon": 0.1})`, or by the end of the path
    where that is unambiguous, `method("spo", epsilon=0.1)`. `variant` chooses between what the paper says and
    what its released code does ("released"), where they differ.

    Raises TightreinError for an unknown key, variant or setting, naming the nearest.
    """
    if isinstance(key, Method):
        raise TightreinError(
            f"{key.key!r} is a method already", "register it, tr.register(method), and name it by its key"
        )
    if key not in _ALL:
        raise unknown("method", key, _ALL, "see `tightrein methods` or tr.methods()")
    return _ALL[key].variant(variant).override(overrides)
