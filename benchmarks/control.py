"""Environment steps per second of the control engine beside those of its peers, learning included.

    make bench-control                                        # everything, at most half an hour
    python benchmarks/control.py [--repeats 5] [--only hopper] [--scale 1.0] [--rejax .rejax/bin/python]

In every repeat ours and the peers take turns, so that a busy machine slows all of them; a ratio is that of one repeat,
and the median of the repeats is compared with the figure asked. Equal for both: environment, network (two hidden
layers of 64, tanh, policy and value apart), rollout, minibatches, epochs, learning rate, clipping, GAE, what the
advantages are standardised over and the weight of the value loss. Nothing is evaluated while the clock runs, and
compile time is reported apart. Stable-Baselines3 runs with one PyTorch thread, its best for networks this small. rejax
runs in an environment of its own (benchmarks/peers/rejax_server.py).
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib.metadata
import json
import math
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax
import numpy as np
from apart import Apart

from tightrein.engines.control import environments
from tightrein.engines.control.compose import compose
from tightrein.engines.control.config import ControlConfig, Plan
from tightrein.engines.control.parallel import prepare
from tightrein.engines.control.train import trainer_of

HERE = Path(__file__).parent
RESULTS, SERVER = HERE / "results" / "control.json", HERE / "peers" / "rejax_server.py"
VERSIONS = (
    "jax", "jaxlib", "equinox", "optax", "gymnax", "envpool", "gymnasium", "mujoco", "torch", "stable-baselines3"
)  # fmt: skip
# As each peer has it.
SB3_TERMS = (
    "credit.standardise=false", "objective.standardise=true", "objective.value.coef=1", "step.max_grad_norm=0.5"
)  # fmt: skip
REJAX_TERMS = (
    "credit.standardise=false", "objective.standardise=true", "objective.value.coef=0.5",
    "objective.value.clip_range=0.2",
)  # fmt: skip


@dataclass(frozen=True)
class Shape:
    """PPO's shape, and the steps of ours in a repeat (theirs: as many, unless they are too slow for that)."""

    env: str
    envs: int
    rollout: int
    minibatch: int
    epochs: int
    steps: int
    theirs: int

    @property
    def batch(self) -> int:
        """Steps between two policy updates."""
        return self.envs * self.rollout

    def scaled(self, scale: float) -> Shape:
        """The same with other numbers of steps, whole rollouts."""
        whole = [max(1, round(n * scale / self.batch)) * self.batch for n in (self.steps, self.theirs)]
        return Shape(self.env, self.envs, self.rollout, self.minibatch, self.epochs, *whole)


@dataclass
class Side:
    """One of those that take turns: runs once and returns environment steps per second."""

    run: Callable[[], float]
    compile_seconds: float | None = None
    close: Callable[[], Any] = lambda: None


@dataclass(frozen=True)
class Asked:
    """A ratio of two sides, and what is asked of its median."""

    over: str
    under: str
    figure: float
    at_most: bool = False

    def met(self, ratio: float) -> bool:
        """Whether it is as asked."""
        return ratio <= self.figure if self.at_most else ratio >= self.figure


@dataclass(frozen=True)
class Row:
    """What is measured together: the sides, made when their turn has come, and the ratios between them."""

    shape: Shape
    sides: dict[str, Callable[[Shape], Side]]
    asked: tuple[Asked, ...]
    notes: dict[str, Any] = field(default_factory=dict)


def ours(terms: tuple[str, ...], seeds: int = 1) -> Callable[[Shape], Side]:
    """The control engine, all `seeds` in one run."""

    def make(shape: Shape) -> Side:
        config = ControlConfig(
            env=shape.env, envs=shape.envs, rollout=shape.rollout, epochs=shape.epochs, seeds=seeds, set=terms,
            minibatches=shape.batch // shape.minibatch, total_steps=100_000_000, learning_rate=3e-4,
            normalise_reward=None if "v5" in shape.env else False,
        )  # fmt: skip
        method, _ = compose(config)
        spec = environments.find(config.env, config.backend)
        trainer = trainer_of(config, method, spec, Plan.of(config, method.training))
        began = time.perf_counter()
        trainer.run(0, 1)
        compiled, done, iterations = time.perf_counter() - began, [1], shape.steps // shape.batch

        def run() -> float:
            start = time.perf_counter()
            trainer.run(done[0], iterations)
            done[0] += iterations
            return iterations * shape.batch / (time.perf_counter() - start)

        return Side(run, compiled)

    return make


