"""Pins of what goes with any surrogate: masks for who sampled, estimates of a KL, ways to add losses up."""

from __future__ import annotations

import functools
import math
from typing import Any

import numpy as np
from numpy.testing import assert_allclose, assert_array_equal

from ...anchor.controller import ProportionalKL
from ...arrays import Array, convert, namespace, value_and_gradient
from ...decisions import Decisions
from ...objective.aggregate import (
    Aggregation,
    SeqMeanTokenMean,
    SeqMeanTokenSum,
    SeqMeanTokenSumNorm,
    TokenMean,
    TokenSum,
)
from ...objective.correction import TruncatedImportance
from ...objective.estimators import K1, K2, K3, Absolute, Estimator, StraightThrough
from ...objective.off_policy import OffPolicyMask
from ...objective.policy import Clip
from ...selection import EachToken, Pool, RejectMismatch, SequenceMax, SequenceMean, SequenceSum
from ..batches import autodiff, batch, gradient, method
from ..pin import pin


def sampled(log_weights: Any) -> Decisions:
    """Answers whose decisions have the given log(pi_old / pi_behaviour): [B, T]."""
    d = np.atleast_2d(np.asarray(log_weights, float))
    return Decisions(logp=0 * d, logp_old=0 * d, logp_behaviour=-d, advantage=0 * d + 1)


@pin("mis_icepop")
def icepop_weights() -> None:
    """Ratios 0.5, 1, 1.5, 3, 6 in a band of 0.5 to 5: weights 0.5, 1, 1.5, 3, 0; no band leaves them all."""
    d = sampled(np.log([0.5, 1, 1.5, 3, 6]))
    icepop = method("mis_icepop").objective.correction  # type: ignore[attr-defined]
    # The weight at the very edge is e^(ln 0.5), which may be a rounding below it.
    assert_allclose(icepop.replace(floor=0.5 - 1e-12)(d, Clip()), [[0.5, 1, 1.5, 3, 0]])
    assert_allclose(icepop.replace(floor=0.0, cap=1e9)(d, Clip()), [[0.5, 1, 1.5, 3, 6]])
    assert_allclose(TruncatedImportance(1.0, 1.0, drop=True)(d, Clip()), [[0, 1, 0, 0, 0]])


def _kept(rule: RejectMismatch, d: Decisions) -> Array:
    return rule(d).mask


@pin("mis_icepop")
def rejection_by_k3_is_lopsided() -> None:
    """k3 is 0.148721 at a log-ratio of 0.5 and 0.106531 at -0.5, and 0 at 0 alone."""
    d = sampled([0.5, -0.5, 0.0])
    for bound, kept in ((0.148722, [1, 1, 1]), (0.148720, [0, 1, 1]), (0.106530, [0, 0, 1]), (0.0, [0, 0, 1])):
        assert_array_equal(_kept(RejectMismatch(K3(), high=bound, low=-math.inf), d), [kept])


@pin("mis_icepop")
def rejection_by_pools() -> None:
    """One token of four is off by 1: alone, its answer by the sum or the maximum, but not by the mean."""
    d = sampled([[1.0, 0, 0, 0], [0.2, 0.2, 0.2, 0.2]])
    rows: list[tuple[Pool, Any]] = [
        (EachToken(), [[0, 1, 1, 1], [1] * 4]),
        (SequenceSum(), [[0] * 4, [0] * 4]),
        (SequenceMean(), [[1] * 4, [1] * 4]),
    ]
    for pool, kept in rows:
        assert_array_equal(_kept(RejectMismatch(K1(), pool), d), kept)
    assert_array_equal(_kept(RejectMismatch(K2(), SequenceMax(), high=0.4), d), [[0] * 4, [1] * 4])


