"""`tightrein export RUN`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tightrein.errors import TightreinError, require


def export(run: Path, out: Path | None, seed: int | None) -> None:
    """Write the run's policy as an ONNX file; print where, and how well it agrees.

    Raises:
        TightreinError: no policy there, or what `export` of the control engine finds wrong.
    """
    if out is not None and out.suffix != ".onnx":
        raise TightreinError(f"{out} is no ONNX file", "name one that ends in .onnx")
    policy = require("tightrein.engines.control.restore", "control").load_policy(run, seed)
    to = out or policy.run / "policy.onnx"
    print(told_of(policy), flush=True)
    for name, apart in require("tightrein.engines.control.export", "control").export(policy, to).items():
        print(f"  {name:<12} agrees to {apart:.0e}")
    print(f"  ONNX file: {to}")


def told_of(policy: Any) -> str:
    """Which policy it is, and how good it was."""
    point = "".join(f" {name}={value:g}" for name, value in policy.point.items())
    good = "" if policy.evaluated is None else f", evaluated at {policy.evaluated:,.4g}"
    where = f"seed {policy.seed}{point}, step {policy.step:,}{good}"
    return f"{policy.method.key} on {policy.spec.name} ({policy.spec.backend}): {where}"
