"""The exact properties of the control methods' surrogates, as their papers imply them."""

from __future__ import annotations

import numpy as np
from numpy.testing import assert_allclose, assert_array_equal

from ...anchor.controller import AdaptiveKL
from ...decisions import Decisions
from ...distributions import Categorical
from ...objective.policy import SPO, Clip, DriftDPO, Importance, PolicyGradient, Widths
from ..batches import batch, coefficient, gradient, gradients, loss_at, method, slope
from ..pin import pin

PPO = Clip(Widths(0.2, 0.2))


@pin("ppo_clip", "a2c_as_ppo")
def ppo_numbers() -> None:
    """Losses of one decision at r = 1.3 and 0.7, for both signs of the advantage."""
    for a, r, loss in [(1, 1.3, -1.2), (1, 0.7, -0.7), (-1, 1.3, 1.3), (-1, 0.7, 0.8)]:
        assert_allclose(loss_at(PPO, r, a), loss, atol=1e-12)


@pin("ppo_clip", "a2c_as_ppo")
def ppo_gradient_is_minus_a_or_exactly_zero() -> None:
    """The slope in r is -A inside the bounds, and exactly 0 where moving further would only gain."""
    for a in (-2.0, 0.5, 3.0):
        for r in (0.3, 0.79, 0.81, 1.0, 1.19, 1.21, 4.0):
            inside = r < 1.2 if a > 0 else r > 0.8
            assert_allclose(slope(PPO, r, a), -a if inside else 0, atol=1e-12)
            assert inside or slope(PPO, r, a) == 0


@pin("spo")
def spo_numbers() -> None:
    """Losses of one decision at five points."""
    for a, r, loss in [(1, 1.1, -1.075), (1, 1.3, -1.075), (-1, 0.8, 0.9), (-1, 1.3, 1.525), (1, 0.7, -0.475)]:
        assert_allclose(loss_at(SPO(0.2), r, a), loss, atol=1e-12)


@pin("spo")
def spo_slopes() -> None:
    """Slope -1 at r = 1, 0 at r = 1 +- epsilon, turning back beyond, where PPO lets go."""
    for a, r, expected in [(1.0, 1.0, -1), (1.0, 1.2, 0), (-1.0, 0.8, 0), (1.0, 1.3, 0.5), (-1.0, 0.7, -0.5)]:
        assert_allclose(slope(SPO(0.2), r, a), expected, atol=1e-12)
    assert_allclose(loss_at(SPO(0.2), 1.0, 1.0), -1)
    assert slope(PPO, 1.3, 1.0) == 0


@pin("spo")
def spo_limits() -> None:
    """A wide epsilon is the plain ratio surrogate; three times the advantage is three times the loss."""
    r, a = np.array([[0.4, 1.7]]), np.array([[2.0, -1.0]])
    assert_allclose(SPO(1e12).formula(r, a), Importance().formula(r, a), rtol=1e-10)
    assert_allclose(SPO(0.2).formula(r, 3 * a), 3 * SPO(0.2).formula(r, a))


@pin("dpo_drift")
def dpo_drift_numbers() -> None:
    """Drifts and losses at r = 1.5 and 0.5."""
    drift = DriftDPO(alpha=2.0, beta=0.6)
    assert_allclose(drift.drift(np.array(1.5), np.log(1.5), np.array(1.0)), 0.0101627, atol=1e-7)
    assert_allclose(drift.drift(np.array(0.5), np.log(0.5), np.array(-1.0)), 0.2014566, atol=1e-7)
    for r, a, loss in [(1.5, 1, -1.4898373), (0.5, -1, 0.7014566), (0.5, 1, -0.5)]:
        assert_allclose(loss_at(drift, r, a), loss, atol=1e-7)


@pin("dpo_drift")
def dpo_drift_axioms_and_slopes() -> None:
    """The drift is never negative, 0 where a step makes things worse anyway, and flat at r = 1."""
    drift = DriftDPO()
    r = np.exp(np.random.default_rng(0).standard_normal((200, 1)))
    a = np.random.default_rng(1).standard_normal((200, 1))
    d = drift.drift(r, np.log(r), a)
    assert np.all(d >= 0)
    assert np.all(d[(r - 1) * a <= 0] == 0)
    for advantage in (1.0, -1.0):
        assert_allclose(slope(drift, 1.0, advantage), -advantage, atol=1e-12)
    assert_allclose(slope(drift, 1.5, 1.0), -0.940015, atol=1e-6)
    assert_allclose(coefficient(drift, 0.9, -1.0), 0.86979, atol=1e-5)
    assert_allclose(coefficient(drift, 0.5, -1.0), -0.17155, atol=1e-5)


