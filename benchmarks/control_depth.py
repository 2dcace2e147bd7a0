"""SPO and PPO with policies of 3 and of 7 layers: does SPO hold the ratio where PPO loses it as networks deepen?

    python benchmarks/control_depth.py            # what is missing, then the figure; hours on two cores
    python benchmarks/control_depth.py --page     # only the figure and the table of what is there

The claim is that of arXiv 2401.16025, with the networks and hyperparameters of its code: the policy's hidden layers are
64, 64 (3 layers) or 256, 256, 128, 128, 64, 64 (7 layers), the value network's always 64, 64, tanh throughout; 8
environments x 256 steps, 10 epochs of 4 minibatches, Adam at 3e-4 falling linearly to 0, clipped value loss, epsilon
0.2. Both methods differ in the surrogate alone. Other than there: 1 million steps in the place of 10 million, the v5
environments, Adam's eps 1e-5, time limits bootstrapped, statistics for normalisation moved once a rollout; and the
ratio's mean distance from 1 is that of the new policy on its whole rollout, after the last of its updates.

Each run trains five seeds side by side. Runs that are done stay in benchmarks/results/control_depth.json, so a second
call goes on where the first one ended.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np

HERE = Path(__file__).parent
RESULTS, FIGURE = HERE / "results" / "control_depth.json", HERE.parent / "docs" / "assets" / "control-depth.svg"
ENVS = ("Hopper-v5", "HalfCheetah-v5", "Walker2d-v5")
HIDDEN = {3: (64, 64), 7: (256, 256, 128, 128, 64, 64)}
METHODS = {
    "spo": (),
    "ppo_clip": (
        "objective.value.coef=0.5", "objective.value.clip_range=0.2", "objective.standardise=true",
        "credit.standardise=false", "step.max_grad_norm=0.5", "step.anneal=true",
    ),
}  # fmt: skip
STEPS, SEEDS, POINTS, LAST = 1_000_000, 5, 50, 3
MIDDLE = slice(POINTS // 4, 3 * POINTS // 4)  # of a run: at its end the learning rate is 0, and the ratio 1
FIGURES = {"return_mean": "training return", "ratio_deviation": "mean |ratio - 1|"}


def run(env: str, method: str, layers: int, steps: int = STEPS) -> dict[str, Any]:
    """One run of all seeds: its curves [seed][point], and the evaluation at its end."""
    import tightrein as tr

    iterations = steps // 2048
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "run"
        summary = tr.train(
            "control", method=method, env=env, backend="envpool", seeds=SEEDS, total_steps=steps, envs=8, rollout=256,
            epochs=10, minibatches=4, learning_rate=3e-4, hidden=HIDDEN[layers], value_hidden=(64, 64),
            set=METHODS[method], log_every=2, eval_every=iterations, checkpoint_every=iterations, out=out, quiet=True,
        )  # fmt: skip
        lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    curves = {name: [curve(lines, name, seed, steps) for seed in range(SEEDS)] for name in FIGURES}
    evaluated = [round(value, 1) for value in summary["eval_return"]]
    return {"steps": steps, "evaluated": evaluated, **curves}


def curve(lines: list[dict[str, Any]], name: str, seed: int, steps: int) -> list[float | None]:
    """A figure's mean in each of the equal parts of the run; None where there was none."""
    found: list[list[float]] = [[] for _ in range(POINTS)]
    for line in lines:
        if line["seed"] == seed and name in line:
            found[min(POINTS - 1, (line["step"] - 1) * POINTS // steps)].append(line[name])
    return [round(mean(part), 4) if part else None for part in found]


def known() -> dict[str, Any]:
    """The runs that are done, by environment, method and layers."""
    return dict(json.loads(RESULTS.read_text())) if RESULTS.exists() else {}


def combinations() -> list[tuple[str, str, int]]:
    """All runs, one environment after another, so that a part of them is already a comparison."""
    return [(env, method, layers) for env in ENVS for layers in HIDDEN for method in METHODS]


def fill() -> None:
    """Runs what is missing, and keeps each run as soon as it is done."""
    for env, method, layers in combinations():
        key = f"{env} {method} {layers}"
        if known().get(key, {}).get("steps") == STEPS:
            continue
        done = run(env, method, layers)
        RESULTS.parent.mkdir(parents=True, exist_ok=True)
        fresh = RESULTS.with_suffix(".new")
        fresh.write_text(json.dumps({**known(), key: done}) + "\n")
        fresh.replace(RESULTS)
        print(f"{key}: evaluated {done['evaluated']}", flush=True)


def band(curves: list[list[float | None]]) -> tuple[Any, Any]:
    """Mean over seeds, and half the width of its 95 % interval by Student's t."""
    from scipy.stats import t

    table = np.array(curves, dtype=float)
    count = np.maximum((~np.isnan(table)).sum(0), 2)
    half = t.ppf(0.975, count - 1) * np.nanstd(table, axis=0, ddof=1) / np.sqrt(count)
    return np.nanmean(table, axis=0), half


def page() -> str:
    """Returns at the end of the runs and ratios in the middle half of them, as a table."""
    rows = ["| task | method | layers | training return, end | 20 evaluation episodes | mean abs(ratio - 1) |"]
    rows.append("|---|---|---|---|---|---|")
    runs = known()
    for env, method, layers in combinations():
        entry = runs.get(f"{env} {method} {layers}")
        if entry:
            parts = {"return_mean": slice(-LAST, None), "ratio_deviation": MIDDLE}
            found = [
                [[mean(x for x in curve[part] if x is not None)] for curve in entry[name]]
                for name, part in parts.items()
            ]
            columns = [found[0], [[value] for value in entry["evaluated"]], found[1]]
            cells = [_cell(column, digits) for column, digits in zip(columns, (0, 0, 3), strict=True)]
            rows.append(f"| {env} | {method} | {layers} | {' | '.join(cells)} |")
    return "\n".join(rows)


def _cell(values: list[list[float]], digits: int) -> str:
    middle, half = (float(x[0]) for x in band(values))
    return f"{middle:,.{digits}f} ± {half:,.{digits}f}"


def figure() -> None:
    """Return and ratio against steps, a column for each task that has runs."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    runs = known()
    envs = [env for env in ENVS if any(key.startswith(env) for key in runs)]
    pyplot.rcParams["svg.hashsalt"] = "control-depth"  # the same file from the same runs
    canvas, axes = pyplot.subplots(2, len(envs), figsize=(4 * len(envs), 5.5), sharex=True, squeeze=False)
    for column, env in enumerate(envs):
        for row, (name, title) in enumerate(FIGURES.items()):
            axis = axes[row][column]
            axis.set(ylabel=title if column == 0 else "", title=env if row == 0 else "")
            for method, colour in zip(METHODS, ("#1f6f8b", "#c8553d"), strict=True):
                for layers, style in zip(HIDDEN, ("--", "-"), strict=True):
                    _draw(axis, runs.get(f"{env} {method} {layers}"), name, f"{method}, {layers} layers", colour, style)
        axes[1][column].set(xlabel="steps of a seed", yscale="log")
    axes[0][0].legend(fontsize=8, frameon=False)
    canvas.tight_layout()
    FIGURE.parent.mkdir(parents=True, exist_ok=True)
    canvas.savefig(FIGURE, metadata={"Date": None})


def _draw(axis: Any, entry: dict[str, Any] | None, name: str, label: str, colour: str, style: str) -> None:
    if entry is None:
        return
    middle, half = band(entry[name])
    steps = (np.arange(POINTS) + 0.5) * entry["steps"] / POINTS
    axis.plot(steps, middle, style, color=colour, label=label, linewidth=1.3)
    axis.fill_between(steps, middle - half, middle + half, color=colour, alpha=0.15, linewidth=0)


def main() -> None:
    """Runs what is missing, then draws and prints."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--page", action="store_true", help="train nothing")
    if not parser.parse_args().page:
        fill()
    figure()
    print(page())


if __name__ == "__main__":
    main()
