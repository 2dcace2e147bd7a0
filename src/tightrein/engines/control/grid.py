"""A grid of settings: every combination of their values is a point, and all points train side by side."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from tightrein.engines.control.compose import compose
from tightrein.engines.control.config import ControlConfig
from tightrein.engines.control.networks import Inputs
from tightrein.engines.control.rollout import Rollout
from tightrein.engines.control.trainer import Rows
from tightrein.engines.settings import flags, pairs
from tightrein.errors import TightreinError

EXAMPLE = "learning_rate=1e-4,3e-4,1e-3"
RATE = "learning_rate"  # the only flag that is a setting which can be traced
ROOM = 2 * 2**30  # bytes; a run that may need more says so


@dataclass(frozen=True)
class Grid:
    """Whole paths of settings, each with its values. Without any, the one point is the method as it is."""

    axes: Mapping[str, tuple[float, ...]] = dataclasses.field(default_factory=dict)

    @classmethod
    def of(cls, config: ControlConfig, method: Any) -> Grid:
        """What `--grid` asks for, for the method that the rest of `config` makes; values are not yet checked.

        Raises:
            TightreinError: a setting that is unknown, set elsewhere, asked for twice, or not to be varied; a value
                that is no number, or there twice.
        """
        axes: dict[str, tuple[float, ...]] = {}
        taken = {_resolved(config, method, name) for name in config.overrides}
        taken |= set() if config.learning_rate is None else {_resolved(config, method, RATE)}
        for name, text in (pair for item in config.grid for pair in pairs("--grid", (item,), EXAMPLE).items()):
            path = _resolved(config, method, name)
            if path in taken:
                raise TightreinError(f"{name} stands in --grid and is set too", "leave out one of the two")
            if path in axes:
                raise TightreinError(f"{path} is in the grid twice", "give all its values in one --grid")
            _check_kind(method, path)
            axes[path] = _numbers(name, text)
        return cls(axes)

    @property
    def points(self) -> list[dict[str, float]]:
        """Path -> value of each point; the last setting varies fastest."""
        return [dict(zip(self.axes, values, strict=True)) for values in itertools.product(*self.axes.values())]

    def rows(self, seeds: Sequence[int]) -> Rows:
        """All seeds of the first point, then of the next."""
        if not self.axes:
            return Rows(seeds)
        each = [point for point in self.points for _ in seeds]
        values = {path: jnp.asarray([point[path] for point in each], jnp.float32) for path in self.axes}
        return Rows([*seeds] * len(self.points), values, [self.short(point) for point in each])

    def short(self, point: Mapping[str, float]) -> dict[str, float]:
        """The point with the last words of its paths for names, where these tell them apart."""
        last = [path.rpartition(".")[2] for path in self.axes]
        return {path if last.count(name) > 1 else name: point[path] for name, path in zip(last, self.axes, strict=True)}

    def described(self, settings: Mapping[str, Any]) -> dict[str, Any]:
        """What config.json says of it: settings with all values of those that vary, and the grid where there is one."""
        axes = {path: list(values) for path, values in self.axes.items()}
        return {"settings": {**settings, **axes}, **({"grid": axes} if axes else {})}


def composed(config: ControlConfig) -> tuple[Any, list[str], Grid]:
    """The method at the first point of the grid, notes on what was replaced, and the grid: each point is checked.

    Raises:
        TightreinError: as `compose`, for the configuration or a point; or as `Grid.of`.
    """
    method, notes = compose(config)
    if not config.grid:
        return method, notes, Grid()
    grid = Grid.of(config, method)
    told = ([f"{path}={value!r}" for path, value in point.items()] for point in grid.points)
    methods = [compose(dataclasses.replace(config, set=(*config.set, *items))) for items in told]
    return methods[0][0], list(dict.fromkeys(note for _, notes in methods for note in notes)), grid


def check_traceable(learner: Any, grid: Grid, seeds: int) -> list[str]:
    """Tries the learner with all settings of the grid at once; a note where its rows need much memory.

    Raises:
        TightreinError: a setting decides the shape of the computation.
    """
    if not grid.axes:
        return []
    try:
        size = _size(learner, grid.axes)
    except TypeError:  # JAX's errors about values that are not known yet are of this kind
        for path in grid.axes:
            _check_alone(learner, path)
        raise
    rows = seeds * len(grid.points)
    if rows * size <= ROOM:
        return []
    return [f"{rows} rows side by side need about {rows * size / 2**30:.0f} GB; fewer seeds or points need less"]


def point_summary(rows: Rows, returns: Sequence[float], broken: Mapping[int, int]) -> list[dict[str, Any]]:
    """Of each point the mean evaluation return with its spread over seeds, best first.

    broken: row -> iteration at which its parameters left the finite numbers; its point comes last.
    """
    points: dict[str, dict[str, Any]] = {}
    for row, (seed, point) in enumerate(zip(rows.seeds, rows.points, strict=True)):
        entry = points.setdefault(text_of(point), {"point": dict(point), "eval_return": [], "diverged": {}})
        entry["eval_return"].append(returns[row])
        entry["diverged"] |= {str(seed): broken[row] + 1} if row in broken else {}
    for entry in points.values():
        found = entry["eval_return"]
        entry["eval_return_mean"] = float(np.mean(found))
        entry["eval_return_std"] = float(np.std(found, ddof=1)) if len(found) > 1 else None
    return sorted(points.values(), key=lambda entry: (bool(entry["diverged"]), -entry["eval_return_mean"]))


def text_of(point: Mapping[str, float]) -> str:
    """learning_rate=0.001 entropy=0.01."""
    return " ".join(f"{name}={value:g}" for name, value in point.items())


def _resolved(config: ControlConfig, method: Any, name: str) -> str:
    """The whole path of a setting, or of the flag `learning_rate`.

    Raises TightreinError for another flag, and for what does not exist.
    """
    if name == RATE:
        asked = dataclasses.replace(config, epochs=None, minibatches=None, learning_rate=1.0)
        return next(iter(flags(asked, method)))
    if name in {f.name for f in dataclasses.fields(config)}:
        if name in ("seed", "seeds"):
            raise TightreinError("seeds are no part of a grid", "give --seeds N: every point has all of them")
        raise _one_after_another(name, "is not a number that rows side by side can differ in", f"--{name}")
    path: str = method._resolve(name)
    return path


def _check_kind(method: Any, path: str) -> None:
    """Raise TightreinError where the setting is none of a real number."""
    owner, _, name = path.rpartition(".")
    part = dict(method.walk())[owner] if owner else method
    declared = str({f.name: f.type for f in dataclasses.fields(part)}.get(name))
    if not declared.startswith("float"):
        raise _one_after_another(path, f"is a {declared}: it decides the shape of the computation", f"--set {path}=")


def _numbers(name: str, text: str) -> tuple[float, ...]:
    values = []
    for word in text.split(","):
        try:
            value = float(word)
        except ValueError:
            if word.strip().lower() in ("none", "true", "false"):
                raise _one_after_another(name, f"cannot be {word} in a grid, which holds numbers", f"--set {name}=")  # noqa: B904
            raise TightreinError(f"--grid {name}: {word!r} is not a number", f"for example --grid {EXAMPLE}") from None
        if math.isnan(value) or value in values:
            reason = "is not a number" if math.isnan(value) else "is there twice"
            raise TightreinError(f"--grid {name}: {word} {reason}", "give different numbers")
        values.append(value)
    return tuple(values)


def _one_after_another(name: str, reason: str, flag: str) -> TightreinError:
    return TightreinError(f"{name} {reason}, which all rows share", f"run these one after another, with {flag}")


def _check_alone(learner: Any, path: str) -> None:
    try:
        _size(learner, [path])
    except TypeError:
        raise _one_after_another(path, "decides the shape of the computation", f"--set {path}=") from None


def _size(learner: Any, paths: Iterable[str]) -> int:
    """Bytes of one row, about: traces an iteration with the settings at `paths` unknown; nothing is computed."""

    def iteration(values: dict[str, Any]) -> Any:
        at = learner.at(values)
        state = at.init(*learner.networks(0))
        key = jax.random.key(0)
        if at.sampler is None:
            rollout = _nothing(state.network, at)
        else:
            rollout, state = None, at.acting(state, key)[1]
        after, _ = at.learn(state, rollout, key, jnp.int32(0), jnp.asarray(True))
        return after, rollout

    unknown: Any = jax.eval_shape(lambda: jnp.float32(0))
    after, rollout = jax.eval_shape(iteration, dict.fromkeys(paths, unknown))
    return 2 * _bytes(after) + 4 * _bytes(rollout)  # kept and new, and what becomes of the rollout


def _nothing(network: Any, learner: Any) -> Rollout:
    """A rollout of zeros."""
    shape = learner.plan.rollout, learner.plan.envs
    zero = jnp.zeros(shape)
    observation = jnp.zeros((*shape, *learner.spec.shape), learner.spec.dtype)
    memory = network.nothing(*shape)
    begins = None if memory is None else zero
    dist, _ = network.act(Inputs(observation, None, begins, memory))
    action = network.actions.mode(dist)
    return Rollout(observation, action, zero, zero, zero, observation, zero, None, begins, memory)


def _bytes(tree: Any) -> int:
    return sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))