@pin("a2c_as_ppo")
def a2c_and_ppo_at_the_old_policy() -> None:
    """At the old policy PPO and A2C have exactly the same gradient, but not the same loss."""
    ppo = method("a2c_as_ppo")
    a2c = ppo.override({"objective.surrogate": PolicyGradient()})
    d = batch(3, ppo)
    d = d.replace(logp=d.logp_old.copy())
    assert_array_equal(gradient(ppo, d), gradient(a2c, d))
    assert not np.isclose(float(ppo.loss(d).value), float(a2c.loss(d).value))


@pin("a2c_as_ppo")
def a2c_gradient_does_not_depend_on_the_clip_range() -> None:
    """At r = 1 the slope is -A for every epsilon."""
    for epsilon in (1e-3, 0.2, 5.0):
        for advantage in (1.0, -1.0):
            assert slope(Clip(Widths(epsilon, epsilon)), 1.0, advantage) == -advantage


@pin("dual_clip_ppo")
def dual_clip_values() -> None:
    """A = -1, r = 5: loss 3 and no gradient; r = 2: loss 2 and coefficient 2; a good decision is PPO's."""
    surrogate = Clip(dual=3.0)
    assert_allclose([loss_at(surrogate, 5.0, -1.0), coefficient(surrogate, 5.0, -1.0)], [3.0, 0.0], atol=1e-12)
    assert_allclose([loss_at(surrogate, 2.0, -1.0), coefficient(surrogate, 2.0, -1.0)], [2.0, 2.0])
    for r in (0.1, 1.0, 1.5, 9.0):
        assert loss_at(surrogate, r, 1.0) == loss_at(Clip(), r, 1.0)


@pin("ppo_kl")
def ppo_kl_has_the_policy_gradient_at_the_old_policy() -> None:
    """At the old policy the penalty is 0, and so is its gradient."""
    kl = method("ppo_kl")
    d = batch(1, kl)
    same = d.replace(logp=d.logp_old.copy(), dist=Categorical(d.dist_old.logits.copy()))  # type: ignore[union-attr]
    assert float(np.max(np.abs(gradients(kl, same)["dist.logits"]))) < 1e-15
    assert_allclose(kl.loss(same).stats["kl_exact"], 0, atol=1e-15)


@pin("ppo_kl")
def ppo_kl_controller() -> None:
    """The coefficient doubles above 1.5 times the target, halves below 1 / 1.5 of it, and else stays."""
    control = AdaptiveKL(target=0.01)
    for factor, expected in [(1.6, 2.0), (0.6, 0.5), (1.0, 1.0), (1.4, 1.0), (0.7, 1.0)]:
        assert float(control.next(np.array(1.0), np.array(0.01 * factor), 0.0)) == expected


@pin("ppo_kl")
def ppo_kl_state_moves_by_powers_of_two() -> None:
    """The coefficient is the method's state, weighs the exact KL, and doubles while policies are far apart."""
    kl = method("ppo_kl")
    state = kl.init()
    assert state == {"objective.trust": 1.0}
    assert kl.stateful
    assert not method("spo").stateful
    for seed in range(4):
        state = kl.update(state, batch(seed, kl, spread=2.0))
        assert float(np.log2(state["objective.trust"])).is_integer()
    assert float(state["objective.trust"]) == 16
    d = batch(0, kl)
    extra = kl.loss(d, state).per_decision - kl.loss(d, {"objective.trust": 0.0}).per_decision
    assert_allclose(extra, 16 * d.dist_old.kl(d.dist) * d.mask, atol=1e-12)  # type: ignore[union-attr,arg-type]


def at_ratio(r: np.ndarray, advantage: np.ndarray) -> Decisions:
    """Decisions with the given ratios and advantages: [B, T]."""
    return Decisions(logp=np.log(r), logp_old=np.zeros_like(r), advantage=advantage)


@pin("ppo_clip")
def ppo_is_a_lower_bound() -> None:
    """The clipped loss is never below the plain one, at any ratio."""
    r = np.exp(np.random.default_rng(0).standard_normal((50, 4)))
    a = np.random.default_rng(1).standard_normal((50, 4))
    assert np.all(PPO(at_ratio(r, a)) >= -r * a - 1e-12)


@pin("ppo_clip")
def the_entropy_bonus_is_subtracted() -> None:
    """The gradient by each decision's entropy is minus the coefficient times its weight in the mean."""
    bonus = method("ppo_clip", entropy=0.01)
    d = batch(0, bonus)
    assert_allclose(gradients(bonus, d)["entropy"], -0.01 * d.mask / d.mask.sum(), atol=1e-15)
