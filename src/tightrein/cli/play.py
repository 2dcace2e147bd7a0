"""`tightrein play RUN`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tightrein.cli.export import told_of
from tightrein.errors import require


def play(run: Path, out: Path | None, episodes: int, seed: int | None, env_seed: int, sample: bool, show: bool) -> None:
    """Play episodes of the run's policy; print what each gave, and where the recording is.

    Raises:
        TightreinError: no policy there, or what `play` of the control engine finds wrong.
    """
    policy = require("tightrein.engines.control.restore", "control").load_policy(run, seed)
    module = require("tightrein.engines.control.play", "control")
    to = out if out is not None or show else policy.run / "play.mp4"
    print(told_of(policy), flush=True)
    played = module.play(policy, to, episodes=episodes, seed=env_seed, sample=sample, show=show, told=_print)
    if len(played) > 1:
        mean = sum(episode.total_reward for episode in played) / len(played)
        print(f"  mean of {len(played)}: return {mean:,.4g}")
    if to is not None:
        print(f"  recording: {to}")


def _print(episode: Any) -> None:
    cut = "" if episode.over else ", cut there"
    print(f"  episode {episode.seed}: return {episode.total_reward:,.4g}, {episode.length:,} steps{cut}", flush=True)
