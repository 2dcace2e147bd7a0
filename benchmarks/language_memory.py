"""Memory that log-probabilities and their gradient need as vocabulary and length grow: a figure for the docs.

python benchmarks/language_memory.py    # some minutes; the numbers are in benchmarks/results/language_memory.json
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from apart import Apart

from tightrein.verify.results import machine

HERE = Path(__file__).parent
RESULTS, FIGURE = HERE / "results" / "language_memory.json", HERE.parent / "docs" / "assets" / "logp-memory.svg"
HIDDEN = 576
VOCABULARIES, TOKENS = (8_192, 16_384, 32_768, 49_152, 98_304, 151_936), (256, 512, 1024, 2048, 4096)
SIDES = {"logp-plain": "with logits", "logp-lean": "tightrein"}
SWEEPS = {
    "vocabulary": [{"tokens": 1024, "vocabulary": size} for size in VOCABULARIES],
    "tokens": [{"tokens": count, "vocabulary": 49_152} for count in TOKENS],
}


def measure(side: str, shape: dict[str, int]) -> float:
    """Megabytes at the peak beyond what was there: states, weights and their gradients."""
    process = Apart(sys.executable, "-W", "ignore", HERE / "language_sides.py", side, env={**os.environ})
    process.say({"hidden": HIDDEN, "threads": 1, **shape})
    process.ask({})
    found: float = process.ask({})["megabytes"]
    process.close()
    print(f"{side} {shape}: {found:,.0f} MB", flush=True)
    return found


def draw(found: dict[str, dict[str, list[float]]]) -> None:
    """The figure."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    pyplot.rcParams["svg.hashsalt"] = "logp-memory"  # the same file from the same numbers
    figure, axes = pyplot.subplots(1, 2, figsize=(8, 3.2), sharey=True, layout="constrained")
    titles = {"vocabulary": "1,024 tokens", "tokens": "a vocabulary of 49,152"}
    for axis, (name, shapes) in zip(axes, SWEEPS.items(), strict=True):
        for side, label in SIDES.items():
            axis.plot([shape[name] for shape in shapes], found[name][side], marker="o", label=label)
        axis.set(xscale="log", yscale="log", xlabel=name, title=titles[name])
        axis.set_xticks([shape[name] for shape in shapes], [f"{shape[name]:,}" for shape in shapes], rotation=30)
        axis.minorticks_off()
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("MB at the peak")
    axes[0].legend()
    figure.savefig(FIGURE, metadata={"Date": None})


def main() -> None:
    """Measures, writes and draws."""
    found = {
        name: {side: [measure(side, shape) for shape in shapes] for side in SIDES} for name, shapes in SWEEPS.items()
    }
    written = {"machine": machine(), "hidden": HIDDEN, "shapes": SWEEPS, "megabytes": found}
    RESULTS.write_text(json.dumps(written, indent=1) + "\n")
    draw(found)


if __name__ == "__main__":
    main()
