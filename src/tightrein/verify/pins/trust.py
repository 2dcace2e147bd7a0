"""Pins of the ratio surrogates that strain the common mould."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.testing import assert_allclose, assert_array_equal

from ...anchor.controller import DualAscent
from ...arrays import Array
from ...decisions import Decisions
from ...distributions import Categorical, DiagonalGaussian
from ...errors import TightreinError
from ...objective.correction import DropCovariance, TruncatedImportance
from ...objective.covariance import covariance
from ...objective.divergence import CovarianceKL, RatioVariance
from ...objective.policy import PSPO, TROLL, BalancedBounds, Clip, Importance, Widths
from ...objective.ratio import ProximalRatio, SequenceMeanRatio, SequenceProductRatio
from ..batches import batch, coefficient, gradient, gradients, loss_at, method
from ..pin import pin


def _row(**fields: Any) -> Decisions:
    """One trajectory of decisions from lists."""
    made: dict[str, Any] = {name: np.asarray([x], float) for name, x in fields.items()}
    return Decisions(**made)


def _choice(old: tuple[float, ...], new: tuple[float, ...], advantage: float = 1.0, action: int = 0) -> Decisions:
    """One decision with whole distributions, from probabilities."""
    dist, dist_old = (Categorical(np.log(np.array([[p]], float))) for p in (new, old))
    return Decisions(advantage=np.array([[advantage]]), action=np.array([[action]]), dist=dist, dist_old=dist_old)


def _gradient(surrogate: TROLL, d: Decisions) -> Array:
    """Gradient of one decision's loss by the logits: [A]."""
    troll = method("troll", **{"objective.surrogate": surrogate})
    return gradients(troll, d.replace(logp=np.zeros_like(d.advantage)))["dist.logits"][0, 0]


def _raises(function: Callable[[], object]) -> None:
    try:
        function()
    except TightreinError:
        return
    raise AssertionError("no error")


@pin("troll")
def troll_inside_the_ball() -> None:
    """Inside the ball nothing is projected: -r A, and no pull."""
    d = _choice((0.5, 0.3, 0.2), (0.55, 0.27, 0.18), advantage=2.0)
    assert_allclose(TROLL()(d), [[-2.0 * 1.1]], rtol=1e-12)
    assert float(TROLL().stats(d)["kl_projection"]) == 0
    assert_allclose(_gradient(TROLL(), d), _gradient(TROLL(alpha=0.0), d), atol=0)


@pin("troll")
def troll_projection() -> None:
    """The projections, ratios and pulls of two worked examples."""
    for old, new, q, pull in [
        ((0.5, 0.5), (0.9, 0.1), (0.656782, 0.343218), 0.160219),
        ((0.5, 0.3, 0.2), (0.8, 0.15, 0.05), (0.650957, 0.234048, 0.114995), 0.056558),
    ]:
        for action, (v, projected) in enumerate(zip(old, q, strict=True)):
            d = _choice(old, new, action=action)
            assert_allclose(-TROLL(alpha=0.0)(d)[0, 0], projected / v, atol=3e-6)
            assert_allclose(TROLL()(d)[0, 0] + projected / v, pull, atol=3e-6)


@pin("troll")
def troll_two_actions() -> None:
    """With two actions the ball and the side fix the projection: outside only the pull has a gradient."""
    d = _choice((0.5, 0.5), (0.9, 0.1))
    assert_allclose(_gradient(TROLL(alpha=0.0), d), 0, atol=1e-10)
    p, q = np.array([0.9, 0.1]), np.array([0.656782, 0.343218])
    pull = p * (np.log(p / q) - np.sum(p * np.log(p / q)))
    assert_allclose(_gradient(TROLL(), d), pull, atol=1e-5)
    three = _choice((0.5, 0.3, 0.2), (0.8, 0.15, 0.05))
    assert np.max(np.abs(_gradient(TROLL(alpha=0.0), three))) > 0.01


