"""Predicting the next achievement, and recognising it in other episodes. arXiv 2307.03486."""

from __future__ import annotations

from dataclasses import dataclass

from ..arrays import Array, atleast, log_sigmoid, namespace
from ..heads import Heads
from ..settings import setting
from ..step import Adam, Optimizer
from .base import Auxiliary


def unit(x: Array) -> Array:
    """x / |x| along the trailing axis; 0 stays 0."""
    xp = namespace(x)
    return x / xp.sqrt(atleast(xp.sum(x * x, axis=-1, keepdims=True), 1e-12))


def film(features: Array, scale: Array, shift: Array) -> Array:
    """(1 + scale) features + shift, elementwise: what an action makes of a state."""
    return (1 + scale) * features + shift


def contrast(anchor: Array, positive: Array, negative: Array, temperature: float) -> Array:
    """Cross-entropy of choosing `positive` over `negative` by their products with `anchor`: [...].

    All: [..., H], unit vectors. At equal products it is log 2.
    """
    xp = namespace(anchor)
    return -log_sigmoid(xp.sum(anchor * (positive - negative), axis=-1) / temperature)


@dataclass(frozen=True)
class AchievementMemory(Heads):
    """Policy and value read the features of the observation and the embedding of the last achievement.

    An achievement is a step whose reward is above `threshold`. Its embedding is the direction in which it moved the
    features; in an episode without any yet it is 0.
    """

    shares = True
    equation = "m = unit( phi(o') - phi(o) ) of the last achievement;  pi, V of (phi(o), m)"
    threshold: float = setting(0.1)


@dataclass(frozen=True)
class AchievementDistillation(Auxiliary):
    """After every `every` rollouts, `epochs` passes over the whole episodes in them, each in two halves.

    Matching takes each episode in turn. Partial optimal transport, entropic with `regularisation` and computed in
    `rounds`, matches its achievements with those of `others` episodes; where the plan exceeds 1/2, the embedding of one
    is to be near that of the other, and far from that of a random one of that episode. No more than the first `most`
    achievements of an episode are matched. Prediction takes all decisions of episodes with an achievement, `batch` at
    a time: what q makes of features, action and memory is to be near the embedding of the achievement that comes next,
    and far from it at a random step of the episode. Both halves hold the policy where it was when the phase began, by
    `policy` KL(pi || pi_old), and the value at the targets of the time of collection, by `value` (V - norm(R))^2.
    """

    heads = AchievementMemory
    discrete = True
    equation = "CE(positive, negative) / T + policy KL(pi || pi_old) + value (V - norm(R))^2"
    every: int = setting(8, at_least=1)
    epochs: int = setting(6, at_least=1)
    batch: int = setting(512, at_least=1)
    policy: float = setting(1.0, at_least=0)
    value: float = setting(1.0, at_least=0)
    temperature: float = setting(0.1, above=0)
    regularisation: float = setting(0.05, above=0)
    rounds: int = setting(100, at_least=1)
    others: int = setting(16, at_least=1)
    most: int = setting(32, at_least=1)
    step: Optimizer = Adam(learning_rate=3e-4, max_grad_norm=0.5)
