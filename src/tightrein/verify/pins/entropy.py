"""Pins of the methods that look at the entropy, or at what answers share."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.testing import assert_allclose, assert_array_equal

from ...arrays import Array
from ...credit import ConflictAware, EntropyTargeted, TokenNormalised
from ...decisions import Decisions
from ...distributions import Categorical
from ...objective.aggregate import SeqMeanTokenMean
from ...objective.entropy import EntropyBand
from ...objective.levels import SequenceTokenRatio
from ...objective.policy import Clip, HeterogeneousClip, UncertaintyWidths, Widths
from ...objective.segments import (
    EntropyWidths,
    RelativeEntropyWidths,
    SegmentMean,
    SegmentRatio,
    SegmentWidths,
    segment_mean,
    segments,
)
from ...selection import EntropySegments, UncertaintyScale
from ..batches import batch, decisions, fields, gradient, method
from ..pin import pin


def _row(**fields: Any) -> Decisions:
    """One trajectory of decisions from lists."""
    made: dict[str, Any] = {name: np.asarray([x], float) for name, x in fields.items()}
    made.setdefault("mask", np.ones_like(next(iter(made.values()))))
    return Decisions(**made)


_ENTROPIES = [0.1, 0.2, 0.4, 0.8, 1.6]


@pin("hapo")
def hapo_scale() -> None:
    """Five entropies on their scale, and the widths that follow; the scale does not see a common factor."""
    for factor in (1.0, 0.03, 7.0):
        d = UncertaintyScale()(_row(entropy_old=np.multiply(factor, _ENTROPIES)))
        assert_allclose(d.uncertainty, [[-1, -2 / 3, -1 / 3, 0, 1]], atol=1e-12)
    low, high = UncertaintyWidths()(d, d.uncertainty, d.uncertainty)
    assert_allclose(1 - low, [[0.4, 1 / 3, 0.266667, 0.2, 0.2]], atol=1e-6)
    assert_allclose(high - 1, [[0.2, 0.2, 0.2, 0.2, 0.4]])


@pin("hapo")
def hapo_equal_entropies() -> None:
    """Where all entropies are the same, all are at the quantile; masked ones do not count."""
    d = UncertaintyScale()(_row(entropy_old=[0.3, 0.3, 0.3]))
    assert_array_equal(d.uncertainty, np.zeros((1, 3)))
    mask = np.array([[1.0, 1, 1, 1, 1, 0]])
    d = UncertaintyScale()(_row(entropy_old=[*_ENTROPIES, 99.0]).replace(mask=mask))
    assert_allclose(d.uncertainty, [[-1, -2 / 3, -1 / 3, 0, 1, 0]], atol=1e-12)


@pin("hapo")
def hapo_released_slip() -> None:
    """As released, what lies below the quantile is as uncertain as what lies above."""
    d = UncertaintyScale(bug_compatible=True)(_row(entropy_old=_ENTROPIES))
    assert_allclose(d.uncertainty, [[1, 2 / 3, 1 / 3, 0, 1]], atol=1e-12)
    low, high = UncertaintyWidths()(d, d.uncertainty, d.uncertainty)
    assert_allclose(1 - low, 0.2)
    assert np.all(high >= 1.2)


@pin("hapo")
def hapo_advantages() -> None:
    """u > 0 is scaled outside the neutral zone, u <= 0 inside it; scaled are the loss and its gradient."""
    hapo = method("hapo")
    # u = 1: bounds [0.8, 1.4], zone (0.9, 1.2); u = -1: bounds [0.6, 1.2], zone (0.8, 1.1); beta 1.
    for u, r, advantage, expected in [
        (1.0, 1.1, 1.0, -1.1),
        (1.0, 1.3, 1.0, -2 * 1.3),
        (1.0, 1.5, 1.0, -2 * 1.4),
        (1.0, 0.85, -1.0, 2 * 0.85),
        (-1.0, 1.0, 1.0, 0.0),
        (-1.0, 1.15, 1.0, -1.15),
        (-1.0, 0.7, -1.0, 0.7),
        (-1.0, 0.5, -1.0, 0.6),
        (0.5, 12.0, -1.0, 1.5 * 10),
    ]:
        d = _row(logp=[math.log(r)], logp_old=[0.0], advantage=[advantage], uncertainty=[u])
        assert_allclose(float(hapo.loss(d).value), expected, atol=1e-12, err_msg=f"{u} {r} {advantage}")
        clipped = r > 1.4 or r < 0.6
        assert_allclose(gradient(hapo, d), [[0.0 if clipped else expected]], atol=1e-12)


@pin("hapo")
def hapo_switched_off() -> None:
    """alpha = beta = 0 is the dual clip of 10, with the gradient of dapo."""
    d = batch(0, method("hapo"), spread=3.0)
    plain = Clip(Widths(0.2, 0.2), dual=10.0)
    assert_allclose(HeterogeneousClip(UncertaintyWidths(alpha=0.0), beta=0.0)(d), plain(d), rtol=1e-12)


def _answers(rewards: list[float], lengths: list[int]) -> Decisions:
    mask = (np.arange(max(lengths)) < np.array(lengths)[:, None]).astype(float)
    return Decisions(mask=mask, reward=np.array(rewards), group=np.zeros(len(rewards), int))


@pin("hapo")
def hapo_token_level_advantage() -> None:
    """Answers of 2 tokens (right) and 4 (wrong): 1.414214 and -0.707107, which sum to 0 over the tokens."""
    d = TokenNormalised()(_answers([1.0, 0.0], [2, 4]))
    assert_allclose(d.advantage[:, 0], [2**0.5, -(0.5**0.5)], rtol=1e-5)
    assert_allclose(np.sum(d.advantage), 0, atol=1e-12)
    assert_allclose(
        method("grpo").prepare(_answers([1.0, 0.0], [2, 4])).advantage[:, 0], [0.5**0.5, -(0.5**0.5)], rtol=1e-5
    )


@pin("hapo")
def hapo_extreme_groups() -> None:
    """One right answer of 1 token beside one of 99 would be 9.95: such a group is normalised over its answers."""
    d = _answers([1.0, 0.0], [1, 99])
    assert_allclose(TokenNormalised()(d).advantage[:, 0], [0.5**0.5, -(0.5**0.5)], rtol=1e-5)
    assert_allclose(TokenNormalised(limit=10.0)(d).advantage[0, 0], 99**0.5, rtol=1e-4)
    assert_array_equal(TokenNormalised()(_answers([0.3, 0.3, 0.3], [1, 5, 7])).advantage, np.zeros((3, 7)))
    assert_array_equal(TokenNormalised()(_answers([0.7], [3])).advantage, np.zeros((1, 3)))


@pin("hapo")
def hapo_temperature() -> None:
    """The temperature is raised by up to 5% above the quantile of the batch before, and lowered as much below."""
    scale = UncertaintyScale()
    assert_array_equal(scale.temperature(np.array([0.01, 3.0]), scale.init(0)), [1.0, 1.0])
    known = scale.update(scale.init(0), _row(entropy_old=_ENTROPIES), 0.0)
    assert_allclose(
        scale.temperature(np.array([1e-9, 0.1, 0.2, 0.8, 1.6, 50.0]), known),
        [0.95, 0.95, 0.966667, 1, 1.05, 1.05],
        atol=1e-6,
    )


def _segmented(log_r: list[float], parts: list[int], entropy: list[float] | None = None) -> Decisions:
    """One answer whose decisions lie in these parts."""
    d = _row(
        logp=log_r, logp_old=[0.0] * len(log_r), advantage=[1.0] * len(log_r), entropy_old=entropy or [1.0] * len(log_r)
    )
    d = d.replace(segment=np.eye(max(parts) + 1)[np.array([parts])])
    return d.replace(uncertainty=segment_mean(d.entropy_old, segments(d)))


@pin("espo_entropy")
def espo_ratios() -> None:
    """Ratios of two parts, 1.051271 and 1.491825, whose geometric mean by length is GSPO's 1.252323."""
    d = _segmented([0, 0.1, 0.3, 0.5], [0, 0, 1, 1])
    assert_allclose(SegmentRatio()(d), [[1.051271, 1.051271, 1.491825, 1.491825]], atol=1e-6)
    assert_allclose(SequenceTokenRatio()(d), 1.252323, atol=1e-6)
    uneven = _segmented([0, 0.1, 0.3, 0.5], [0, 1, 1, 1])
    assert_allclose(np.exp(np.mean(np.log(SegmentRatio()(uneven)))), 1.252323, atol=1e-6)


