"""Exact properties of the score surrogates that clip, weigh or select."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.testing import assert_allclose, assert_array_equal

from ...decisions import Decisions
from ...errors import TightreinError
from ...method import Method
from ...objective.policy import (
    AdvantageWeight,
    OneSided,
    PolicyGradient,
    ProbabilityBounds,
    RatioWeight,
    Ring,
    Score,
    TwoSided,
    Widths,
)
from ...objective.ratio import SequenceMeanRatio
from ...selection import BalancedSigns
from ..batches import batch, coefficient, gradient, loss_at, method
from ..pin import pin

FREE = {"objective.reference.coef": 0.0, "objective.aggregate": "TokenMean"}
PENALTY = "objective.trust.controller.coef"


def _kept(rule: Any, ratios: list[float], advantage: float) -> list[bool]:
    return [coefficient(Score(keep=rule), r, advantage) != 0 for r in ratios]


def plain(made: Method, d: Decisions, shift: float = 0.0) -> Any:
    """Gradient of REINFORCE on the method's advantages, `shift` higher."""
    plain = made.override({"objective.surrogate": PolicyGradient(), "objective.trust": None})
    return gradient(plain, d.replace(advantage=d.advantage + shift))


@pin("rec")
def rec_one_sided() -> None:
    """With r as the weight the coefficient is grpo's, without it cpgd's: -A inside the bounds, 0 outside."""
    for r, good, bad in [(0.5, True, False), (0.79, True, False), (1.0, True, True), (1.3, False, True)]:
        assert_allclose([loss_at(Score(keep=OneSided()), r, a) != 0 for a in (2.0, -2.0)], [good, bad])
        for weight, scale in [(None, 1.0), (RatioWeight(), r)]:
            surrogate = Score(weight, OneSided())
            found = [coefficient(surrogate, r, a) for a in (2.0, -2.0)]
            assert_allclose(found, [-2.0 * scale * good, 2.0 * scale * bad])


@pin("rec")
def rec_is_grpo() -> None:
    """One-sided with r as the weight has grpo's gradient on random batches, near the old policy and far from it."""
    for seed, spread in enumerate((0.1, 0.5, 3.0)):
        rec, grpo = method("rec").variant("one_side_is"), method("grpo", **FREE)
        d = batch(seed, rec, spread=spread)
        assert_allclose(gradient(rec, d), gradient(grpo, d), atol=1e-12)


@pin("rec")
def rec_other_clips() -> None:
    """Two-sided and ring: what is kept at ten ratios, for good and for bad decisions; the widths of the ring."""
    ratios = [0.3, 0.4, 0.41, 0.79, 0.8, 1.2, 1.21, 2.9, 3.0, 9.0]
    for advantage, ring in [(1.0, [1, 1, 0, 0, 1, 1, 0, 0, 0, 0]), (-1.0, [0, 0, 0, 0, 1, 1, 0, 0, 1, 1])]:
        moved = [r * (1 + 1e-12 * (1 if r < 1 and r != 0.4 else -1)) for r in ratios]  # not for rounding to decide
        moved[8] = 3.0 * (1 + 1e-12)
        assert_array_equal(_kept(Ring(), moved, advantage), np.array(ring, bool))
        assert_array_equal(_kept(TwoSided(), moved, advantage), np.array([0, 0, 0, 0, 1, 1, 0, 0, 0, 0], bool))


@pin("rec")
def rec_whole_answers() -> None:
    """Variant gspo: an answer is kept as a whole, and weighs by its ratio, while each token keeps its own score."""
    rec, n = method("rec").variant("gspo"), 4
    for shift, kept in [(0.0, True), (3.9e-4, True), (4.1e-4, False)]:
        steps = shift + np.array([[0.3, -0.3, 0.1, -0.1]])
        d = Decisions(logp=steps - 1, logp_old=0 * steps - 1, advantage=1.0 + 0 * steps)
        assert_allclose(gradient(rec, d), -kept * np.exp(shift) / n * np.ones((1, n)), atol=1e-12)


@pin("rec")
def rec_without_clip() -> None:
    """Without a clip it is REINFORCE with the group's mean as baseline; advantages of 0 give 0 in every variant."""
    rec = method("rec")
    d = batch(0, rec, spread=3.0)
    assert_array_equal(gradient(rec.variant("reinforce"), d), plain(rec, d))
    for name, _ in rec.variants:
        assert not rec.variant(name).loss(d.replace(advantage=0 * d.advantage)).per_decision.any()


