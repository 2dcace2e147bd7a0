"""Train every surrogate of the catalogue on the same two small tasks, three seeds each, with its own defaults.

    python benchmarks/learning.py              # what is missing or out of date; hours on a laptop, minutes a method
    python benchmarks/learning.py grpo gspo    # these
    python benchmarks/learning.py --page       # only write the page again

Runs that are done stay in benchmarks/results/learning.json, so that a second call goes on where the first one ended; a
run is out of date as soon as a setting of its method changes. docs/learning.md is made from them, with the reasons of
benchmarks/learning_reasons.toml beside what does not learn.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import tempfile
import tomllib
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

from rich.progress import track

import tightrein as tr
from tightrein.catalogue import classic, clipping, control, drift, entropy, language, options, score, signals, trust
from tightrein.runs.files import write_atomic
from tightrein.verify.results import fingerprint, machine

HERE = Path(__file__).parent
RESULTS, REASONS = HERE / "results" / "learning.json", HERE / "learning_reasons.toml"
PAGE = HERE.parent / "docs" / "learning.md"
FAMILIES = (classic, control, language, clipping, score, drift, entropy, signals, trust, options)
ELSEWHERE = ("dcpo_dynamic_clip", "disco", "mdpo_on")  # surrogates whose entry lies with another family


@dataclass(frozen=True)
class Task:
    """A task, what is trained on it, and the mean of the last scores from which on it counts as learned."""

    title: str
    engine: str
    settings: dict[str, Any]
    score: str
    learned: float
    apart: bool  # each seed is a run of its own

    def seeds(self) -> tuple[int, ...]:
        """The first seeds of its runs."""
        return (0, 1, 2) if self.apart else (0,)

    def command(self) -> str:
        """The same as a command."""
        flags = " ".join(f"--{name.replace('_', '-')} {value}" for name, value in self.settings.items())
        return f"tightrein train {self.engine} {flags}"


TASKS = {
    "language": Task(
        "spelling words backward, held-out accuracy",
        "language",
        {"task": "spell_backward", "prompts": 64, "minibatches": 4, "updates": 60, "eval_every": 20},
        "eval_accuracy",
        0.9,
        True,
    ),
    "control": Task(
        "CartPole-v1, mean return of 20 episodes",
        "control",
        {"env": "CartPole-v1", "total_steps": 200_000, "seeds": 3},
        "eval_return",
        475.0,
        False,
    ),
}


def keys() -> list[str]:
    """The methods of the table, in the order of the catalogue."""
    own = {method.key for family in FAMILIES for method in family.METHODS}
    return [key for key in tr.methods() if key in own or key in ELSEWHERE]


def run(key: str, name: str) -> list[dict[str, Any]]:
    """The runs of a method on a task: scores over time by seed, or why the engine refuses the method."""
    return [_run(key, TASKS[name], seed) for seed in TASKS[name].seeds()]


def _run(key: str, task: Task, seed: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "run"
        try:
            summary = tr.train(task.engine, method=key, seed=seed, out=out, quiet=True, **task.settings)
        except tr.TightreinError as error:
            return {"refused": " ".join(str(error).split())}
        lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    curves: dict[int, list[float]] = {}
    for line in lines:
        if task.score in line:
            curves.setdefault(line.get("seed", seed), []).append(round(line[task.score], 4))
    return {"curves": curves, "seconds": round(summary["seconds"], 1)}


def record(known: dict[str, Any], key: str, name: str, found: list[dict[str, Any]]) -> None:
    """Keep what the runs of one method on one task gave."""
    refused = next((one["refused"] for one in found if "refused" in one), None)
    entry: dict[str, Any] = {"settings": fingerprint(tr.method(key)), "machine": machine()}
    if refused is None:
        curves = {str(seed): curve for one in found for seed, curve in one["curves"].items()}
        entry |= {"curves": curves, "seconds": round(sum(one["seconds"] for one in found), 1)}
    else:
        entry |= {"refused": refused}
    known.setdefault(key, {})[name] = entry
    write_atomic(RESULTS, json.dumps(known, indent=1) + "\n")


def missing(known: dict[str, Any], chosen: list[str]) -> list[tuple[str, str]]:
    """(key, task) of what has no run, or one with other settings."""
    return [
        (key, name)
        for key in chosen
        for name in TASKS
        if known.get(key, {}).get(name, {}).get("settings") != fingerprint(tr.method(key))
    ]


def _cell(key: str, name: str, known: dict[str, Any], reasons: dict[str, Any]) -> str:
    entry, task = known.get(key, {}).get(name), TASKS[name]
    why = reasons.get(key, {}).get(name, "")
    if entry is None:
        return "not run"
    if "refused" in entry:
        return why or f"refused: {entry['refused']}"
    ends = [curve[-1] for curve in entry["curves"].values()]
    digits = 2 if task.learned < 1 else 0
    shown = f"{mean(ends):.{digits}f} [{min(ends):.{digits}f}, {max(ends):.{digits}f}]"
    return f"{shown if mean(ends) >= task.learned else f'**{shown}**'} {why}".rstrip()


def unexplained(known: dict[str, Any], reasons: dict[str, Any]) -> list[tuple[str, str]]:
    """(key, task) of what was run, does not learn, and has no reason beside it."""
    found = []
    for key in known:
        for name, task in TASKS.items():
            curves = known[key].get(name, {}).get("curves", {"": [task.learned]})
            ended = mean(curve[-1] for curve in curves.values())
            if ended < task.learned and name not in reasons.get(key, {}):
                found.append((key, name))
    return found


def page(known: dict[str, Any], reasons: dict[str, Any]) -> str:
    """docs/learning.md."""
    starts = [curve[0] for entry in known.values() for curve in entry.get("language", {}).get("curves", {}).values()]
    machines = list(dict.fromkeys(entry["machine"] for tasks in known.values() for entry in tasks.values()))
    titles = " | ".join(task.title for task in TASKS.values())
    rows = [f"| `{key}` | {' | '.join(_cell(key, name, known, reasons) for name in TASKS)} |" for key in keys()]
    commands = "\n".join(f"{task.command()} --method KEY --seed 0" for task in TASKS.values())
    return (
        "\n".join(
            [
                "# Every surrogate on two small tasks",
                "",
                "Each method with its own defaults (in a foreign engine: its objective, and that engine's credit, step "
                "and schedule), seeds 0, 1 and 2: mean of the three last evaluations, and the smallest and the "
                f"largest. The language model starts at {min(starts, default=0):.2f} to {max(starts, default=0):.2f}; "
                f"CartPole ends at 500 at best. **Bold**: below {TASKS['language'].learned} or "
                f"{TASKS['control'].learned:.0f}, and why. These tasks tell whether a method works, not which one is "
                "better: three seeds cannot show that.",
                "",
                "```sh",
                commands,
                "python benchmarks/learning.py   # all of this page: what is missing or out of date",
                "```",
                "",
                f"| method | {titles} |",
                "|---|---|---|",
                *rows,
                "",
                "Run on:",
                "",
                *(f"- {text}" for text in machines),
            ]
        )
        + "\n"
    )


def main() -> None:
    """Train what is missing, keep the results, write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("keys", nargs="*", help="methods (all of the table)")
    parser.add_argument("--workers", type=int, default=2, help="runs at a time")
    parser.add_argument("--page", action="store_true", help="write the page alone")
    given = parser.parse_args()
    known = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    todo = [] if given.page else missing(known, given.keys or keys())
    os.environ["OMP_NUM_THREADS"] = "1"  # a worker on each core gains more than threads do at this size
    with ProcessPoolExecutor(given.workers, multiprocessing.get_context("spawn")) as pool:
        jobs = {pool.submit(run, *pair): pair for pair in todo}
        for job in track(as_completed(jobs), "training", total=len(jobs), disable=not jobs):
            record(known, *jobs[job], job.result())
    reasons = tomllib.loads(REASONS.read_text()) if REASONS.exists() else {}
    write_atomic(PAGE, page(known, reasons))
    for key, name in unexplained(known, reasons):
        print(f"{key} does not learn the {name} task, and {REASONS.name} does not say why")


if __name__ == "__main__":
    main()
