"""Finding an environment by name, and what the engine must know about it before training."""

from __future__ import annotations

import dataclasses
import importlib.util
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from tightrein.engines.control.actions import Actions, ContinuousActions, SquashedActions
from tightrein.engines.control.spaces import Observations, actions_of, masked
from tightrein.errors import TightreinError, nearest

BACKENDS = ("gymnax", "envpool", "gymnasium")  # in the order in which "auto" tries them


@dataclass(frozen=True)
class EnvSpec:
    """An environment that exists: its backend, observations and actions, and whether it tells which are allowed."""

    name: str
    backend: str
    observations: Observations
    actions: Actions
    action_dtype: str
    masked: bool

    @property
    def shape(self) -> tuple[int, ...]:
        """Of an observation."""
        return self.observations.shape

    @property
    def dtype(self) -> str:
        """Of observations, as networks are given them."""
        return self.observations.dtype

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


def find(name: str, backend: str = "auto", squash: bool = False) -> EnvSpec:
    """The environment `name` on `backend`, or with "auto" on the first of gymnax, EnvPool, Gymnasium that has it.

    squash: keep actions within their bounds by tanh, in the place of clipping.

    Raises:
        TightreinError: no such backend, backend not installed, no such environment, spaces that are not supported,
            or actions that have no bounds to be squashed between.
    """
    if backend != "auto" and backend not in BACKENDS:
        raise TightreinError(f"unknown backend {backend!r}", f"use one of: auto, {', '.join(BACKENDS)}")
    tried = [b for b in (BACKENDS if backend == "auto" else (backend,)) if _installed(b, required=backend != "auto")]
    for candidate in tried:
        if name in _names(candidate):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # simulators warn of the precision of their own bounds
                spec = _SPECS[candidate](name)
            return _squashed(spec) if squash else spec
    raise _unknown(name, tried)


def shows_images(name: str, backend: str = "auto") -> bool:
    """Whether the environment is one of EnvPool's with pixels: found out without JAX, which gymnax begins to use."""
    if backend not in ("auto", "envpool") or not _installed("envpool", required=False) or name not in _envpool_names():
        return False
    import envpool

    try:
        space = envpool.make_spec(name).observation_space
    except Exception:  # whatever is wrong is said when the environment is made
        return False
    return bool(getattr(space, "dtype", None) == np.uint8)


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
    observations = Observations.of(name, env.observation_space(params))
    if observations.key is not None and not hasattr(env, "action_mask"):
        raise TightreinError(
            f"{name} shows a mask, but has no action_mask(state, params)", "give it one, which returns that mask"
        )
    space = env.action_space(params)
    return EnvSpec(name, "gymnax", observations, actions_of(name, space), str(space.dtype), hasattr(env, "action_mask"))


def _from_envpool(name: str) -> EnvSpec:
    try:
        env = make_envpool(name, [0], threads=1)
        shown, info = env.reset()
    except Exception as error:  # EnvPool raises whatever its simulator raises (missing assets, bad files)
        raise TightreinError(f"EnvPool cannot make {name!r}: {error}", "try --backend gymnasium") from error
    if "id" in info.get("players", ()):
        raise TightreinError(f"{name} is played by several players", "choose an environment for one")
    return _from_host(name, "envpool", env, shown, info)


def _from_gymnasium(name: str) -> EnvSpec:
    import gymnasium

    try:
        env = gymnasium.make(name)
        shown, info = env.reset(seed=0)
    except Exception as error:  # gymnasium raises whatever the environment's own package raises
        raise TightreinError(f"Gymnasium cannot make {name!r}: {error}", "install what the message names") from error
    spec = _from_host(name, "gymnasium", env, shown, info)
    env.close()
    return spec


def _from_host(name: str, backend: str, env: Any, shown: Any, info: Any) -> EnvSpec:
    """shown, info: what the environment's reset gave."""
    actions = actions_of(name, env.action_space)
    return EnvSpec(
        name, backend, Observations.of(name, env.observation_space), actions, str(env.action_space.dtype),
        masked(name, actions, shown, info),
    )  # fmt: skip


def _squashed(spec: EnvSpec) -> EnvSpec:
    actions = spec.actions
    if not isinstance(actions, ContinuousActions):
        raise TightreinError(f"{spec.name}: only continuous actions can be squashed", "leave out --squash")
    widths = np.subtract(actions.high, actions.low)
    if not (np.isfinite(widths) & (widths > 0)).all():
        raise TightreinError(
            f"{spec.name}: its actions have no bounds to be squashed between ({actions.low} to {actions.high})",
            "leave out --squash, or register it wrapped in gymnasium.wrappers.RescaleAction",
        )
    return dataclasses.replace(spec, actions=SquashedActions(actions.low, actions.high))


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