@pin("rec")
def rec_composes() -> None:
    """Bounds by probability fit its clip; a ratio of answers without anything that reads it is refused."""
    d = batch(0, method("rec"))
    made = method("rec", **{"objective.surrogate.keep.bounds": ProbabilityBounds()})
    assert np.any(gradient(made, d) != gradient(method("rec"), d))
    for surrogate in (
        Score(ratio=SequenceMeanRatio()),
        Score(keep=OneSided(ProbabilityBounds()), ratio=SequenceMeanRatio()),
    ):
        try:
            method("rec", **{"objective.surrogate": surrogate})
        except TightreinError:
            continue
        raise AssertionError(f"{surrogate} was accepted")


@pin("red")
def red_weights() -> None:
    """A = 0.5: weight 1.648721; A = -0.5: 0.606531; at an infinite temperature REINFORCE."""
    weights = [coefficient(Score(AdvantageWeight()), 1.0, a) / -a for a in (0.5, -0.5)]
    assert_allclose(weights, [1.648721, 0.606531], atol=1e-6)
    d = batch(0, method("red"))
    assert_array_equal(gradient(method("red", temperature=math.inf), d), plain(method("red"), d))


def _dropped(rewards: list[float], seed: int = 0) -> Decisions:
    """A group after RED-Drop."""
    n = len(rewards)
    random = np.random.default_rng(seed).random((n, 2))
    d = Decisions(logp=np.zeros((n, 2)), reward=np.array(rewards), group=np.zeros(n, int), random=random)
    return method("red").variant("drop").prepare(d)


@pin("red")
def red_drop() -> None:
    """R = 1 0 0 0 0 1 leaves two and two, with advantages of a half; what is balanced, or good, stays."""
    chosen = set()
    for seed in range(20):
        d = _dropped([1, 0, 0, 0, 0, 1], seed)
        alive = d.mask[:, 0] > 0
        assert alive[[0, 5]].all()
        assert alive.sum() == 4
        assert_allclose(d.advantage[:, 0], np.where(alive, np.where(d.reward > 0, 0.5, -0.5), 0.0))
        chosen.add(tuple(np.flatnonzero(alive)))
    assert len(chosen) > 3
    for rewards in ([1.0, 1, 0, 0], [1.0, 1, 1, 0], [0.0, 0, 0], [2.0]):
        assert _dropped(rewards).mask.all()
    assert_allclose(_dropped([1, 1, 1, 0]).advantage[:, 0], [0.25, 0.25, 0.25, -0.75])


@pin("red")
def red_drop_groups() -> None:
    """Groups are balanced each for itself, whatever the order of the rows and what is masked."""
    rng = np.random.default_rng(0)
    for _ in range(5):
        group, mask = rng.integers(0, 4, 40), rng.integers(0, 2, (40, 3)).astype(float)
        d = Decisions(
            logp=np.zeros((40, 3)),
            mask=mask,
            group=group,
            reward=(rng.random(40) < 0.2) * 1.0,
            random=rng.random((40, 3)),
        )
        kept = method("red").variant("drop").prepare(d)
        for g in range(4):
            answers = (group == g) & mask.any(1)
            good, left = answers & (d.reward > 0), answers & kept.mask.any(1)
            mixed = good.any() and good.sum() < answers.sum() / 2
            assert left.sum() == (2 * good.sum() if mixed else answers.sum())
            level = kept.advantage.sum(1) / np.maximum(kept.mask.sum(1), 1)
            assert_allclose(np.sum(level, where=left), 0, atol=1e-12)


@pin("red")
def red_drop_counts_the_kept() -> None:
    """The mean is over the decisions of the answers that stay."""
    d = _dropped([1, 0, 0, 0, 0, 1])
    made = method("red").variant("drop")
    assert_allclose(made.objective.aggregate(d), d.mask / 8)  # type: ignore[attr-defined]
    assert isinstance(made.selection[0], BalancedSigns)


@pin("rec")
def rec_idle_and_clipped() -> None:
    """Clipped is what is left out, or has its weight held to a bound; nothing where there is no rule."""
    d = batch(0, method("rec"), spread=1.0)
    assert not Score().clipped(d).any()
    assert not Score().idle(d).any()
    rule = Score(RatioWeight(cap=1.1), OneSided(Widths(0.3, 0.3)))
    counted = (d.mask > 0) & (d.advantage != 0)
    left_out, r = rule.coefficient(d)[counted] == 0, np.exp(d.logp - d.logp_old)[counted]
    assert left_out.any()
    assert not left_out.all()
    assert_array_equal(rule.clipped(d)[counted] > 0, left_out | (r > 1.1))
    assert_array_equal(rule.idle(d)[counted], left_out)
