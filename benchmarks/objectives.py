"""Cost of every method's objective as a multiple of ppo_clip's: loss and gradient, on [64, 1024] decisions in float32.

    python benchmarks/objectives.py [KEY ...] [--rounds 15] [--library PyTorch|JAX] [--out FILE]

PyTorch runs as it is (eager), JAX compiled, both on one core. In every round ppo_clip (with its value loss) and the
method take turns; processor time is counted, which other work on the machine disturbs least. Printed are the median of
the rounds' ratios and, in brackets, the smallest and the largest; then the largest array that is made on the way, for
none may grow with the vocabulary. Methods that read whole distributions get those of the `KEPT` likeliest tokens, and
in control of two actions. Without keys all methods run, and the results are written to results/objectives.json.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import tightrein as tr
from tightrein.arrays import convert
from tightrein.distributions import Categorical
from tightrein.verify import batches

RESULTS = Path(__file__).parent / "results" / "objectives.json"
ROWS, WIDTH, KEPT, ACTIONS = 64, 1024, 64, 2
BASELINE, LIMIT = "ppo_clip", 1.5
EXCEPTED = ("troll", "disco")  # a projection of every distribution; a comparison of every pair of answers
ONE_CORE = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"
SECONDS = 0.03  # of processor time in one turn

Run = Callable[[], Any]


def decisions(method: tr.Method, library: str) -> tr.Decisions:
    """A batch of [ROWS, WIDTH] random decisions in float32 with what the loss of `method` reads, and nothing else."""
    made = batches.fields(0, method, rows=ROWS, width=WIDTH, spread=0.3)
    if "dist" in method.needs:
        made |= _distributions(KEPT if method.home == "language" else ACTIONS)
    state = method.init(batches.PROMPTS)
    d = method.prepare(batches.decisions(made), state)
    known = {name: getattr(d, name) for name in {*method.needs, "mask"} if getattr(d, name) is not None}
    return batches.decisions({name: _single(x) for name, x in known.items()}, library)


def _distributions(alternatives: int) -> batches.Fields:
    rng = np.random.default_rng(1)
    old = rng.standard_normal((ROWS, WIDTH, alternatives))
    new = Categorical(old + 0.3 * rng.standard_normal(old.shape))
    return {"dist": new, "dist_old": Categorical(old), "action": rng.integers(0, alternatives, (ROWS, WIDTH))}


def _single(x: Any) -> Any:
    if isinstance(x, Categorical):
        return Categorical(_single(x.logits))
    return x.astype(np.float32) if x.dtype.kind == "f" else x


def in_torch(key: str) -> Run:
    """Loss and gradient of a method in PyTorch, as a function without arguments."""
    method = batches.method(key)
    d, state = decisions(method, "PyTorch"), convert(method.init(batches.PROMPTS), "PyTorch")
    leaves = {name: x.requires_grad_() for name, x in batches.leaves(d).items()}

    def run() -> Any:
        loss = method.loss(batches.with_leaves(d, leaves), state).value
        return torch.autograd.grad(loss, list(leaves.values()), allow_unused=True)

    return run


def in_jax(key: str) -> Run:
    """The same in JAX, compiled."""
    method = batches.method(key)
    d, state = decisions(method, "JAX"), convert(method.init(batches.PROMPTS), "JAX")
    run = jax.jit(jax.value_and_grad(lambda leaves, d: method.loss(batches.with_leaves(d, leaves), state).value))
    leaves = batches.leaves(d)
    return lambda: jax.block_until_ready(run(leaves, d))


LIBRARIES = {"PyTorch": in_torch, "JAX": in_jax}


def seconds(run: Run, times: int) -> float:
    """Processor time of one call, in the mean of `times`."""
    began = time.process_time()
    for _ in range(times):
        run()
    return (time.process_time() - began) / times


def compare(run: Run, baseline: Run, rounds: int) -> dict[str, Any]:
    """Ratios of the two, round by round, with their median and the median cost in milliseconds."""
    turns = []
    for f in (baseline, run):
        f()
        turns.append(max(1, round(SECONDS / seconds(f, 2))))
    pairs = [(seconds(run, turns[1]), seconds(baseline, turns[0])) for _ in range(rounds)]
    ratios = [mine / theirs for mine, theirs in pairs]
    return {
        "ratio": statistics.median(ratios),
        "smallest": min(ratios),
        "largest": max(ratios),
        "milliseconds": 1e3 * statistics.median(mine for mine, _ in pairs),
        "baseline_milliseconds": 1e3 * statistics.median(theirs for _, theirs in pairs),
    }


class Largest(TorchDispatchMode):
    """Remembers the shape of the largest array that any operation gives."""

    shape: tuple[int, ...] = ()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for x in torch.utils._pytree.tree_leaves(out):
            if isinstance(x, torch.Tensor) and x.numel() > np.prod(self.shape, dtype=int):
                self.shape = tuple(x.shape)
        return out


def largest(run: Run) -> tuple[int, ...]:
    """Shape of the largest array made in a call, with its gradient's."""
    with Largest() as seen:
        run()
    return seen.shape


def machine() -> dict[str, Any]:
    """What the figures were taken on."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return {
        "cpu": names[0] if names else platform.processor(), "cores": os.cpu_count(), "cores_used": 1,
        "load": os.getloadavg(), "system": platform.platform(), "python": platform.python_version(),
        "torch": torch.__version__, "jax": jax.__version__, "numpy": np.__version__,
    }  # fmt: skip


def main() -> None:
    """Measures, prints and, of all methods, writes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("keys", nargs="*", metavar="KEY")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--library", choices=LIBRARIES)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    torch.set_num_threads(1)
    os.environ["XLA_FLAGS"] = ONE_CORE  # read when JAX makes its first array
    chosen = {name: make for name, make in LIBRARIES.items() if given.library in (None, name)}
    baselines = {name: make(BASELINE) for name, make in chosen.items()}
    rows: dict[str, Any] = {}
    for key in given.keys or tr.methods():
        runs = {name: make(key) for name, make in chosen.items()}
        row = {name: compare(run, baselines[name], given.rounds) for name, run in runs.items()}
        shape = largest(runs["PyTorch"]) if "PyTorch" in runs else ()
        rows[key] = {**row, "largest": shape}
        over = key not in EXCEPTED and any(found["ratio"] > LIMIT for found in row.values())
        told = "   ".join(
            f"{name} {f['ratio']:5.2f} [{f['smallest']:.2f}, {f['largest']:.2f}] {f['milliseconds']:6.2f} ms"
            for name, f in row.items()
        )
        print(f"{key:20} {told}   {list(shape)}{'   over ' + str(LIMIT) if over else ''}", flush=True)
    out = given.out or (None if given.keys or given.library else RESULTS)
    if out is not None:
        shape = {"rows": ROWS, "width": WIDTH, "kept": KEPT, "actions": ACTIONS, "rounds": given.rounds}
        out.write_text(json.dumps({"machine": machine(), "setting": shape, "methods": rows}, indent=2) + "\n")


if __name__ == "__main__":
    main()
