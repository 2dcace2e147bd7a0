"""Train two methods on a control task and two on a language task, by name, and put them on one page.

`make demo` runs this. A second call goes on with whatever is unfinished.
"""

import shlex
import subprocess
import sys
import time
from pathlib import Path

OUT = Path("demo")
CONTROL = "train control --env CartPole-v1 --seeds 4"
LANGUAGE = "train language --task spell_backward"
RUNS = {
    "cartpole-ppo_clip": f"{CONTROL} --method ppo_clip",
    "cartpole-spo": f"{CONTROL} --method spo",
    "spelling-grpo": f"{LANGUAGE} --method grpo",
    "spelling-spo": f"{LANGUAGE} --method spo",
}


def tightrein(*words: str) -> None:
    """Show the command, run it, and end here if it fails."""
    print(f"\n$ tightrein {shlex.join(words)}", flush=True)
    code = subprocess.run([sys.executable, "-m", "tightrein", *words], check=False).returncode
    if code:
        sys.exit(code)


def main() -> None:
    """Run everything that is not done yet, then write the report."""
    start = time.monotonic()
    for name, command in RUNS.items():
        folder = OUT / name
        tightrein(*command.split(), "--out", str(folder), *(["--resume"] if folder.exists() else []))
    folders = [str(OUT / name) for name in RUNS]
    tightrein("report", *folders, "--out", str(OUT / "report.html"), "--figure", str(OUT / "first-light.png"))
    print(f"\nDone in {(time.monotonic() - start) / 60:.1f} minutes. Open {OUT / 'report.html'} in a browser.")


if __name__ == "__main__":
    main()