def sb3(shape: Shape) -> Side:
    """Stable-Baselines3, with normalised observations and rewards where ours has them."""
    import torch
    from stable_baselines3 import PPO
    from stable_baselines3.common.env_util import make_vec_env
    from stable_baselines3.common.vec_env import VecNormalize

    torch.set_num_threads(1)
    env: Any = make_vec_env(shape.env, shape.envs)
    if environments.find(shape.env).normalises:
        env = VecNormalize(env)
    model = PPO(
        "MlpPolicy", env, n_steps=shape.rollout, batch_size=shape.minibatch, n_epochs=shape.epochs, learning_rate=3e-4,
        device="cpu",
    )  # fmt: skip
    model.learn(shape.batch)

    def run() -> float:
        start = time.perf_counter()
        model.learn(shape.theirs, reset_num_timesteps=False)
        return shape.theirs / (time.perf_counter() - start)

    return Side(run)


def served(*command: str | Path) -> Callable[[Shape], Side]:
    """A side in a process of its own, told over pipes when its turn is."""

    def make(shape: Shape) -> Side:
        if not Path(command[0]).exists():
            raise SystemExit(f"{command[0]} is not there: `make bench-control` makes it, --rejax names another")
        process = Apart(*command)
        compiled = process.ask({**vars(shape), "steps": shape.theirs})["compile_seconds"]
        process.ask({})  # a first turn, as the others have had
        return Side(lambda: process.ask({})["per_second"], compiled, process.close)

    return make


def serve(seeds: int) -> None:
    """Ours with so many seeds, as `served` asks for it: how XLA is set up depends on their number."""
    prepare(images=False, several=seeds > 1)
    side = ours(SB3_TERMS, seeds)(Shape(**json.loads(input())))
    print(json.dumps({"compile_seconds": side.compile_seconds}), flush=True)
    for _ in sys.stdin:
        print(json.dumps({"per_second": side.run()}), flush=True)


def simulator(shape: Shape) -> Side:
    """The bare simulator on as many threads as ours uses, with actions drawn beforehand."""
    spec = environments.find(shape.env)
    threads = min(shape.envs, os.cpu_count() or 1)
    env = environments.make_envpool(shape.env, list(range(shape.envs)), threads)
    low, high = env.action_space.low, env.action_space.high
    drawn = np.random.default_rng(0).uniform(low, high, (shape.rollout, shape.envs, *low.shape))
    actions = drawn.astype(spec.action_dtype)
    env.reset()

    def run() -> float:
        rounds = shape.steps // shape.batch
        start = time.perf_counter()
        for _ in range(rounds):
            for action in actions:
                env.step(action)
        return rounds * shape.batch / (time.perf_counter() - start)

    return Side(run, close=env.close)


def rows(python: Path) -> dict[str, Row]:
    """Everything that is measured."""
    cartpole = Shape("CartPole-v1", 4, 128, 128, 4, steps=204_800, theirs=20_480)
    found = {"cartpole": Row(cartpole, {"ours": ours(SB3_TERMS), "sb3": sb3}, (Asked("ours", "sb3", 25),))}
    for envs, rollout, minibatch, epochs in ((4, 128, 128, 4), (8, 32, 256, 20), (64, 64, 256, 8), (512, 32, 1024, 8)):
        shape = Shape("CartPole-v1", envs, rollout, minibatch, epochs, steps=204_800, theirs=204_800)
        sides = {"ours": ours(REJAX_TERMS), "rejax": served(python, SERVER)}
        found[f"rejax-{envs}x{rollout}"] = Row(shape, sides, (Asked("ours", "rejax", 1.2),))
    for env in ("HalfCheetah-v5", "Hopper-v5"):
        shape = Shape(env, 16, 128, 64, 10, steps=40_960, theirs=12_288)
        sides = {"ours": ours(SB3_TERMS), "sb3": sb3, "simulator": simulator}
        found[env.removesuffix("-v5").lower()] = Row(
            shape, sides, (Asked("ours", "sb3", 6), Asked("ours", "simulator", 0.65))
        )
    sides = {
        name: served(sys.executable, __file__, "--serve", str(seeds))
        for name, seeds in (("one seed", 1), ("each of sixteen", 16))
    }
    found["seeds"] = Row(
        dataclasses.replace(cartpole, theirs=cartpole.steps),
        sides,
        (Asked("one seed", "each of sixteen", 6, at_most=True),),
    )
    return found


