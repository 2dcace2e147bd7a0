"""Exact properties of the methods that give credit to whole turns or reasoning steps."""

from __future__ import annotations

from typing import Any

import numpy as np

from ...arrays import Array
from ...catalogue import method
from ...credit import GAE, TurnGAE
from ...decisions import Decisions
from ...objective.aggregate import TokenMean
from ...objective.ratio import SequenceProductRatio, TokenRatio, TurnProductRatio
from ...objective.value import ValueLoss
from .. import batches
from ..checks import close
from ..pin import pin

TURN, VINE = "turn_ppo", "vineppo"


def two_turns() -> Decisions:
    """Two replies of two and three tokens, with two of a tool between them."""
    return Decisions(
        mask=np.array([[1.0, 1, 0, 0, 1, 1, 1, 0]]),
        turn=np.array([[0, 0, 0, 0, 1, 1, 1, 0]]),
        reward=np.array([[0.0, 0, 9, 9, 0, 0, 1, 9]]),
        value_old=np.array([[0.2, 7, 7, 7, 0.5, 7, 7, 7]]),
    )


def answers(seed: int, turns: Any = None) -> Decisions:
    """Answers of ragged length with values and turns."""
    rng = np.random.default_rng(seed)
    rows, width = 6, 9
    mask = (np.arange(width) < rng.integers(2, width + 1, rows)[:, None]).astype(float)
    logp = -rng.random((rows, width))
    return Decisions(
        mask=mask, turn=np.cumsum(rng.random((rows, width)) < 0.4, axis=1) if turns is None else turns(rows, width),
        reward=rng.standard_normal((rows, width)) * mask, value_old=rng.random((rows, width)),
        logp=logp + 0.3 * rng.standard_normal((rows, width)), logp_old=logp, value=rng.random((rows, width)),
    )  # fmt: skip


def every_token_a_turn(rows: int, width: int) -> Array:
    """Each decision is a turn of its own."""
    return np.tile(np.arange(width), (rows, 1))


def one_turn(rows: int, width: int) -> Array:
    """All decisions belong to the same turn."""
    return np.zeros((rows, width), int)


@pin(TURN)
def two_turns_by_numbers() -> None:
    """V .2, .5, rewards 0, 1, gamma .99, lambda .9: A .7405, .5, targets .9405, 1; tool tokens are stepped over."""
    d = TurnGAE(0.99, 0.9)(two_turns())
    close(d.advantage, [[0.7405, 0.7405, 0, 0, 0.5, 0.5, 0.5, 0]], 1e-12, "advantage")
    close(d.returns[0, [0, 4]], [0.9405, 1.0], 1e-12, "target")


@pin(TURN)
def one_token_per_turn() -> None:
    """Where every token is a turn it is PPO with GAE, token by token, and with the mean over tokens."""
    d = answers(0, every_token_a_turn)
    close(TurnGAE(0.99, 0.9)(d).advantage, GAE(0.99, 0.9)(d).advantage, 1e-12, "advantage")
    m = method(TURN)
    plain = m.override(
        {
            "credit": GAE(0.99, 0.9, standardise=True),
            "ratio": TokenRatio(),
            "objective.aggregate": TokenMean(),
            "objective.value": ValueLoss(),
        }
    )
    close(m.loss(m.prepare(d)).value, plain.loss(plain.prepare(d)).value, 1e-12, "loss")


@pin(TURN)
def one_turn_per_answer() -> None:
    """Where an answer is one turn, the product of its tokens' ratios is clipped, and A = R - V(s_0)."""
    d = answers(1, one_turn)
    expected = (d.reward.sum(1) - d.value_old[:, 0])[:, None] * d.mask
    close(TurnGAE(0.99, 0.9)(d).advantage, expected, 1e-12, "advantage")
    m = method(TURN, ratio=TurnProductRatio())
    whole = m.override({"ratio": SequenceProductRatio(), "objective.aggregate": "SeqMeanTokenMean"})
    prepared = m.prepare(d)
    close(m.loss(prepared).value, whole.loss(prepared).value, 1e-12, "loss")


@pin(TURN)
def clipping_is_all_or_nothing() -> None:
    """All tokens of a clipped turn have gradient 0, and all tokens of another the same one."""
    d = two_turns()
    logp = np.array([[-1.0, -0.6, 0, 0, -1.3, -1.1, -0.8, 0]])
    moved = logp + np.array([[0.9, -0.3, 0, 0, 0.1, -0.3, 0.1, 0]])  # mean log-ratios .3 and -.0333
    d = d.replace(advantage=np.ones((1, 8)), logp=moved, logp_old=logp, value=d.value_old, returns=d.value_old)
    found = batches.gradient(method(TURN), d)[0]
    assert not found[[0, 1, 2, 3, 7]].any()
    close(found[4:7], [-np.exp(-0.1 / 3) / 6] * 3, 1e-12, "gradient")