@pin("troll")
def troll_gradient_through_the_multiplier() -> None:
    """The gradient through the projection is that of finite differences."""
    rng, surrogate, step = np.random.default_rng(0), TROLL(alpha=0.0), 1e-5
    for _ in range(5):
        old, new = rng.standard_normal((2, 1, 1, 5))
        d = Decisions(
            advantage=np.array([[1.0]]), action=np.array([[3]]), dist=Categorical(new), dist_old=Categorical(old)
        )
        expected = [
            (
                surrogate(d.replace(dist=Categorical(new + e)))[0, 0]
                - surrogate(d.replace(dist=Categorical(new - e)))[0, 0]
            )
            / (2 * step)
            for e in step * np.eye(5)
        ]
        assert_allclose(_gradient(surrogate, d), expected, atol=1e-7)


@pin("troll")
def troll_limits_and_errors() -> None:
    """A ball of no size leaves the old policy, ratio 1; a wide one the policy; Gaussians are refused."""
    d = _choice((0.5, 0.3, 0.2), (0.8, 0.15, 0.05), advantage=3.0)
    assert_allclose(TROLL(epsilon=1e-8, alpha=0.0)(d), [[-3.0]], atol=1e-3)
    assert_allclose(TROLL(epsilon=10.0)(d), [[-3.0 * 1.6]], rtol=1e-12)
    normal = DiagonalGaussian(np.zeros((1, 1, 2)), np.zeros((1, 1, 2)))
    _raises(lambda: TROLL()(d.replace(dist=normal, dist_old=normal)))


_RATIOS, _SIGNS = [1.5, 0.9, 0.5, 1.1], [1.0, 1.0, -1.0, -1.0]
_PLAIN: dict[str, Any] = {"lower_first": True, "weighted": False}  # the released code


def _found(rule: BalancedBounds, r: list[float] = _RATIOS, advantage: list[float] = _SIGNS) -> dict[str, float]:
    d = _row(logp=np.log(r), logp_old=np.zeros(len(r)), advantage=advantage)
    return {name: float(x) for name, x in rule.stats(d, np.array([r]), np.array([advantage])).items()}


@pin("bapo")
def bapo_shares() -> None:
    """The share of positive advantages in the clipped objective at three pairs of bounds."""
    for low, high, positive, negative in [(0.6, 1.2, 2.1, 1.7), (0.8, 1.2, 2.1, 1.9), (0.6, 1.5, 2.4, 1.7)]:
        share = _found(BalancedBounds(low=low, high=high, **_PLAIN))["positive_share_start"]
        assert_allclose(share, positive / (positive + negative))


@pin("bapo")
def bapo_search() -> None:
    """Bounds that the search ends at, for ratios of positive to negative of 1.2, 1.3 and 1.4."""

    def ends(ratio: float, **changes: Any) -> list[float]:
        found = _found(
            BalancedBounds(**{"high_max": 2.0, "low_max": 0.8, **_PLAIN, **changes}, share=ratio / (1 + ratio))
        )
        return [found["clip_low"], found["clip_high"], found["positive_share"]]

    assert_allclose(ends(1.2), [0.6, 1.2, 2.1 / 3.8])
    assert_allclose(ends(1.3, high_max=1.2), [0.8, 1.2, 2.1 / 4.0])
    assert_allclose(ends(1.4, low_max=0.6), [0.6, 1.5, 2.4 / 4.1])
    assert_allclose(ends(1.4, low_max=0.6, lower_first=False), [0.6, 1.5, 2.4 / 4.1])
    assert_allclose(ends(9.0)[:2], [0.8, 2.0])


def _climbed(rule: BalancedBounds, r: Array, advantage: Array, low_step: float) -> tuple[float, float]:
    """The same search, step by step."""
    low, high = rule.low, rule.high

    def reached() -> bool:
        gain = np.where(advantage >= 0, np.minimum(r, high), np.maximum(r, low)) * advantage
        positive, negative = gain[gain > 0].sum(), -gain[gain < 0].sum()
        return bool(negative <= 0 or positive >= rule.share * (positive + negative))

    for bound in ("low", "high") if rule.lower_first else ("high", "low"):
        while not reached() and (low < rule.low_max if bound == "low" else high < rule.high_max):
            low = min(low + low_step, rule.low_max) if bound == "low" else low
            high = min(high + rule.high_step, rule.high_max) if bound == "high" else high
    return low, high


