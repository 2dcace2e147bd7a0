"""What the methods that compare the tokens or the meaning of answers show when they run."""

from __future__ import annotations

import numpy as np

from ...arrays import Array
from ...decisions import Decisions
from ...method import Method
from ..batches import decisions, fields, gradient, method
from ..pin import Shown, shows
from .credit import at, learn, places
from .tabular import Table, log_softmax, sample

_SEEDS = 3


@shows("gtpo")
def gtpo() -> Shown:
    """Answers of a tag and a word, of which few are right: does the tag suffer; and answers above the threshold."""
    plain = method("grpo", **{"objective.reference.coef": 0.0})
    lowest = {
        name: [_tag(what, seed) for seed in range(_SEEDS)]
        for name, what in {"gtpo": method("gtpo"), "grpo": plain}.items()
    }
    what = method("gtpo")
    made = fields(0, what, rows=64)
    d = what.prepare(decisions(made), {"credit": 0.3})
    uncertain = np.sum(made["entropy_old"] * d.mask, axis=1) / np.sum(d.mask, axis=1) > np.log(2)
    gone = not gradient(what, d)[uncertain].any()
    return Shown(
        f"one answer in eight is right: the tag's probability, 0.90 at the start, falls to {min(lowest['grpo']):.3f} "
        f"with grpo and never below {min(lowest['gtpo']):.3f} with gtpo ({_SEEDS} seeds, 40 updates); the "
        f"{np.mean(uncertain):.0%} of a batch's answers above ln 2 nats have no gradient at all",
        bool(min(lowest["gtpo"]) >= 0.9 > min(lowest["grpo"]) and uncertain.any() and gone),
    )


def _tag(what: Method, seed: int) -> float:
    """The lowest mean probability of the tag, token 0 at the first of two places, over a training."""
    rng, prompts, words = np.random.default_rng(seed), 8, 8
    tag = np.log(np.array([0.9, *([0.1 / 7] * 7)])) * np.ones((prompts, 1))
    table = Table(np.stack([tag, log_softmax(0.1 * rng.standard_normal((prompts, words)))], axis=1), 0.05)
    right, found = rng.integers(0, words, prompts), []
    for _ in range(40):
        drawn = [sample(table.logp[:, t], 16, rng) for t in range(2)]
        token = np.stack([rows.answer for rows, _ in drawn], axis=1)
        prompt, group = drawn[0][0].prompt, drawn[0][1]
        place = places(prompt, 2)
        d = Decisions(
            logp_old=at(table.logp, place, token),
            mask=np.ones(token.shape),
            reward=(token[:, 1] == right[prompt]).astype(float),
            group=group,
            token=token,
            entropy_old=_entropies(table.logp)[prompt],
        )
        learn(table, what, what.prepare(d, {"credit": 2.0}), place, token)
        found.append(float(np.exp(table.logp[:, 0, 0]).mean()))
    return min(found)


def _entropies(logp: Array) -> Array:
    return -(np.exp(logp) * logp).sum(-1)


@shows("dsdr")
def dsdr() -> Shown:
    """Twelve answers a prompt, four of them right in different ways: how many of these are left after training."""
    plain = method("grpo", **{"objective.reference.coef": 0.0, "high": 0.28})
    runs = {
        name: [_ways(what, seed) for seed in range(_SEEDS)]
        for name, what in {"dsdr": method("dsdr"), "grpo": plain}.items()
    }
    ways, right = ({name: float(np.mean([run[k] for run in found])) for name, found in runs.items()} for k in range(2))
    return Shown(
        f"of four right answers to a prompt, {ways['dsdr']:.2f} are among 8 samples after 60 updates (grpo "
        f"{ways['grpo']:.2f}), and {right['dsdr']:.1%} of the samples are right (grpo {right['grpo']:.1%}; "
        f"{_SEEDS} seeds)",
        ways["dsdr"] > ways["grpo"] + 0.2 and right["dsdr"] > right["grpo"] - 0.01,
    )


def _ways(what: Method, seed: int) -> tuple[float, float]:
    """(expected number of different right answers among 8 samples, probability of a right one) after a training."""
    rng, prompts, answers = np.random.default_rng(seed), 16, 12
    table = Table(log_softmax(rng.standard_normal((prompts, answers))), 0.05)
    for _ in range(60):
        rows, group = sample(table.logp, 8, rng)
        place, token = rows.prompt[:, None], rows.answer[:, None]
        d = Decisions(
            logp_old=at(table.logp, place, token),
            mask=np.ones(token.shape),
            reward=(rows.answer < 4).astype(float),
            group=group,
            embedding=np.eye(answers)[rows.answer],
            formula=np.full(token.shape, -1),
        )
        learn(table, what, what.prepare(d), place, token, steps=4)
    p = np.exp(table.logp[:, :4])
    return float((1 - (1 - p) ** 8).sum(1).mean()), float(p.sum(1).mean())