@pin(TURN)
def advantages_are_standardised_over_turns() -> None:
    """Long turns count as much as short ones: over turns the advantages have mean 0 and deviation 1."""
    d = method(TURN).prepare(answers(2))
    each = [
        row[(turn == name) & (mask > 0)][0]
        for row, turn, mask in zip(d.advantage, d.turn, d.mask, strict=True)
        for name in np.unique(turn[mask > 0])
    ]
    close([np.mean(each), np.std(each, ddof=1)], [0, 1], 1e-6, "moments")


@pin(TURN)
def values_are_learned_at_turn_starts() -> None:
    """The value has a gradient at the first token of each turn, and nowhere else."""
    d = two_turns().replace(logp=np.zeros((1, 8)), logp_old=np.zeros((1, 8)), value=np.full((1, 8), 0.1))
    m = method(TURN)
    found = batches.gradients(m, m.prepare(d))["value"][0]
    assert np.flatnonzero(found).tolist() == [0, 4]
    close(found[[0, 4]], 0.5 * np.array([0.1 - 0.9405, 0.1 - 1]) / 2, 1e-6, "gradient")


@pin(TURN, VINE)
def labels_do_not_matter() -> None:
    """Turns are told apart by their labels, whatever these are, and masked labels are never read."""
    d = answers(3)
    relabelled = np.where(d.mask > 0, 3 * d.turn + 5, 0)
    other = d.replace(turn=relabelled)
    credit, ratio = TurnGAE(0.9, 0.7), TurnProductRatio()
    close(credit(d).advantage, credit(other).advantage, 1e-12, "advantage")
    close(ratio(d) * d.mask, ratio(other) * d.mask, 1e-12, "ratio")


@pin(VINE)
def three_steps_by_numbers() -> None:
    """V .25, .5, 1 and R = 1: the steps earn .25, .5, 0."""
    d = Decisions(
        mask=np.ones((1, 6)), turn=np.array([[0, 0, 1, 1, 1, 2]]), reward=np.array([1.0]),
        value_old=np.array([[0.25, 0, 0.5, 0, 0, 1]]),
    )  # fmt: skip
    credit: TurnGAE = method(VINE).credit  # type: ignore[assignment]
    close(credit(d).advantage, [[0.25, 0.25, 0.5, 0.5, 0.5, 0]], 1e-12, "advantage")


@pin(VINE)
def steps_share_the_reward() -> None:
    """The advantages of the steps add up to R - V(prompt)."""
    d = answers(4)
    credit: TurnGAE = method(VINE).credit  # type: ignore[assignment]
    found = credit(d).advantage
    for i in range(6):
        steps = [found[i][(d.turn[i] == h) & (d.mask[i] > 0)][0] for h in np.unique(d.turn[i][d.mask[i] > 0])]
        close(sum(steps), d.reward[i].sum() - d.value_old[i, 0], 1e-12, "sum")


@pin(VINE)
def one_step_is_the_whole_answer() -> None:
    """An answer of one step earns R - V(prompt), at every token."""
    d = answers(5, one_turn)
    credit: TurnGAE = method(VINE).credit  # type: ignore[assignment]
    expected = (d.reward.sum(1) - d.value_old[:, 0])[:, None] * d.mask
    close(credit(d).advantage, expected, 1e-12, "advantage")


@pin(VINE)
def exact_values_give_exact_advantages() -> None:
    """With exact values a step's advantage is Q(s, step) - V(s), and its mean under the policy is 0."""
    rng = np.random.default_rng(6)
    right = rng.random((3, 3, 3)) < 0.4  # which of the 27 answers of three steps with three choices are right
    policy = rng.dirichlet(np.ones(3), 3)  # one distribution for each step
    after_two = np.einsum("ijk,k->ij", right, policy[2])
    after_one = after_two @ policy[1]
    start = float(after_one @ policy[0])
    paths = np.array(list(np.ndindex(3, 3, 3)))
    values = np.stack([np.full(27, start), after_one[paths[:, 0]], after_two[paths[:, 0], paths[:, 1]]], axis=1)
    d = Decisions(
        mask=np.ones((27, 3)), turn=every_token_a_turn(27, 3), value_old=values,
        reward=right[tuple(paths.T)].astype(float),
    )  # fmt: skip
    credit: TurnGAE = method(VINE).credit  # type: ignore[assignment]
    found = credit(d).advantage
    ends = np.stack([values[:, 1], values[:, 2], d.reward], axis=1)
    close(found, ends - values, 1e-12, "Q - V")
    probability = policy[np.arange(3), paths]
    for step in range(3):
        close((probability.prod(1) * found[:, step]).sum(), 0, 1e-12, "mean")