@pin("bapo")
def bapo_finds_what_climbing_finds() -> None:
    """Halving the grid ends where climbing it step by step does, in either order, with any step of the lower bound."""
    rng = np.random.default_rng(1)
    for case in range(60):
        r, advantage = np.exp(rng.standard_normal(12)), rng.standard_normal(12) - 0.5
        rule = BalancedBounds(share=float(rng.uniform(0, 0.9)), weighted=False, lower_first=case % 2 == 0)
        found = _found(rule, list(r), list(advantage))
        assert_allclose((found["clip_low"], found["clip_high"]), _climbed(rule, r, advantage, 0.07), atol=1e-9)
        assert rule.low <= found["clip_low"] <= rule.low_max
        assert rule.high <= found["clip_high"] <= rule.high_max


@pin("bapo")
def bapo_without_negatives() -> None:
    """Without negative advantages there is no search; a range that falls is refused."""
    found = _found(BalancedBounds(share=0.9), [2.5, 0.3], [1.0, 0.5])
    assert (found["clip_low"], found["clip_high"]) == (0.6, 1.2)
    _raises(lambda: BalancedBounds(low=0.7, low_max=0.6))


@pin("bapo")
def bapo_weights() -> None:
    """As the paper counts, a decision weighs by its old probability."""
    d = _row(logp=np.log([0.2, 0.4]), logp_old=np.log([0.2, 0.4]), advantage=[1.0, -1.0])
    share = BalancedBounds().stats(d, np.ones((1, 2)), d.advantage)["positive_share_start"]
    assert_allclose(share, 0.2 / 0.6)


@pin("bapo")
def bapo_dual_clip() -> None:
    """A negative advantage costs at most 3 |A|, and has no gradient there."""
    surrogate = Clip(Widths(0.4, 0.2), dual=3.0)
    assert_allclose([loss_at(surrogate, r, -2.0) for r in (2.0, 4.0)], [4.0, 6.0])
    assert_allclose([coefficient(surrogate, r, -2.0) for r in (2.0, 4.0)], [4.0, 0.0], atol=1e-12)


@pin("r2vpo")
def r2vpo_gradient() -> None:
    """The coefficient is -r (A - 2 lambda (r - 1)): 0 at r = 13.5 for A = 1, and a pull back beyond."""
    for advantage, r, expected in [(1.0, 1.0, -1.0), (1.0, 13.5, 0.0), (1.0, 15.0, 15 * 0.12), (-1.0, 0.5, 0.48)]:
        d = _row(logp=[math.log(r)], logp_old=[0.0], advantage=[advantage])
        assert_allclose(gradient(method("r2vpo"), d), [[expected]], atol=1e-9)
    rs = np.linspace(0.01, 20, 200)
    d = Decisions(logp=np.log(rs)[:, None], logp_old=np.zeros((200, 1)), advantage=-np.ones((200, 1)))
    assert np.all(gradient(method("r2vpo"), d) > 0)  # with A = -1 it never turns


@pin("r2vpo")
def r2vpo_dual_step() -> None:
    """The multiplier goes from 0.04 to 0.0446667 on deviations 0.04, 0, 0.16, and never below 0."""
    r = [1.2, 1.0, 1.4]
    d = _row(logp=np.log(r), logp_old=[0, 0, 0], advantage=[1, 1, 1])
    r2vpo = method("r2vpo")
    assert_allclose(r2vpo.update(r2vpo.init(), d)["objective.trust"], 0.04 + 0.1 * (0.2 / 3 - 0.02), atol=1e-12)
    assert float(DualAscent().next(np.float64(1e-4), np.float64(0.0), 0.0)) == 0


@pin("r2vpo")
def r2vpo_is_twice_the_kl() -> None:
    """E (r - 1)^2 is 2 KL(pi_old || pi) for small changes."""
    rng = np.random.default_rng(0)
    old = rng.dirichlet(np.ones(6))
    for size in (1e-2, 1e-3):
        new = old * (1 + size * rng.uniform(-1, 1, 6))
        new /= new.sum()
        kl = np.sum(old * np.log(old / new))
        d = _row(logp=np.log(new), logp_old=np.log(old), advantage=np.zeros(6))
        assert_allclose(np.sum(old * RatioVariance()(d)[0]) / (2 * kl), 1, atol=3 * size)


