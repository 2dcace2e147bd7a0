"""Long runs: memory over 20 million steps, and runs killed at random moments against one that was not.

    python benchmarks/control_endurance.py [--steps 20000000] [--kills 10]

Each part starts `tightrein train control` as a process of its own. The first watches its resident memory. The second
kills runs with SIGKILL at random moments and resumes them, again and again, until they end; checkpoint and metrics must
then be those of an uninterrupted run, bit for bit (but for what the clock says).
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil
from control import machine
from safetensors.numpy import load_file

RESULTS = Path(__file__).parent / "results" / "control_endurance.json"
TRAIN = [str(Path(sys.executable).parent / "tightrein"), "train", "control", "--quiet"]
CASES = {
    "CartPole-v1 (gymnax)": ["--env", "CartPole-v1", "--seeds", "2", "--total-steps", "2000000"],
    "Hopper-v5 (EnvPool)": ["--env", "Hopper-v5", "--seeds", "2", "--total-steps", "120000"],
}
CLOCK = ("time", "steps_per_second")


def start(flags: list[str], out: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen([*TRAIN, *flags, "--out", str(out)], stdout=subprocess.DEVNULL)


def memory(steps: int, folder: Path) -> dict[str, Any]:
    """Resident megabytes over the run, once all is compiled; growth from its first to its last tenth."""
    process = start(["--env", "CartPole-v1", "--total-steps", str(steps), "--log-every", "400"], folder / "long")
    watched, sizes, began = psutil.Process(process.pid), [], time.monotonic()
    while process.poll() is None:
        time.sleep(1.0)
        if (folder / "long" / "metrics.jsonl").exists():
            try:
                sizes.append(watched.memory_info().rss / 2**20)
            except psutil.NoSuchProcess:
                break
    seconds = time.monotonic() - began
    sizes = sizes[5:-1]  # compiling, and the last look at a process that ends
    tenth = max(1, len(sizes) // 10)
    first, last = max(sizes[:tenth]), max(sizes[-tenth:])
    print(f"{steps:,} steps in {seconds:.0f} s: {first:.0f} MB at first, {last:.0f} MB at the end", flush=True)
    return {"steps": steps, "seconds": seconds, "megabytes": sizes, "first": first, "last": last}


def kept(folder: Path) -> tuple[list[dict[str, Any]], dict[str, bytes]]:
    """Metrics without the clock, and the bytes of every array of the last checkpoint."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    lines = [{k: v for k, v in line.items() if k not in CLOCK} for line in lines]
    last = max((folder / "checkpoints").glob("**/*.safetensors"), key=lambda path: path.stat().st_mtime)
    return lines, {name: array.tobytes() for name, array in load_file(last).items()}


def killed(name: str, flags: list[str], kills: int, folder: Path, rng: random.Random) -> dict[str, Any]:
    """One run straight through, and as many others, killed and resumed until they end, as `kills` take."""
    if start(flags, folder / "whole").wait():
        raise RuntimeError(f"{name} failed")
    total, done, runs, same = steps(folder / "whole"), 0, 0, True
    while done < kills:
        out = folder / f"killed_{runs}"
        done += interrupted(flags, out, kills - done, total, rng)
        runs, same = runs + 1, same and kept(folder / "whole") == kept(out)
    print(f"{name}: {done} kills in {runs} runs, {'the same bit for bit' if same else 'DIFFERENT'}", flush=True)
    return {"flags": flags, "kills": done, "runs": runs, "same": same}


def interrupted(flags: list[str], out: Path, most: int, total: int, rng: random.Random) -> int:
    """A run of `total` steps to its end, killed at random moments, `most` times at most. Returns how often it was."""
    done = 0
    while True:
        process = start([*flags, *(["--resume"] if out.exists() else [])], out)
        moment = rng.uniform(steps(out), total) if done < most else total + 1  # a step, for machines differ in speed
        while process.poll() is None and steps(out) < moment:
            time.sleep(rng.uniform(0.0, 0.5))
        if process.poll() is None:
            process.kill()
            done += 1
        elif process.returncode:
            raise RuntimeError(f"{out} could not go on")
        else:
            return done
        process.wait()


def steps(out: Path) -> int:
    """How far the run in this folder has come."""
    try:
        return max((json.loads(line)["step"] for line in (out / "metrics.jsonl").read_text().splitlines()), default=0)
    except (FileNotFoundError, ValueError):  # not begun, or in the middle of a line
        return 0


def main() -> None:
    """Measures, prints and writes; exits with 1 where a resumed run differs."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=20_000_000)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0, help="of the moments of the kills")
    given = parser.parse_args()
    rng = random.Random(given.seed)
    with tempfile.TemporaryDirectory() as scratch:
        found: dict[str, Any] = {"machine": machine(), "memory": memory(given.steps, Path(scratch))}
        for name, flags in CASES.items():
            folder = Path(scratch) / name.split()[0]
            folder.mkdir()
            found[name] = killed(name, flags, given.kills, folder, rng)
    RESULTS.write_text(json.dumps(found, indent=1) + "\n")
    sys.exit(not all(found[name]["same"] for name in CASES))


if __name__ == "__main__":
    main()
