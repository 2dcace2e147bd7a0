"""What the details of an implementation of PPO do to its results: one change at a time, on two tasks.

    python benchmarks/control_details.py         # what is missing; about 25 minutes on one core
    python benchmarks/control_details.py --page  # only write docs/details.md again

Runs that are done stay in benchmarks/results/control_details.json, so that a second call goes on where the first one
ended; a run is out of date as soon as what it was told changes. All seeds of a run train side by side.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

from scipy.stats import ttest_ind

import tightrein as tr
from tightrein.runs.files import write_atomic
from tightrein.verify.results import machine

HERE = Path(__file__).parent
RESULTS, PAGE = HERE / "results" / "control_details.json", HERE.parent / "docs" / "details.md"
LAST = 3  # evaluations whose mean is the result of a seed


@dataclass(frozen=True)
class Task:
    """A task with the settings published for it."""

    title: str
    flags: dict[str, Any]
    set: dict[str, str]

    def given(self, change: Change) -> dict[str, Any]:
        """What `tr.train` is told."""
        settings = {**COMMON, **self.set, **change.set}
        return {**self.flags, **change.flags, "set": tuple(f"{path}={value}" for path, value in settings.items())}


@dataclass(frozen=True)
class Change:
    """One detail done otherwise."""

    title: str
    set: dict[str, str]
    flags: dict[str, bool]
    tasks: tuple[str, ...] = ("hopper", "cartpole")

    @property
    def told(self) -> str:
        """The same as a command tells it."""
        flags = [f"--{'' if on else 'no-'}{name.replace('_', '-')}" for name, on in self.flags.items()]
        return " ".join([*(f"--set {path}={value}" for path, value in self.set.items()), *flags])


@dataclass(frozen=True)
class Detail:
    """What the page says of a detail, and the changes that were run of it."""

    title: str
    what: str
    published: str
    here: str
    changes: tuple[str, ...] = ()


COMMON = {
    "credit.standardise": "false", "objective.standardise": "true",
    "objective.value.coef": "0.5", "objective.value.clip_range": "0.2",
    "step.anneal": "true", "step.max_grad_norm": "0.5", "step.eps": "1e-5",
}  # fmt: skip
TASKS = {
    "hopper": Task(
        "Hopper-v5",
        {
            "env": "Hopper-v5", "seeds": 3, "total_steps": 300_000, "envs": 8, "rollout": 256, "epochs": 10,
            "minibatches": 32, "learning_rate": 3e-4, "normalise_obs": True, "normalise_reward": True,
        },
        {},
    ),
    "cartpole": Task(
        "CartPole-v1",
        {
            "env": "CartPole-v1", "seeds": 10, "total_steps": 200_000, "envs": 4, "rollout": 128, "epochs": 4,
            "minibatches": 4, "learning_rate": 2.5e-4, "normalise_obs": False, "normalise_reward": False,
        },
        {"objective.entropy": "0.01"},
    ),
}  # fmt: skip
CHANGES = {
    "published": Change("as published", {}, {}),
    "batch": Change(
        "advantages standardised over the batch", {"credit.standardise": "true", "objective.standardise": "false"}, {}
    ),
    "raw": Change("advantages as they are", {"objective.standardise": "false"}, {}),
    "value": Change("value loss not clipped", {"objective.value.clip_range": "none"}, {}),
    "constant": Change("learning rate constant", {"step.anneal": "false"}, {}),
    "no_obs": Change("observations not normalised", {}, {"normalise_obs": False}, ("hopper",)),
    "obs": Change("observations normalised", {}, {"normalise_obs": True}, ("cartpole",)),
    "no_reward": Change("rewards not scaled", {}, {"normalise_reward": False}, ("hopper",)),
    "reward": Change("rewards scaled", {}, {"normalise_reward": True}, ("cartpole",)),
    "truncation": Change("truncation counts as termination", {"credit.truncation_terminates": "true"}, {}),
    "norm": Change("gradient not clipped", {"step.max_grad_norm": "none"}, {}),
    "eps": Change("Adam's epsilon 1e-8", {"step.eps": "1e-8"}, {}),
}

DETAILS = (
    Detail(
        "Advantages standardised in each minibatch or over the batch",
        "The advantages are brought to mean 0 and deviation 1 (with 1e-8 beside the deviation) before the loss.",
        "ppo2, CleanRL and Stable-Baselines3 do it in each minibatch; ppo1 over the whole batch.",
        "`objective.standardise` (each minibatch) and `credit.standardise` (the batch); `ppo_clip` does the latter.",
        ("batch", "raw"),
    ),
    Detail(
        "Value loss clipped",
        "The larger of the squared error and that of a value which has moved by `clip_range` at most.",
        "ppo2 and CleanRL: 0.2, the range of the ratio; Stable-Baselines3 and the paper: not clipped.",
        "`objective.value.clip_range`: none in `ppo_clip`, 0.2 in `--variant released`. Rewards are scaled too unless "
        "told otherwise, as the range is meant for values of order 1.",
        ("value",),
    ),
    Detail(
        "Learning rate annealed",
        "It falls linearly to 0 over all gradient steps of the run (CleanRL: from rollout to rollout).",
        "ppo2 and CleanRL: yes; Stable-Baselines3: no.",
        "`step.anneal`: false in `ppo_clip`, true in `--variant released`.",
        ("constant",),
    ),
    Detail(
        "Observations normalised",
        "By their running mean and deviation, and cut at +-10. Ours move after each rollout, the others' at each step.",
        "ppo2 and CleanRL: on MuJoCo tasks; Stable-Baselines3: only with VecNormalize.",
        "`--normalise-obs`, `--no-normalise-obs`; automatic: continuous actions on host simulators.",
        ("no_obs", "obs"),
    ),
    Detail(
        "Rewards scaled",
        "Divided by the running deviation of the discounted return, and cut at +-10; the mean stays.",
        "As observations.",
        "`--normalise-reward`, `--no-normalise-reward`; automatic: as observations, and where the value loss is "
        "clipped.",
        ("no_reward", "reward"),
    ),
    Detail(
        "Value behind a truncation",
        "Where a time limit cuts an episode, something would have followed: its value belongs to the return.",
        "Stable-Baselines3 adds it; ppo2 and CleanRL know only `done` and take nothing to follow.",
        "`credit.truncation_terminates=true` does as they do; the default is to add it. The end of a rollout is no "
        "end in either case.",
        ("truncation",),
    ),
    Detail(
        "Gradient clipped",
        "A gradient whose global norm, over policy and value network together, is larger is scaled down to it.",
        "ppo2, CleanRL, Stable-Baselines3: 0.5; the paper: no word of it.",
        "`step.max_grad_norm`: none in `ppo_clip`, 0.5 in `--variant released`.",
        ("norm",),
    ),
    Detail(
        "Adam's epsilon",
        "What stands beside the root of the second moment, and holds back steps whose gradients are that small.",
        "ppo2, CleanRL, Stable-Baselines3: 1e-5; PyTorch's and Optax's own default is 1e-8.",
        "`step.eps`: 1e-5 in `ppo_clip`.",
        ("eps",),
    ),
    Detail(
        "Orthogonal initialisation",
        "Orthogonal weights with gain sqrt(2), 0.01 on the policy's last layer, 1 on the value's; biases 0.",
        "ppo2, CleanRL and Stable-Baselines3.",
        "Always so: no setting.",
    ),
)


def runs() -> Iterator[tuple[str, str]]:
    """(task, change) of every run."""
    return ((task, name) for task in TASKS for name, change in CHANGES.items() if task in change.tasks)


def run(given: dict[str, Any]) -> dict[str, Any]:
    """Train, and keep the evaluation curve of every seed."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "run"
        summary = tr.train("control", method="ppo_clip", out=out, quiet=True, **given)
        lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    curves: dict[int, list[float]] = {}
    for line in lines:
        if line["step"] and "eval_return" in line:
            curves.setdefault(line["seed"], []).append(round(line["eval_return"], 2))
    return {"curves": list(curves.values()), "seconds": round(summary["seconds"] + summary["compile_seconds"], 1)}