def _covaried(**fields: Any) -> Decisions:
    return _row(logp=np.log([0.9, 0.5, 0.1, 0.5]), advantage=[1, 1, -1, -1], **fields)


@pin("kl_cov", "clip_cov")
def covariances() -> None:
    """Four covariances, whose mean is the empirical covariance of advantage and log-probability."""
    d = _covaried()
    assert_allclose(covariance(d), [[0.843199, 0.255413, 1.354025, -0.255413]], atol=1e-6)
    assert_allclose(np.mean(covariance(d)), np.cov(d.advantage[0], d.logp[0], bias=True)[0, 1])


@pin("kl_cov")
def kl_cov_penalty() -> None:
    """Only the decision of largest covariance is held back, by |log r| = 0.693147; with share 1 all are."""
    d = _covaried(logp_old=np.log([0.8, 0.5, 0.2, 0.5]))
    assert_allclose(Importance()(d), [[-1.125, -1, 0.5, 1]])
    assert_allclose(CovarianceKL()(d), [[0, 0, 0.693147, 0]], atol=1e-6)
    assert_allclose(CovarianceKL(share=1.0)(d), [[0.117783, 0, 0.693147, 0]], atol=1e-6)
    assert_allclose(method("kl_cov").loss(d).per_decision, [[-1.125, -1, 0.5 + 0.693147, 1]], atol=1e-6)


@pin("kl_cov")
def kl_cov_on_the_old_policy() -> None:
    """On the old policy the penalty has neither value nor gradient."""
    d = batch(0, method("kl_cov"))
    d = d.replace(logp_old=d.logp)
    held, free = method("kl_cov", share=1.0), method("kl_cov", **{"objective.trust": None})
    assert_array_equal(gradient(held, d), gradient(free, d))


@pin("clip_cov")
def clip_cov_choice() -> None:
    """The one candidate loses its loss; without candidates nothing does; a clipped decision is none."""
    d = _covaried(logp_old=np.log([0.9, 0.5, 0.1, 0.5]), random=[0.3, 0.1, 0.9, 0.2])
    assert_array_equal(DropCovariance()(d, Clip()), [[1, 1, 0, 1]])
    assert_array_equal(DropCovariance(low=math.inf)(d, Clip()), [[1, 1, 1, 1]])
    assert_array_equal(DropCovariance()(d.replace(logp_old=np.log([[0.9, 0.5, 0.2, 0.5]])), Clip()), [[1, 1, 1, 1]])


@pin("clip_cov")
def clip_cov_number() -> None:
    """Of many candidates exactly n are left out, by their random numbers; the rest and the denominator stay."""
    rng = np.random.default_rng(0)
    made: dict[str, Any] = {name: rng.standard_normal((20, 50)) for name in ("logp", "advantage")}
    d = Decisions(**made, logp_old=made["logp"], random=rng.random((20, 50)))
    kept = DropCovariance(share=0.01, low=0.5)(d, Clip())
    assert np.sum(kept == 0) == 10
    candidates = (covariance(d) > 0.5) & (covariance(d) < 5)
    assert np.max(d.random[kept == 0]) < np.min(d.random[candidates & (kept == 1)])
    whole = method("clip_cov", share=0.01, **{"objective.correction.low": 0.5}).loss(d)
    assert_allclose(float(whole.value), np.sum(kept * -d.advantage) / 1000)


def _stale(age: float, now: float = 0.4) -> Decisions:
    return _row(logp=np.log([now]), logp_behaviour=np.log([0.2]), staleness=[age], advantage=[1.0])


@pin("a3po")
def a3po_proximal_policy() -> None:
    """The proximal policy by staleness: the one that sampled at 0 and 1, then half way, three quarters, all."""
    for age, share in [(0, 0), (1, 0), (2, 0.5), (4, 0.75), (1e9, 1)]:
        d = _stale(age)
        assert_allclose(ProximalRatio().weight(d), [[2**share]], rtol=1e-6)
        assert_allclose(ProximalRatio()(d), [[2 ** (1 - share)]], rtol=1e-6)
    assert_allclose(0.2 * float(ProximalRatio().weight(_stale(2))[0, 0]), 0.282843, atol=1e-6)


