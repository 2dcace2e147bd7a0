"""Environments that can be watched: one episode at a time, with a picture of every state."""

from __future__ import annotations

import colorsys
import os
import subprocess
import sys
import warnings
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol

import jax
import numpy as np

from tightrein.engines.control import environments, spaces
from tightrein.engines.control.device import DeviceEnv
from tightrein.engines.control.environments import EnvSpec
from tightrein.errors import TightreinError, require

Array = Any

SIDE = 256  # small pictures are enlarged until their shorter side has about as many points
BOARD_FPS, SCREEN_FPS = 10, 15  # of board games; of EnvPool's own pictures (Atari: every fourth of 60 frames a second)
PROBE = "import sys, envpool; e = envpool.make(sys.argv[1], env_type='gymnasium', num_envs=1, render_mode='rgb_array')"
PROBE += "; e.reset(); e.render()"

# gymnax's classic tasks are drawn by Gymnasium's tasks of the same names: what they call their state.
TWINS: dict[str, tuple[str, ...]] = {
    "CartPole-v1": ("x", "x_dot", "theta", "theta_dot"),
    "Pendulum-v1": ("theta", "theta_dot"),
    "Acrobot-v1": ("joint_angle1", "joint_angle2", "velocity_1", "velocity_2"),
    "MountainCar-v0": ("position", "velocity"),
    "MountainCarContinuous-v0": ("position", "velocity"),
}


class Seen(NamedTuple):
    """What a policy is shown: an observation [*shape], and what it may do [A] (None: everything)."""

    observation: Array
    allowed: Array | None


class Stage(Protocol):
    """One environment, played and drawn."""

    fps: float

    def reset(self, seed: int) -> Seen:
        """Begins an episode."""

    def step(self, action: Array) -> tuple[Seen, float, bool]:
        """What is seen then, the reward, and whether the episode is over."""

    def picture(self) -> Array:
        """The present state, [H, W, 3] uint8."""

    def close(self) -> None:
        """Frees the simulator."""


def stage_of(spec: EnvSpec) -> Stage:
    """The environment that a policy was trained in, or where that cannot be drawn, its twin in Gymnasium.

    gymnax's tasks are played as they are, and drawn from their state. EnvPool's are played in the Gymnasium task of the
    same name where that has the same spaces, else in EnvPool, which draws Atari and others itself.

    Raises:
        TightreinError: there is no picture of this environment, or a package to draw it with is missing.
    """
    if spec.on_device:
        return DeviceStage(spec)
    if spec.backend == "envpool" and not _has_twin(spec):
        return EnvPoolStage(spec)
    return GymnasiumStage(spec)


class GymnasiumStage:
    """A Gymnasium environment, drawn by itself."""

    def __init__(self, spec: EnvSpec) -> None:
        self._spec, self._env = spec, make_drawn(spec.name)
        self.fps = float(self._env.metadata.get("render_fps") or 30)

    def reset(self, seed: int) -> Seen:
        """See Stage."""
        shown, info = self._env.reset(seed=seed)
        return _seen(self._spec, shown, info, over=False)

    def step(self, action: Array) -> tuple[Seen, float, bool]:
        """See Stage."""
        shown, reward, terminated, truncated, info = self._env.step(action)
        over = bool(terminated or truncated)
        return _seen(self._spec, shown, info, over), float(reward), over

    def picture(self) -> Array:
        """See Stage."""
        drawn: Array = self._env.render()
        return drawn

    def close(self) -> None:
        """See Stage."""
        self._env.close()