@pin("espo_entropy")
def espo_segments() -> None:
    """The most uncertain fifth is a part of its own; equal entropies stay together; the number of parts is free."""
    d = _row(entropy_old=[0.3, 0.1, 0.9, 0.2, 0.4])
    assert_array_equal(EntropySegments()(d).segment[0].argmax(-1), [0, 0, 1, 0, 0])
    assert_array_equal(EntropySegments(groups=1)(d).segment, np.ones((1, 5, 1)))
    assert_array_equal(EntropySegments(groups=5)(d).segment[0].argmax(-1), [2, 0, 4, 1, 3])
    assert_array_equal(EntropySegments()(_row(entropy_old=[0.5] * 5)).segment[0].argmax(-1), [1] * 5)
    mask = np.array([[1.0, 1, 1, 0, 0]])
    assert_array_equal(EntropySegments()(d.replace(mask=mask)).segment[0], [[1, 0], [1, 0], [0, 1], [0, 0], [0, 0]])


@pin("espo_entropy")
def espo_one_part_per_decision() -> None:
    """With a part for each decision and constant widths it is grpo, in value and gradient."""
    made = fields(0, method("espo_entropy"))
    made["mask"] = np.ones_like(made["mask"])
    width = made["mask"].shape[1]
    espo = method("espo_entropy", groups=width, high=1 / width, **{"objective.surrogate.bounds": Widths(0.2, 0.2)})
    grpo = method("grpo", **{"objective.reference.coef": 0.0})
    d = espo.prepare(decisions(made))
    assert_allclose(espo.loss(d).per_decision, grpo.loss(d).per_decision, atol=1e-12)
    assert_allclose(gradient(espo, d), gradient(grpo, d), atol=1e-12)


