"""The exact properties of the methods that read more than log-probabilities."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.testing import assert_allclose

from ...arrays import convert
from ...decisions import Decisions
from ..batches import batch, gradients, method
from ..pin import pin

FREE = {"objective.reference.coef": 0.0}
TERM = "objective.terms.perception"


def _look(p: float, masked: float) -> Decisions:
    """One decision without advantage, of probability p, and `masked` where part of the prompt is masked."""
    made: dict[str, Any] = {"logp": np.log([[p]]), "logp_masked": np.log([[masked]])}
    return convert(Decisions(**made, logp_old=made["logp"], advantage=np.zeros((1, 1))), "PyTorch")


def _gradient(d: Decisions, **settings: Any) -> tuple[float, float]:
    """Gradient by logp and by logp_masked."""
    changes = {f"{TERM}.{name}": x for name, x in settings.items()}
    found = gradients(method("papo_perception", **changes), d)
    return float(found["logp"][0, 0]), float(found["logp_masked"][0, 0])


def _term(d: Decisions, **settings: Any) -> float:
    changes = {f"{TERM}.{name}": x for name, x in settings.items()}
    return float(method("papo_perception", **changes).loss(d).value)


@pin("papo_perception")
def papo_where_the_mask_changes_nothing() -> None:
    """Where the masked prompt says as much the divergence is 0, and so is its gradient."""
    d = _look(0.3, 0.3)
    assert abs(_term(d, entropy=0.0)) < 1e-15
    assert_allclose(_gradient(d, entropy=0.0), 0, atol=1e-15)


@pin("papo_perception")
def papo_values() -> None:
    """p = 1/2, masked 1/4: k = 0.193147, coefficient -gamma/2; p < p_masked pushes p down, without bound."""
    d = _look(0.5, 0.25)
    assert_allclose(_term(d, entropy=0.0, coef=0.1), -0.1 * 0.193147, atol=1e-7)
    assert_allclose(_gradient(d, entropy=0.0, coef=0.1), [-0.05, 0.05])
    assert_allclose(_gradient(_look(0.1, 0.4), entropy=0.0, coef=0.1)[0], 0.3)
    assert_allclose(_gradient(_look(0.001, 0.4), entropy=0.0, coef=0.1)[0], 39.9)
    assert _gradient(_look(0.001, 0.4), entropy=0.0, coef=0.1, cap=10.0) == (0.0, 0.0)


@pin("papo_perception")
def papo_guards() -> None:
    """The guards minimise both entropies: coefficient -eta on each; a look without gradient gives none."""
    d = _look(0.3, 0.3)
    assert_allclose(_term(d, coef=0.1, entropy=0.05), -0.1 * np.log(0.3))
    assert_allclose(_gradient(d, coef=0.1, entropy=0.05), [-0.05, -0.05])
    assert _gradient(_look(0.5, 0.25), through=False)[1] == 0


@pin("papo_perception")
def papo_switched_off() -> None:
    """Without its coefficient nothing masked is read, and the loss is grpo's, bit for bit."""
    off = method("papo_perception", **{f"{TERM}.coef": 0.0})
    assert "logp_masked" not in off.needs
    d = batch(0, off)
    assert float(off.loss(d).value) == float(method("grpo", **FREE).loss(d).value)