class EnvPoolStage:
    """An EnvPool environment, drawn by itself."""

    fps = float(SCREEN_FPS)

    def __init__(self, spec: EnvSpec) -> None:
        tried = subprocess.run([sys.executable, "-c", PROBE, spec.name], capture_output=True, text=True)
        if tried.returncode:  # EnvPool ends the process where it cannot draw
            said = (tried.stderr or tried.stdout).strip().splitlines()[-1:] or ["it says nothing"]
            raise TightreinError(
                f"EnvPool cannot draw {spec.name} here: {said[0]}", "train on it with --backend gymnasium to watch it"
            )
        self._spec = spec
        self._env: Any = None

    def reset(self, seed: int) -> Seen:
        """See Stage."""
        import envpool

        self.close()
        options: dict[str, Any] = {"env_type": "gymnasium", "num_envs": 1, "seed": [seed], "render_mode": "rgb_array"}
        self._env = envpool.make(self._spec.name, **options)
        shown, info = self._env.reset()
        return _seen(self._spec, _first(shown), _first(info), over=False)

    def step(self, action: Array) -> tuple[Seen, float, bool]:
        """See Stage."""
        sent = np.asarray(action, self._spec.action_dtype)[None]
        shown, reward, terminated, truncated, info = self._env.step(sent)
        over = bool(terminated[0] or truncated[0])
        return _seen(self._spec, _first(shown), _first(info), over), float(reward[0]), over

    def picture(self) -> Array:
        """See Stage."""
        return enlarged(np.asarray(self._env.render()[0]))

    def close(self) -> None:
        """See Stage."""
        if self._env is not None:
            self._env.close()


class DeviceStage:
    """A gymnax environment, drawn from its state."""

    def __init__(self, spec: EnvSpec) -> None:
        self._env, params = environments.make_gymnax(spec.name)
        device = DeviceEnv(self._env, params)
        self._params, self._name, self._masked = params, spec.name, spec.masked
        self._begin, self._advance, self._allowed = jax.jit(device.reset), jax.jit(device.step), device.allowed
        self._twin: Any = None
        self._draw = self._drawing(spec)
        self.fps = float(self._twin.metadata["render_fps"]) if self._twin is not None else float(BOARD_FPS)

    def reset(self, seed: int) -> Seen:
        """See Stage."""
        first, self._key = jax.random.split(jax.random.key(seed))
        self._observation, self._state = self._begin(first)
        return self._seen()

    def step(self, action: Array) -> tuple[Seen, float, bool]:
        """See Stage."""
        key, self._key = jax.random.split(self._key)
        reached, self._state, reward, terminated, truncated = self._advance(key, self._state, action)
        self._observation = reached
        return self._seen(), float(reward), bool(terminated | truncated)

    def picture(self) -> Array:
        """See Stage."""
        return self._draw()

    def close(self) -> None:
        """See Stage."""
        if self._twin is not None:
            self._twin.close()

    def _seen(self) -> Seen:
        may = self._allowed(jax.tree.map(lambda x: x[None], self._state)) if self._masked else None
        return Seen(np.asarray(self._observation), None if may is None else np.asarray(may)[0])

    def _drawing(self, spec: EnvSpec) -> Callable[[], Array]:
        if spec.name in TWINS:
            self._twin = make_drawn(spec.name)
            self._twin.reset(seed=0)
            return self._from_twin
        if len(spec.shape) in (2, 3) and min(spec.shape[:2]) > 1:
            return lambda: enlarged(board(np.asarray(self._observation)))
        if hasattr(self._env, "render"):
            require("matplotlib", "lab").use("agg")
            return self._from_figure
        raise TightreinError(f"there is no picture of {spec.name}", "play it in Python with tightrein.load_policy")

    def _from_twin(self) -> Array:
        """Gymnasium's picture of gymnax's state."""
        bare = self._twin.unwrapped
        bare.state = np.asarray([getattr(self._state, name) for name in TWINS[self._name]], np.float64)
        if hasattr(self._state, "last_u"):  # the torque, which the pendulum is drawn with
            bare.last_u = float(np.ravel(self._state.last_u)[0])
        drawn: Array = self._twin.render()
        return drawn

    def _from_figure(self) -> Array:
        """gymnax's own picture, a figure of Matplotlib."""
        pyplot = require("matplotlib.pyplot", "lab")
        figure, _ = self._env.render(self._state, self._params)
        figure.canvas.draw()
        drawn = np.asarray(figure.canvas.buffer_rgba())[..., :3].copy()
        pyplot.close(figure)
        return drawn