@pin("espo_entropy")
def espo_widths() -> None:
    """0.02 of the mean entropy of a part over ln 4; relative to the answer, where told to, and cut to [1/2, 2]."""
    d = _segmented([0.0] * 4, [0, 0, 1, 1], [0.1, 0.3, 0.8, 1.2])
    rules: list[tuple[SegmentWidths, list[float]]] = [
        (EntropyWidths(tokens=4), [0.02 * 0.2 / math.log(4), 0.02 / math.log(4)]),
        (RelativeEntropyWidths(), [4e-4 * 0.5, 4e-4 / 0.6]),
        (RelativeEntropyWidths(least=1.0, most=1.0), [4e-4, 4e-4]),
    ]
    for rule, expected in rules:
        low, high = rule(d, d.logp, d.logp)
        assert_allclose(high[0, ::3] - 1, expected, rtol=1e-6)
        assert_allclose(1 - low, high - 1, atol=1e-15)
    constant = _segmented([0.0] * 4, [0, 0, 1, 1], [0.7] * 4)
    assert_allclose(RelativeEntropyWidths()(constant, d.logp, d.logp)[1], 1 + 4e-4, rtol=1e-10)


@pin("espo_entropy")
def espo_weights() -> None:
    """Parts weigh alike: of an answer of 4 with a part of 1, that one weighs a half, the others a sixth each."""
    d = _segmented([0.0] * 4, [0, 0, 0, 1])
    assert_allclose(SegmentMean()(d), [[1 / 6, 1 / 6, 1 / 6, 1 / 2]])
    assert_allclose(np.sum(SegmentMean()(batch(0, method("espo_entropy")))), 1)


@pin("espo_entropy")
def espo_outlier() -> None:
    """One certain decision with a ratio far off takes GSPO's whole gradient, here only that of its part."""
    d = _segmented([1.0, 0, 0, 0, 0.001, -0.001], [0, 0, 0, 0, 1, 1], [0.05, 0.05, 0.05, 0.05, 1.0, 1.0])
    assert not gradient(method("gspo_token"), d).any()
    assert_array_equal(gradient(method("espo_entropy"), d) != 0, [[False] * 4 + [True] * 2])


def _banded(entropy: list[float], old: float = 0.45, r: float = 1.0) -> Decisions:
    same = np.zeros((1, len(entropy)))
    d = _row(entropy=entropy).replace(logp=same + math.log(r), logp_old=same, entropy_old=same + old)
    return d.replace(advantage=same + 1.0, mask=same + 1.0)


@pin("erc")
def erc_band() -> None:
    """From 0.45 nats, 0.50 (1.1111) loses its gradient and 0.46 (1.0222) keeps it; the value stays."""
    d = _banded([0.50, 0.46, 0.45])
    erc, base = method("erc"), method("dapo", dual=10.0)
    assert_array_equal(EntropyBand()(d, Clip()), [[0, 1, 1]])
    assert_allclose(gradient(erc, d), [[0, -1 / 3, -1 / 3]])
    assert_allclose(erc.loss(d).per_decision, base.loss(d).per_decision)


