"""The exact properties of advantages within a group, and of what shapes and selects answers."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.testing import assert_allclose, assert_array_equal

from ...credit import GroupCentred, GroupNormalised, LeaveOneOut
from ...decisions import Decisions
from ...reward import KLInReward, SoftOverlong
from ...selection import DropTruncated, DynamicSampling
from ...settings import Part
from ..pin import pin

NORMALISED = ("grpo", "dapo", "gspo", "cispo", "sapo")
GROUPS = (*NORMALISED, "dr_grpo", "rloo")


def credit(rule: Part, rewards: Any, group: Any = None) -> Any:
    """The advantages a rule gives to single decisions: [B]."""
    group = np.zeros(len(rewards), int) if group is None else np.asarray(group)
    d = Decisions(logp=np.zeros((len(rewards), 1)), reward=np.array(rewards, float), group=group)
    return rule(d).advantage[:, 0]  # type: ignore[operator]


@pin(*NORMALISED)
def group_normalised() -> None:
    """Advantages of four answers; an affine change of the rewards changes nothing; they sum to 0."""
    half = 0.866024
    assert_allclose(credit(GroupNormalised(), [1, 0, 0, 1]), [half, -half, -half, half], atol=1e-6)
    assert_allclose(credit(GroupNormalised(eps=0), [1, 0, 0, 0]), [1.5, -0.5, -0.5, -0.5])
    rewards = [0.3, 0.1, 0.9, 0.4]
    moved = [3 * r - 7 for r in rewards]
    assert_allclose(credit(GroupNormalised(0), moved), credit(GroupNormalised(0), rewards))
    assert_allclose(credit(GroupNormalised(), rewards).sum(), 0, atol=1e-12)


@pin(*GROUPS)
def equal_rewards_give_exactly_zero() -> None:
    """A group whose answers all earned the same has advantages of exactly 0, whatever the number."""
    for rule in (GroupNormalised(), GroupCentred(), LeaveOneOut()):
        for reward in (0.1, 0.7, 1 / 3, 1e6 / 7):
            assert np.all(credit(rule, [reward] * 7) == 0)


@pin("dr_grpo", "rloo")
def group_centred_and_leave_one_out() -> None:
    """Advantages of four answers; leaving one out is G / (G - 1) of centring; a constant reward changes nothing."""
    assert_allclose(credit(GroupCentred(), [1, 0, 0, 1]), [0.5, -0.5, -0.5, 0.5])
    assert_allclose(credit(GroupCentred(), [1, 0, 0, 0]), [0.75, -0.25, -0.25, -0.25])
    assert_allclose(credit(LeaveOneOut(), [1, 0, 0, 0]), [1, -1 / 3, -1 / 3, -1 / 3])
    assert_allclose(credit(LeaveOneOut(), [0.9, 0.2]), [0.7, -0.7])
    rewards = [0.3, 0.1, 0.9, 0.4]
    assert_allclose(credit(GroupCentred(), rewards), 0.75 * credit(LeaveOneOut(), rewards))
    assert_allclose(credit(LeaveOneOut(), [r + 5 for r in rewards]), credit(LeaveOneOut(), rewards))


@pin(*GROUPS)
def groups_of_one() -> None:
    """An answer alone has its reward for an advantage where it is normalised, and 0 where it is centred."""
    assert_allclose(credit(GroupNormalised(), [0.4]), 0.4)
    assert credit(GroupCentred(), [0.4])[0] == 0
    assert credit(LeaveOneOut(), [0.4])[0] == 0


@pin(*GROUPS)
def group_ids_may_come_in_any_order() -> None:
    """Groups are told apart by their ids alone, negative ones and scattered rows included."""
    rewards, group = np.array([1.0, 0.2, 0.0, 0.7, 0.4, 0.9]), np.array([9, -4, 9, 2, -4, 2])
    found = credit(GroupNormalised(0), rewards, group)
    for pair in ([0, 2], [1, 4], [3, 5]):
        assert_allclose(found[pair], credit(GroupNormalised(0), rewards[pair]))


@pin("dapo")
def dapo_overlong_penalty() -> None:
    """No penalty up to the buffer, half of it in its middle, -1 at the limit and beyond."""
    part = SoftOverlong(length=20480, buffer=4096)
    for length, expected in [(16000, 0), (16384, 0), (18432, -0.5), (20480, -1), (30000, -1)]:
        d = Decisions(mask=np.ones((1, length)), reward=np.zeros(1), logp=np.zeros((1, length)))
        assert_allclose(part(d).reward[0], expected)
    steps = Decisions(mask=np.array([[1.0, 1, 0]]), reward=np.zeros((1, 3)))
    assert_allclose(SoftOverlong(length=2, buffer=1)(steps).reward, [[0, -1, 0]])


@pin("dapo")
def dapo_dynamic_sampling_keeps_mixed_groups_only() -> None:
    """Groups in which all succeed or all fail are dropped."""
    d = Decisions(logp=np.zeros((6, 2)), reward=np.array([1.0, 1, 0, 1, 0, 0]), group=np.array([0, 0, 1, 1, 2, 2]))
    assert_array_equal(DynamicSampling()(d).mask[:, 0], [0, 0, 1, 1, 0, 0])


@pin("dapo")
def dapo_overlong_filtering() -> None:
    """Answers that the limit cut off can be masked."""
    d = Decisions(logp=np.zeros((2, 2)), truncated=np.array([[0.0, 1.0], [0, 0]]))
    assert_array_equal(DropTruncated()(d).mask, [[0, 0], [1, 1]])


@pin("rloo")
def rloo_takes_the_kl_off_the_reward() -> None:
    """The estimate over the answer's tokens is subtracted from its reward, or from each token's."""
    d = Decisions(
        logp_old=np.array([[-1.0, -2.0]]), logp_ref=np.array([[-1.5, -1.0]]), mask=np.ones((1, 2)), reward=np.ones(1)
    )
    assert_allclose(KLInReward(coef=0.1)(d).reward[0], 1 - 0.1 * (0.5 - 1.0))
    assert_allclose(KLInReward(coef=0.1)(d.replace(reward=np.zeros((1, 2)))).reward, [[-0.05, 0.1]])


@pin("rloo")
def rloo_gradient_on_a_bandit_is_unbiased() -> None:
    """The mean of the estimated gradient over 5,000 groups is the exact policy gradient of a softmax bandit."""
    rng = np.random.default_rng(0)
    logits, payoff = np.array([0.3, -0.2, 0.5]), np.array([1.0, 0.0, 0.4])
    p = np.exp(logits) / np.exp(logits).sum()
    exact = -p * (payoff - p @ payoff)
    groups, size = 5000, 4
    action = rng.choice(3, (groups * size, 1), p=p)
    advantage = credit(LeaveOneOut(), payoff[action[:, 0]], np.repeat(np.arange(groups), size))
    each = (-advantage[:, None] * (np.eye(3)[action[:, 0]] - p)).reshape(groups, size, 3).mean(axis=1)
    error = each.std(axis=0) / np.sqrt(groups)
    assert np.all(np.abs(each.mean(axis=0) - exact) < 3.5 * error)
