"""Speed and memory of the language engine beside its peers: one whole step, log-probabilities, sampling.

    make bench-language                                       # everything, at most forty minutes
    python benchmarks/language.py [--repeats 3] [--only step] [--threads 2]

Both sides get the same model, prompts, lengths and number of answers, run in processes of their own and take turns,
the first of which is not counted. A ratio is that of one turn of each; printed are their median, smallest and largest.
Memory is what a turn needs at its peak beyond what is there when it begins: the weights, and for a step gradients and
the optimizer's moments, which the first turn leaves behind.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from apart import Apart

from tightrein.verify.results import machine

HERE = Path(__file__).parent
RESULTS, SIDES = HERE / "results" / "language.json", HERE / "language_sides.py"
STEP = {"model": "smollm2", "answers": 8, "new": 48}
STATES = {"tokens": 8 * 512, "hidden": 576}
LOGP: dict[str, float | None] = {"seconds": 1.1, "megabytes": 1 / 8}
PASS = {"model": "smollm2", "rows": 4, "prompt": 64, "new": 64}


@dataclass(frozen=True)
class Row:
    """Two sides, and what ours may cost of the peer's at most, in "seconds" and "megabytes"; None: nothing is asked."""

    setting: dict[str, Any]
    ours: str
    peer: str
    asked: dict[str, float | None]


ROWS = {
    "step, prompt of 40": Row(
        {**STEP, "prompt": 40}, "step-tightrein", "step-trl", {"seconds": 0.5, "megabytes": 1 / 3}
    ),
    "step, prompt of 400": Row({**STEP, "prompt": 400}, "step-tightrein", "step-trl", {"seconds": 0.35}),
    "logp, vocabulary 49152": Row({**STATES, "vocabulary": 49152}, "logp-lean", "logp-plain", LOGP),
    "logp, vocabulary 151936": Row({**STATES, "vocabulary": 151936}, "logp-lean", "logp-plain", LOGP),
    "sampling, embedded model, 16 prompts": Row(
        {"model": "embedded", "prompts": 16, "answers": 1, "prompt": 32, "new": 64},
        "sample-tightrein", "sample-generate", {"seconds": 1 / 3},
    ),
    "sampling, SmolLM2, 16 prompts": Row(
        {"model": "smollm2", "prompts": 16, "answers": 1, "prompt": 32, "new": 64},
        "sample-tightrein", "sample-generate", {"seconds": 1 / 1.5},
    ),
    "a pass in bfloat16": Row(PASS, "pass-bfloat16", "pass", {"seconds": None}),
    "a pass, layers run again": Row(PASS, "pass-recomputed", "pass", {"seconds": None, "megabytes": None}),
}  # fmt: skip


def measure(name: str, row: Row, repeats: int, threads: int) -> dict[str, Any]:
    """Takes the turns, prints the ratios and returns everything."""
    load, setting = os.getloadavg(), {**row.setting, "threads": threads}
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "HF_HUB_OFFLINE": "1"}
    command = (sys.executable, "-W", "ignore", SIDES)
    sides = {side: Apart(*command, side, env=environment) for side in (row.ours, row.peer)}
    for side in sides.values():
        side.say(setting)
        side.ask({})
    turns = [{side: process.ask({}) for side, process in sides.items()} for _ in range(repeats)]
    for side in sides.values():
        side.close()
    ratios = {unit: _ratio(name, unit, row, turns, figure) for unit, figure in row.asked.items()}
    return {"setting": setting, "load": load, "turns": turns, "ratios": ratios}


def _ratio(
    name: str, unit: str, row: Row, turns: list[dict[str, dict[str, float]]], figure: float | None
) -> dict[str, Any]:
    ours, theirs = ([turn[side][unit] for turn in turns] for side in (row.ours, row.peer))
    ratios = [a / b for a, b in zip(ours, theirs, strict=True)]
    median = statistics.median(ratios)
    met = None if figure is None else median <= figure
    print(
        f"{name}: {row.ours} {statistics.median(ours):.3g} {unit}, {row.peer} {statistics.median(theirs):.3g}, ratio "
        f"{median:.2f} [{min(ratios):.2f}, {max(ratios):.2f}]"
        f"{'' if figure is None else f', asked at most {figure:.3g}'}{' (missed)' if met is False else ''}",
        flush=True,
    )
    return {"ratio": ratios, "median": median, "figure": figure, "met": met}


def main() -> None:
    """Measures, prints and writes the rows asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--only", action="append", help="rows whose names begin so; may be given several times")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--out", type=Path, default=RESULTS)
    given = parser.parse_args()
    chosen = {n: r for n, r in ROWS.items() if given.only is None or n.startswith(tuple(given.only))}
    before = machine()
    known = json.loads(given.out.read_text()).get("rows", {}) if given.only and given.out.exists() else {}
    for name, row in chosen.items():
        known[name] = {"machine": before, **measure(name, row, given.repeats, given.threads)}
        given.out.write_text(json.dumps({"rows": known}, indent=1) + "\n")


if __name__ == "__main__":
    main()