def measure(name: str, row: Row, repeats: int, scale: float) -> dict[str, Any]:
    """Takes the turns, prints the ratios and returns everything."""
    shape, load = row.shape.scaled(scale), os.getloadavg()
    sides = {side: make(shape) for side, make in row.sides.items()}
    turns = [{side: made.run() for side, made in sides.items()} for _ in range(repeats)]
    for made in sides.values():
        made.close()
    rates = {side: [turn[side] for turn in turns] for side in sides}
    compiled = {side: made.compile_seconds for side, made in sides.items() if made.compile_seconds is not None}
    return {
        "shape": vars(shape), "load": load, "per_second": rates, "compile_seconds": compiled,
        "ratios": [_ratio(name, asked, rates, compiled) for asked in row.asked],
    }  # fmt: skip


def _ratio(name: str, asked: Asked, rates: dict[str, list[float]], compiled: dict[str, float]) -> dict[str, Any]:
    ratios = [a / b for a, b in zip(rates[asked.over], rates[asked.under], strict=True)]
    median, verdict = statistics.median(ratios), "at most" if asked.at_most else "at least"
    sides = ", ".join(f"{side} {statistics.median(rates[side]):,.0f}/s" for side in (asked.over, asked.under))
    seconds = ", ".join(f"{side} {value:.1f} s" for side, value in compiled.items())
    print(
        f"{name}: {sides}, ratio {median:.2f} [{min(ratios):.2f}, {max(ratios):.2f}], asked {verdict} "
        f"{asked.figure:g}{'' if asked.met(median) else ' (missed)'}; compile {seconds}",
        flush=True,
    )
    return {**vars(asked), "ratio": ratios, "median": median, "met": asked.met(median)}


def mean_over_rejax(found: dict[str, Any]) -> dict[str, Any] | None:
    """The geometric mean of the ratios to rejax, when all are there."""
    medians = [row["ratios"][0]["median"] for name, row in found.items() if name.startswith("rejax-")]
    if len(medians) < 4:
        return None
    mean = math.exp(statistics.mean(map(math.log, medians)))
    print(f"rejax, geometric mean: {mean:.2f}, asked at least 1.3{'' if mean >= 1.3 else ' (missed)'}", flush=True)
    return {"geometric_mean": mean, "figure": 1.3, "met": mean >= 1.3}


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
    parser.add_argument("--only", action="append", help="rows whose names begin so; may be given several times")
    parser.add_argument("--scale", type=float, default=1.0, help="multiplies the steps of a repeat")
    parser.add_argument("--rejax", type=Path, default=HERE.parent / ".rejax" / "bin" / "python")
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--serve", type=int, help="for this script itself: one side of so many seeds")
    given = parser.parse_args()
    if given.serve:
        serve(given.serve)
        return
    prepare(images=False, several=False)  # as training does; rejax's process gets the same number of threads
    before, everything = machine(), rows(given.rejax.absolute())
    chosen = {n: r for n, r in everything.items() if given.only is None or n.startswith(tuple(given.only))}
    found = {name: measure(name, row, given.repeats, given.scale) for name, row in chosen.items()}
    given.out.parent.mkdir(parents=True, exist_ok=True)
    summary = {"machine": before, "rows": found, "rejax": mean_over_rejax(found)}
    given.out.write_text(json.dumps(summary, indent=2) + "\n")


if __name__ == "__main__":
    main()
