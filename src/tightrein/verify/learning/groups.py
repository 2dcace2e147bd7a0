"""What the methods promise that compare the answers to one prompt, on problems with known answers."""

from __future__ import annotations

import numpy as np

from ...arrays import Array, convert, double_precision
from ...catalogue import method
from ...decisions import Decisions
from ...method import Method
from ...objective.group import RegressionObjective
from ..batches import autodiff, decisions, gradient
from ..pin import Shown, shows
from .preference import STEPS, fitted
from .tabular import Problem, Rows, Table, all_pairs, batch, kl, problem, sample


@shows("copg")
@double_precision()
def copg() -> Shown:
    """Whatever the law of the pairs, the optimum is pi_ref exp(r / beta) / Z."""
    given, m = problem(), method("copg", beta=0.5)
    assert isinstance(m.objective, RegressionObjective)
    objective, (rows, group) = m.objective, all_pairs(*given.rewards.shape)
    d = batch(rows, group, logp_ref=given.reference, reward=rows.of(given.rewards))
    laws = {"pi_ref": given.reference, "uniform": np.zeros_like(given.reference)}
    distances = {}
    for name, law in laws.items():
        half = rows.of(np.exp(law)).reshape(2, -1)
        weights = convert(np.tile(half[0] * half[1], 2), autodiff())

        def loss(logp: Array, weights: Array = weights) -> Array:
            return (weights * objective.groups(d.replace(logp=rows.of(logp)[:, None]))[0]).sum() / weights.sum()

        distances[name] = kl(given.optimum(given.rewards / 0.5), fitted(loss, given.reference))
    found = ", ".join(f"{distance:.0e} with pairs from {name}" for name, distance in distances.items())
    return Shown(f"KL to the optimal policy {found}, {STEPS} steps", max(distances.values()) < 1e-8)


@shows("gvpo")
@double_precision()
def gvpo() -> Shown:
    """The optimum is that of the KL-regularised reward; groups from a policy five updates old still improve it."""
    given, m = problem(), method("gvpo", beta=0.5)
    rows, group = Rows(*(x.ravel() for x in np.indices(given.rewards.shape))), np.repeat(np.arange(16), 8)
    d = m.prepare(batch(rows, group, logp_old=given.reference, reward=rows.of(given.rewards)))
    found = fitted(lambda logp: m.loss(d.replace(logp=rows.of(logp)[:, None])).value, given.reference)
    distance = kl(given.optimum(given.rewards / 0.5), found)
    before, after = _stale(m, given, lag=5, updates=200)
    online = f"expected reward {before:.2f} -> {after:.2f} with groups 5 updates old"
    return Shown(f"KL to the optimal policy {distance:.0e}; {online}", distance < 1e-8 and after > before + 1)


def _stale(m: Method, given: Problem, lag: int, updates: int) -> tuple[float, float]:
    """Expected reward before and after training on groups of four from the policy `lag` updates before."""
    table, rng, history = Table(given.reference), np.random.default_rng(0), [given.reference] * lag
    for _ in range(updates):
        rows, group = sample(history[0], 4, rng)
        d = m.prepare(batch(rows, group, logp_old=history[0], reward=rows.of(given.rewards)))
        table.step(lambda logp, d=d, rows=rows: m.loss(d.replace(logp=rows.of(logp)[:, None])).value)  # type: ignore[misc]
        history = [*history[1:], table.logp]
    return tuple(float((np.exp(logp) * given.rewards).sum(1).mean()) for logp in (given.reference, table.logp))  # type: ignore[return-value]


@shows("disco")
@double_precision()
def disco() -> Shown:
    """Hard and easy questions weigh alike, right answers come to score above wrong ones, the KL stays near delta."""
    ratio = {key: _weight(key, 1) / _weight(key, 4) for key in ("disco", "grpo")}
    given, rng, delta = problem(), np.random.default_rng(0), 1e-3
    right = (given.rewards > 1).astype(float)
    m, table = method("disco", delta=delta), Table(given.reference, learning_rate=0.02)
    stats: list[tuple[float, float]] = []
    for _ in range(60):
        rows, group = sample(table.logp, 8, rng)
        old = table.logp
        d = m.prepare(batch(rows, group, logp_old=old, reward=rows.of(right)))
        for _ in range(4):
            table.step(lambda logp, d=d, rows=rows: m.loss(d.replace(logp=rows.of(logp)[:, None])).value)  # type: ignore[misc]
        seen = m.loss(batch(rows, group, logp=table.logp, logp_old=old, reward=rows.of(right))).stats
        stats.append((float(seen["auc"]), float(seen["kl_k1"])))
    (auc, _), (later, _) = np.mean(stats[:3], axis=0), np.mean(stats[-20:], axis=0)
    drift = float(np.mean([found for _, found in stats]))
    weight = f"weight of 1 right in 8 to 4 in 8: {ratio['disco']:.2f} (GRPO {ratio['grpo']:.2f})"
    holds = abs(ratio["disco"] - 1) < 1e-6 and later > auc and delta / 3 < drift < 3 * delta
    return Shown(f"{weight}; AUC {auc:.2f} -> {later:.2f}; KL {drift:.1e} a step, delta {delta:g}", holds)


def _weight(key: str, right: int) -> float:
    """Sum of the absolute gradients of a question with so many right answers out of 8."""
    logp = np.full((8, 1), -1.0)
    reward = np.array([1.0] * right + [0.0] * (8 - right))
    fields = {"logp": logp, "logp_old": logp, "logp_ref": logp, "mask": np.ones((8, 1)), "reward": reward}
    d: Decisions = method(key).prepare(decisions({**fields, "group": np.zeros(8, int)}))
    return float(np.abs(gradient(method(key), d)).sum())
