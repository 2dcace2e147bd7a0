"""Pins of the update rules: Muon, and momentum in a ball."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
from numpy.testing import assert_allclose

from ...step import (
    L1,
    L2,
    ExactPolar,
    Layerwise,
    LInf,
    Muon,
    NewtonSchulz,
    NTRMomentum,
    OperatorScale,
    RMSScale,
    Spectral,
    Unscaled,
    WidthScale,
)
from ..pin import pin

SIZES = (8, 5), (5,), (3, 7)
AXES = 0, None, 1
M = np.array([[3.0, 1.0], [1.0, 3.0]])


def walk(rule: Any, start: list[Any], gradient: Any, steps: int, rate: float | None = None) -> list[list[Any]]:
    """The points that `rule` visits from `start`; gradient: points -> gradients."""
    points, memories = [start], [rule.memory(x) for x in start]
    for _ in range(steps):
        now = points[-1]
        moves, memories = rule.move(gradient(now), memories, now, AXES[: len(now)], rate or rule.learning_rate)
        points.append([x + move for x, move in zip(now, moves, strict=True)])
    return points


def noisy(seed: int = 0) -> Any:
    """Gradients of a quadratic with noise, the same for every walk."""
    rng = np.random.default_rng(seed)
    targets = [rng.standard_normal(size) for size in SIZES]
    return lambda xs: [x - t + 0.3 * rng.standard_normal(x.shape) for x, t in zip(xs, targets, strict=True)]


def start() -> list[Any]:
    """Random tensors of SIZES."""
    rng = np.random.default_rng(1)
    return [rng.standard_normal(size) for size in SIZES]


def same(mine: list[list[Any]], other: list[list[Any]], atol: float = 1e-12) -> None:
    """Two walks visit the same points."""
    for a, b in zip(mine, other, strict=True):
        for x, y in zip(a, b, strict=True):
            assert_allclose(x, y, atol=atol)


def iterated(singular: float, times: int = 5) -> list[float]:
    """Muon's polynomial applied again and again."""
    values = [singular]
    for _ in range(times):
        s = values[-1]
        values.append(3.4445 * s - 4.7750 * s**3 + 2.0315 * s**5)
    return values[1:]


@pin("muon")
def scalar_map() -> None:
    """Five iterates from 1: .7010, 1.1136, .7207, 1.0900, .6964."""
    one = np.array([[2.0]])  # its singular value is all of its norm
    found = [float(NewtonSchulz(iterations=n)(one)[0, 0]) for n in range(1, 6)]
    assert_allclose(found, [0.7010, 1.1136, 0.7207, 1.0900, 0.6964], atol=5e-5)
    assert_allclose(found, iterated(1.0), atol=1e-5)


@pin("muon")
def singular_values() -> None:
    """Singular values from 0.01 to 1 end in [0.6818, 1.1344], from 0.001 in [0.4705, 1.2024]."""
    for least, low, high in ((1e-2, 0.6818, 1.1344), (1e-3, 0.4705, 1.2024)):
        ends = np.array([iterated(s)[-1] for s in np.geomspace(least, 1, 4001)])
        assert_allclose([ends.min(), ends.max()], [low, high], atol=1e-4)


@pin("muon")
def equivariant() -> None:
    """NS(c G) = NS(G) for c > 0, NS(Q G R) = Q NS(G) R for orthogonal Q and R, NS(G') = NS(G)'; NS(0) = 0."""
    rng, ns = np.random.default_rng(0), NewtonSchulz()
    g = rng.standard_normal((6, 4))
    q, r = (np.linalg.qr(rng.standard_normal((n, n)))[0] for n in (6, 4))
    assert_allclose(ns(7.0 * g), ns(g), atol=1e-6)
    assert_allclose(ns(q @ g @ r), q @ ns(g) @ r, atol=1e-12)
    assert_allclose(ns(g.T), ns(g).T, atol=1e-12)
    assert not ns(0 * g).any()


