"""What the control methods promise, shown by short runs on CartPole."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file

import tightrein as tr

from ...arrays import Array
from ..pin import Shown, shows
from .solvers import column, run

SHAPE = {"envs": 8, "rollout": 256, "epochs": 10, "minibatches": 4}


@shows("ppo_clip")
def ppo_clip() -> Shown:
    """CartPole is solved within 100,000 steps, and some but not most ratios are clipped."""
    summary, lines = run(method="ppo_clip", total_steps=100_000, seeds=4)
    clipped = column(lines, "clip_fraction")[4:]
    returned = summary["eval_return"]
    says = (
        f"return {min(returned):.0f} to {max(returned):.0f} of 500 on CartPole after 100,000 steps, 4 seeds; "
        f"clip fraction {clipped.mean():.3f}, at most {clipped.max():.2f}"
    )
    return Shown(says, bool(np.mean(returned) >= 475 and clipped.mean() > 0 and clipped.max() < 0.5))


@shows("ppo_kl")
def ppo_kl() -> Shown:
    """The coefficient steers the KL to its target while the return rises."""
    shape = SHAPE | {"minibatches": 32}
    summary, lines = run(method="ppo_kl", total_steps=204_800, seeds=4, **shape)
    kl = column(lines, "kl_exact").reshape(-1, 4)[20:]
    near = np.exp(np.mean(np.log(kl)))
    share = np.mean((kl > 0.01 / 3) & (kl < 0.03))  # of single updates; the coefficient moves by doubling and halving
    returned = summary["eval_return_mean"]
    says = (
        f"KL {near:.4f} (geometric mean after 20 iterations, target 0.01), {share:.0%} of single updates within "
        f"a factor of 3 of it; return {returned:.0f} of 500 after 204,800 steps, 4 seeds"
    )
    return Shown(says, bool(0.01 / 3 < near < 0.03 and share > 0.4 and returned > 400))


@shows("spo")
def spo() -> Shown:
    """CartPole is learned as with PPO, with ratios nearer to 1 at the same learning rate and number of epochs."""
    moved, returned = {}, {}
    for key in ("spo", "ppo_clip"):
        settings = ("objective.standardise=true", "objective.value.clip_range=0.2", "step.max_grad_norm=0.5")
        summary, lines = run(method=key, total_steps=81_920, seeds=4, set=settings, learning_rate=1e-3, **SHAPE)
        moved[key], returned[key] = column(lines, "ratio_deviation").mean(), summary["eval_return_mean"]
    says = (
        f"return {returned['spo']:.0f} (ppo_clip {returned['ppo_clip']:.0f}) of 500 after 81,920 steps, 4 seeds; "
        f"mean |r - 1| {moved['spo']:.3f} (ppo_clip {moved['ppo_clip']:.3f}) at a learning rate of 1e-3"
    )
    return Shown(says, bool(moved["spo"] < moved["ppo_clip"] and returned["spo"] > 400))


@shows("dpo_drift")
def dpo_drift() -> Shown:
    """CartPole is learned."""
    summary, lines = run(method="dpo_drift", total_steps=100_000, seeds=4)
    returned, drifting = summary["eval_return"], column(lines, "clip_fraction")[4:].mean()
    says = (
        f"return {min(returned):.0f} to {max(returned):.0f} of 500 on CartPole after 100,000 steps, 4 seeds; the drift "
        f"acts on {drifting:.0%} of the decisions"
    )
    return Shown(says, bool(np.mean(returned) >= 400 and 0 < drifting < 1))


@shows("a2c_as_ppo")
def a2c_as_ppo() -> Shown:
    """With A2C's surrogate every parameter is the same after 50 updates; with a second epoch it is not."""
    ppo = _parameters()
    same = _distance(ppo, _parameters(set=("objective.surrogate=PolicyGradient",)))
    twice = _distance(_parameters(epochs=2), _parameters(epochs=2, set=("objective.surrogate=PolicyGradient",)))
    says = (
        f"after 50 updates on CartPole the largest difference between PPO's parameters and A2C's is {same:.0e}; with "
        f"2 epochs it is {twice:.0e}"
    )
    return Shown(says, same <= 1e-7 < twice)


def _parameters(**settings: object) -> dict[str, Array]:
    """All arrays of the checkpoint after 50 updates of 5 steps in 8 environments."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "run"
        given = {"env": "CartPole-v1", "method": "a2c_as_ppo", "envs": 8, "rollout": 5, "total_steps": 2000}
        tr.train("control", out=out, quiet=True, **given, **settings)
        newest = max(out.rglob("*.safetensors"), key=lambda path: path.stat().st_mtime)
        return load_file(newest)


def _distance(one: dict[str, Array], other: dict[str, Array]) -> float:
    real = [name for name, x in one.items() if x.dtype.kind == "f" and "network" in name]
    return max(float(np.max(np.abs(one[name] - other[name]))) for name in real)
