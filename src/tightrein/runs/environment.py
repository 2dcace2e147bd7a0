"""What made a run: code, versions, machine."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

PACKAGES = (
    *("tightrein", "numpy", "array-api-compat", "safetensors"),
    *("jax", "jaxlib", "equinox", "optax", "gymnax", "gymnasium", "envpool", "mujoco"),
    *(
        "torch",
        "transformers",
        "tokenizers",
        "accelerate",
        "peft",
        "datasets",
        "reasoning-gym",
        "math-verify",
    ),
)


def describe() -> dict[str, Any]:
    """Time, Python, machine, command line, installed versions and, in a checkout, the commit."""
    return {
        "started": datetime.now(UTC).astimezone().isoformat(timespec="seconds"),
        "command": sys.argv,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "versions": {name: version for name in PACKAGES if (version := _version(name)) is not None},
        "commit": _commit(),
    }


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _cpu() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:
            names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    except OSError:
        names = []
    return names[0] if names else platform.processor() or platform.machine()


def _commit() -> str | None:
    """The commit of the checkout that the package lies in, with "+changes" if its tree has any; else None."""
    package = Path(__file__).resolve().parents[1]
    try:
        tracked = _git(package, "ls-files", "--error-unmatch", "__init__.py") is not None
        commit = _git(package, "rev-parse", "HEAD") if tracked else None
    except (OSError, subprocess.TimeoutExpired):
        return None  # no git here
    if commit is None:
        return None
    return commit + ("+changes" if _git(package, "status", "--porcelain", "--", str(package)) else "")


def _git(folder: Path, *arguments: str) -> str | None:
    done = subprocess.run(["git", "-C", str(folder), *arguments], capture_output=True, text=True, timeout=10)
    return done.stdout.strip() if done.returncode == 0 else None
