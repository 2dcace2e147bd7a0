"""Environment steps per second of the control engine and of Stable-Baselines3's PPO, side by side in one run.

    python benchmarks/control_throughput.py [--repeats 5] [--only cartpole] [--scale 1.0]

Both train: rollouts and all updates count, with equal environments, rollouts, minibatches, epochs, networks, learning
rate and numbers of steps. Ours and theirs alternate within every repeat, so that a busy machine slows both. Compile
time is reported apart; SB3's first rollout is run before its clock starts. One process, one machine, no pinning.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np

from tightrein.engines.control import environments
from tightrein.engines.control.compose import compose
from tightrein.engines.control.config import ControlConfig, Plan
from tightrein.engines.control.train import trainer_of

RESULTS = Path(__file__).parent / "results" / "control.json"
VERSIONS = (
    "jax",
    "jaxlib",
    "equinox",
    "optax",
    "gymnax",
    "envpool",
    "gymnasium",
    "mujoco",
    "torch",
    "stable-baselines3",
)


@dataclass(frozen=True)
class Setting:
    """One row: an environment and the shape of PPO; `steps` are those of ours and theirs in a repeat."""

    env: str
    envs: int
    rollout: int
    minibatch: int
    epochs: int
    ours: int
    theirs: int
    asked: float

    @property
    def batch(self) -> int:
        """Steps between two policy updates."""
        return self.envs * self.rollout


SETTINGS = {
    "cartpole": Setting("CartPole-v1", 4, 128, 128, 4, ours=204_800, theirs=20_480, asked=15),
    "halfcheetah": Setting("HalfCheetah-v5", 16, 128, 64, 10, ours=40_960, theirs=12_288, asked=3),
}


def ours(setting: Setting) -> tuple[Callable[[int], float], float]:
    """(a function that trains for so many steps and returns steps per second, compile seconds)."""
    config = ControlConfig(
        env=setting.env, envs=setting.envs, rollout=setting.rollout, epochs=setting.epochs,
        minibatches=setting.batch // setting.minibatch, total_steps=10_000_000, set=("step.max_grad_norm=0.5",),
    )  # fmt: skip
    method, _ = compose(config)
    spec = environments.find(config.env, config.backend)
    trainer = trainer_of(config, method, spec, Plan.of(config, method.training))
    began = time.perf_counter()
    trainer.run(0, 1)
    compiled = time.perf_counter() - began
    done = 1

    def go(steps: int) -> float:
        nonlocal done
        iterations = steps // setting.batch
        start = time.perf_counter()
        trainer.run(done, iterations)
        done += iterations
        return iterations * setting.batch / (time.perf_counter() - start)

    return go, compiled


def theirs(setting: Setting) -> Callable[[int], float]:
    """The same for Stable-Baselines3, with normalised observations and rewards where ours has them."""
    import torch
    from stable_baselines3 import PPO
    from stable_baselines3.common.env_util import make_vec_env
    from stable_baselines3.common.vec_env import VecNormalize

    torch.set_num_threads(1)  # its best for networks this small, and by far where other work shares the machine
    env: Any = make_vec_env(setting.env, setting.envs)
    if environments.find(setting.env).normalises:
        env = VecNormalize(env)
    model = PPO(
        "MlpPolicy", env, n_steps=setting.rollout, batch_size=setting.minibatch, n_epochs=setting.epochs,
        learning_rate=3e-4, device="cpu",
    )  # fmt: skip
    model.learn(setting.batch)

    def go(steps: int) -> float:
        start = time.perf_counter()
        model.learn(steps, reset_num_timesteps=False)
        return steps / (time.perf_counter() - start)

    return go


def measure(name: str, setting: Setting, repeats: int, scale: float) -> dict[str, Any]:
    """Alternates ours and theirs, prints the row and returns it."""
    run_ours, compiled = ours(setting)
    run_theirs = theirs(setting)
    rounds = [max(1, round(n * scale / setting.batch)) * setting.batch for n in (setting.ours, setting.theirs)]
    pairs = [(run_ours(rounds[0]), run_theirs(rounds[1])) for _ in range(repeats)]
    ratios = [a / b for a, b in pairs]
    middle = [statistics.median(column) for column in (*zip(*pairs, strict=True), ratios)]
    print(
        f"{name}: ours {middle[0]:,.0f}/s, SB3 {middle[1]:,.0f}/s, ratio {middle[2]:.1f} "
        f"[{min(ratios):.1f}, {max(ratios):.1f}], asked {setting.asked:g}; compile {compiled:.1f} s",
        flush=True,
    )
    return {
        "setting": vars(setting), "ours": [a for a, _ in pairs], "sb3": [b for _, b in pairs], "ratio": ratios,
        "ratio_median": middle[2], "compile_seconds": compiled,
    }  # fmt: skip


def machine() -> dict[str, Any]:
    """What the figures were taken on."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return {
        "cpu": names[0] if names else platform.processor(), "cores": os.cpu_count(), "load": os.getloadavg(),
        "system": platform.platform(), "python": platform.python_version(), "devices": [str(d) for d in jax.devices()],
        "versions": {name: importlib.metadata.version(name) for name in VERSIONS}, "numpy": np.__version__,
    }  # fmt: skip


def main() -> None:
    """Measures, prints and writes the rows asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--only", choices=SETTINGS)
    parser.add_argument("--scale", type=float, default=1.0, help="multiplies the steps of a repeat")
    parser.add_argument("--out", type=Path, default=RESULTS)
    given = parser.parse_args()
    before = machine()
    chosen = {n: s for n, s in SETTINGS.items() if given.only in (None, n)}
    rows = {name: measure(name, setting, given.repeats, given.scale) for name, setting in chosen.items()}
    given.out.parent.mkdir(parents=True, exist_ok=True)
    given.out.write_text(json.dumps({"machine": before, "rows": rows}, indent=2) + "\n")


if __name__ == "__main__":
    main()
