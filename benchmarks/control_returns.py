"""Final returns of PPO on MuJoCo tasks beside those of Stable-Baselines3, with equal hyperparameters, five seeds each.

    python benchmarks/control_returns.py --peer sb3   # about an hour on one core; goes on where it was stopped
    python benchmarks/control_returns.py --ours       # a few minutes a task: all seeds in one run
    python benchmarks/control_returns.py --page       # the comparison

Every run is a line of benchmarks/results/control_returns.jsonl: its learning curve, the mean return of the training
episodes that ended in the last twentieth of its steps, and the mean of 20 evaluation episodes with the most probable
action and frozen normalisation. What stays different: Stable-Baselines3 moves its normalisation at every step, ours
after every rollout; the simulators are Gymnasium's and EnvPool's builds of MuJoCo.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Iterable
from pathlib import Path
from statistics import mean, stdev
from typing import Any, NamedTuple

RESULTS = Path(__file__).parent / "results" / "control_returns.jsonl"
ENVS = ("Hopper-v5", "HalfCheetah-v5", "Walker2d-v5")
SEEDS = 5
N_ENVS, ROLLOUT, MINIBATCHES, EPOCHS = 8, 256, 4, 10
STEPS = 1_000_000 // (N_ENVS * ROLLOUT) * N_ENVS * ROLLOUT
EVALUATION = 20
POINTS = 50  # of a learning curve
LAST = 0.05  # share of the steps whose episodes make the final return


class Ended(NamedTuple):
    """Training episodes that ended by `step`: the sum of their returns, and how many."""

    step: int
    total: float
    count: float


def average(ended: Iterable[Ended]) -> float | None:
    """Mean return; None where no episode ended."""
    ended = list(ended)
    count = sum(e.count for e in ended)
    return round(sum(e.total for e in ended) / count, 2) if count else None


def record(side: str, env: str, seed: int, ended: list[Ended], evaluated: float) -> dict[str, Any]:
    """A line of the results."""
    edges = [STEPS * (i + 1) // POINTS for i in range(POINTS)]
    curve = [average(e for e in ended if low < e.step <= high) for low, high in zip([0, *edges], edges, strict=False)]
    return {
        "side": side, "env": env, "seed": seed, "steps": STEPS,
        "final": average(e for e in ended if e.step > STEPS * (1 - LAST)), "evaluated": round(evaluated, 2),
        "curve": curve,
    }  # fmt: skip


def sb3(env_name: str, seed: int) -> dict[str, Any]:
    """One run of Stable-Baselines3. Its `DummyVecEnv` is faster than its processes on so cheap a simulator."""
    import torch
    from stable_baselines3 import PPO
    from stable_baselines3.common.callbacks import BaseCallback
    from stable_baselines3.common.env_util import make_vec_env
    from stable_baselines3.common.evaluation import evaluate_policy
    from stable_baselines3.common.vec_env import VecNormalize

    class Episodes(BaseCallback):
        """Keeps the undiscounted return of every episode that ends."""

        def __init__(self) -> None:
            super().__init__()
            self.ended: list[Ended] = []

        def _on_step(self) -> bool:
            done = [info["episode"]["r"] for info in self.locals["infos"] if "episode" in info]
            self.ended += [Ended(self.num_timesteps, float(r), 1) for r in done]
            return True

    torch.set_num_threads(1)
    env = VecNormalize(make_vec_env(env_name, N_ENVS, seed=seed), gamma=0.99)
    model = PPO(
        "MlpPolicy", env, n_steps=ROLLOUT, batch_size=N_ENVS * ROLLOUT // MINIBATCHES, n_epochs=EPOCHS,
        learning_rate=3e-4, gamma=0.99, gae_lambda=0.95, clip_range=0.2, vf_coef=0.5, ent_coef=0.0, max_grad_norm=0.5,
        policy_kwargs={"net_arch": [64, 64], "activation_fn": torch.nn.Tanh}, seed=seed, device="cpu",
    )  # fmt: skip
    episodes = Episodes()
    model.learn(STEPS, callback=episodes)
    frozen = VecNormalize(make_vec_env(env_name, 4, seed=10_000 + seed), training=False, norm_reward=False)
    frozen.obs_rms = env.obs_rms
    evaluated, _ = evaluate_policy(model, frozen, n_eval_episodes=EVALUATION, deterministic=True)
    return record("sb3", env_name, seed, episodes.ended, float(evaluated))


def ours(env_name: str, seeds: range) -> list[dict[str, Any]]:
    """Our runs, all seeds side by side: advantages by minibatch and the value loss's weight as Stable-Baselines3's."""
    import tightrein as tr

    iterations = STEPS // (N_ENVS * ROLLOUT)
    equal = (
        "credit.standardise=false",
        "objective.standardise=true",
        "objective.value.coef=1",
        "step.max_grad_norm=0.5",
    )
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "run"
        summary = tr.train(
            "control", method="ppo_clip", env=env_name, backend="envpool", seeds=len(seeds), seed=seeds[0],
            total_steps=STEPS, envs=N_ENVS, rollout=ROLLOUT, epochs=EPOCHS, minibatches=MINIBATCHES,
            learning_rate=3e-4, hidden=(64, 64), set=equal, eval_episodes=EVALUATION, log_every=2,
            eval_every=iterations, checkpoint_every=iterations, out=out, quiet=True,
        )  # fmt: skip
        lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    runs = []
    for seed, evaluated in zip(seeds, summary["eval_return"], strict=True):
        own = [line for line in lines if line["seed"] == seed and line.get("episodes")]
        ended = [Ended(line["step"], line["return_mean"] * line["episodes"], line["episodes"]) for line in own]
        runs.append(record("tightrein", env_name, seed, ended, evaluated))
    return runs


def known() -> dict[tuple[str, str, int], dict[str, Any]]:
    """The runs that are done, by side, environment and seed."""
    lines = RESULTS.read_text().splitlines() if RESULTS.exists() else []
    runs = [json.loads(line) for line in lines]
    return {(run["side"], run["env"], run["seed"]): run for run in runs if run["steps"] == STEPS}


def keep(runs: list[dict[str, Any]]) -> None:
    """Appends runs, and says so."""
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    with RESULTS.open("a") as file:
        file.writelines(json.dumps(run) + "\n" for run in runs)
    for run in runs:
        shown = f"final {run['final']}, evaluated {run['evaluated']}"
        print(f"{run['side']} {run['env']} seed {run['seed']}: {shown}", flush=True)


def run_peer(envs: list[str], seeds: int) -> None:
    """What is missing of Stable-Baselines3, seed by seed, so that a part of it already covers every task."""
    for seed in range(seeds):
        for env in envs:
            if ("sb3", env, seed) not in known():
                keep([sb3(env, seed)])


def run_ours(envs: list[str], seeds: int) -> None:
    """What is missing of ours, task by task."""
    for env in envs:
        missing = [seed for seed in range(seeds) if ("tightrein", env, seed) not in known()]
        if missing:
            keep(ours(env, range(missing[0], missing[-1] + 1)))


def interval(values: list[float]) -> tuple[float, float, float]:
    """Mean, and its 95 % interval by Student's t."""
    from scipy.stats import t

    half = float(t.ppf(0.975, len(values) - 1)) * stdev(values) / len(values) ** 0.5 if len(values) > 1 else 0.0
    return mean(values), mean(values) - half, mean(values) + half


