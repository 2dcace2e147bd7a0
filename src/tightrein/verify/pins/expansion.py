"""The exact properties of the expansion in the ratio, and of the listwise loss."""

from __future__ import annotations

import itertools

import numpy as np
from numpy.testing import assert_allclose

from ...arrays import Array
from ...decisions import Decisions
from ...objective.group import ListwiseObjective
from ...objective.policy import TayPO
from ..batches import gradient, method
from ..pin import pin

REWARD = np.array([[1.0, 0.0], [0.0, 2.0]])  # [state, action]
STAYS = np.array([[0.1, 0.8], [0.3, 0.9]])  # probability of state 1 next: [state, action]
STEPS = 4


@pin("taypo")
def pairs_of_decisions() -> None:
    """Three decisions by hand: gaps 0.1, -0.2, 0.3, advantages 1, 2, -1, gamma 1/2; an end parts them."""
    d = Decisions(logp=np.log([[1.1, 0.8, 1.3]]), logp_old=np.zeros((1, 3)), advantage=np.array([[1.0, 2.0, -1.0]]))
    assert_allclose(TayPO(1)(d), [[-0.1, 0.4, 0.3]])
    assert_allclose(TayPO(2, gamma=0.5)(d), [[-0.1, 0.4 * 1.05, 0.3 * 0.925]])
    parted = d.replace(terminated=np.array([[0.0, 1.0, 0.0]]))
    assert_allclose(TayPO(2, gamma=0.5)(parted), [[-0.1, 0.4 * 1.05, 0.3]])
    wide = Decisions(
        logp=np.array([[np.log(1.1), np.nan, np.log(0.8)]]),
        logp_old=np.zeros((1, 3)),
        advantage=np.array([[1.0, np.nan, 2.0]]),
        mask=np.array([[1.0, 0, 1]]),
    )
    assert_allclose(TayPO(2, gamma=0.5)(wide)[0, [0, 2]], [-0.1, 0.4 * 1.05])


def _paths() -> tuple[Array, Array, Array]:
    """All paths of STEPS steps from state 0: states, actions [N, T], and the probability of their transitions [N]."""
    found = []
    for states in itertools.product((0, 1), repeat=STEPS - 1):
        for actions in itertools.product((0, 1), repeat=STEPS):
            path, chance = (0, *states), 1.0
            for t in range(STEPS - 1):
                up = STAYS[path[t], actions[t]]
                chance *= up if path[t + 1] else 1 - up
            found.append((path, actions, chance))
    states, actions, chances = zip(*found, strict=True)
    return np.array(states), np.array(actions), np.array(chances)


def _left_out(shift: float, order: int) -> float:
    """J(pi) - J(pi_old) less the expansion, pi being `shift` from the uniform policy, over all paths of four steps."""
    states, actions, chances = _paths()
    policy = np.array([0.5 - shift, 0.5 + shift])[actions]
    gain = float((REWARD[states, actions].sum(1) * chances * (policy.prod(1) - 0.5**STEPS)).sum())
    q = np.zeros((STEPS + 1, 2, 2))
    for t in reversed(range(STEPS)):
        value = q[t + 1].mean(1)
        q[t] = REWARD + STAYS * value[1] + (1 - STAYS) * value[0]
    advantage = np.stack([q[t][states[:, t], actions[:, t]] for t in range(STEPS)], axis=1)
    d = Decisions(logp=np.log(policy), logp_old=np.full(policy.shape, np.log(0.5)), advantage=advantage)
    expansion = -TayPO(order, gamma=1.0)(d).sum(1)
    return gain - float((expansion * chances * 0.5**STEPS).sum())


@pin("taypo")
def what_is_left_out() -> None:
    """On all paths of a known process the error falls with the square, at second order with the cube, of the step."""
    for order in (1, 2):
        far, near = _left_out(0.02, order), _left_out(0.01, order)
        assert abs(far) > 1e-9
        assert_allclose(far / near, 2 ** (order + 1), rtol=0.1)
    assert abs(_left_out(0.02, 2)) < 0.1 * abs(_left_out(0.02, 1))


def _answers(u: list[float], reward: list[float]) -> Decisions:
    one = np.ones((len(u), 1))
    made: dict[str, Array] = {"logp": np.array(u)[:, None] - 1, "logp_old": -one, "mask": one}
    return Decisions(**made, reward=np.array(reward), group=np.zeros(len(u), int))


@pin("adpo_anchored")
def listwise_numbers() -> None:
    """Four answers, two of them right: the loss 1.2296040."""
    adpo = method("adpo_anchored")
    d = _answers([0.2, -0.1, 0.0, 0.3], [1.0, 0.0, 0.0, 1.0])
    assert_allclose(adpo.loss(d).value, 1.2296040, atol=1e-7)


@pin("adpo_anchored")
def listwise_optimum() -> None:
    """Where the log-ratios are tau log q plus any constant the gradient is 0 and the loss is the entropy of q."""
    adpo = method("adpo_anchored", tau=0.8, sharpness=0.5)
    reward = np.array([0.9, 0.1, 0.4, 0.2])
    q = np.exp((reward - reward.mean()) / reward.std(ddof=1) / 0.5)
    q /= q.sum()
    d = _answers(list(0.8 * np.log(q) + 0.3), list(reward))
    assert_allclose(gradient(adpo, d), 0, atol=1e-12)
    assert_allclose(adpo.loss(d).value, -(q * np.log(q)).sum())


@pin("adpo_anchored")
def listwise_gradient_is_the_difference_of_the_distributions() -> None:
    """d loss / d u = (p - q) / tau: it sums to 0 over a group, and equal rewards draw p to the uniform one."""
    objective = ListwiseObjective(tau=2.0)
    adpo = method("adpo_anchored").replace(objective=objective)
    d = _answers([0.5, -0.5, 1.0], [0.3, 0.3, 0.3])
    p = np.exp([0.25, -0.25, 0.5])
    assert_allclose(gradient(adpo, d)[:, 0], (p / p.sum() - 1 / 3) / 2, atol=1e-12)
