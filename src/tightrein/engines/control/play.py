"""Episodes of a trained policy, recorded or shown."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tightrein.engines.control.evaluate import STEP_LIMIT
from tightrein.engines.control.restore import Policy
from tightrein.engines.control.stages import Stage, stage_of
from tightrein.errors import TightreinError, require
from tightrein.runs.files import written_beside

Array = Any
Take = Callable[[Array], None]  # what is done with each picture [H, W, 3]


class _Closed(Exception):
    """The window was closed."""


class Episode(NamedTuple):
    """How one went; `over`: whether it came to its end, or was cut after 30,000 steps."""

    seed: int
    total_reward: float
    length: int
    over: bool


def play(
    policy: Policy,
    out: Path | None = None,
    *,
    episodes: int = 1,
    seed: int = 0,
    sample: bool = False,
    show: bool = False,
    told: Callable[[Episode], None] = lambda episode: None,
) -> list[Episode]:
    """Plays whole episodes, recording them one after another, and returns how they went.

    out: the file to write, .mp4 (H.264) or .gif; None: nothing is recorded. seed: of the environment and of what is
    drawn in the first episode; the others follow it. sample: draw actions; else take the most probable one. show: open
    a window; closing it, or Escape, ends the play. told: called after each episode.

    Raises:
        TightreinError: the environment has no picture, a package is missing, there is no display to show it on, or the
            file cannot be written; then there is no file.
    """
    if episodes < 1 or seed < 0:
        raise TightreinError(f"{episodes} episodes from seed {seed}", "play 1 or more, from a seed of 0 or more")
    if out is not None and out.suffix not in FORMATS:
        raise TightreinError(f"{out} is no file of a known kind", f"name one that ends in {' or '.join(FORMATS)}")
    _prepare_pygame(show)
    with ExitStack() as stack:
        stage = stage_of(policy.spec)
        stack.callback(stage.close)
        takes = [] if out is None else [stack.enter_context(_recorder(out, stage.fps))]
        takes += [stack.enter_context(_window(stage.fps))] if show else []

        def take(picture: Array) -> None:
            for each in takes:
                each(picture)

        played: list[Episode] = []
        with suppress(_Closed):
            for number in range(seed, seed + episodes):
                played.append(_episode(policy, stage, number, sample, take))
                told(played[-1])
    return played


def _episode(policy: Policy, stage: Stage, seed: int, sample: bool, take: Take) -> Episode:
    policy.reset(seed=seed)
    seen, total, over, length = stage.reset(seed), 0.0, False, 0
    take(stage.picture())
    while not over and length < STEP_LIMIT:
        action = policy.predict(seen.observation, sample=sample, allowed=seen.allowed)
        seen, reward, over = stage.step(action)
        policy.remember(seen.observation, reward)
        total, length = total + reward, length + 1
        take(stage.picture())
    return Episode(seed, total, length, over)


@contextmanager
def _recorder(out: Path, fps: float) -> Iterator[Take]:
    """Writes pictures to a file beside `out`, which becomes `out` at the end."""
    with written_beside(out) as beside, FORMATS[out.suffix](beside, fps) as take:
        yield take


@contextmanager
def _mp4(path: Path, fps: float) -> Iterator[Take]:
    """H.264 with colours as browsers read them (yuv420p), which wants even sides; it plays while it is loading."""
    av = require("av", "play")
    with av.open(str(path), "w", options={"movflags": "+faststart"}) as container:
        stream = container.add_stream("libx264", rate=Fraction(fps).limit_denominator(1000), options={"crf": "20"})
        stream.pix_fmt = "yuv420p"
        begun: list[Array] = []

        def take(picture: Array) -> None:
            even = np.pad(picture, ((0, picture.shape[0] % 2), (0, picture.shape[1] % 2), (0, 0)), mode="edge")
            if not begun:
                stream.height, stream.width = even.shape[:2]
                begun.append(even)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(even), format="rgb24")))

        yield take
        container.mux(stream.encode() if begun else [])


@contextmanager
def _gif(path: Path, fps: float) -> Iterator[Take]:
    with require("imageio.v2", "play").get_writer(path, duration=1000 / fps, loop=0) as writer:
        yield writer.append_data


FORMATS = {".mp4": _mp4, ".gif": _gif}


@contextmanager
def _window(fps: float) -> Iterator[Take]:
    """Shows pictures in a window, at their speed."""
    pygame = require("pygame", "play")
    pygame.display.init()
    clock: list[float] = []

    def take(picture: Array) -> None:
        size = picture.shape[1], picture.shape[0]
        surface = pygame.display.get_surface() or pygame.display.set_mode(size)
        surface.blit(pygame.surfarray.make_surface(picture.swapaxes(0, 1)), (0, 0))
        pygame.display.flip()
        for event in pygame.event.get():
            if event.type == pygame.QUIT or (event.type == pygame.KEYDOWN and event.key == pygame.K_ESCAPE):
                raise _Closed
        clock[:] = [max(time.monotonic(), clock[0] + 1 / fps) if clock else time.monotonic()]
        time.sleep(max(0.0, clock[0] - time.monotonic()))

    try:
        yield take
    finally:
        pygame.display.quit()


def _prepare_pygame(show: bool) -> None:
    """Keeps pygame quiet.

    Raises TightreinError where something is to be shown, and there is no display.
    """
    blind = sys.platform == "linux" and not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))
    if show and blind:
        raise TightreinError("there is no display to show it on", "leave out --show: it is recorded then")
    os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")
    for driver in ("SDL_AUDIODRIVER", *(["SDL_VIDEODRIVER"] if blind else [])):  # it complains of what is not there
        os.environ.setdefault(driver, "dummy")
