"""Pins of the clipped surrogates: other levels, other bounds, other gradients beyond them."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.testing import assert_allclose

from ...arrays import Array, convert, value_and_gradient
from ...decisions import Decisions
from ...objective.levels import SequenceTokenRatio
from ...objective.policy import Clip, ElasticBounds, GeometricClip, HybridClip, PreservingClip, Score, Widths
from ...objective.policy.score import RatioWeight
from ...objective.ratio import SequenceMeanRatio
from ...objective.value import ValueLoss
from ..batches import autodiff, batch, coefficient, gradient, loss_at, method
from ..pin import pin

FREE: dict[str, Any] = {"objective.reference.coef": 0.0}
POINTS = [(a, r) for a in (1.0, -1.0) for r in (0.3, 0.5, 0.79, 1.0, 1.25, 2.0, 4.0)]


def answer(log_ratios: list[float], advantage: list[float] | float = 1.0, entropy: list[float] | None = None) -> Any:
    """One answer with the given log-ratios."""
    rows = np.array([log_ratios], float)
    h = None if entropy is None else np.array([entropy])
    return Decisions(logp=rows - 1, logp_old=0 * rows - 1, advantage=0 * rows + np.array(advantage), entropy=h)


def jacobian(formula: Any, d: Decisions, index: int) -> Array:
    """Gradient by logp [T] of one entry of what `formula` makes of an answer."""
    there = Decisions(**{n: convert(x, autodiff()) for n, x in vars(d).items() if x is not None})
    found = value_and_gradient(lambda leaf: formula(there.replace(**leaf))[0, index], {"logp": there.logp})[1]
    return convert(found["logp"], "NumPy")[0]


@pin("gspo_token")
def each_token_has_its_own_gradient() -> None:
    """Every token sees the answer's ratio s; by its own logp it changes at the rate s, by another's not at all."""
    d, ratio = answer([0.3, -0.1, 0.1]), SequenceTokenRatio()
    assert_allclose(ratio(d), np.full((1, 3), np.exp(0.1)))
    for t in range(3):
        assert_allclose(jacobian(ratio, d, t), np.exp(0.1) * np.eye(3)[t])


@pin("gspo_token")
def one_advantage_for_all_is_gspo() -> None:
    """Value and gradient are gspo's where the tokens share an advantage, and are not where they do not."""
    token, whole = (method(key, low=0.1, high=0.2) for key in ("gspo_token", "gspo"))
    d = batch(0, whole)
    for ours, theirs in ((token, whole),):
        assert_allclose(float(ours.loss(d).value), float(theirs.loss(d).value), rtol=1e-12)
        assert_allclose(gradient(ours, d), gradient(theirs, d), atol=1e-12)
    varied = d.replace(advantage=d.advantage * np.linspace(0.5, 1.5, d.mask.shape[1]))
    assert np.max(np.abs(gradient(token, varied) - gradient(whole, varied))) > 1e-3


@pin("gmpo")
def geometric_means_of_clipped_ratios() -> None:
    """Log-ratios 0.5, -0.6, 0.1 cut at 0.4: 0.967216 for a good answer, 1.068939 for a bad one."""
    ratios = [0.5, -0.6, 0.1]
    for advantage, rho in ((1.0, 0.967216), (-1.0, 1.068939)):
        assert_allclose(GeometricClip()(answer(ratios, advantage)), [[-advantage * rho]], atol=1e-6)


@pin("gmpo")
def a_clipped_token_leaves_the_others_their_gradient() -> None:
    """A clipped token has no gradient of its own; the others of the answer have rho / L."""
    found = jacobian(GeometricClip(), answer([0.5, -0.6, 0.1]), 0)
    assert_allclose(found, [0, -0.967216 / 3, -0.967216 / 3], atol=1e-6)


@pin("gmpo")
def geometric_and_arithmetic_mean() -> None:
    """The geometric mean is never above the arithmetic one of the same ratios; unclipped it is gspo's ratio."""
    d = answer(list(np.random.default_rng(0).standard_normal(20)))
    free = -GeometricClip(math.inf, math.inf)(d)
    assert_allclose(free, SequenceMeanRatio()(d))
    assert float(free[0, 0]) <= np.mean(np.exp(d.logp - d.logp_old))


@pin("luspo")
def luspo_is_gspo_times_the_length() -> None:
    """The loss of one answer is gspo's times its length, and a batch's the mean of those."""
    luspo, gspo = method("luspo", low=0.1, high=0.2), method("gspo", low=0.1, high=0.2)
    d = batch(0, gspo)
    each = gspo.loss(d).per_decision * d.mask
    alive = d.mask.sum(1) > 0
    assert_allclose(float(luspo.loss(d).value), each.sum() / alive.sum())
    one = d.replace(mask=d.mask * (np.arange(len(alive)) == 0)[:, None])
    assert_allclose(gradient(luspo, one), gradient(gspo, one) * d.mask[0].sum(), atol=1e-12)


