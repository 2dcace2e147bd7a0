"""What the methods show that read more than log-probabilities."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np

from ...arrays import Array, namespace
from ...decisions import Decisions
from ...method import Method
from ..batches import method
from ..pin import Shown, shows
from .tabular import Rows, Table, batch, log_softmax, sample

CUES, ANSWERS = 8, 8


@dataclass(frozen=True)
class _Cues:
    """A question is one of 8 cues; each asks for its own answer, and nine tenths are paid for answer 0 to any.

    The policy adds what the cue says to what it would say without: the last row of its table, all that is left of it
    when the cue is masked.
    """

    rounds: int = 40
    updates: int = 4

    def train(self, what: Method, seed: int) -> list[float]:
        """Chance of the cue's own answer with the cue and without it, divergence between the two, mean reward."""
        rng, table = np.random.default_rng(seed), Table(np.zeros((CUES + 1, ANSWERS)), 0.05)
        own = 1 + np.arange(CUES) % (ANSWERS - 1)
        rewards = np.eye(ANSWERS)[own] + 0.9 * np.eye(ANSWERS)[np.zeros(CUES, int)]
        for _ in range(self.rounds):
            old = _seen(table.logp)
            rows, group = sample(old, 8, rng)
            d = what.prepare(batch(rows, group, reward=rows.of(rewards), logp_old=old, logp=old))
            for _ in range(self.updates):
                table.step(functools.partial(_loss, what, d, rows))
        seen, blind = np.exp(_seen(table.logp)), np.exp(table.logp[CUES])
        apart = (seen * np.log(seen / blind)).sum(-1).mean()
        right = seen[np.arange(CUES), own].mean(), blind[own].mean()
        return [float(x) for x in (*right, apart, (seen * rewards).sum(-1).mean())]


def _seen(logp: Array) -> Array:
    """Log-probabilities with the cue: [CUES, ANSWERS]."""
    return log_softmax(logp[:CUES] + logp[CUES:])


def _loss(what: Method, d: Decisions, rows: Rows, logp: Array) -> Array:
    blind = namespace(logp).broadcast_to(logp[CUES:], (CUES, ANSWERS))
    return what.loss(d.replace(logp=rows.of(_seen(logp))[:, None], logp_masked=rows.of(blind)[:, None])).value


@shows("papo_perception")
def papo_perception() -> Shown:
    """4 seeds each of grpo, of a moderate divergence, and of a large one, which is hacked."""

    def trained(coef: float, entropy: float = 0.0) -> Array:
        changes = {f"objective.terms.perception.{name}": x for name, x in (("coef", coef), ("entropy", entropy))}
        return np.mean([_Cues().train(method("papo_perception", **changes), seed) for seed in range(4)], axis=0)

    runs = {"grpo": trained(0.0), "papo": trained(0.1), "hacked": trained(3.0), "guarded": trained(3.0, 0.1)}
    gap = {name: x[0] - x[1] for name, x in runs.items()}
    kl, reward = ({name: x[place] for name, x in runs.items()} for place in (2, 3))
    return Shown(
        f"chance of the cue's own answer, with the cue less without: {gap['papo']:.3f} at gamma 0.1 (grpo "
        f"{gap['grpo']:.3f}), divergence {kl['papo']:.2f} nats ({kl['grpo']:.2f}); at gamma 3 without guards the "
        f"divergence is {kl['hacked']:.2f} while the reward falls from {reward['grpo']:.3f} to {reward['hacked']:.3f}; "
        f"guards of 0.1 hold it at {kl['guarded']:.2f}",
        bool(gap["papo"] > gap["grpo"] and kl["papo"] > kl["grpo"] and kl["hacked"] > kl["guarded"] > kl["grpo"])
        and bool(reward["hacked"] < reward["grpo"] - 0.02),
    )
