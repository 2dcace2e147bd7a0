"""Finding an environment by name, and what the engine must know about it before training."""

from __future__ import annotations

import importlib.util
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from tightrein.engines.control.actions import Actions, ContinuousActions, DiscreteActions
from tightrein.errors import TightreinError, nearest

BACKENDS = ("gymnax", "envpool", "gymnasium")  # in the order in which "auto" tries them


@dataclass(frozen=True)
class EnvSpec:
    """An environment that exists: its backend, the shape and kind of its observations, and its actions."""

    name: str
    backend: str
    shape: tuple[int, ...]
    dtype: str
    actions: Actions
    action_dtype: str

    @property
    def on_device(self) -> bool:
        """Whether it runs inside the compiled training."""
        return self.backend == "gymnax"

    @property
    def pixels(self) -> bool:
        """Whether observations are images: whole numbers of 0 to 255, which are kept as such."""
        return self.dtype == "uint8"

    @property
    def normalises(self) -> bool:
        """The rule for automatic normalisation: continuous actions on a host simulator (MuJoCo and its like)."""
        return not self.on_device and isinstance(self.actions, ContinuousActions)


def find(name: str, backend: str = "auto") -> EnvSpec:
    """The environment `name` on `backend`, or with "auto" on the first of gymnax, EnvPool, Gymnasium that has it.

    Raises:
        TightreinError: no such backend, backend not installed, no such environment, or spaces that are not supported.
    """
    if backend != "auto" and backend not in BACKENDS:
        raise TightreinError(f"unknown backend {backend!r}", f"use one of: auto, {', '.join(BACKENDS)}")
    tried = [b for b in (BACKENDS if backend == "auto" else (backend,)) if _installed(b, required=backend != "auto")]
    for candidate in tried:
        if name in _names(candidate):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # simulators warn of the precision of their own bounds
                return _SPECS[candidate](name)
    raise _unknown(name, tried)


def make_gymnax(name: str) -> tuple[Any, Any]:
    """gymnax's environment and its default parameters."""
    import gymnax

    env, params = gymnax.make(name)
    if not hasattr(env, "is_truncated"):
        raise TightreinError(
            f"gymnax {getattr(gymnax, '__version__', '?')} merges time limits into termination",
            "install gymnax >= 1.0, or choose --backend envpool or gymnasium",
        )
    return env, params


def make_envpool(name: str, seeds: list[int], threads: int) -> Any:
    """EnvPool's vector of len(seeds) environments."""
    import envpool

    return envpool.make(name, env_type="gymnasium", num_envs=len(seeds), num_threads=threads, seed=seeds)


def _installed(backend: str, required: bool) -> bool:
    if importlib.util.find_spec(backend) is not None:
        return True
    if required:
        raise TightreinError(f"backend {backend!r} is not installed", "pip install 'tightrein[control]'")
    return False


def _names(backend: str) -> list[str]:
    return list(_LISTS[backend]())


def _gymnax_names() -> list[str]:
    import gymnax

    return list(gymnax.registered_envs)


def _envpool_names() -> list[str]:
    import envpool

    return list(envpool.list_all_envs())


def _gymnasium_names() -> list[str]:
    import gymnasium

    return list(gymnasium.registry)


def _unknown(name: str, tried: list[str]) -> TightreinError:
    lines = []
    for backend in tried:
        names = _names(backend)
        near = nearest(name, names)
        offer = f"nearest: {', '.join(near)}" if near else f"for example: {', '.join(names[:3])}"
        lines.append(f"{backend} offers {len(names)} environments, {offer}")
    return TightreinError(f"unknown environment {name!r}", "; ".join(lines) or "pip install 'tightrein[control]'")


def _from_gymnax(name: str) -> EnvSpec:
    env, params = make_gymnax(name)
    return _spec(name, "gymnax", env.observation_space(params), env.action_space(params))


def _from_envpool(name: str) -> EnvSpec:
    try:
        env = make_envpool(name, [0], threads=1)
    except Exception as error:  # EnvPool raises whatever its simulator raises (missing assets, bad files)
        raise TightreinError(f"EnvPool cannot make {name!r}: {error}", "try --backend gymnasium") from error
    return _spec(name, "envpool", env.observation_space, env.action_space)


def _from_gymnasium(name: str) -> EnvSpec:
    import gymnasium

    try:
        env = gymnasium.make(name)
    except Exception as error:  # gymnasium raises whatever the environment's own package raises
        raise TightreinError(f"Gymnasium cannot make {name!r}: {error}", "install what the message names") from error
    spec = _spec(name, "gymnasium", env.observation_space, env.action_space)
    env.close()
    return spec


def _spec(name: str, backend: str, observation: Any, action: Any) -> EnvSpec:
    if type(observation).__name__ != "Box":
        raise TightreinError(
            f"{name}: observations of type {type(observation).__name__} are not supported",
            "use one with Box observations",
        )
    shape, dtype = tuple(observation.shape), "uint8" if observation.dtype == np.uint8 else "float32"
    return EnvSpec(name, backend, shape, dtype, _actions(name, action), str(action.dtype))


def _actions(name: str, space: Any) -> Actions:
    kind = type(space).__name__
    if kind == "Discrete" and int(getattr(space, "start", 0)) == 0:
        return DiscreteActions(int(space.n))
    if kind == "Box" and len(space.shape) == 1:
        low, high = (np.broadcast_to(np.asarray(b, np.float32), space.shape) for b in (space.low, space.high))
        return ContinuousActions(tuple(map(float, low)), tuple(map(float, high)))
    raise TightreinError(f"{name}: actions {space} are not supported", "use Discrete actions from 0 or a vector Box")


_LISTS: dict[str, Callable[[], list[str]]] = {
    "gymnax": _gymnax_names,
    "envpool": _envpool_names,
    "gymnasium": _gymnasium_names,
}
_SPECS: dict[str, Callable[[str], EnvSpec]] = {
    "gymnax": _from_gymnax,
    "envpool": _from_envpool,
    "gymnasium": _from_gymnasium,
}