@pin("muon")
def exact_polar() -> None:
    """With an SVD O'O = I for full column rank; a singular value of 0 stays 0."""
    g = np.random.default_rng(0).standard_normal((6, 4))
    o = ExactPolar()(g)
    assert_allclose(o.T @ o, np.eye(4), atol=1e-12)
    assert_allclose(np.linalg.svd(ExactPolar()(g[:, :1] @ g[:1]))[1], [1, 0, 0, 0], atol=1e-9)
    assert not ExactPolar()(0 * g).any()


@pin("muon", "ntr_momentum")
def polished() -> None:
    """Eight quintic and five cubic iterations give the exact polar factor."""
    g = np.random.default_rng(0).standard_normal((48, 64))
    assert_allclose(NewtonSchulz(iterations=8, polish=5)(g), ExactPolar()(g), atol=1e-6)


@pin("muon")
def heavy_ball() -> None:
    """Heavy-ball momentum (m = b m + g, u = g + b m) gives the same O as the average."""
    b, gradient = 0.95, noisy()
    gradients = [gradient(start())[::2] for _ in range(5)]
    heavy, ns = [np.zeros(size) for size in SIZES[::2]], NewtonSchulz()
    memories = [Muon().memory(x) for x in heavy]
    for g in gradients:
        heavy = [b * m + x for m, x in zip(heavy, g, strict=True)]
        mine, memories = Muon(scale=Unscaled()).move(g, memories, g, (0, 1), 1.0)
        for move, x, m in zip(mine, g, heavy, strict=True):
            assert_allclose(-move, ns(x + b * m), atol=1e-6)


@pin("muon")
def scales() -> None:
    """128 outputs, 32 inputs: scales 2 (Jordan), 0.2 sqrt(128) (Moonlight), 2 (Scion); reversed 1, the same, 1/2."""
    rules = WidthScale(), RMSScale(), OperatorScale()
    assert_allclose([s(128, 32) for s in rules], [2, 0.2 * 128**0.5, 2])
    assert_allclose([s(32, 128) for s in rules], [1, 0.2 * 128**0.5, 0.5])
    g = np.random.default_rng(0).standard_normal((4, 16))
    memory = [Muon().memory(g)]
    wide, tall = (Muon(nesterov=False).move([g], memory, [g], [axis], 1.0)[0][0] for axis in (0, 1))
    assert_allclose(tall, 2 * wide)


@pin("muon")
def convolutions() -> None:
    """A convolution's kernel [o, i, kh, kw] is the matrix [o, i kh kw]."""
    g = np.random.default_rng(0).standard_normal((4, 3, 2, 2))
    memory = [Muon().memory(g)]
    whole = Muon().move([g], memory, [g], [0], 1.0)[0][0]
    flat = Muon().move([g.reshape(4, 12)], [Muon().memory(g.reshape(4, 12))], [g.reshape(4, 12)], [0], 1.0)[0][0]
    assert_allclose(whole.reshape(4, 12), flat)


@pin("ntr_momentum")
def small_matrix() -> None:
    """M = [[3, 1], [1, 3]]: spectral direction -I; duals 6 (nuclear), 4.4721 (l2), 8 (l_inf), 3 (l1)."""
    assert_allclose(Spectral().direction([M], [0])[0], -np.eye(2), atol=1e-12)
    duals = [norm.dual([M], [0]) for norm in (Spectral(), L2(), LInf(), L1())]
    assert_allclose(duals, [6, 20**0.5, 8, 3], atol=1e-12)
    assert_allclose(L1().direction([M], [0])[0], [[-1, 0], [0, 0]])
    assert not any(norm.direction([0 * M], [0])[0].any() for norm in (Spectral(), L2(), LInf(), L1()))


@pin("ntr_momentum")
def named_optimizers() -> None:
    """One class, 30 steps: l2 is normalised SGD with momentum, l_inf Signum, spectral Muon with exact polar factors,
    l1 the largest coordinate alone.
    """
    muon = Muon(0.01, momentum=0.9, nesterov=False, polar=ExactPolar(), scale=Unscaled(), weight_decay=0.1)
    ours = NTRMomentum(0.01, norm=Spectral(), from_gradient=False, weight_decay=0.1)
    same(walk(ours, start(), noisy(), 30), walk(muon, start(), noisy(), 30))
    for norm, direction in ((L2(), _normalised), (LInf(), np.sign), (L1(), _largest)):
        ours = NTRMomentum(0.01, norm=norm)
        same(walk(ours, start(), noisy(), 30), _by_hand(direction))


