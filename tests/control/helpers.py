"""Small runs for the tests of the control engine."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from tightrein.engines.control import environments
from tightrein.engines.control.compose import compose, with_actions
from tightrein.engines.control.config import ControlConfig, Plan
from tightrein.engines.control.snapshot import from_arrays, to_arrays
from tightrein.engines.control.train import train, trainer_of

SMALL = {"envs": 2, "rollout": 16, "minibatches": 2, "epochs": 2, "hidden": (8, 8), "eval_episodes": 2, "quiet": True}


def config(**changes: Any) -> ControlConfig:
    """A run of seconds."""
    return ControlConfig(**{**SMALL, "total_steps": 320, **changes})


def trainer(given: ControlConfig, method: Any = None) -> Any:
    """The trainer that `train` would use."""
    composed, _ = compose(given)
    spec = environments.find(given.env, given.backend, given.squash)
    method = method or with_actions(composed, spec.actions)
    return trainer_of(given, method, spec, Plan.of(given, method.training))


def assert_goes_on_bit_for_bit(made: Any, count: int) -> dict[str, Any]:
    """A trainer restored after `count` iterations ends another `count` as one that went on; returns what was saved."""
    made.run(0, count)
    saved = copied(made)
    made.run(count, count)
    expected = copied(made)
    made.state = from_arrays(made.state, saved)
    made.run(count, count)
    for name, array in to_arrays(made.state).items():
        np.testing.assert_array_equal(array, expected[name], err_msg=name)
    return saved


def copied(made: Any) -> dict[str, Any]:
    """The arrays of a trainer's state, which later iterations leave as they are."""
    return {name: array.copy() for name, array in to_arrays(made.state).items()}


def run(folder: Path, **changes: Any) -> list[dict[str, Any]]:
    """Trains and returns the lines of metrics without what depends on the clock."""
    train(config(out=folder, **changes))
    return lines(folder)


def lines(folder: Path) -> list[dict[str, Any]]:
    """Metrics of a run folder, clock apart."""
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in row.items() if k not in ("time", "steps_per_second")} for row in rows]
