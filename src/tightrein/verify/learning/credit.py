"""What credit and selection promise, on policies that are tables: one distribution for each prompt and position."""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...arrays import Array, convert, double_precision, namespace
from ...catalogue import method
from ...credit.tracker import rate
from ...decisions import Decisions
from ...method import Method
from ...objective.policy import Widths
from ...selection import MaximumVariance
from ..batches import autodiff, decisions
from ..pin import Shown, shows
from .tabular import Table, log_softmax


@dataclass(frozen=True)
class Spelling:
    """Answers of `length` tokens; right is the one that a prompt has in mind. logits: [prompts, length, tokens]."""

    logits: Array
    target: Array

    @classmethod
    def make(cls, prompts: int, length: int, tokens: int, easiest: float, seed: int) -> Spelling:
        """Prompts from hopeless to easy: the target's logit begins anywhere between 0 and `easiest`."""
        rng = np.random.default_rng(seed)
        target = rng.integers(0, tokens, (prompts, length))
        head_start = np.linspace(0, easiest, prompts)[:, None, None]
        return cls(rng.standard_normal((prompts, length, tokens)) + head_start * np.eye(tokens)[target], target)

    def rate(self, logp: Array) -> Array:
        """Probability of the right answer, [prompts]; logp: a table as `logits`."""
        return np.exp(np.take_along_axis(logp, self.target[..., None], axis=-1)[..., 0].sum(-1))

    def answers(self, logp: Array, prompt: Array, rng: np.random.Generator) -> Array:
        """One answer to each of these prompts: tokens [B, length]."""
        cumulative = np.exp(logp).cumsum(-1)[prompt]
        return np.minimum((rng.random((*cumulative.shape[:-1], 1)) > cumulative).sum(-1), logp.shape[-1] - 1)


def of(table: Array, prompt: Array, token: Array) -> Array:
    """The entries of a [prompts, length, tokens] table at these tokens: [B, length]."""
    length = table.shape[1]
    return at(table, places(prompt, length), token)


def at(table: Array, place: Array, token: Array) -> Array:
    """The entries of a [..., tokens] table at these places, counted through, and tokens: [B, T]."""
    index = place * table.shape[-1] + token
    if isinstance(table, np.ndarray):
        return table.reshape(-1)[index]
    xp = namespace(table)
    return xp.reshape(xp.take(xp.reshape(table, (-1,)), convert(index.reshape(-1), autodiff())), index.shape)


def places(prompt: Array, length: int) -> Array:
    """Where in a table the tokens of answers to these prompts stand, counted through: [B, length]."""
    return prompt[:, None] * length + np.arange(length)


def asked(
    task: Spelling, logp: Array, prompt: Array, group: Array, rng: np.random.Generator
) -> tuple[Array, Decisions]:
    """(tokens, what a method prepares) of one answer to each of these prompts."""
    token = task.answers(logp, prompt, rng)
    return token, Decisions(
        logp_old=of(logp, prompt, token),
        mask=np.ones(token.shape),
        reward=(token == task.target[prompt]).all(1).astype(float),
        group=group,
        prompt=prompt,
        entropy_old=-(np.exp(logp) * logp).sum(-1)[prompt],
    )


def learn(table: Table, m: Method, d: Decisions, place: Array, token: Array, steps: int = 1) -> Decisions:
    """Gradient steps on a prepared batch, at these places of the table; returns it as the policy after them sees it."""
    there = decisions({name: x for name, x in vars(d).items() if x is not None}, autodiff())
    for _ in range(steps):
        table.step(lambda logp: m.loss(there.replace(logp=at(logp, place, token))).value)
    return d.replace(logp=at(table.logp, place, token))


@shows("dcpo_dynamic_clip")
@double_precision()
def dcpo() -> Shown:
    """All-equal groups teach after the first visit; rare tokens are clipped less; the memory survives saving."""
    m, task, rng = method("dcpo_dynamic_clip"), Spelling.make(30, 3, 8, 4.0, seed=0), np.random.default_rng(1)
    table, state = Table(task.logits), m.init(30)
    prompt, group = np.repeat(np.arange(30), 8), np.repeat(np.arange(30), 8)
    equal = taught = 0
    rare: dict[str, list[Array]] = {"own": [], "fixed": []}
    fixed = m.override({"bounds": Widths(0.2, 0.2)})
    for visit in range(12):
        token, d = asked(task, table.logp, prompt, group, rng)
        d = m.prepare(d, state)
        after = learn(table, m, d, places(prompt, token.shape[1]), token, steps=6)
        same = np.ptp(d.reward.reshape(30, 8), axis=1) == 0
        known = same & (state["credit"]["deviation"] > 0)
        equal += int(same.sum()) * (visit > 0)
        taught += int((known & (np.abs(d.advantage.reshape(30, -1)).max(1) > 0)).sum())
        assert not (known & (np.abs(d.advantage.reshape(30, -1)).max(1) == 0)).any()
        seldom = d.logp_old < np.log(0.1)
        for name, each in (("own", m), ("fixed", fixed)):
            rare[name].append(each.objective.surrogate.clipped(after)[seldom])  # type: ignore[attr-defined]
        state = m.update(state, after, visit / 12)
    own, wide = (float(np.concatenate(rare[name]).mean()) for name in ("own", "fixed"))
    exact = _survives_saving(state["credit"])
    gain = task.rate(table.logp).mean() - task.rate(log_softmax(task.logits)).mean()
    says = (
        f"{taught} of {equal} all-equal groups seen again teach, of GRPO none; tokens of q < .1 clipped: {own:.1%}, "
        f"with fixed widths {wide:.1%}"
    )
    return Shown(f"{says}; success +{gain:.2f}", taught > 0 and own < wide and exact and gain > 0)