def _normalised(m: Any) -> Any:
    return m / np.linalg.norm(m)


def _largest(m: Any) -> Any:
    return np.where(np.arange(m.size) == np.abs(m).argmax(), np.sign(m), 0)


def _by_hand(direction: Any, rate: float = 0.01, a: float = 0.1, steps: int = 30) -> list[list[Any]]:
    """m_0 = g(x_0), m <- (1-a) m + a g, x <- x - rate direction(m), all entries in one vector."""
    points, gradient, m = [start()], noisy(), None
    ends = np.cumsum([x.size for x in points[0]])[:-1]
    for _ in range(steps):
        g = np.concatenate([x.ravel() for x in gradient(points[-1])])
        m = g if m is None else (1 - a) * m + a * g
        moves = np.split(rate * direction(m), ends)
        points.append([x - move.reshape(x.shape) for x, move in zip(points[-1], moves, strict=True)])
    return points


@pin("ntr_momentum")
def descent() -> None:
    """a = 1, f = |X - A|_F^2 / 2, spectral norm: f falls by lr |grad|_dual - L lr^2 / 2, L = min(m, n), exactly."""
    rng = np.random.default_rng(0)
    target, x = rng.standard_normal((6, 4)), rng.standard_normal((6, 4))
    rule = NTRMomentum(0.05, averaging=1.0, norm=Spectral())
    points = walk(rule, [x], lambda xs: [xs[0] - target], 1)
    before, after = (0.5 * np.sum((p[0] - target) ** 2) for p in points)
    dual = rule.norm.dual([x - target], [0])
    assert_allclose(after, before - 0.05 * dual + 4 * 0.05**2 / 2, atol=1e-12)


@pin("ntr_momentum")
def radius() -> None:
    """No step leaves the ball of radius lr; with decay w the points keep |x| <= max(|x_0|, 1 / w)."""
    spectral, ones = lambda x: np.linalg.norm(x, 2), lambda x: np.abs(x).sum()
    for norm, size in (
        (Spectral(), spectral),
        (L2(), np.linalg.norm),
        (LInf(), lambda x: np.abs(x).max()),
        (L1(), ones),
    ):
        points = walk(NTRMomentum(0.3, norm=norm, weight_decay=2.0), [3 * M], lambda xs: [-np.ones((2, 2))], 20)
        assert all(size(p[0]) <= size(3 * M) + 1e-9 for p in points)
        assert size(points[-1][0]) <= 0.5 + 1e-2
        points = walk(NTRMomentum(0.3, norm=norm), [M], lambda xs: [xs[0] - 5], 20)
        assert all(size(b[0] - a[0]) <= 0.3 + 1e-9 for a, b in pairwise(points))


@pin("ntr_momentum")
def layers() -> None:
    """Layerwise is the largest of the layers' norms: each moves along its own direction, the duals add up."""
    tensors, axes = [M, np.array([3.0, -4.0])], (0, None)
    norm = Layerwise(hidden=Spectral(), others=L2(), radius=0.5)
    assert_allclose(norm.direction(tensors, axes)[1], [-0.3, 0.4])
    assert_allclose(norm.dual(tensors, axes), 6 + 0.5 * 5)


@pin("ntr_momentum")
def extrapolation() -> None:
    """On a quadratic without noise the extrapolated average lags by (1-a)^k of the first lag; the plain one more."""
    curvature, a = np.array([1.0, 5.0]), 0.2
    rule = NTRMomentum(0.05, averaging=a, norm=L2(), from_gradient=False, extrapolate=True)
    x, memory, lags = np.array([3.0, -2.0]), rule.memory(np.zeros(2)), []
    for _ in range(6):
        settled = rule.settled(x, memory)
        moves, [memory] = rule.move([curvature * x], [memory], [x], [None], rule.learning_rate)
        lags.append(memory["momentum"] - curvature * settled)
        x = x + moves[0]
    for before, after in pairwise(lags):
        assert_allclose(after, (1 - a) * before, atol=1e-12)