@pin("gppo")
def gppo_coefficients() -> None:
    """Beyond a bound the coefficient is the bound, within the ratio; a dual clip at 3 ends it."""
    for advantage, r, c in [(1, 2, -1.28), (1, 0.5, -0.5), (-1, 0.5, 0.8), (-1, 2, 2.0), (-1, 4, 4.0)]:
        assert_allclose(coefficient(PreservingClip(), r, advantage), c)
    assert coefficient(PreservingClip(dual=3.0), 4.0, -1.0) == 0


@pin("gppo")
def gppo_values_and_the_inside() -> None:
    """The values are PPO's clip at every ratio, the gradients inside the band too; good decisions have cispo's."""
    clip, cispo = Clip(Widths(0.2, 0.28)), Score(RatioWeight(cap=1.28))
    for advantage, r in POINTS:
        assert_allclose(loss_at(PreservingClip(), r, advantage), loss_at(clip, r, advantage))
        if 0.8 < r < 1.28:
            assert_allclose(coefficient(PreservingClip(), r, advantage), coefficient(clip, r, advantage))
        if advantage > 0:
            assert_allclose(coefficient(PreservingClip(), r, advantage), coefficient(cispo, r, advantage))


@pin("gppo")
def gppo_likelihood_of_right_answers() -> None:
    """The extra term is 0.1 times the mean of -logp over the tokens of right answers, and 0 without one."""
    gppo, plain = method("gppo"), method("gppo", **{"positive_imitation.coef": 0.0})
    d = batch(0, gppo)
    right = d.mask * (d.reward > 0.5)[:, None]
    extra = float(gppo.loss(d).value - plain.loss(d).value)
    assert_allclose(extra, -0.1 * (d.logp * right).sum() / right.sum())
    none = d.replace(reward=0 * d.reward)
    assert float(gppo.loss(none).value) == float(plain.loss(none).value)


@pin("ce_gppo")
def ce_gppo_coefficients() -> None:
    """Beyond the bounds the coefficient is the bound times its strength: -1.28, 0.6 and 2 at three points."""
    surrogate = PreservingClip(Widths(0.2, 0.28), below=0.75, above=1.0, dual=10.0)
    for advantage, r, c in [(1, 2, -1.28), (-1, 0.5, 0.6), (-1, 2, 2.0), (-1, 11, 0.0)]:
        assert_allclose(coefficient(surrogate, r, advantage), c)


@pin("ce_gppo")
def ce_gppo_between_gppo_and_the_clip() -> None:
    """Strengths of 1 are gppo, of 0 the gradient of a clip; the value of a clipped decision is scaled with them."""
    clip = Clip(Widths(0.2, 0.28))
    for advantage, r in POINTS:
        ours, theirs = (PreservingClip(below=b, above=b) for b in (0.0, 1.0))
        assert_allclose(coefficient(ours, r, advantage), coefficient(clip, r, advantage), atol=1e-15)
        assert_allclose(coefficient(PreservingClip(), r, advantage), coefficient(theirs, r, advantage))
    assert_allclose(loss_at(PreservingClip(below=0.75), 0.5, -1.0), 0.75 * 0.8)


RATIOS = [math.log(r) for r in (1.5, 0.9, 0.6)]


@pin("dhpo")
def dhpo_mixture() -> None:
    """Each ratio clipped, then mixed in equal parts: 1.1402, 0.9502, 0.9002 where the answer's ratio is 1.001."""
    d = answer([*RATIOS, 4 * math.log(1.001) - sum(RATIOS)])
    assert_allclose(SequenceMeanRatio()(d), [[1.001]])
    assert_allclose(HybridClip().mixture(d)[0, :3], [1.1402, 0.9502, 0.9002], atol=1e-12)


@pin("dhpo")
def dhpo_branches_let_go_apart() -> None:
    """A token clipped in its own branch keeps the answer's gradient: (1 - w) s."""
    d = answer([0.5, -0.3, -0.2 + 1e-4])
    s = float(SequenceMeanRatio()(d)[0, 0])
    assert_allclose(jacobian(HybridClip(weight=0.3), d, 0), [-0.7 * s, 0, 0], atol=1e-12)


@pin("dhpo")
def dhpo_entropy_weights() -> None:
    """The token's share runs from 0 at the answer's least entropy to 1 at its largest; equal entropies share evenly."""
    guided = HybridClip(weight=None)
    assert_allclose(guided.share(answer([0.0] * 3, entropy=[1.0, 0.0, 0.25])), [[1, 0, 0.25]])
    assert_allclose(guided.share(answer([0.0] * 3, entropy=[2.0, 2.0, 2.0])), [[0.5] * 3])
    assert_allclose(jacobian(guided, answer([0.0] * 3, entropy=[1.0, 0.0, 0.25]), 0), [-1, 0, 0])


@pin("dhpo")
def dhpo_jointly() -> None:
    """Of the mixture, the pessimistic side is never above that of each branch, and equal at either end."""
    rng = np.random.default_rng(0)
    d = answer(list(0.4 * rng.standard_normal(30)), list(rng.standard_normal(30)))
    for weight in (0.0, 0.5, 1.0):
        apart, joint = HybridClip(weight=weight)(d), HybridClip(weight=weight, jointly=True)(d)
        assert np.all(joint <= apart + 1e-12)
        assert weight == 0.5 or np.allclose(joint, apart)