@pin("a3po")
def a3po_coefficient() -> None:
    """Inside the band the coefficient is -(pi / pi_behaviour) A, whatever the staleness, which says who is clipped."""
    for age in (1, 2, 4, 100):
        assert_allclose(gradient(method("a3po"), _stale(age, 0.25)), [[-1.25]])
    found = [float(gradient(method("a3po"), _stale(age))[0, 0]) for age in (1, 2, 4)]  # r = 2, 2^1/2, 2^1/4
    assert_allclose(found, [0, 0, -2])


@pin("a3po")
def a3po_cap() -> None:
    """Weights above the cap are left out, or truncated where told to; they belong to a proximal ratio."""
    d = _stale(1e9, 0.2 * math.e**3)
    for drop, weight in [(True, 0.0), (False, 5.0)]:
        a3po = method("a3po", **{"objective.correction.drop": drop})
        assert_allclose(float(a3po.loss(d).value), -weight, rtol=1e-6)
    _raises(lambda: method("a3po", **{"objective.surrogate": Importance()}).loss(d.replace(logp_old=d.logp)))


@pin("tis")
def tis_weights() -> None:
    """Truncated weights of decisions, of an answer, and their geometric mean."""
    d = _row(logp_old=np.log([0.5, 1, 1.5, 3, 6]), logp_behaviour=np.zeros(5), advantage=np.zeros(5))
    assert_allclose(TruncatedImportance()(d, Importance()), [[0.5, 1, 1.5, 2, 2]])
    assert_allclose(TruncatedImportance(drop=True)(d, Importance()), [[0.5, 1, 1.5, 0, 0]])
    assert_allclose(TruncatedImportance(drop=True, floor=0.7)(d, Importance()), [[0, 1, 1.5, 0, 0]])
    assert_allclose(TruncatedImportance(normalise=True)(d, Importance()), np.array([[0.5, 1, 1.5, 2, 2]]) / 1.4)
    d = _row(logp_old=[0.3, 0.3, 0.3], logp_behaviour=np.zeros(3), advantage=np.zeros(3))
    answer, mean = (
        TruncatedImportance(level=x)(d, Importance()) for x in (SequenceProductRatio(), SequenceMeanRatio())
    )
    assert_allclose([answer[0, 0], mean[0, 0]], [2.0, 1.349859], atol=1e-6)


@pin("tis")
def tis_without_mismatch() -> None:
    """Where sampler and trainer agree the loss is grpo's, bit for bit; no gradient flows into the weight."""
    d = batch(0, method("tis"))
    same = d.replace(logp_behaviour=d.logp_old)
    assert float(method("tis").loss(same).value) == float(method("grpo").loss(same).value)
    moving = d.replace(logp_old=d.logp)
    tis, grpo = (gradient(method(key, **{"objective.reference.coef": 0.0}), moving) for key in ("tis", "grpo"))
    weight = np.minimum(np.exp(moving.logp_old - moving.logp_behaviour), 2)
    assert_allclose(tis, grpo * weight * moving.mask, atol=1e-12)


@pin("pspo")
def pspo_values() -> None:
    """r = 2, a = 0.1: the loss is -1.9 A and the coefficient -1.8 A; with a = 1 nothing moves."""
    assert_allclose([loss_at(PSPO(0.1), 2.0, 3.0), coefficient(PSPO(0.1), 2.0, 3.0)], [-5.7, -5.4])
    assert_allclose([loss_at(PSPO(1.0), 5.0, 3.0), coefficient(PSPO(1.0), 5.0, 3.0)], [-3.0, 0.0])
    assert_allclose([loss_at(PSPO(a), 1.0, 3.0) for a in (0.0, 0.3, 1.0)], -3.0)


@pin("pspo")
def pspo_contracts() -> None:
    """Mixing takes 1 - a of the total variation to the old policy, and at least that share of the KL."""
    rng = np.random.default_rng(0)
    for _ in range(20):
        old, new, a = *rng.dirichlet(np.ones(5), 2), rng.random()
        mixed = old * -PSPO(a).formula(new / old, np.ones(5))
        assert_allclose(np.abs(mixed - old).sum(), (1 - a) * np.abs(new - old).sum(), atol=1e-12)
        assert np.sum(old * np.log(old / mixed)) <= (1 - a) * np.sum(old * np.log(old / new)) + 1e-12
