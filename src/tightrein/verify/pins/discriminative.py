"""Exact properties of DisCO."""

from __future__ import annotations

from typing import Any

import numpy as np

from ...arrays import Array
from ...catalogue import method
from ...decisions import Decisions
from ..batches import gradient
from ..pin import pin
from .preference import near, value


def scored(scores: list[float], right: list[int], group: list[int] | None = None) -> Decisions:
    """Answers of one decision, on-policy, with the given log-likelihoods."""
    logp = np.array(scores)[:, None]
    return Decisions(
        logp=logp, logp_old=logp, reward=np.array(right, float), group=np.array(group or [0] * len(scores))
    )


def pull(d: Decisions, **settings: Any) -> Array:
    """Gradient by the scores."""
    return gradient(method("disco", **settings), d)[:, 0]


@pin("disco")
def soft_maximum() -> None:
    """Wrong answers at -1 and -1/2: log-mean-exp -0.719070 at tau 1, -0.746875 at 10, with those softmax weights."""
    d = scored([0.0, -1.0, -0.5], [1, 0, 0])
    near([-value(method("disco", tau=tau), d) for tau in (1.0, 10.0)], [0.719070, 0.746875], 1e-6)
    near(pull(d, tau=1.0), [-1, 0.377541, 0.622459], 1e-6)
    near(pull(d, tau=10.0), [-1, 0.487503, 0.512497], 1e-6)


@pin("disco")
def temperatures_at_the_ends() -> None:
    """tau -> inf is DisCO-b, tau -> 0 sees only the wrong answer that scores highest."""
    d = scored([-0.1, -1.0, -0.5, -0.7], [1, 0, 0, 0])
    near(pull(d, tau=1e9), pull(d, tau=None), 1e-8)
    near(pull(d, tau=1e-3), [-1, 0, 1, 0], 1e-12)


@pin("disco")
def no_weight_by_difficulty() -> None:
    """Right answers share -1, wrong ones +1, however many there are."""
    for right in range(1, 8):
        found = pull(scored([-0.2] * 8, [1] * right + [0] * (8 - right)))
        near(found, [-1 / right] * right + [1 / (8 - right)] * (8 - right), 1e-12)


@pin("disco")
def groups_of_one_kind() -> None:
    """Questions that are all right, or all wrong, contribute exactly 0, and count in the mean."""
    one, two = scored([0.0, -1.0], [1, 0]), scored([0.0, -1.0, -0.3, -0.4], [1, 0, 1, 1], [0, 0, 1, 1])
    near(2 * value(method("disco"), two), value(method("disco"), one), 1e-12)
    assert not pull(two)[2:].any()


@pin("disco")
def hinge() -> None:
    """KL 3e-4 at delta 1e-4, beta 1e3: penalty 2e-5, gradient 0.2 by the KL; nothing up to delta."""
    for kl, penalty, slope in ((3e-4, 2e-5, 0.2), (0.9e-4, 0.0, 0.0)):
        d = scored([-1.0, -1.0], [1, 1])
        d = d.replace(logp_old=d.logp + kl)
        near(value(method("disco"), d), penalty, 1e-12)
        near(pull(d), [-slope / 2, -slope / 2], 1e-9)