def _groups(rewards: list[list[float]]) -> Decisions:
    """Groups of answers of one token with the given rewards."""
    flat, count = np.concatenate(rewards), len(rewards[0])
    column = np.zeros((len(flat), 1))
    group = np.repeat(np.arange(len(rewards)), count)
    return Decisions(logp=column, logp_old=column, reward=flat, group=group, advantage=column)


@pin("etr")
def etr_variances() -> None:
    """Of 8 answers 0, 1, 2, 4, 8 right: v = 0, 0.4375, 0.75, 1, 0."""
    d = _groups([[1.0] * right + [0.0] * (8 - right) for right in (0, 1, 2, 4, 8)])
    assert_allclose(ElasticBounds().variance(d)[::8], [0, 0.4375, 0.75, 1, 0], atol=1e-12)


@pin("etr")
def etr_widths() -> None:
    """The width never falls with |A|, is largest at a pass rate of 1/2, and stops at its limit."""
    d = _groups([[1.0] * right + [0.0] * (8 - right) for right in range(9)])
    sizes = np.linspace(-1, 1, 8)[None] * np.ones((9, 1))
    low, high = (b.reshape(9, 8) for b in ElasticBounds(widest=1.0)(d, np.exp(d.logp), sizes.reshape(-1, 1)))
    assert_allclose((high - 1) / (1 - low), 1.4)
    assert np.all(np.diff(high[4, 4:]) > 0)
    assert np.all(np.argmax(high, axis=0) == 4)
    assert_allclose(high[4, -1] - 1, 0.28 * 1.5 * 1.5)
    assert float(np.max(ElasticBounds(widest=0.3)(d, np.exp(d.logp), sizes.reshape(-1, 1))[1])) == 1.3
    flat = ElasticBounds(micro=0.0, macro=0.0)(d, np.exp(d.logp), sizes.reshape(-1, 1))
    assert_allclose([flat[0].min(), flat[1].max()], [0.8, 1.28])


@pin("dual_clip_ppo")
def two_sided_clip_is_the_dual_one() -> None:
    """Cutting r at delta before the pessimistic choice, as TRL and INTELLECT-2 do, is the dual clip at delta."""
    for advantage, r in [*POINTS, (-1.0, 9.0), (1.0, 9.0)]:
        two_sided = max(-min(r, 4.0) * advantage, -min(max(r, 0.8), 1.2) * advantage)
        assert_allclose(loss_at(Clip(dual=4.0), r, advantage), two_sided)
    assert method("dual_clip_ppo", variant="two_sided").objective.surrogate == Clip(dual=4.0)  # type: ignore[attr-defined]


@pin("ppo_value_clip")
def a_value_that_moved_too_far() -> None:
    """V_old = 0, V = 1, R = 2 with a range of 0.2: loss 1.62, and no gradient."""
    loss, slope = _value(1.0, 0.0, 2.0)
    assert_allclose(loss, 1.62)
    assert slope == 0


@pin("ppo_value_clip")
def the_four_cases_of_the_value_clip() -> None:
    """Within the range it is half the squared error; it never is below; its gradient is 0 just where V ran to R."""
    rng = np.random.default_rng(0)
    for value, old, target in rng.standard_normal((60, 3)):
        loss, slope = _value(value, old, target)
        plain = 0.5 * (value - target) ** 2
        cut = old + np.clip(value - old, -0.2, 0.2)
        assert loss >= plain - 1e-12
        if abs(value - old) <= 0.2:
            assert_allclose(loss, plain)
        ran = abs(value - old) > 0.2 and abs(cut - target) > abs(value - target)
        assert (slope == 0) == ran
        assert ran or np.isclose(slope, value - target)


def _value(value: float, old: float, target: float) -> tuple[float, float]:
    column = {"value": value, "value_old": old, "returns": target}
    d = Decisions(**{n: convert(np.array([[x]]), autodiff()) for n, x in column.items()})
    loss = ValueLoss(clip_range=0.2)
    found, slope = value_and_gradient(lambda leaf: loss(d.replace(**leaf))[0, 0], {"value": d.value})
    return float(found), float(slope["value"][0, 0])


@pin("gspo_token", "gmpo", "gppo", "ce_gppo", "dhpo", "etr")
def at_the_old_policy_all_are_the_policy_gradient() -> None:
    """While nothing has moved, the gradient is that of -A logp in every clipped surrogate."""
    for key in ("gspo_token", "gmpo", "gppo", "ce_gppo", "dhpo", "etr"):
        ours = method(key, **{"objective.terms": ()})
        d = batch(0, ours)
        d = d.replace(logp=d.logp_old.copy())
        weights = ours.objective.aggregate(d)  # type: ignore[attr-defined]
        assert_allclose(gradient(ours, d), -d.advantage * weights, atol=1e-14)