def ends(known: dict[str, Any], task: str, name: str) -> list[float]:
    """The result of every seed; none where it was not run as it would be now."""
    entry = known.get(f"{task} {name}", {})
    return [mean(curve[-LAST:]) for curve in entry["curves"]] if _current(entry, task, name) else []


def _current(entry: dict[str, Any], task: str, name: str) -> bool:
    return bool(entry.get("given") == json.loads(json.dumps(TASKS[task].given(CHANGES[name]))))


def difference(mine: list[float], base: list[float]) -> tuple[float, float, float]:
    """How much more `mine` is in the mean than `base`, with the ends of Welch's interval of 95 %."""
    found = ttest_ind(mine, base, equal_var=False).confidence_interval(0.95)
    return mean(mine) - mean(base), float(found.low), float(found.high)


def sentence(known: dict[str, Any], task: str, name: str) -> str:
    """What a change did on a task, no more than the seeds can show."""
    change, title = CHANGES[name], TASKS[task].title
    mine, base = ends(known, task, name), ends(known, task, "published")
    if not mine or not base:
        return f"{change.title.capitalize()}, {title}: not run yet."
    more, low, high = difference(mine, base)
    figures = f"{mean(mine):.0f} in place of {mean(base):.0f}, a difference of {more:+.0f} [{low:+.0f}, {high:+.0f}]"
    shown = "worse" if high < 0 else "better" if low > 0 else f"no difference that {len(mine)} seeds can show"
    return f"{change.title.capitalize()}, {title}: {shown} ({figures})."