@pin("mis_icepop")
def rejections_together() -> None:
    """Two rules at once keep what both keep, each judged on the whole answer; the denominator is what is left."""
    d = sampled([[1.0, 0, 0, 0], [0.3, 0.3, 0.3, 0.3]])
    both = RejectMismatch(also=RejectMismatch(K1(), SequenceSum(), low=-1.1, high=1.1))
    assert_array_equal(_kept(both, d), [[0, 1, 1, 1], [0] * 4])
    rejecting = method("mis_icepop", variant="rejection", **{"objective.reference.coef": 0.0})
    chosen = _kept(rejecting.selection[0], d)  # type: ignore[arg-type]
    loss = rejecting.replace(credit=None, selection=()).loss(d.replace(mask=chosen))
    assert_allclose(float(loss.value), -1.0)


@pin("mis_icepop")
def one_corrupted_answer() -> None:
    """Of 8 answers one has a token whose logp_behaviour is 5 lower: just that answer, or that token, is dropped."""
    log_weights = np.zeros((8, 6))
    log_weights[3, 2] = 5.0
    d, clip = sampled(log_weights), Clip()
    by_answer = method("mis_icepop", variant="mis").objective.correction(d, clip)  # type: ignore[attr-defined]
    by_token = method("mis_icepop").objective.correction(d, clip)  # type: ignore[attr-defined]
    assert_array_equal(np.nonzero(by_answer[:, 0] == 0)[0], [3])
    assert_array_equal(np.argwhere(by_token == 0), [[3, 2]])
    assert_array_equal(np.argwhere(_kept(RejectMismatch(), d) == 0), [[3, 2]])


@pin("mis_icepop")
def off_policy_mask() -> None:
    """Bad answers left further behind than the limit lose their gradient, good ones never do."""
    rows = np.array([[1.0, 1.0], [1.0, 1.0], [0.2, 0.2]])  # logp_behaviour - logp
    d = Decisions(logp=-rows, logp_old=0 * rows, logp_behaviour=0 * rows, advantage=np.array([[-1.0], [1.0], [-1.0]]))
    assert_array_equal(OffPolicyMask(0.5)(d, Clip())[:, 0], [0, 1, 1])


@pin("mis_icepop")
def bypass() -> None:
    """Bypassing the old policy is ppo's clip on pi / pi_behaviour, or its score weighed by that ratio up to 2."""
    free = {"objective.reference.coef": 0.0}
    d = batch(0, method("grpo"))
    there = d.replace(logp_old=d.logp_behaviour.copy())
    found = float(method("mis_icepop", variant="bypass", **free).loss(d).value)
    assert_allclose(found, float(method("grpo", **free).loss(there).value))
    reinforce = method("mis_icepop", variant="bypass_reinforce", **free)
    weight = np.minimum(np.exp(d.logp - d.logp_behaviour), 2.0)
    expected = -weight * d.advantage * reinforce.objective.aggregate(d)  # type: ignore[attr-defined]
    assert_allclose(gradient(reinforce, d), expected, atol=1e-12)


@pin("kl_estimators")
def estimates_at_ln_2() -> None:
    """k1, k2, k3 at a log-ratio of ln 2 and of -ln 2."""
    x = np.log([2.0, 0.5])
    assert_allclose(K1()(x), [0.693147, -0.693147], atol=1e-6)
    assert_allclose(K2()(x), [0.240227, 0.240227], atol=1e-6)
    assert_allclose(K3()(x), [0.193147, 0.306853], atol=1e-6)
    assert_allclose(Absolute()(x), [0.693147, 0.693147], atol=1e-6)
    assert_allclose(StraightThrough(K3())(x), K3()(x), atol=1e-12)


def _log_softmax(logits: Array) -> Array:
    xp = namespace(logits)
    return logits - xp.log(xp.sum(xp.exp(logits)))


def _slope(function: Any, logits: Array) -> Array:
    return convert(value_and_gradient(function, {"x": convert(logits, autodiff())})[1]["x"], "NumPy")


