"""Pins of the clipping rules."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
from numpy.testing import assert_allclose

from ...step import Adam, ZClip, ZClipMean, ZClipPercentile
from ..pin import pin


def state(mean: float, variance: float) -> dict[str, Any]:
    """ZClip's state after its warm-up."""
    values = {"mean": mean, "variance": variance, "count": 25.0, "spikes": 0.0}
    return {"norms": np.zeros(25), **{name: np.asarray(value) for name, value in values.items()}}


def limit(rule: Any, norm: float, mean: float = 1.0, variance: float = 0.04) -> tuple[float, dict[str, Any]]:
    """What `rule` allows a norm, and its next state."""
    allowed, new = rule.limit(np.asarray(norm), state(mean, variance))
    return float(allowed), new


@pin("zclip")
def numbers() -> None:
    """mu = 1, v = 0.04, |g| = 2: clipped to 1.2500013; then mu = 1.0075 and v = 0.0405642."""
    allowed, new = limit(ZClip(), 2.0)
    assert_allclose(allowed, 1.2500013, atol=5e-8)
    assert_allclose([new["mean"], new["variance"]], [1.0075, 0.0405642], atol=5e-8)


@pin("zclip")
def falling_bound() -> None:
    """The bound is mu + z_t sd where z reaches z_t, falls as the norm grows, and tends to mu."""
    bounds = [limit(ZClip(), norm)[0] for norm in (1.50002, 2.0, 4.0, 1e3, 1e6)]
    assert_allclose([bounds[0], bounds[-1]], [1.5, 1.0], atol=1e-4)
    assert all(a > b for a, b in pairwise(bounds))
    assert limit(ZClip(), 1.4)[0] == np.inf


@pin("zclip")
def collected() -> None:
    """The first 25 norms stay; then mu is their mean and v their population variance."""
    rule, norms = ZClip(), np.random.default_rng(0).uniform(1, 3, 25)
    kept = rule.start(np.asarray(0.0))
    for norm in norms:
        allowed, kept = rule.limit(np.asarray(norm), kept)
        assert allowed == np.inf
    assert_allclose([kept["mean"], kept["variance"]], [norms.mean(), norms.var()], atol=1e-12)


@pin("zclip")
def no_variance() -> None:
    """v = 0: any larger norm is clipped to mu; z_t = inf clips nothing."""
    assert_allclose(limit(ZClip(), 1.1, variance=0.0)[0], 1.0, atol=1e-6)
    assert limit(ZClip(z=float("inf")), 1e9)[0] == np.inf


@pin("zclip")
def relatives() -> None:
    """ZClipMean clips to mu, ZClipPercentile to mu + z_t sd; skip_spikes leaves the statistics as they are."""
    assert limit(ZClipMean(), 2.0)[0] == 1.0
    assert_allclose([limit(ZClipPercentile(), norm)[0] for norm in (2.0, 9.0)], 1.5)
    _, new = limit(ZClip(skip_spikes=True), 2.0)
    assert (float(new["mean"]), float(new["variance"]), float(new["spikes"])) == (1.0, 0.04, 1.0)


@pin("zclip")
def identity() -> None:
    """Without max_grad_norm and with z_t = inf the limit of the step is inf; with it, the smaller of the two."""
    free, both = Adam(clipping=ZClip(z=float("inf"))), Adam(clipping=ZClip(), max_grad_norm=1.1)
    assert free.limit(np.asarray(50.0), state(1.0, 0.04))[0] == np.inf
    assert both.limit(np.asarray(2.0), state(1.0, 0.04))[0] == 1.1
