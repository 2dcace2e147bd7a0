"""How losses per decision become one number."""

from __future__ import annotations

import numpy as np
import pytest

import tightrein as tr
from tightrein.parts import SeqMeanTokenMean, SeqMeanTokenSum, SeqMeanTokenSumNorm, TokenMean, TokenSum

LOSS = np.array([[1.0, 2, 3, 4], [5, 7, np.nan, np.nan]])
MASK = np.array([[1.0, 1, 1, 1], [1, 1, 0, 0]])
MODES = [TokenMean(), TokenSum(), SeqMeanTokenSum(), SeqMeanTokenMean(), SeqMeanTokenSumNorm(4)]
EXPECTED = [22 / 6, 22, 11, 4.25, 2.75]


def total(mode: tr.parts.Aggregation, loss: np.ndarray, mask: np.ndarray) -> float:
    return float(np.sum(np.where(mask != 0, loss, 0) * mode.weights(mask)))


@pytest.mark.parametrize(("mode", "expected"), list(zip(MODES, EXPECTED, strict=True)), ids=lambda x: type(x).__name__)
def test_numbers(mode: tr.parts.Aggregation, expected: float) -> None:
    assert total(mode, LOSS, MASK) == pytest.approx(expected)


@pytest.mark.parametrize("mode", MODES, ids=lambda x: type(x).__name__)
def test_empty_batch_and_empty_rows(mode: tr.parts.Aggregation) -> None:
    assert total(mode, LOSS, np.zeros_like(MASK)) == 0
    padded = total(mode, np.vstack([LOSS, LOSS[:1]]), np.vstack([MASK, np.zeros((1, 4))]))
    assert padded == pytest.approx(total(mode, LOSS, MASK))


@pytest.mark.parametrize("mode", MODES, ids=lambda x: type(x).__name__)
def test_pieces_with_the_whole_batchs_weights_add_up(mode: tr.parts.Aggregation) -> None:
    rng = np.random.default_rng(0)
    loss, mask = rng.standard_normal((12, 9)), (np.arange(9) < rng.integers(1, 10, (12, 1))).astype(float)
    weights = mode.weights(mask)
    pieces = sum(np.sum((loss * weights)[i : i + 3]) for i in range(0, 12, 3))
    assert pieces == pytest.approx(total(mode, loss, mask))
    # The mean over tokens of each piece by itself is another number: local denominators are not the same loss.
    local = np.mean([total(TokenMean(), loss[i : i + 3], mask[i : i + 3]) for i in range(0, 12, 3)])
    assert local != pytest.approx(total(TokenMean(), loss, mask))


def test_equal_lengths_make_the_means_agree() -> None:
    full = np.ones((3, 4))
    loss = np.random.default_rng(0).random((3, 4))
    assert total(TokenMean(), loss, full) == pytest.approx(total(SeqMeanTokenMean(), loss, full))


def test_dr_grpo_needs_its_length_and_does_not_see_padding() -> None:
    d = tr.Decisions(logp=np.zeros((2, 3)), logp_old=np.zeros((2, 3)), advantage=np.array([[1.0], [0.5]]))
    with pytest.raises(tr.TightreinError, match=r"length=1024"):
        tr.method("dr_grpo").loss(d)
    wide = tr.Decisions(
        logp=np.full((2, 8), np.nan),
        logp_old=np.zeros((2, 8)),
        advantage=d.advantage,
        mask=np.arange(8)[None] < [[3], [3]],
    )
    wide.logp[:, :3] = 0
    method = tr.method("dr_grpo", length=16)
    assert float(method.loss(wide).value) == pytest.approx(float(method.loss(d).value))


def test_dr_grpo_pulls_every_token_alike_and_grpo_does_not() -> None:
    d = tr.Decisions(mask=np.array([[1.0, 0, 0, 0], [1, 1, 1, 1]]), logp=np.zeros((2, 4)))
    weights = tr.method("dr_grpo", length=4).objective.aggregate.weights(d.mask)
    assert weights[0, 0] == weights[1, 0]
    weights = tr.method("grpo").objective.aggregate.weights(d.mask)
    assert weights[0, 0] == pytest.approx(4 * weights[1, 0])
