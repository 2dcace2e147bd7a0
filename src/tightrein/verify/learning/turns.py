"""What credit of whole turns promises: a walk over a grid, each move a reply of several tokens.

Only where replies are long does it matter whether the trace fades by the turn or by the token.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ...arrays import Array, double_precision
from ...catalogue import method
from ...credit import GAE
from ...decisions import Decisions
from ...method import Method
from ...objective.aggregate import TokenMean
from ...objective.ratio import TokenRatio
from ...objective.value import ValueLoss
from ..pin import Shown, shows
from .credit import at, learn
from .tabular import Table, log_softmax

SIZE, TURNS, WORDS, EPISODES = 5, 24, 16, 32  # of the 16 tokens of a reply the last is the move
START, KEY, DOOR = (2, 2), (4, 1), (0, 3)
MOVES = np.array([(1, 0), (-1, 0), (0, 1), (0, -1)])
STATES = SIZE * SIZE * 2
WIDTH = TURNS * (WORDS + 1)  # after each reply one token of the grid, which is masked


@dataclass(frozen=True)
class Walks:
    """What a batch of episodes was: decisions, and where in the tables each stands."""

    d: Decisions
    place: Array
    token: Array
    earned: float


def walked(logp: Array, values: Array, rng: np.random.Generator) -> Walks:
    """Episodes of the policy: the key earns 0.2, the door behind it 0.8 and ends it. logp: [states, words, moves]."""
    where, held, over = np.tile(START, (EPISODES, 1)), np.zeros(EPISODES, bool), np.zeros(EPISODES, bool)
    mask, reward = np.zeros((EPISODES, WIDTH)), np.zeros((EPISODES, WIDTH))
    place, token = np.zeros((EPISODES, WIDTH), int), np.zeros((EPISODES, WIDTH), int)
    for turn in range(TURNS):
        state = (where[:, 0] * SIZE + where[:, 1]) * 2 + held
        for word in range(WORDS):
            t = turn * (WORDS + 1) + word
            place[:, t] = state * WORDS + word
            cumulative = np.exp(logp[state, word]).cumsum(-1)
            token[:, t] = np.minimum((rng.random((EPISODES, 1)) > cumulative).sum(-1), 3)
            mask[:, t] = ~over
        where = np.where(over[:, None], where, np.clip(where + MOVES[token[:, t]], 0, SIZE - 1))
        found = (where == KEY).all(1) & ~held & ~over
        held = held | found
        reached = (where == DOOR).all(1) & held & ~over
        reward[:, t] = 0.2 * found + 0.8 * reached
        over = over | reached
    seen = values.reshape(-1)[place]
    d = Decisions(
        logp_old=at(logp, place, token), mask=mask, reward=reward, value_old=seen, value=seen,
        turn=np.tile(np.arange(WIDTH) // (WORDS + 1), (EPISODES, 1)),
    )  # fmt: skip
    return Walks(d, place, token, float(reward.sum(1).mean()))


def trained(m: Method, seed: int, updates: int) -> tuple[float, float]:
    """(mean return over that many updates, variance explained by the values in the last five)."""
    rng, table = np.random.default_rng(seed), Table(log_softmax(np.zeros((STATES, WORDS, 4))))
    values, earned, explained = np.zeros((STATES, WORDS)), [], []
    for _ in range(updates):
        walks = walked(table.logp, values, rng)
        d = m.prepare(walks.d)
        learn(table, m, d, walks.place, walks.token, steps=4)
        learned = m.objective.value.weights(d) != 0  # type: ignore[attr-defined]
        error, count = np.zeros(values.size), np.zeros(values.size)
        np.add.at(error, walks.place[learned], (d.returns - d.value_old)[learned])
        np.add.at(count, walks.place[learned], 1)
        values += 0.5 * (error / np.maximum(count, 1)).reshape(values.shape)
        earned.append(walks.earned)
        explained.append(_explained(d))
    return float(np.mean(earned)), float(np.mean(explained[-5:]))


def _explained(d: Decisions) -> float:
    """How much of the discounted reward to go at turn starts the values explain."""
    turns = d.reward.reshape(EPISODES, TURNS, WORDS + 1).sum(-1)
    to_go = np.zeros_like(turns)
    for turn in reversed(range(TURNS)):
        to_go[:, turn] = turns[:, turn] + 0.99 * (to_go[:, turn + 1] if turn + 1 < TURNS else 0)
    alive = d.mask[:, :: WORDS + 1] > 0
    off = (to_go - d.value_old[:, :: WORDS + 1])[alive]
    return float(1 - off.var() / max(to_go[alive].var(), 1e-12))


@shows("turn_ppo")
@double_precision()
def turn_ppo() -> Shown:
    """On a grid with a key and a door it returns at least what PPO by tokens does, on most seeds."""
    m = method("turn_ppo")
    by_token = m.override(
        {
            "credit": GAE(0.99, 0.9, standardise=True),
            "ratio": TokenRatio(),
            "objective.aggregate": TokenMean(),
            "objective.value": ValueLoss(coef=0.5),
        }
    )
    found = {name: [trained(each, seed, 24) for seed in range(5)] for name, each in (("turn", m), ("token", by_token))}
    turn, token = ([earned for earned, _ in found[name]] for name in ("turn", "token"))
    wins = sum(a >= b for a, b in zip(turn, token, strict=True))
    explained = float(np.mean([variance for _, variance in found["turn"]]))
    returns = f"return {np.mean(turn):.2f}, PPO by tokens {np.mean(token):.2f}, not less on {wins} of 5 seeds"
    says = f"replies of {WORDS} tokens: {returns}"
    return Shown(
        f"{says}; its values explain {explained:.0%} of the variance of returns", wins >= 3 and explained > 0.5
    )