def page() -> str:
    """The comparison as a table."""
    runs = known()
    rows = ["| task | return | Stable-Baselines3 | tightrein | within its interval |", "|---|---|---|---|---|"]
    for env in ENVS:
        for name, title in (("final", "training, last 5 %"), ("evaluated", f"{EVALUATION} evaluation episodes")):
            sides = [
                [r[name] for r in runs.values() if (r["side"], r["env"]) == (s, env)] for s in ("sb3", "tightrein")
            ]
            if not all(sides):
                continue
            peer, own = (interval(values) for values in sides)
            cells = [f"{m:,.0f} [{low:,.0f}, {high:,.0f}]" for m, low, high in (peer, own)]
            within = "yes" if peer[1] <= own[0] <= peer[2] else "above" if own[0] > peer[2] else "no"
            rows.append(f"| {env} | {title} | {cells[0]} | {cells[1]} | {within} |")
    return "\n".join(rows)


def main() -> None:
    """Runs what is asked for and missing, or prints the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--peer", choices=["sb3"])
    parser.add_argument("--ours", action="store_true")
    parser.add_argument("--page", action="store_true", help="print the comparison")
    parser.add_argument("--env", choices=ENVS, action="append")
    parser.add_argument("--seeds", type=int, default=SEEDS)
    given = parser.parse_args()
    envs = given.env or list(ENVS)
    if given.peer:
        run_peer(envs, given.seeds)
    if given.ours:
        run_ours(envs, given.seeds)
    if given.page or not (given.peer or given.ours):
        print(page())


if __name__ == "__main__":
    main()
