"""Exact properties of heads on a hyperboloid and of a value that is a distribution over bins."""

from __future__ import annotations

import math

import numpy as np

from ...heads import HyperbolicHeads
from ...objective.value import Bins, CategoricalValueLoss
from ..pin import pin
from .solvers import near

HEADS = HyperbolicHeads()
VALUE = CategoricalValueLoss()


@pin("hyperpp")
def features_are_bounded() -> None:
    """No feature is longer than atanh(0.95) / sqrt(c), 1.83178 at c = 1, whatever comes before."""
    rng = np.random.default_rng(0)
    near(HEADS.longest, 1.83178, 1e-5)
    for curvature in (0.1, 1.0, 4.0):
        heads = HEADS.replace(curvature=curvature)
        for scale in (0.0, 1e-3, 1.0, 1e6):
            h = scale * rng.standard_normal((500, 32))
            x = heads.bounded(h, rng.standard_normal(32), np.float64(100.0))
            assert np.linalg.norm(x, axis=-1).max() <= math.atanh(0.95) / math.sqrt(curvature)
    ones = HEADS.bounded(np.ones((1, 32)), np.zeros(32), np.float64(0.0))
    near(np.linalg.norm(ones), 0.5 * HEADS.longest * math.tanh(1 / math.sqrt(1 + 2.0**-23)), 1e-12)


@pin("hyperpp")
def a_point_and_its_output() -> None:
    """x = (.3, .4): p = (1.127626, .312657, .416876), and -p0^2 + |p|^2 = -1; z = (1, 0), r = 0 give .307775."""
    first, rest = HEADS.lifted(np.array([0.3, 0.4]))
    near([first, *rest], [1.127626, 0.312657, 0.416876], 5e-7)
    near(HEADS.logits(np.array([[0.3, 0.4]]), np.array([[1.0, 0.0]]), np.zeros(1)), 0.307775, 5e-7)
    rng = np.random.default_rng(1)
    for curvature in (0.3, 1.0, 2.0):
        heads = HEADS.replace(curvature=curvature)
        x = np.concatenate([rng.standard_normal((50, 5)), np.zeros((1, 5)), 1e-6 * rng.standard_normal((20, 5))])
        first, rest = heads.lifted(x)
        near(-(first**2) + (rest**2).sum(-1), -1 / curvature, 1e-9)


@pin("hyperpp")
def an_output_is_a_distance() -> None:
    """|z| = 1: the output is the distance of p from the hyperplane; on the axis at x = t z it is t - r."""
    rng = np.random.default_rng(2)
    z = rng.standard_normal(5)
    z /= np.linalg.norm(z)
    for t, r, curvature in ((0.7, 0.2, 1.0), (-1.0, 0.5, 1.0), (0.4, -0.9, 0.5)):
        heads = HEADS.replace(curvature=curvature)
        near(heads.logits(t * z[None, :], z[None, :], np.array([r])), t - r, 1e-12)


@pin("hyperpp")
def flat_space_in_the_limit() -> None:
    """c -> 0: the output tends to <z, x> - r |z|."""
    rng = np.random.default_rng(3)
    x, z, r = rng.standard_normal((20, 6)), rng.standard_normal((4, 6)), rng.standard_normal(4)
    flat = x @ z.T - r * np.linalg.norm(z, axis=-1)
    errors = [np.abs(HEADS.replace(curvature=c).logits(x, z, r) - flat).max() for c in (1e-2, 1e-4, 1e-6)]
    assert errors[2] < 1e-4
    assert errors[0] > 10 * errors[1] > 100 * errors[2]


@pin("hyperpp")
def the_clamp() -> None:
    """Up to the limit of log(2 / 2^-52) = 36.74 nothing changes; beyond, values lie at most log(2) / 50 below it."""
    near(HEADS.limit, 36.7368, 1e-4)
    inside = np.linspace(-36.7, 36.7, 1001)
    near(HEADS.clamped(inside), inside, 0)
    beyond = HEADS.clamped(np.array([36.8, 40.0, 1e10]))
    assert np.all((beyond <= HEADS.limit) & (beyond >= HEADS.limit - math.log(2) / 50))
    near(HEADS.clamped(np.array([-1e10, 1e10])), [-HEADS.limit, HEADS.limit], 1e-12)
    x, z = np.array([[0.5, -1.0]]), np.array([[1.0, 0.0], [1.0, 0.0]])
    near(HEADS.logits(x, z, np.array([-20.0, 1e9])), [[math.asinh(HEADS.limit), -math.asinh(HEADS.limit)]], 1e-9)


@pin("hyperpp")
def targets_as_distributions() -> None:
    """51 bins of width 20 / 51, s = .294118: R = 0 puts .495015 on the middle bin, mean 0; R = 3 has mean 3.0000015."""
    bins = Bins()
    near(VALUE.smoothing * bins.width, 0.294118, 5e-7)
    found = VALUE.probabilities(np.array([0.0, 3.0]))
    near(found[0, 25], 0.495015, 5e-7)
    means = bins.mean(np.log(np.maximum(found, 1e-300)))
    near(means, [0.0, 3.0000015], 5e-8)
    ends = VALUE.probabilities(np.array([-1e3, 10.0, 1e9]))
    near(ends.sum(-1), 1.0, 1e-12)
    near(ends[1], ends[2], 0)
    near(ends[0], ends[1][::-1], 1e-12)
