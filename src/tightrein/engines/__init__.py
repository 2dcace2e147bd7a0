"""Engines: where experience comes from and parameters are moved."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from inspect import signature
from pathlib import Path
from typing import Any

from ..errors import require, unknown

CONFIGS = {"control": "ControlConfig", "language": "LanguageConfig"}


def load(engine: str) -> tuple[type[Any], Callable[[Any], dict[str, Any]]]:
    """The configuration class of an engine and its `train` function.

    Raises TightreinError for an unknown engine, and when the packages it needs are not installed.
    """
    if engine not in CONFIGS:
        raise unknown("engine", engine, CONFIGS)
    config = getattr(require(f"tightrein.engines.{engine}.config", engine), CONFIGS[engine])
    return config, require(f"tightrein.engines.{engine}.train", engine).train


def train(engine: str, **settings: Any) -> dict[str, Any]:
    """Train a policy, as `tightrein train ENGINE` does, and return the summary of the run.

    engine: "control" or "language". settings: the flags of the command with underscores, for example
    `train("control", method="spo", env="CartPole-v1", seeds=4, set=("epsilon=0.1",))`. In place of names, the language
    engine takes a `dataset`, a `reward` function and `tools` themselves.

    Raises TightreinError for anything wrong with them, before training starts.
    """
    config, run = load(engine)
    objects = {name for name, p in signature(run).parameters.items() if p.kind is p.KEYWORD_ONLY}
    known = [f.name for f in fields(config)]
    for name in settings:
        if name not in known:
            raise unknown(f"setting of the {engine} engine", name, known)
    given = {name: value for name, value in settings.items() if name in objects and not _is_text(value)}
    return run(config(**{name: value for name, value in settings.items() if name not in given}), **given)


def load_policy(folder: str | Path, seed: int | None = None) -> Any:
    """The trained policy of a control run, finished or not: `load_policy("runs/...").predict(observation)`.

    folder: a run, or a checkpoint inside one. seed: which of the run's seeds; None: the one with the best return at the
    last evaluation. Returns an `engines.control.restore.Policy`.

    Raises TightreinError where there is none, and when the packages it needs are not installed.
    """
    return require("tightrein.engines.control.restore", "control").load_policy(folder, seed)


def _is_text(value: Any) -> bool:
    """Whether it is a name, or names, or nothing."""
    items = value if isinstance(value, (tuple, list)) and value else [value]
    return value is None or all(isinstance(item, str) for item in items)
