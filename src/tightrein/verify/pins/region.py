"""Exact properties of the score surrogates whose region is not one of ratios: DPPO, VESPO."""

from __future__ import annotations

import math

import numpy as np
from numpy.testing import assert_allclose, assert_array_equal

from ...decisions import Decisions
from ...objective.policy import (
    BinaryKL,
    BinaryTV,
    GammaWeight,
    Score,
)
from ...objective.ratio import SequenceProductRatio
from ..batches import batch, coefficient, gradient, method
from ..pin import pin
from .score import plain


def _moved(p: float, old: float, advantage: float = 1.0) -> Decisions:
    """One decision whose probability went from `old` to `p`."""
    return Decisions(logp=np.log([[p]]), logp_old=np.log([[old]]), advantage=np.array([[advantage]]))


def _learns(key: str, p: float, old: float, advantage: float = 1.0) -> bool:
    return bool(gradient(method(key), _moved(p, old, advantage)).any())


@pin("dppo_tv")
def dppo_tv_thresholds() -> None:
    """Kept while the probability has not moved by more than 0.15 the way the advantage pulls, whatever the ratio."""
    for p, old, good, bad in [
        (0.64, 0.5, True, True), (0.66, 0.5, False, True), (0.34, 0.5, True, False), (0.9, 0.1, False, True),
        (0.1, 0.001, True, True), (1e-3, 1e-5, True, True), (0.8, 0.99, True, False), (0.86, 1.0, True, True),
    ]:  # fmt: skip
        assert [_learns("dppo_tv", p, old, a) for a in (1.0, -1.0)] == [good, bad]


def _binary_kl(p: float, old: float) -> float:
    return old * math.log(old / p) + (1 - old) * math.log((1 - old) / (1 - p))


@pin("dppo_kl")
def dppo_kl_thresholds() -> None:
    """The same by the KL divergence of taken or not, with its numbers and its threshold at 0.05."""
    rng = np.random.default_rng(0)
    for p, old in rng.uniform(0.02, 0.98, (50, 2)):
        far = float(BinaryKL().distance(np.log(old), np.log(p)))
        assert_allclose(far, _binary_kl(p, old), atol=1e-6)
        near = far <= 0.05
        assert _learns("dppo_kl", p, old, 1.0) == (near or p <= old)
        assert _learns("dppo_kl", p, old, -1.0) == (near or p >= old)
    assert_allclose(_binary_kl(0.66, 0.5), 0.054015, atol=1e-6)


@pin("dppo_tv", "dppo_kl")
def dppo_on_the_old_policy() -> None:
    """At r = 1 everything is kept and the gradient is the plain one; certain decisions are no exception."""
    for key in ("dppo_tv", "dppo_kl"):
        made = method(key)
        d = batch(0, made)
        d = d.replace(logp=d.logp_old)
        assert_array_equal(gradient(made, d), plain(made, d))
        for p in (1.0, 1 - 1e-9, 1e-30):
            assert _learns(key, p, p)


@pin("dppo_tv", "dppo_kl")
def dppo_caps_the_weight() -> None:
    """The weight is the ratio, held constant, at most 20; an advantage of 0 weighs nothing."""
    for key, keep in (("dppo_tv", BinaryTV()), ("dppo_kl", BinaryKL())):
        for p, old, weight in [(0.02, 0.01, 2.0), (0.02, 1e-5, 20.0)]:
            found = gradient(method(key, **{"objective.surrogate.keep": keep}), _moved(p, old, 3.0))
            assert_allclose(found, [[-3 * weight]])
        assert not _learns(key, 0.5, 0.5, 0.0)


@pin("vespo")
def vespo_shapes() -> None:
    """phi(1) = 1; phi+(0.5) = 1.120422, phi+(2) = 0.199148, phi-(2) = 1.082683; highest at k / lambda."""

    def phi(w: float, sign: float) -> float:
        return coefficient(Score(GammaWeight(), ratio=SequenceProductRatio()), w, sign) / -sign

    assert_allclose([phi(1, 1), phi(1, -1)], 1, rtol=1e-12)
    assert_allclose([phi(0.5, 1), phi(2, 1), phi(2, -1)], [1.120422, 0.199148, 1.082683], atol=1e-6)
    for sign, top in ((1.0, 2 / 3), (-1.0, 3 / 2)):
        assert phi(top, sign) > max(phi(top * 1.01, sign), phi(top * 0.99, sign))
    assert phi(1e-9, 1) < 1e-15
    assert phi(1e8, -1) == 0


@pin("vespo")
def vespo_whole_answers() -> None:
    """The weight is that of the whole answer, a product over its tokens; each token has its own score."""
    vespo = method("vespo")
    steps = np.array([[0.3, -0.1, math.log(2) - 0.2]])
    d = Decisions(logp=steps - 1, logp_old=0 * steps - 1, advantage=np.full((1, 1), 2.0))
    assert_allclose(gradient(vespo, d), np.full((1, 3), -2 * 0.199148 / 3), atol=1e-6)
    assert_allclose(vespo.loss(d).per_decision, -2 * 0.199148 * d.logp, atol=1e-6)


@pin("vespo")
def vespo_sign_of_zero() -> None:
    """No advantage, no loss; without shape (k = lambda = 0) it is REINFORCE."""
    vespo = method("vespo")
    d = batch(0, vespo, spread=3.0)
    assert not vespo.loss(d.replace(advantage=0 * d.advantage)).per_decision.any()
    flat = method("vespo", k_pos=0, k_neg=0, lambda_pos=0, lambda_neg=0)
    assert_array_equal(gradient(flat, d), plain(vespo, d))
