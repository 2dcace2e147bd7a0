"""Pins of the diversity of right answers."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.testing import assert_allclose, assert_array_equal

from ...decisions import Decisions
from ...objective.aggregate import SeqMeanTokenMean
from ...reward import DistinctAnswers
from ..batches import batch, gradient, gradients, method
from ..pin import pin


def _group(rewards: list[float], angles: list[float], formulas: list[list[int]] | None = None) -> Decisions:
    """Answers of one token to one prompt, whose embeddings point in these directions."""
    count = len(rewards)
    return Decisions(
        mask=np.ones((count, 1)),
        reward=np.array(rewards, float),
        group=np.zeros(count, int),
        embedding=3.0 * np.stack([np.cos(angles), np.sin(angles)], axis=1),
        formula=np.array(formulas if formulas is not None else [[-1]] * count),
    )


def _emphasis(distinct: list[float], tau: float) -> Any:
    d = _group([1.0] * len(distinct), [0.0] * len(distinct))
    ones = np.ones(len(distinct))
    return DistinctAnswers(tau=tau).emphasis(d, np.array(distinct), ones) / len(distinct)


@pin("dsdr")
def dsdr_attention() -> None:
    """d = 0.2 and 0.6: shares 0.401312 and 0.598688 at tau = 1, 0.017986 and 0.982014 at 10; equal d share equally."""
    assert_allclose(_emphasis([0.2, 0.6], 1.0), [0.401312, 0.598688], atol=1e-6)
    assert_allclose(_emphasis([0.2, 0.6], 10.0), [0.017986, 0.982014], atol=1e-6)
    assert_allclose(_emphasis([0.4] * 4, 5.0), 0.25)


@pin("dsdr")
def dsdr_dissimilarity() -> None:
    """Embeddings at 0, 90 and 180 degrees: mean dissimilarities 0.75, 0.5, 0.75, of which the half counts."""
    d = _group([1, 1, 0], [0, math.pi / 2, math.pi])
    assert_allclose(DistinctAnswers().distinctness(d), [0.375, 0.25, 0.375], atol=1e-12)
    assert_allclose(DistinctAnswers(among_right=True).distinctness(d)[:2], [0.25, 0.25], atol=1e-12)


@pin("dsdr")
def dsdr_formulas() -> None:
    """Of formulas {1, 2}, {2, 3, 4} and none: shares of unique ones 1/2, 2/3 and 0, in each group by itself."""
    d = _group([1, 1, 1], [0, 0, 0], [[1, 2, -1], [2, 3, 4], [-1, -1, -1]])
    assert_allclose(DistinctAnswers().distinctness(d), [1 / 4, 1 / 3, 0], atol=1e-12)
    apart = DistinctAnswers().distinctness(d.replace(group=np.array([0, 1, 2])))
    assert_allclose(apart, [1 / 2, 1 / 2, 0], atol=1e-12)


@pin("dsdr")
def dsdr_right_answers_first() -> None:
    """The bonus is at most coef * most, so that right answers stay above wrong ones; wrong ones get none."""
    d = _group([1, 1, 0, 0], [0, 2, 1, 3], [[1], [2], [3], [4]])
    paid = DistinctAnswers(coef=0.1, most=0.5)(d).reward - d.reward
    assert np.all(paid[:2] > 0)
    assert np.all(paid < 0.0501)
    assert not paid[2:].any()
    assert np.min(DistinctAnswers(coef=0.9)(d).reward[:2]) > np.max(d.reward[2:])


@pin("dsdr")
def dsdr_alone() -> None:
    """Among right answers a single one has d = 0 but for formulas, and all the attention; without one there is none."""
    d = _group([1, 0], [0, 1])
    rule = DistinctAnswers(among_right=True)
    assert_array_equal(rule.distinctness(d)[:1], [0.0])
    assert_allclose(rule(d).emphasis, [2.0, 0.0])  # a share of 1, times the size of the group
    assert_array_equal(rule(_group([0, 0], [0, 1])).emphasis, [0.0, 0.0])


@pin("dsdr")
def dsdr_all_right() -> None:
    """Where all answers are right and differ, they still have advantages, as they have none with grpo."""
    d = _group([1, 1, 1], [0, 0, 2])
    assert not method("grpo").prepare(d).advantage.any()
    advantage = method("dsdr").prepare(d).advantage[:, 0]
    assert advantage[2] > 1
    assert np.all(advantage[:2] < 0)


@pin("dsdr")
def dsdr_local_term() -> None:
    """The local term's gradient is coef e_i r (1 + logp) / (L N); without right answers or coefficient it is grpo's."""
    free = method("dsdr", **{"objective.surrogate": "Importance"})
    d = batch(0, free)
    r, weights = np.exp(d.logp - d.logp_old), SeqMeanTokenMean()(d)
    local = 1e-3 * d.emphasis[:, None] * weights * r * (1 + d.logp)
    assert_allclose(gradient(free, d), weights * r * -d.advantage + local, atol=1e-12)
    off = method("dsdr", **{"objective.terms.emphasised_entropy.coef": 0.0})
    none = d.replace(emphasis=0 * d.emphasis)
    assert_allclose(gradients(method("dsdr"), none)["logp"], gradient(off, d), atol=1e-15)


@pin("dsdr")
def dsdr_entropy_gradient() -> None:
    """In expectation over the old policy the term's gradient by the logits is that of minus the entropy."""
    logits, old = np.array([0.5, -0.3, 1.1]), np.array([0.1, 0.4, 0.2])
    p, q = np.exp(logits) / np.exp(logits).sum(), np.exp(old) / np.exp(old).sum()
    score = np.eye(3) - p  # d logp_a / d logits
    term = sum(q[a] * (p[a] / q[a]) * (1 + np.log(p[a])) * score[a] for a in range(3))
    entropy = -np.sum(p * np.log(p))
    assert_allclose(term, p * (np.log(p) + entropy), atol=1e-12)
