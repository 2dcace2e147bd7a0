"""What the methods with solvers of their own promise, shown by short runs on CartPole."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

import tightrein as tr

from ...arrays import Array
from .. import batches
from ..pin import Shown, shows
from ..pins.solvers import by_logits, table


def run(**settings: Any) -> tuple[dict[str, Any], list[dict[str, float]]]:
    """A control run on CartPole that logs every iteration: its summary and its lines."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "run"
        summary = tr.train("control", env="CartPole-v1", out=out, quiet=True, log_every=1, **settings)
        lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return summary, lines


def column(lines: list[dict[str, float]], name: str) -> Array:
    """One figure of all iterations and seeds."""
    return np.array([line[name] for line in lines if name in line])


@shows("trpo")
def trpo() -> Shown:
    """The trust region holds after every accepted update, the surrogate never falls, and CartPole is solved."""
    summary, lines = run(method="trpo", total_steps=51_200, seeds=4)
    kl, gain, accepted = (column(lines, name) for name in ("kl_step", "surrogate_gain", "accepted"))
    solved = sum(value >= 475 for value in summary["eval_return"])
    says = (
        f"{solved} of 4 seeds solve CartPole in 50 updates of 1,024 steps; largest mean KL {kl.max():.4f} for "
        f"delta 0.01, smallest gain {gain.min():.1e}, {accepted.mean():.0%} of the updates accepted"
    )
    return Shown(says, bool(kl.max() <= 0.015 and gain.min() >= 0 and solved >= 3))


@shows("fixpo")
def fixpo() -> Shown:
    """With a learning rate of 1e-2 no decision is beyond the bound after any update, and few steps mend it."""
    shape = {"envs": 8, "rollout": 256, "minibatches": 4, "learning_rate": 1e-2}
    summary, lines = run(method="fixpo", total_steps=61_440, seeds=4, **shape)
    largest, steps, failed = (column(lines, name) for name in ("kl_max", "fixup_steps", "fixup_failed"))
    share, returned = steps.sum() / (steps.sum() + 10 * 4 * len(steps)), summary["eval_return_mean"]
    says = (
        f"largest KL of any state after any of {len(largest)} updates {largest.max():.4f} (bound 0.2); "
        f"{share:.1%} of the gradient steps were of the second phase; return {returned:.0f}"
    )
    return Shown(says, bool(largest.max() <= 0.2 and share < 0.2 and not failed.any() and returned > 300))


@shows("mdpo_on")
def mdpo_on() -> Shown:
    """CartPole improves with ten gradient steps an iteration; on a table the policy finds its closed form."""
    summary, lines = run(method="mdpo_on", total_steps=61_440, seeds=2)
    before, after = column(lines, "eval_return")[:2].mean(), summary["eval_return_mean"]
    distance = table_distance()
    says = (
        f"return {before:.0f} -> {after:.0f} in 30 iterations of 10 gradient steps; on a table of 5 actions "
        f"{distance:.0e} from pi_old exp(t A) after 300 steps"
    )
    return Shown(says, bool(after > before + 200 and distance < 1e-3))


def table_distance(steps: int = 300, rate: float = 1.0, left: float = 0.5) -> float:
    """How far gradient descent on the loss of a table of one state ends from the closed form, in probability."""
    rng = np.random.default_rng(0)
    old, advantage = rng.standard_normal(5), rng.standard_normal(5)
    m, logits = tr.method("mdpo_on"), old
    for _ in range(steps):
        found = batches.gradients(m, table(logits, old, advantage), {"objective.trust": 1 / left})
        logits = logits - rate * (found["dist.logits"].sum((0, 1)) + by_logits(found["logp"][:, 0], logits))
    reached, best = (tr.Categorical(x).log_probs() for x in (logits, old + left * advantage))
    return float(np.max(np.abs(np.exp(reached) - np.exp(best))))