def cell(known: dict[str, Any], task: str, name: str) -> str:
    """Mean, smallest and largest of the seeds, and the difference from what is published."""
    if task not in CHANGES[name].tasks:
        return "–"
    mine, base = ends(known, task, name), ends(known, task, "published")
    if not mine:
        return "not run"
    shown = f"{mean(mine):.0f} ({min(mine):.0f} to {max(mine):.0f})"
    if name == "published" or not base:
        return shown
    more, low, high = difference(mine, base)
    text = f"{shown}, {more:+.0f} [{low:+.0f}, {high:+.0f}]"
    return f"**{text}**" if low > 0 or high < 0 else text


def page(known: dict[str, Any]) -> str:
    """docs/details.md."""
    lines = [
        "# Details that decide results", "",
        "What papers on PPO leave to their code. Each detail is a setting here; `tightrein show ppo_clip` lists them. "
        "The published defaults are those of OpenAI's ppo2 (`defaults.py`, `model.py`, `vec_normalize.py`) and ppo1, "
        "CleanRL's `ppo_continuous_action.py` and Stable-Baselines3 2; their code was read.", "",
    ]  # fmt: skip
    for detail in DETAILS:
        lines += [f"## {detail.title}", "", detail.what, "", f"Published: {detail.published}", ""]
        lines += [f"Here: {detail.here}", ""]
        each = [(task, name) for name in detail.changes for task in CHANGES[name].tasks]
        lines += [f"- {sentence(known, task, name)}" for task, name in each] + ([""] if each else [])
    titles = " | ".join(task.title for task in TASKS.values())
    lines += [
        "## What they did in our runs", "",
        "`ppo_clip` with ppo2's settings for MuJoCo on Hopper (8 environments of 256 steps in place of 1 of 2048) and "
        "CleanRL's for CartPole, values behind truncations added in both; then one change at a time. Mean of the last "
        f"{LAST} evaluations (smallest to largest seed), difference from the published settings, and its 95 % "
        "interval by Welch's test. **Bold**: the interval leaves out 0. Of so many comparisons one in twenty does so "
        "by chance, and a few seeds show only large differences.", "",
        f"| change | told by | {titles} |", "|---|---|---|---|",
        *(
            f"| {change.title} | {f'`{change.told}`' if change.told else ''} | "
            + " | ".join(cell(known, task, name) for task in TASKS) + " |"
            for name, change in CHANGES.items()
        ), "",
        *(f"- {task.title}: {_command(task)}" for task in TASKS.values()), "",
        "Both with " + " ".join(f"`{path}={value}`" for path, value in COMMON.items()) + ". Again: "
        "`python benchmarks/control_details.py`, which goes on where it was stopped. Run on:", "",
        *(f"- {text}" for text in dict.fromkeys(entry["machine"] for entry in known.values())),
    ]  # fmt: skip
    return "\n".join(lines) + "\n"


def _command(task: Task) -> str:
    flags = [
        f"--{'' if value is not False else 'no-'}{name.replace('_', '-')}"
        + ("" if value in (True, False) else f" {value}")
        for name, value in task.flags.items()
    ]
    return f"`{' '.join([*flags, *(f'--set {path}={value}' for path, value in task.set.items())])}`"


def main() -> None:
    """Train what is missing, keep the results, write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--page", action="store_true", help="write the page alone")
    only_page = parser.parse_args().page
    known = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    for task, name in runs():
        given = json.loads(json.dumps(TASKS[task].given(CHANGES[name])))
        key = f"{task} {name}"
        if not only_page and known.get(key, {}).get("given") != given:
            known[key] = {"given": given, "machine": machine(), **run({**given, "set": tuple(given["set"])})}
            write_atomic(RESULTS, json.dumps(known, indent=1) + "\n")
            print(key, [round(end) for end in ends(known, task, name)], known[key]["seconds"], flush=True)
    write_atomic(PAGE, page(known))


if __name__ == "__main__":
    main()
