"""Whether trust regions hold in real runs: the metrics of every iteration, against the bound that the method promises.

    python benchmarks/control_bounds.py [--steps 200000] [--seeds 2] [--only trpo]

trpo: the mean KL of every step and the gain of the surrogate wherever a step was accepted. fixpo: the largest KL of any
state of any batch after its update. gae_value_trust_region: the measured constraint of every fit of the value network.
All are measured on the parameters as they are after the iteration, on the whole of its experience.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from control import machine

import tightrein as tr

RESULTS = Path(__file__).parent / "results" / "control_bounds.json"
ENVS = ("CartPole-v1", "Hopper-v5")
Lines = list[dict[str, float]]


@dataclass(frozen=True)
class Bounded:
    """A method, its bound (a setting), how far above it may be, and what its metrics say."""

    method: str
    bound: str
    share: float
    figures: Callable[[Lines, float], dict[str, Any]]


def column(lines: Lines, name: str) -> Any:
    return np.array([line[name] for line in lines if name in line])


def natural(lines: Lines, limit: float) -> dict[str, Any]:
    kl, gain, accepted = (column(lines, name) for name in ("kl_step", "surrogate_gain", "accepted"))
    return {
        "largest": float(kl.max()),
        "beyond": int((kl > limit).sum()),
        "accepted": int(accepted.sum()),
        "smallest_gain": float(gain[accepted == 1].min()),
        "fell": int((gain[accepted == 1] < 0).sum()),
        "whole_steps": int((column(lines, "step_size") == 1).sum()),
    }


def every_state(lines: Lines, limit: float) -> dict[str, Any]:
    largest, steps, failed = (column(lines, name) for name in ("kl_max", "fixup_steps", "fixup_failed"))
    return {
        "largest": float(largest.max()),
        "beyond": int((largest > limit).sum()),
        "fixup_steps": int(steps.sum()),
        "fixup_failed": int(failed.sum()),
    }


def value(lines: Lines, limit: float) -> dict[str, Any]:
    measured = column(lines, "value_constraint")
    before, after = (column(lines, f"explained_variance{when}") for when in ("_before", ""))
    return {
        **natural(lines, np.inf),
        "largest": float(measured.max()),
        "beyond": int((measured > limit).sum()),
        "explained_more": float((after > before).mean()),
    }


CASES = (
    Bounded("trpo", "step.delta", 1.0, natural),
    Bounded("fixpo", "objective.trust.controller.bound", 1.0, every_state),
    Bounded("gae_value_trust_region", "critic.step.epsilon", 1.1, value),
)


def measured(case: Bounded, env: str, steps: int, seeds: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "run"
        kept = {"log_every": 1, "eval_every": 10**9, "checkpoint_every": 10**9, "eval_episodes": 10}
        summary = tr.train(
            "control", method=case.method, env=env, total_steps=steps, seeds=seeds, out=out, quiet=True, **kept
        )
        lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    lines = [line for line in lines if "policy_loss" in line]
    bound = tr.method(case.method).settings()[case.bound]
    return {
        "method": case.method, "env": env, "seeds": seeds, "steps": steps, "bound": bound, "allowed": case.share,
        "updates": len(lines), **case.figures(lines, case.share * bound), "return": summary["eval_return_mean"],
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=200_000)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--only", default="")
    given = parser.parse_args()
    rows = [
        measured(case, env, given.steps, given.seeds) for case in CASES if given.only in case.method for env in ENVS
    ]
    for row in rows:
        print(json.dumps(row))
    if not given.only:
        RESULTS.write_text(json.dumps({"machine": machine(), "rows": rows}, indent=2) + "\n")


if __name__ == "__main__":
    main()
