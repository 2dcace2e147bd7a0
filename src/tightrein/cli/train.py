"""`tightrein train control` and `tightrein train language`."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from tightrein.engines import CONFIGS
from tightrein.errors import require
from tightrein.runs.run import is_finished, read_config

REPEATABLE = ("--set", "--grid", "--reward", "--reward-weights", "--tools")


def train(engine: str, given: list[str]) -> None:
    """Parse the flags of the engine, train, and say where the run is and what it reached.

    Raises:
        TightreinError: a wrong flag's value, or what the engine finds wrong.
        KeyboardInterrupt: the run was stopped; how to resume it has been printed.
    """
    config = _config(engine, given)
    trainer = require(f"tightrein.engines.{engine}.train", engine)
    again = shlex.join(["tightrein", "train", engine, "--out", str(config.folder), "--resume"])
    try:
        summary = trainer.train(config)
    except KeyboardInterrupt:
        print(f"\nstopped at once; go on from the last checkpoint with\n  {again}")
        raise
    if os.environ.get("RANK", "0") != "0":
        return  # of several processes the first speaks
    if not is_finished(config.folder):
        print(f"\nstopped; go on with\n  {again}")
        raise KeyboardInterrupt
    _print_end(summary, config)


def _config(engine: str, given: list[str]) -> Any:
    """The parsed flags. Only the configuration is imported for it, so that help and slips are answered at once."""
    tyro = require("tyro", "cli")
    kind = getattr(require(f"tightrein.engines.{engine}.config", engine), CONFIGS[engine])
    prog = f"tightrein train {engine}"
    return tyro.cli(
        kind, prog=prog, args=gather(given), default=_resumed(kind, given), config=(tyro.conf.FlagCreatePairsOff,)
    )


def _resumed(kind: type[Any], given: list[str]) -> Any:
    """With `--resume --out RUN` the configuration of that run, so that its flags need not be said again; else None."""
    words = [part for word in given for part in (word.split("=", 1) if word.startswith("--out=") else [word])]
    if "--resume" not in words or "--out" not in words[:-1]:
        return None
    out = words[words.index("--out") + 1]
    said = {word[2:].replace("-", "_") for word in words if word.startswith("--")}
    known = {f.name for f in fields(kind) if f.init} - said
    saved = {name: value for name, value in read_config(Path(out)).items() if name in known}
    return kind(**{name: tuple(value) if isinstance(value, list) else value for name, value in saved.items()})


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


def _print_end(summary: Mapping[str, Any], config: Any) -> None:
    shown = {name: _shown(value) for name, value in summary.items() if isinstance(value, (int, float, str))}
    shown.pop("interrupted", None)
    shown["folder"] = str(config.folder)
    shown["report"] = f"tightrein report {shlex.quote(str(config.folder))}"
    width = max(map(len, shown))
    for name, text in shown.items():
        print(f"  {name:<{width}}  {text}")
    _print_points(summary.get("points", ()))


def _print_points(points: Sequence[Mapping[str, Any]]) -> None:
    """A grid's points, best first: settings, mean evaluation return, and its deviation and range over seeds."""
    if not points:
        return
    columns = [*points[0]["point"], "eval_return", "+-", "range", ""]
    rows = [
        [*(f"{value:g}" for value in point["point"].values()), *_spread(point), _diverged(point["diverged"])]
        for point in points
    ]
    widths = [max(map(len, column)) for column in zip(columns, *rows, strict=True)]
    print()
    for row in [columns, *rows]:
        print("  " + "  ".join(f"{text:>{width}}" for text, width in zip(row, widths, strict=True)).rstrip())


def _spread(point: Mapping[str, Any]) -> tuple[str, str, str]:
    returns, deviation = point["eval_return"], point["eval_return_std"]
    if deviation is None:
        return _shown(point["eval_return_mean"]), "", ""
    return _shown(point["eval_return_mean"]), _shown(deviation), f"{_shown(min(returns))} to {_shown(max(returns))}"


def _diverged(seeds: Mapping[str, int]) -> str:
    """What a row that left the finite numbers is told of."""
    return f"not finite: seed {', '.join(seeds)}" if seeds else ""


def _shown(value: float | str) -> str:
    if isinstance(value, float):
        return f"{value:,.4g}" if abs(value) < 1e4 else f"{value:,.0f}"
    return f"{value:,}" if isinstance(value, int) else value
