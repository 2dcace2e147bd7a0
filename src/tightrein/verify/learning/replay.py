"""What the methods with a replay buffer promise, shown by short runs."""

from __future__ import annotations

import math
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

import tightrein as tr

from ...arrays import Array, convert, namespace, tanh, value_and_gradient
from ...distributions import SquashedGaussian
from ...objective.replay import MirrorActor
from ..batches import autodiff
from ..pin import Shown, shows

TEMPERATURE = 0.2


@shows("mdpo_off")
def mdpo_off() -> Shown:
    """The mean of a bandit's policy finds the best arm, c = temperature is SAC, and Pendulum is swung up."""
    mean = bandit()
    with tempfile.TemporaryDirectory() as folder:
        summary = tr.train(
            "control", method="mdpo_off", env="Pendulum-v1", total_steps=20_000, seeds=2, quiet=True,
            set=("replay.learning_starts=1000",), out=Path(folder) / "run",
        )  # fmt: skip
    first, second = summary["eval_return"]
    apart = from_soft_actor_critic()
    says = (
        f"return {first:.0f} and {second:.0f} on Pendulum-v1 after 20,000 steps, 20 episodes each; on a bandit with "
        f"Q = -(a - 1)^2 the mean ends at {mean:.3f}; with c = temperature the loss is SAC's to {apart:.0e}"
    )
    return Shown(says, min(first, second) > -250 and abs(mean - 1) <= 0.05 and apart <= 1e-6)


def bandit(steps: int = 1500, every: int = 50, rate: float = 0.03, draws: int = 64) -> float:
    """Where the mean of a policy on [-2, 2] ends with Q = -(a - 1)^2, averaged over the last third of the steps."""
    rng, actor = np.random.default_rng(0), MirrorActor(every=every)
    at: dict[str, Any] = {name: np.zeros(1) for name in ("mean", "log_std")}
    previous, means = at, []
    for n in range(steps):
        found = _slope(actor, at, previous, rng.standard_normal((draws, 1, 1)))
        at = {name: x - rate * found[name] for name, x in at.items()}
        previous = at if n % actor.every == 0 else previous
        means.append(2 * math.tanh(float(at["mean"][0])))
    return float(np.mean(means[-steps // 3 :]))


def _slope(actor: MirrorActor, at: dict[str, Array], previous: dict[str, Array], noise: Array) -> dict[str, Array]:
    """Gradient of the actor's mean loss by the policy's mean and log deviation."""
    noise, old = (convert(x, autodiff()) for x in (noise, previous))

    def loss(now: dict[str, Array]) -> Array:
        xp = namespace(noise)
        policy, before = (_wide(x, noise) for x in (now, old))
        u = policy.mean + xp.exp(policy.log_std) * noise
        q = -((2 * tanh(u) - 1) ** 2)
        parameters = xp.concat([policy.mean, policy.log_std], axis=-1)
        d = tr.Decisions(logp=policy.log_prob(u), logp_old=before.log_prob(u), q_policy=q, parameters=parameters)
        return xp.mean(actor(d, TEMPERATURE))

    return convert(value_and_gradient(loss, convert(at, autodiff()))[1], "NumPy")  # type: ignore[no-any-return]


def _wide(x: dict[str, Array], noise: Array) -> SquashedGaussian:
    """The policy with these parameters [1], for every draw."""
    return SquashedGaussian(x["mean"] + 0 * noise, x["log_std"] + 0 * noise, 0 * noise)


def from_soft_actor_critic() -> float:
    """How far c = temperature is from the loss of SAC's actor, mean of alpha log pi(a|s) - Q(s, a), with one Q."""
    rng = np.random.default_rng(0)
    logp, old, q = (rng.standard_normal((256, 1)) for _ in range(3))
    d = tr.Decisions(logp=logp, logp_old=old, q_policy=q[..., None])
    actor = MirrorActor(coef=TEMPERATURE, regularisation=0.0)
    return abs(float(np.mean(actor(d, TEMPERATURE)) - np.mean(TEMPERATURE * logp - q)))
