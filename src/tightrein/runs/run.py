"""A run folder: config.json, environment.json, metrics.jsonl, checkpoints/, and at the end summary.json."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tightrein.errors import TightreinError
from tightrein.runs import checkpoints, environment, metrics
from tightrein.runs.checkpoints import Array, Checkpoint
from tightrein.runs.files import cause_and_remedy, dump, jsonable, sync, write_atomic
from tightrein.runs.lock import Lock
from tightrein.runs.progress import Progress

BUDGET = ("total_steps", "updates")  # a resumed run may ask for more of these
NAME_A_RUN = "name a folder that `tightrein train` printed"
# Not what is run: where, how it is shown, in what pieces, with what patience.
FREE = ("out", "resume", "quiet", "notes", "tokens_at_once", "reward_timeout", "shard", "gradient_checkpointing")


class Run:
    """One training run on disk. Make it with `Run.create`."""

    def __init__(self, folder: Path, config: dict[str, Any], quiet: bool, lock: Lock, elapsed: float = 0.0) -> None:
        self.folder = folder
        self._lock = lock
        self.config = config
        self.quiet = quiet
        self._started = time.monotonic() - elapsed

    @classmethod
    def create(cls, folder: Path, config: Mapping[str, Any], *, resume: bool, quiet: bool = False) -> Run:
        """Begin a run in `folder`, or go on with the one there.

        Resuming drops the metrics after the newest intact checkpoint (all of them if there is none), so that
        the file becomes that of an uninterrupted run.

        Raises:
            TightreinError: `resume` without a run there; a run there without `resume`; a config that differs
                in more than a grown budget; a folder that cannot be written, or that another process writes.
        """
        folder = Path(folder)
        wanted = jsonable(dict(config))
        try:
            return cls._resume(folder, wanted, quiet) if resume else cls._begin(folder, wanted, quiet)
        except OSError as error:
            raise _unwritable(folder, error) from error

    @classmethod
    def _begin(cls, folder: Path, config: dict[str, Any], quiet: bool) -> Run:
        if (folder / "config.json").exists():
            raise TightreinError(
                f"{folder} already holds a run",
                "go on with it with --resume, or name another folder with --out",
            )
        folder.mkdir(parents=True, exist_ok=True)
        lock = Lock(folder)
        (folder / "checkpoints").mkdir(exist_ok=True)
        (folder / "metrics.jsonl").touch()
        write_atomic(folder / "environment.json", dump(environment.describe()))
        write_atomic(folder / "config.json", dump(config))  # last: from here on the folder is a run
        return cls(folder, config, quiet, lock)

    @classmethod
    def _resume(cls, folder: Path, config: dict[str, Any], quiet: bool) -> Run:
        saved = read_config(folder)
        _check_same(saved, config, folder)
        lock = Lock(folder)
        checkpoints.tidy(folder / "checkpoints")
        step = checkpoints.newest_intact(folder / "checkpoints")
        lines = folder / "metrics.jsonl"
        metrics.cut(lines, -1 if step is None else step)
        (folder / "summary.json").unlink(missing_ok=True)
        _note_resumption(folder, step)
        write_atomic(folder / "config.json", dump(config))
        last = metrics.read(lines)[-1:]
        return cls(folder, config, quiet, lock, elapsed=last[0].get("time", 0.0) if last else 0.0)

    def log(self, step: int, **values: float | int | str) -> None:
        """Append {"step", "time" (seconds since the start), **values}; a non-finite value becomes null.

        Log a step before the checkpoint of that step, so that resuming there finds its line.

        Raises:
            TightreinError: the line could not be written.
        """
        line = {"step": int(step), "time": round(time.monotonic() - self._started, 3), **values}
        try:
            metrics.append(self.folder / "metrics.jsonl", line)
        except OSError as error:
            raise _unwritable(self.folder / "metrics.jsonl", error) from error

    def checkpoint(self, step: int, arrays: Mapping[str, Array], extra: Mapping[str, Any]) -> None:
        """Save `arrays` (NumPy) and `extra` (JSON) as the state after `step`; the last two are kept.

        Raises:
            TightreinError: it could not be written; names the cause and the checkpoint that is intact.
        """
        sync(self.folder / "metrics.jsonl")
        checkpoints.save(self.folder / "checkpoints", step, arrays, extra)

    def write(self, name: str, text: str) -> None:
        """Put a file of this name (it may lie in folders) into the run's folder, in the place of one that is there.

        Raises:
            TightreinError: it could not be written; names the cause.
        """
        path = self.folder / name
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomic(path, text)
        except OSError as error:
            raise _unwritable(path, error) from error

    def latest(self) -> Checkpoint | None:
        """The newest intact checkpoint, or None; a damaged one is reported and the one before it is used."""
        step = checkpoints.newest_intact(self.folder / "checkpoints")
        return None if step is None else checkpoints.load(self.folder / "checkpoints", step)

    def progress(self, total: int, label: str, *, start: int = 0) -> Progress:
        """A context manager whose `update(done, **shown)` says how far the run is; it begins at `start`."""
        return Progress(total, label, start=start, quiet=self.quiet)

    def finish(self, summary: Mapping[str, Any]) -> None:
        """Write summary.json, which marks the run as complete."""
        try:
            write_atomic(self.folder / "summary.json", dump(dict(summary)))
        except OSError as error:
            raise _unwritable(self.folder / "summary.json", error) from error


def is_finished(folder: Path) -> bool:
    """Whether the run in `folder` has reached its end."""
    return (folder / "summary.json").exists()


def read_config(folder: Path) -> dict[str, Any]:
    """The config of the run in `folder`.

    Raises:
        TightreinError: there is no run, or its config.json cannot be read.
    """
    path = Path(folder) / "config.json"
    try:
        config = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        raise TightreinError(f"there is no run in {folder} (no config.json)", NAME_A_RUN) from None
    except (OSError, ValueError) as error:
        raise TightreinError(f"{path} cannot be read: {error}", "restore it, or start a new run") from error
    if not isinstance(config, dict):
        raise TightreinError(f"{path} is not the config of a run", NAME_A_RUN)
    return config


def _check_same(saved: dict[str, Any], wanted: dict[str, Any], folder: Path) -> None:
    old, new = flat(saved), flat(wanted)
    for key in [*old, *(key for key in new if key not in old)]:
        before, now = old.get(key, "(not set)"), new.get(key, "(not set)")
        if before == now or key in FREE:
            continue
        if not (key in BUDGET and isinstance(before, int) and isinstance(now, int) and now > before):
            allowed = " (only a larger one can be asked for)" if key in BUDGET else ""
            raise TightreinError(
                f"cannot resume {folder}: '{key}' was {before!r} and is now {now!r}{allowed}",
                f"resume with {key} = {before!r}, or start a new run in another folder",
            )


def flat(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """A nested config as one level of dotted path -> value."""
    flattened: dict[str, Any] = {}
    for key, value in config.items():
        nested = isinstance(value, dict) and value
        flattened.update(flat(value, f"{prefix}{key}.") if nested else {prefix + key: value})
    return flattened


def _note_resumption(folder: Path, step: int | None) -> None:
    """Add to environment.json from where, and with which versions, the run went on."""
    path = folder / "environment.json"
    try:
        saved = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        saved = {}
    saved.setdefault("resumed", []).append({"from_step": step or 0, **environment.describe()})
    write_atomic(path, dump(saved))


def _unwritable(path: Path, error: OSError) -> TightreinError:
    cause, remedy = cause_and_remedy(error)
    return TightreinError(f"{path} could not be written: {cause}", f"{remedy}, or name another folder with --out")