def make_drawn(name: str) -> Any:
    """Gymnasium's environment, ready to be drawn without a display.

    Raises:
        TightreinError: something to draw it with is missing, and what to install.
    """
    gymnasium = require("gymnasium", "control")
    if name not in gymnasium.registry:
        raise TightreinError(f"Gymnasium has no environment {name!r}", "register it in Gymnasium before you play it")
    maker = str(gymnasium.spec(name).entry_point)
    if "mujoco" in maker:
        choose_gl()
    elif maker.startswith("gymnasium.envs"):
        require("pygame", "play")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the precision of bounds
        try:
            env = gymnasium.make(name, render_mode="rgb_array")
        except Exception as error:  # whatever the environment's own package raises
            raise TightreinError(
                f"Gymnasium cannot make {name!r} with pictures: {error}", "install what the message names"
            ) from error
    if hasattr(env.unwrapped, "model"):  # without a graphics card these two take nine tenths of MuJoCo's drawing
        env.unwrapped.model.vis.quality.shadowsize = env.unwrapped.model.vis.quality.offsamples = 0
    return env


def choose_gl() -> None:
    """Sets MUJOCO_GL, unless it is set, to what draws MuJoCo here; without a display that is EGL or OSMesa.

    Each is tried in a process of its own: a library of OpenGL that was loaded once cannot be exchanged.

    Raises:
        TightreinError: none of them works.
    """
    if "MUJOCO_GL" in os.environ or sys.platform != "linux":
        return
    window = ["glfw"] if os.environ.get("DISPLAY") else []
    for name in ("egl", "osmesa", *window):
        code = f"import mujoco.{name} as gl; context = gl.GLContext(8, 8); context.make_current(); context.free()"
        environment = {**os.environ, "MUJOCO_GL": name}
        if not subprocess.run([sys.executable, "-c", code], capture_output=True, env=environment).returncode:
            os.environ["MUJOCO_GL"] = name
            return
    raise TightreinError(
        "MuJoCo finds no OpenGL to draw with: neither EGL nor OSMesa works here",
        "install one of them (Debian, Ubuntu: apt install libegl1 libgl1-mesa-dri, or libosmesa6), or set MUJOCO_GL",
    )


def board(observation: Array) -> Array:
    """A picture [H, W, 3] of an observation: whole numbers [C, H, W] or [H, W, C] of images, the newest of a stack;
    else [H, W] or [H, W, C], where each channel has a colour of its own and the last is on top.
    """
    if observation.dtype == np.uint8:
        channels_last = observation.ndim == 3 and observation.shape[-1] in (1, 3)
        if channels_last and observation.shape[-1] == 3:
            return observation
        newest = observation[..., -1] if channels_last else observation[-1] if observation.ndim == 3 else observation
        return np.repeat(newest[..., None], 3, axis=-1)
    layers = np.atleast_3d(observation).astype(np.float32)
    picture = np.zeros((*layers.shape[:2], 3), np.float32)
    for c in range(layers.shape[-1]):
        colour = np.asarray(colorsys.hsv_to_rgb(c / layers.shape[-1], 0.65 if layers.shape[-1] > 1 else 0.0, 1.0))
        there = np.clip(np.abs(layers[..., c : c + 1]), 0, 1)
        picture = np.where(there > 0, there * colour, picture)
    return np.asarray(np.round(picture * 255), np.uint8)


def enlarged(picture: Array) -> Array:
    """Every point a square of several."""
    factor = max(1, round(SIDE / min(picture.shape[:2])))
    return picture.repeat(factor, axis=0).repeat(factor, axis=1)


def _has_twin(spec: EnvSpec) -> bool:
    """Whether Gymnasium has the same environment as EnvPool."""
    if spec.name not in require("gymnasium", "control").registry:
        return False
    twin = environments.find(spec.name, "gymnasium")
    same_actions = vars(twin.actions) == vars(spec.actions)  # whether they are squashed is the policy's affair
    return twin.observations == spec.observations and same_actions


def _seen(spec: EnvSpec, shown: Any, info: Mapping[str, Any], over: bool) -> Seen:
    """What the policy is shown of what one host environment shows."""
    one = {k: np.asarray(v)[None] for k, v in shown.items()} if isinstance(shown, Mapping) else np.asarray(shown)[None]
    observation = spec.observations.seen(one)[0].reshape(spec.shape)
    if not spec.masked:
        return Seen(observation, None)
    told = {key: [value] for key, value in info.items()}
    return Seen(observation, spaces.allowed(spec.name, spec.actions, one, told, np.asarray([over]))[0])


def _first(batch: Any) -> Any:
    """The only environment's of what a vector of one gives."""
    if isinstance(batch, Mapping):
        return {key: _first(value) for key, value in batch.items()}
    return batch[0] if np.ndim(batch) else batch