def expected(estimator: Estimator, logits: Array, reference: Array) -> tuple[float, Array, Array]:
    """Mean of an estimate over a policy's own samples; its gradient by the logits as a loss, and in the reward."""
    p, ref = np.exp(_log_softmax(logits)), convert(reference, autodiff())
    here, value = convert(p, autodiff()), float(np.sum(p * estimator(_log_softmax(logits) - reference)))
    as_loss = _slope(lambda at: (here * estimator(_log_softmax(at["x"]) - ref)).sum(), logits)
    k = convert(estimator(_log_softmax(logits) - reference), autodiff())
    return value, as_loss, _slope(lambda at: (here * k * _log_softmax(at["x"])).sum(), logits)


def divergences(logits: Array, reference: Array) -> tuple[float, Array, Array]:
    """KL(pi || ref), its gradient by the logits, and that of KL(ref || pi)."""
    q, there = np.exp(reference), convert(reference, autodiff())

    def reverse(at: dict[str, Array]) -> Array:
        logp = _log_softmax(at["x"])
        return (namespace(logp).exp(logp) * (logp - there)).sum()

    forward = functools.partial(lambda q, at: -(q * _log_softmax(at["x"])).sum(), convert(q, autodiff()))
    p = _log_softmax(logits)
    return float(np.sum(np.exp(p) * (p - reference))), _slope(reverse, logits), _slope(forward, logits)


TWO = np.log([0.7, 0.3]), np.log([0.5, 0.5])


@pin("kl_estimators")
def the_table_for_two_actions() -> None:
    """pi = 0.7, 0.3 and ref = 0.5, 0.5: values, and slopes by the first logit, of each estimate in each place."""
    assert_allclose(divergences(*TWO)[0], 0.0822829, atol=1e-7)
    table = [
        (K1(), 0.0822829, 0.0, 0.177933),
        (K2(), 0.0787662, 0.177933, None),
        (K3(), 0.0822829, 0.2, -0.0220674),
    ]
    for estimator, value, loss, reward in table:
        found = expected(estimator, *TWO)
        assert_allclose([found[0], found[1][0]], [value, loss], atol=1e-6)
        assert reward is None or np.isclose(found[2][0], reward, atol=1e-6)


@pin("kl_estimators")
def the_biases_on_three_actions() -> None:
    """As a loss k2 (and k1+, k3+) have the gradient of KL(pi || ref), k3 that of KL(ref || pi), k1 none."""
    rng = np.random.default_rng(0)
    logits, reference = rng.standard_normal(3), _log_softmax(rng.standard_normal(3))
    value, reverse, forward = divergences(logits, reference)
    for estimator, slope in ((K1(), 0 * reverse), (K2(), reverse), (K3(), forward)):
        assert_allclose(expected(estimator, logits, reference)[1], slope, atol=1e-10)
    for unbiased in (K1(), K3()):
        assert_allclose(expected(unbiased, logits, reference)[0], value, atol=1e-10)
        assert_allclose(expected(StraightThrough(unbiased), logits, reference)[:2][1], reverse, atol=1e-10)
        assert_allclose(expected(StraightThrough(unbiased), logits, reference)[0], value, atol=1e-10)


@pin("kl_estimators")
def the_estimates_in_the_reward() -> None:
    """In the reward k1 has the gradient of KL(pi || ref), k2 and k3 have another."""
    rng = np.random.default_rng(1)
    logits, reference = rng.standard_normal(3), _log_softmax(rng.standard_normal(3))
    _, reverse, _ = divergences(logits, reference)
    assert_allclose(expected(K1(), logits, reference)[2], reverse, atol=1e-10)
    for biased in (K2(), K3()):
        assert np.max(np.abs(expected(biased, logits, reference)[2] - reverse)) > 1e-2


@pin("kl_estimators")
def weighed_by_the_ratio() -> None:
    """Sampled by another policy, r k3 has the gradient of KL(pi || ref), with r's own."""
    rng = np.random.default_rng(2)
    logits, reference, other = rng.standard_normal(3), *(_log_softmax(x) for x in rng.standard_normal((2, 3)))
    weighted = method("kl_estimators", variant="off_policy").objective.reference  # type: ignore[attr-defined]
    law, ref, old = (convert(x, autodiff()) for x in (np.exp(other), reference, other))

    def mean(at: dict[str, Array]) -> Array:
        logp = _log_softmax(at["x"])
        d = Decisions(logp=logp[:, None], logp_old=old[:, None], logp_ref=ref[:, None])
        return (law * weighted(d)[:, 0]).sum()

    assert_allclose(_slope(mean, logits), divergences(logits, reference)[1], atol=1e-10)


