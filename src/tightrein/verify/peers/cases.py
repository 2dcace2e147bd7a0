"""The batches on which the loss of another library is compared with ours, and the comparison itself."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from ...arrays import value_and_gradient
from ...decisions import Decisions
from ...method import Method
from ..batches import Fields, decisions, fields, start
from ..checks import close

TOLERANCE = 1e-6
FAR = 30.0  # the log-ratio of an extreme decision


def cases(ours: Method, far: float = FAR, empty: bool = True) -> Iterator[tuple[str, Decisions]]:
    """(what it is, Decisions in PyTorch without advantages), rows of a group side by side.

    far: how extreme the log-ratios of one of them are, up or down. empty: whether one has an answer without a decision.
    """
    for name, change in _CHANGES.items():
        made = fields(len(name), ours)
        change(made, np.random.default_rng(1), far)
        order = np.argsort(made["group"], kind="stable")
        yield name, decisions({n: x[order] if isinstance(x, np.ndarray) else x for n, x in made.items()}, "PyTorch")
    if empty:
        made = fields(1, ours)
        made["mask"][2] = 0
        yield "an empty answer", decisions(made, "PyTorch")


def _near(made: Fields, rng: Any, far: float) -> None:
    """Ragged answers, a little off the old policy."""


def _on_policy(made: Fields, rng: Any, far: float) -> None:
    made["logp_old"] = made["logp"].copy()


def _gaps(made: Fields, rng: Any, far: float) -> None:
    """What a tool wrote inside of an answer does not count."""
    made["mask"] *= (rng.random(made["mask"].shape) < 0.7) | (np.arange(made["mask"].shape[1]) == 0)


def _alone(made: Fields, rng: Any, far: float) -> None:
    made["group"] = np.arange(len(made["group"]))


def _equal(made: Fields, rng: Any, far: float) -> None:
    made["reward"] = np.ones_like(made["reward"])


def _far(made: Fields, rng: Any, far: float) -> None:
    """No log-probability becomes positive: one of the two policies loses what the other has."""
    up, sampled = rng.random((2, *made["logp"].shape)) < 0.5
    now, old = made["logp"], made["logp_old"]
    made["logp"], made["logp_old"] = np.where(up, now, old - far), np.where(up, now - far, old)
    made["logp_behaviour"] = made["logp_behaviour"] - np.where(sampled, far, 0)


_CHANGES: dict[str, Callable[[Fields, Any, float], None]] = {
    "ragged answers": _near,
    "on the old policy": _on_policy,
    "gaps": _gaps,
    "groups of one": _alone,
    "equal rewards": _equal,
    "extreme log-ratios": _far,
}


def prepared(ours: Method, d: Decisions) -> Decisions:
    """With the advantages of `ours`; nothing is dropped, as the other library's loss is given all of it too."""
    return ours.replace(selection=()).prepare(d, start(ours, "PyTorch"))


def compare(ours: Method, d: Decisions, theirs: Callable[[Any], Any], what: str, leaf: str = "logp") -> None:
    """Value and gradient by `leaf` of our loss and of `theirs`, a function of the leaf.

    Raises AssertionError naming `what`.
    """
    at, state = {leaf: getattr(d, leaf)}, start(ours, "PyTorch")
    found = value_and_gradient(lambda moved: ours.loss(d.replace(**moved), state).value, at)
    expected = value_and_gradient(lambda moved: theirs(moved[leaf]), at)
    close(found[0], expected[0], TOLERANCE, f"{what}: loss")
    close(found[1][leaf], expected[1][leaf], TOLERANCE, f"{what}: gradient")