@pin("erc")
def erc_strict() -> None:
    """A ratio exactly at a bound is outside; entropies of 0 are equal; within (0, inf) it is the base."""
    d = _banded([0.5, 2.0, 0.0], old=1.0)
    band = EntropyBand(low=0.5, high=2.0)
    d = d.replace(entropy_old=np.array([[1.0, 1.0, 0.0]]))
    # 1e-8 nats are added to both, so that 0.5 of (1 + 1e-8) lies below 0.5 + 1e-8
    assert_array_equal(
        band(d.replace(entropy=np.array([[0.5 * (1 + 1e-8) - 1e-8, 2 * (1 + 1e-8) - 1e-8, 0.0]])), Clip()), [[0, 0, 1]]
    )
    free = batch(0, method("erc"), spread=2.0)
    wide = method("erc", **{"objective.correction.low": 0.0, "objective.correction.high": math.inf})
    assert_allclose(gradient(wide, free), gradient(method("dapo", dual=10.0), free), atol=1e-15)


@pin("erc")
def erc_any_ratio() -> None:
    """Outside the band the coefficient is 0 even where the ratio is inside its own; the base of 'gppo' is gppo's."""
    for r in (0.9, 1.0, 1.1):
        assert_array_equal(gradient(method("erc"), _banded([0.6], r=r)), [[0.0]])
        assert gradient(method("erc"), _banded([0.45], r=r)).all()
    d = batch(0, method("erc"), spread=2.0)
    kept = EntropyBand()(d, Clip())
    gppo = method("erc").variant("gppo").override({"objective.correction": None})
    assert_allclose(gradient(method("erc").variant("gppo"), d), kept * gradient(gppo, d), atol=1e-15)


def _tokens(tokens: list[list[int]], rewards: list[float], entropy: float = 0.0, mask: Any = None) -> Decisions:
    ids = np.array(tokens)
    return Decisions(
        token=ids,
        mask=np.ones(ids.shape) if mask is None else np.array(mask, float),
        reward=np.array(rewards, float),
        group=np.zeros(len(ids), int),
        entropy_old=np.full(ids.shape, entropy),
    )


def _weights(d: Decisions, **changes: Any) -> Array:
    """What the tokens of each answer weigh: [B, T]."""
    credited = ConflictAware(scale=0.0, **changes)(d).advantage
    plain = (d.reward - np.mean(d.reward))[:, None]
    return credited / np.where(plain == 0, 1, plain)


@pin("gtpo")
def gtpo_shared_ends() -> None:
    """A shared first and last token weigh 2 in the good answer and 0 in the bad one."""
    assert_allclose(_weights(_tokens([[5, 7, 9], [5, 8, 9]], [1, 0])), [[2, 1, 2], [0, 1, 0]])


@pin("gtpo")
def gtpo_the_same_answer() -> None:
    """Where a good and a bad answer are the same, every token is in conflict both ways: 4 and 0."""
    assert_allclose(_weights(_tokens([[1, 2, 3]] * 2, [1, 0])), [[4] * 3, [0] * 3])


@pin("gtpo")
def gtpo_middle() -> None:
    """A conflict in the middle that reaches neither end does not count; nor do answers of advantage 0."""
    assert_allclose(_weights(_tokens([[1, 5, 2], [3, 5, 4]], [1, 0])), np.ones((2, 3)))
    middling = _tokens([[5, 7, 9], [5, 8, 8], [6, 8, 9]], [1, 0.5, 0])
    assert_allclose(_weights(middling)[[0, 2]], [[1, 1, 2], [1, 1, 0]])


@pin("gtpo")
def gtpo_lengths() -> None:
    """Ends are aligned by the last token of each answer, whatever its length."""
    d = _tokens([[5, 7, 9, 0], [5, 8, 8, 9]], [1, 0], mask=[[1, 1, 1, 0], [1, 1, 1, 1]])
    found = ConflictAware(scale=0.0)(d).advantage / np.array([[0.5], [-0.5]])
    assert_allclose(found, [[2, 1, 2, 0], [0, 1, 1, 0]])


@pin("gtpo")
def gtpo_entropy() -> None:
    """A = 0.5 with an entropy of 0.4 becomes 0.46; with 0.8 the answer is dropped, unless training began above ln 2."""
    certain, uncertain = (_tokens([[1, 2], [3, 4]], [1, 0], entropy=h) for h in (0.4, 0.8))
    assert_allclose(ConflictAware()(certain).advantage[:, 0], [0.46, -0.54])
    assert_array_equal(ConflictAware()(uncertain, 0.3).advantage, np.zeros((2, 2)))
    assert_array_equal(ConflictAware(threshold=0.7, switch=False)(uncertain).advantage, np.zeros((2, 2)))
    assert_allclose(ConflictAware()(uncertain, 0.9).advantage[:, 0], [0.42, -0.58])
    assert_allclose(float(ConflictAware().update(-1.0, uncertain, 0.1)), 0.8)
    assert_allclose(float(ConflictAware().update(0.8, certain, 0.1)), 0.8)


