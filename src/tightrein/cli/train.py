"""`tightrein train control` and `tightrein train language`."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import Any

from tightrein.engines import CONFIGS
from tightrein.errors import require
from tightrein.runs.run import is_finished

REPEATABLE = ("--set", "--reward", "--reward-weights", "--tools")


def train(engine: str, given: list[str]) -> None:
    """Parse the flags of the engine, train, and say where the run is and what it reached.

    Raises:
        TightreinError: a wrong flag's value, or what the engine finds wrong.
        KeyboardInterrupt: the run was stopped; how to resume it has been printed.
    """
    config = _config(engine, given)
    trainer = require(f"tightrein.engines.{engine}.train", engine)
    again = _resume_command(engine, given, config)
    try:
        summary = trainer.train(config)
    except KeyboardInterrupt:
        print(f"\nstopped at once; go on from the last checkpoint with\n  {again}")
        raise
    if not is_finished(config.folder):
        print(f"\nstopped; go on with\n  {again}")
        raise KeyboardInterrupt
    _print_end(summary, config)


def _config(engine: str, given: list[str]) -> Any:
    """The parsed flags. Only the configuration is imported for it, so that help and slips are answered at once."""
    tyro = require("tyro", "cli")
    kind = getattr(require(f"tightrein.engines.{engine}.config", engine), CONFIGS[engine])
    prog = f"tightrein train {engine}"
    return tyro.cli(kind, prog=prog, args=gather(given), config=(tyro.conf.FlagCreatePairsOff,))


def gather(given: list[str]) -> list[str]:
    """All values of every repeatable flag behind a single one at the end, so that it may be repeated."""
    rest: list[str] = []
    values: dict[str, list[str]] = {}
    into = rest
    for word in given:
        flag, equals, value = word.partition("=")
        if flag in REPEATABLE:
            into = values.setdefault(flag, [])
            into += [value] if equals else []
        else:
            into = rest if word.startswith("--") else into
            into.append(word)
    return [*rest, *(word for flag, several in values.items() for word in (flag, *several))]


def _resume_command(engine: str, given: list[str], config: Any) -> str:
    words = [word for word in given if word not in ("--resume", "--no-resume")]
    out = [] if any(word.split("=")[0] == "--out" for word in words) else ["--out", str(config.folder)]
    return shlex.join(["tightrein", "train", engine, *words, *out, "--resume"])


def _print_end(summary: Mapping[str, Any], config: Any) -> None:
    shown = {name: _shown(value) for name, value in summary.items() if isinstance(value, (int, float, str))}
    shown.pop("interrupted", None)
    shown["folder"] = str(config.folder)
    shown["report"] = f"tightrein report {shlex.quote(str(config.folder))}"
    width = max(map(len, shown))
    for name, text in shown.items():
        print(f"  {name:<{width}}  {text}")


def _shown(value: float | str) -> str:
    if isinstance(value, float):
        return f"{value:,.4g}" if abs(value) < 1e4 else f"{value:,.0f}"
    return f"{value:,}" if isinstance(value, int) else value
