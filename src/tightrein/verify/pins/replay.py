"""Exact properties of the losses on transitions from a replay buffer."""

from __future__ import annotations

from typing import Any

import numpy as np

from ...arrays import Array, convert, value_and_gradient
from ...catalogue import method
from ...decisions import Decisions
from ...distributions import Categorical
from ...objective.replay import MirrorActor, SoftCritics
from .. import batches
from ..pin import pin
from .solvers import near

PLAIN: dict[str, Any] = {"objective.actor.regularisation": 0.0}
ROWS = 6


def transitions(seed: int = 0, **changes: Array) -> Decisions:
    """Six transitions of random numbers, [6, 1], none of which ended."""
    rng = np.random.default_rng(seed)
    single = ("logp", "logp_old", "value", "value_next", "reward")
    made = {name: rng.standard_normal((ROWS, 1)) for name in single}
    made |= {name: rng.standard_normal((ROWS, 1, 2)) for name in ("q", "q_policy", "parameters")}
    return Decisions(**{**made, "terminated": np.zeros((ROWS, 1)), **changes})


def slopes(d: Decisions, names: tuple[str, ...], **overrides: Any) -> dict[str, Array]:
    """Gradient of mdpo_off's loss by these fields, whatever they are."""
    m, d = method("mdpo_off", **overrides), batches.convert_decisions(d, batches.autodiff())
    found = value_and_gradient(lambda x: m.loss(d.replace(**x)).value, {name: getattr(d, name) for name in names})[1]
    return {name: convert(g, "NumPy") for name, g in found.items()}


@pin("mdpo_off")
def soft_actor_critic() -> None:
    """c = temperature: the actor's loss is alpha log pi(a|s) - Q_1(s, a), whatever the previous policy."""
    d = transitions()
    for alpha in (0.05, 0.2, 1.0):
        changes: dict[str, Any] = {"objective.temperature": alpha, "objective.actor.coef": alpha, **PLAIN}
        loss = method("mdpo_off", **changes).loss(d)
        near(loss.per_decision, alpha * d.logp - d.q_policy[..., 0], 1e-12)
        near(slopes(d, ("logp_old",), **changes)["logp_old"], 0.0, 0.0)


@pin("mdpo_off")
def just_after_a_copy() -> None:
    """pi_k = pi: c log pi - (c - temperature) log pi_k is temperature log pi."""
    d = transitions()
    actor = MirrorActor(coef=1.3, regularisation=0.0)
    near(actor(d.replace(logp_old=d.logp), 0.2), 0.2 * d.logp - d.q_policy[..., 0], 1e-12)


@pin("mdpo_off")
def the_best_choice_among_a_few() -> None:
    """Five actions: pi ~ pi_k^(1 - temperature / c) exp(Q / c) has no slope, and any other costs more."""
    rng = np.random.default_rng(1)
    old, q = Categorical(rng.standard_normal(5)).log_probs(), rng.standard_normal(5)
    for c, temperature in ((1.0, 0.2), (0.5, 0.5), (2.0, 0.0)):
        actor = MirrorActor(coef=c, regularisation=0.0)
        best = (1 - temperature / c) * old + q / c

        def expected(logits: Array, actor: MirrorActor = actor, temperature: float = temperature) -> float:
            """The mean of the actor's loss over actions drawn from softmax(logits)."""
            logp = Categorical(logits).log_probs()
            rows = {"logp": logp, "logp_old": old, "q_policy": np.stack([q, q], axis=-1)}
            d = Decisions(**{name: x[None] for name, x in rows.items()})
            return float(np.sum(np.exp(logp) * actor(d, temperature)[0]))

        for step in np.eye(5):
            near((expected(best + 1e-5 * step) - expected(best - 1e-5 * step)) / 2e-5, 0.0, 1e-8)
            assert expected(best + 0.3 * step) > expected(best)


@pin("mdpo_off")
def gradients_of_the_actor() -> None:
    """The slope is c by log pi(a), temperature - c by log pi_k(a), -1 by Q_1(a), 0 by Q_2(a), each over N."""
    found = slopes(transitions(), ("logp", "logp_old", "q_policy"), **PLAIN)
    near(found["logp"], 1.0 / ROWS, 1e-12)  # the critics' targets are held still
    near(found["logp_old"], (0.2 - 1.0) / ROWS, 1e-12)
    near(found["q_policy"][..., 0], -1.0 / ROWS, 1e-12)
    near(found["q_policy"][..., 1], 0.0, 0.0)


@pin("mdpo_off")
def without_entropy() -> None:
    """temperature = 0: c (log pi - log pi_k) - Q_1."""
    d = transitions()
    near(MirrorActor(2.0, regularisation=0.0)(d, 0.0), 2 * (d.logp - d.logp_old) - d.q_policy[..., 0], 1e-12)


@pin("mdpo_off")
def critics_by_hand() -> None:
    """r = 1, V_bar = 2: y = 2.98, or 1 at the end; Q = (0, 1): 6.4004; V = 2, Q = (3, 2.5), log pi = -1: 0.245."""
    one = np.ones((1, 1))
    d = Decisions(
        logp=-one, reward=one, value_next=2 * one, terminated=0 * one, value=2 * one,
        q=np.array([[[0.0, 1.0]]]), q_policy=np.array([[[3.0, 2.5]]]),
    )  # fmt: skip
    critics = SoftCritics()
    near(critics.target(d), 2.98)
    near(critics.target(d.replace(terminated=one)), 1.0)
    near(critics.q_loss(d), 0.5 * (2.98**2 + 1.98**2))
    near(critics.value_loss(d, 0.2), 0.5 * 0.7**2)


@pin("mdpo_off")
def a_limit_is_no_end() -> None:
    """Whether a limit cut the episode is not read: V_bar of the state reached is credited either way."""
    m, d = method("mdpo_off"), transitions()
    assert "truncated" not in m.needs
    near(m.loss(d.replace(truncated=np.ones((ROWS, 1)))).value, m.loss(d).value, 0.0)


@pin("mdpo_off")
def size_of_means_and_deviations() -> None:
    """The regularisation is 1e-3 mean(mu^2) + 1e-3 mean(log_std^2)."""
    d = transitions()
    more = float(method("mdpo_off").loss(d).value - method("mdpo_off", **PLAIN).loss(d).value)
    mean, log_std = d.parameters[..., 0], d.parameters[..., 1]
    near(more, 1e-3 * np.mean(mean**2) + 1e-3 * np.mean(log_std**2), 1e-12)