@pin("gtpo")
def gtpo_plain() -> None:
    """With weights of 1 and no entropy in it, it is REINFORCE with the group's mean as baseline; the loss is -A."""
    gtpo = method("gtpo", good=1.0, bad=1.0, scale=0.0, threshold=math.inf)
    d = batch(0, gtpo)
    centred = method("dr_grpo").prepare(decisions(fields(0, gtpo))).advantage
    assert_allclose(gtpo.loss(d).per_decision, -centred, atol=1e-12)
    assert_allclose(gradient(gtpo, d), -centred * SeqMeanTokenMean()(d), atol=1e-12)


@pin("gtpo")
def gtpo_per_conflict() -> None:
    """As released, an answer is divided by the number of its tokens in conflict, at least 1."""
    d = _tokens([[5, 7, 9], [5, 8, 9]], [1, 0])
    assert_allclose(_weights(d, per_conflict=True), [[1, 0.5, 1], [0, 0.5, 0]])
    assert_allclose(_weights(_tokens([[1, 5, 2], [3, 5, 4]], [1, 0]), per_conflict=True), np.ones((2, 3)))


@pin("dcpo_distribution")
def dcpo_share() -> None:
    """H0 0.5, H 0.3 and a quarter right: a = 0.285714; at the target, or with none right, 0; always below 1."""
    rule = EntropyTargeted()
    assert_allclose(float(rule.share(np.float64(0.3), np.float64(0.25))), 0.1 / 0.35)
    assert float(rule.share(np.float64(0.5), np.float64(0.25))) == 0
    assert float(rule.share(np.float64(0.3), np.float64(0.0))) == 0
    for right in (1e-3, 0.5, 1.0):
        assert 0 < float(rule.share(np.float64(9.0), np.float64(right))) < 1


def _tempered(p: Array, t: float) -> Array:
    return np.asarray(Categorical(np.log(p) / t).log_probs())


@pin("dcpo_distribution")
def dcpo_ratios() -> None:
    """Of two tokens at 0.8 and 0.2 a higher temperature favours the rare one; the ratio is 1 in expectation."""
    p = np.array([0.8, 0.2])
    hot, cold = (np.exp(_tempered(p, t) - np.log(p)) for t in EntropyTargeted().temperatures)
    assert_allclose(hot, [0.950585, 1.197662], atol=1e-6)
    assert_allclose(cold, [1.062224, 0.751106], atol=1e-6)
    assert_allclose([np.sum(p * hot), np.sum(p * cold)], 1)


@pin("dcpo_distribution")
def dcpo_advantages() -> None:
    """One right answer of four, ratio 0.950585: 1.343024, and -0.357143 for a wrong one; at the target, grpo's."""
    logp = np.log(0.8) * np.ones((4, 1))
    both = np.log(0.8) + np.log([0.950585, 1.062224]) * np.ones((4, 1, 2))
    d = Decisions(
        logp_old=logp, logp_tempered=both, reward=np.array([1.0, 0, 0, 0]), group=np.zeros(4, int), mask=np.ones((4, 1))
    )
    found = EntropyTargeted()(d, 0.3).advantage[:, 0]
    assert_allclose(found, [1.343024, -0.357143, -0.357143, -0.357143], atol=3e-6)
    plain = method("grpo").prepare(d).advantage
    assert_allclose(EntropyTargeted()(d, 0.5).advantage, plain, atol=1e-15)
    above = EntropyTargeted()(d, 0.7).advantage[:, 0]
    assert_allclose(above[0], 1.5 * 0.25 / 0.35 + 1.062224 * 0.1 / 0.35, atol=3e-6)


@pin("dcpo_distribution")
def dcpo_state() -> None:
    """The entropy that counts is that after the last update; the first batch takes its own."""
    rule = EntropyTargeted()
    d = batch(0, method("dcpo_distribution"))
    assert_allclose(float(rule.update(-1.0, d, 0.0)), -np.sum(d.logp * d.mask) / np.sum(d.mask))
    own = -np.sum(d.logp_old * d.mask) / np.sum(d.mask)
    assert_allclose(rule(d, rule.init(0)).advantage, rule(d, own).advantage, atol=1e-15)