@pin("kl_estimators")
def estimates_are_not_negative() -> None:
    """k2 and k3 are at least 0, with no slope at 0; k3's slope is below 1 where pi has more, unbounded where less."""
    x = np.linspace(-3, 3, 61)
    for estimator in (K2(), K3()):
        assert np.all(estimator(x) >= 0)
        slope = _slope(lambda at, k=estimator: k(at["x"]).sum(), x)
        assert abs(slope[30]) < 1e-12
    assert np.all(np.abs(slope[31:]) < 1)
    assert slope[0] < -19


@pin("kl_estimators")
def adaptive_coefficient() -> None:
    """The coefficient grows by 2% at most where the KL is far above its target, shrinks by as much far below."""
    rule = ProportionalKL(1.0, target=0.1, rate=0.1)
    for d, factor in ((9.0, 1.02), (0.11, 1.01), (0.1, 1.0), (0.0, 0.98)):
        assert_allclose(rule.next(np.asarray(1.0), np.asarray(d), np.asarray(0.0)), factor)


LOSSES, MASK = np.array([[1.0, 2, 3, 4], [5, 7, np.nan, np.nan]]), np.array([[1.0, 1, 1, 1], [1, 1, 0, 0]])
MODES: list[tuple[Aggregation, float]] = [
    (TokenMean(), 22 / 6),
    (TokenSum(), 22),
    (SeqMeanTokenSum(), 11),
    (SeqMeanTokenMean(), 4.25),
    (SeqMeanTokenSumNorm(4), 2.75),
]


def total(mode: Aggregation, losses: Array, mask: Array) -> float:
    """The losses as one number."""
    return float(np.sum(np.where(mask != 0, losses, 0) * mode.weights(mask)))


@pin("loss_aggregation")
def modes_in_numbers() -> None:
    """Losses 1 to 4 and 5, 7: the five modes give 3.666667, 22, 11, 4.25, 2.75; what is masked may be NaN."""
    for mode, value in MODES:
        assert_allclose(total(mode, LOSSES, MASK), value)
        assert total(mode, LOSSES, 0 * MASK) == 0


@pin("loss_aggregation")
def rows_without_a_token() -> None:
    """An answer without a token changes no mode, unless it is told to count those."""
    losses, mask = np.vstack([LOSSES, LOSSES]), np.vstack([MASK, 0 * MASK])
    for mode, value in MODES:
        assert_allclose(total(mode, losses, mask), value)
    for counting, value in ((SeqMeanTokenMean(empty=True), 4.25), (SeqMeanTokenSum(empty=True), 11)):
        assert_allclose(total(counting, losses, mask), value / 2)


@pin("loss_aggregation")
def pieces_add_up() -> None:
    """With the whole batch's weights 1 to 4 pieces add up to its loss; a token mean of each piece is another one."""
    rng = np.random.default_rng(0)
    for pieces in range(1, 5):
        losses, mask = rng.standard_normal((12, 9)), (rng.random((12, 9)) < 0.7).astype(float)
        each = np.array_split(np.arange(12), pieces)
        for mode, _ in MODES:
            whole = mode.weights(mask)
            assert_allclose(sum((losses * whole)[rows].sum() for rows in each), total(mode, losses, mask))
        own = np.mean([total(TokenMean(), losses[rows], mask[rows]) for rows in each])
        assert (pieces == 1) == bool(np.isclose(own, total(TokenMean(), losses, mask)))


@pin("loss_aggregation")
def equal_lengths() -> None:
    """With answers of the same length the means over tokens and over answers are one."""
    mask = np.ones((3, 4))
    assert_allclose(TokenMean().weights(mask), SeqMeanTokenMean().weights(mask))