def _survives_saving(state: dict[str, Array]) -> bool:
    file = io.BytesIO()
    np.savez(file, **state)
    file.seek(0)
    with np.load(file) as saved:
        return all(np.array_equal(saved[name], x) for name, x in state.items())


@shows("single_stream_spo")
@double_precision()
def single_stream_spo() -> Shown:
    """200 prompts, one answer each time: the tracker follows the policy that it trains."""
    prompts, size = 200, 100
    m, task, rng = method("single_stream_spo"), Spelling.make(prompts, 1, 6, 5.0, seed=0), np.random.default_rng(1)
    table = Table(task.logits, learning_rate=0.02)
    started = np.stack(
        [asked(task, table.logp, np.arange(prompts), np.arange(prompts), rng)[1].reward for _ in range(8)]
    )
    state = m.init(prompts) | {"credit": m.credit.after(started.sum(0), 8)}  # type: ignore[union-attr]
    last: dict[int, tuple[int, float]] = {}
    before = task.rate(table.logp).mean()
    for update in range(20 * prompts // size):
        weights = m.curriculum.weights(state["credit"])  # type: ignore[union-attr]
        prompt = rng.choice(prompts, size, replace=False, p=weights / weights.sum())
        token, d = asked(task, table.logp, prompt, np.arange(size), rng)
        d = m.prepare(d.replace(drift=np.zeros(size)), state)
        after = learn(table, m, d, places(prompt, token.shape[1]), token)
        now = table.logp
        moved = [abs(now[q, 0, last[q][0]] - last[q][1]) if q in last else 0.0 for q in prompt.tolist()]
        last |= {q: (int(t), now[q, 0, int(t)]) for q, t in zip(prompt.tolist(), token[:, 0], strict=True)}
        state = m.update(state, after.replace(drift=np.array(moved)), update / 40)
    error = float(np.abs(rate(state["credit"]) - task.rate(table.logp)).mean())
    gain = task.rate(table.logp).mean() - before
    exact = _survives_saving(state["credit"])
    says = f"tracker off by {error:.3f} on average after 20 passes, while success rose by {gain:.2f}; saved bit for bit"
    return Shown(says, error < 0.12 and gain > 0.05 and exact)


@shows("d3s")
@double_precision()
def d3s() -> Shown:
    """Answers chosen for their variance pull harder than as many chosen at random; and the method learns."""
    task, rng, wins = Spelling.make(8, 4, 6, 3.0, seed=0), np.random.default_rng(1), 0
    table, m = Table(task.logits), method("d3s")
    prompt, group = np.repeat(np.arange(8), 8), np.repeat(np.arange(8), 8)
    base = method("grpo").override({"reference.coef": 0.0, "objective.aggregate": "TokenMean"})
    for _ in range(200):
        token, d = asked(task, table.logp, prompt, group, rng)
        d = base.prepare(d)
        chosen = MaximumVariance()(d).mask
        other = d.mask * rng.permutation(chosen[:, 0])[:, None]
        pull = [_pull(table, base, d.replace(mask=mask), prompt, token) for mask in (chosen, other)]
        wins += pull[0] >= pull[1]
    state = m.init()
    before = task.rate(table.logp).mean()
    for update in range(60):
        token, d = asked(task, table.logp, prompt, group, rng)
        d = m.prepare(d, state)
        state = m.update(state, learn(table, m, d, places(prompt, token.shape[1]), token), (update + 1) / 60)
    after = task.rate(table.logp).mean()
    says = (
        f"the chosen quarter pulls harder than a random one in {wins / 2:.0f}% of 200 batches; success {before:.2f} -> "
    )
    return Shown(f"{says}{after:.2f}", wins > 180 and after > before + 0.1)


def _pull(table: Table, m: Method, d: Decisions, prompt: Array, token: Array) -> float:
    there = decisions({name: x for name, x in vars(d).items() if x is not None}, autodiff())
    found: Any = table.gradient(lambda logp: m.loss(there.replace(logp=of(logp, prompt, token))).value)
    return float(np.linalg.norm(found))
