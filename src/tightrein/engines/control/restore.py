"""A trained policy, from the folder of its run."""

from __future__ import annotations

import dataclasses
import json
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from tightrein.engines.control import environments
from tightrein.engines.control.compose import with_actions
from tightrein.engines.control.config import ControlConfig, Plan
from tightrein.engines.control.environments import EnvSpec
from tightrein.engines.control.evaluate import best_action, remembered
from tightrein.engines.control.grid import composed
from tightrein.engines.control.networks import Inputs
from tightrein.engines.control.normalise import Moments
from tightrein.engines.control.rollout import observe
from tightrein.engines.control.train import learner_of
from tightrein.errors import TightreinError
from tightrein.method import Method
from tightrein.runs import checkpoints
from tightrein.runs.checkpoints import Checkpoint
from tightrein.runs.run import NAME_A_RUN, read_config

Array = Any


class Acting(NamedTuple):
    """What acting takes of a learner's state."""

    network: Any
    observations: Moments | None


class Policy:
    """A trained policy: what to do for an observation.

    Attributes:
        run: the folder it comes from; `step` and `seed` say which of what is in there, and `point` which of a grid.
        evaluated: its mean return at the last evaluation up to that step; None if there was none.
        method, spec: the method and the environment.
        acting: the network, and what observations are normalised with.
    """

    def __init__(
        self, run: Path, step: int, seed: int, point: Mapping[str, float], evaluated: float | None,
        method: Method, spec: EnvSpec, acting: Acting,
    ) -> None:  # fmt: skip
        self.run, self.step, self.seed, self.point, self.evaluated = run, step, seed, point, evaluated
        self.method, self.spec, self.acting = method, spec, acting
        self._best, self._drawn, self._told = jax.jit(best_action), jax.jit(drawn_action), jax.jit(remembered)
        self._memory: Array | None = None
        self.reset(seed=0)

    @property
    def action_dtype(self) -> np.dtype[Any]:
        """Of actions, as the environment wants them."""
        name = re.findall(r"\w+", self.spec.action_dtype)[-1]  # gymnax says <class 'jax.numpy.float32'>
        kind: np.dtype[Any] = np.dtype(name)
        return kind

    def __repr__(self) -> str:
        point = "".join(f", {name}={value:g}" for name, value in self.point.items())
        return f"Policy({self.method.key} on {self.spec.name}, seed {self.seed}{point}, step {self.step})"

    def predict(self, observation: Array, *, sample: bool = False, allowed: Array | None = None) -> Array:
        """The action as the environment wants it, for one raw observation [*shape] or for a batch [N, *shape].

        sample: draw from the policy's distribution; else its mode, the most probable action. allowed: not 0 where an
        action may be taken, [A] or [N, A]. A policy with memory remembers the observations since the last `reset`,
        each row of a batch its own.

        Raises:
            TightreinError: another shape or kind of observation than the policy was trained on.
        """
        batch, single = self._batched(observation)
        seen = self._inputs(batch, allowed)
        if sample:
            self._draws += 1
            action, self._memory = self._drawn(self.acting, seen, jax.random.fold_in(self._stream, self._draws))
        else:
            action, self._memory = self._best(self.acting, seen)
        sent = np.asarray(action, self.action_dtype)
        return sent[0] if single else sent

    def remember(self, reached: Array, reward: Array) -> None:
        """Tells a memory that heeds rewards what the step led to: observations as for `predict`, reward [] or [N]."""
        if self._memory is not None:
            batch, _ = self._batched(reached)
            rewards = np.asarray(reward, np.float32).reshape(len(batch))
            self._memory = self._told(self.acting, self._memory, batch, rewards)

    def reset(self, done: Array | None = None, seed: int | None = None) -> None:
        """Forgets the episode: call it when one begins. Without memory there is nothing to forget.

        done: [N], which rows of a batch begin anew; None: all. seed: of what `predict` draws from now on.
        """
        if seed is not None:
            self._stream, self._draws = jax.random.key(seed), 0
        if done is None or self._memory is None:
            self._memory = None
        else:
            self._memory = self._memory * (1 - np.asarray(done, np.float32))[:, None]

    def _inputs(self, batch: Array, allowed: Array | None) -> Inputs:
        count = len(batch)
        if self._memory is None or len(self._memory) != count:
            self._memory = self.acting.network.nothing(count)
        begins = None if self._memory is None else jnp.zeros(count)
        options = sum(self.spec.actions.options)
        may = None if allowed is None else np.broadcast_to(np.asarray(allowed, np.float32), (count, options))
        return Inputs(batch, may, begins, self._memory)

    def _batched(self, observation: Array) -> tuple[Array, bool]:
        given, shape = self.spec.observations.placed(np.asarray(observation)), self.spec.shape
        if given.shape != shape and given.shape[1:] != shape:
            raise TightreinError(
                f"the observation has shape {given.shape}; {self.spec.name} gives {shape}",
                f"give one observation {shape} or a batch {('N', *shape)}",
            )
        if self.spec.pixels and given.dtype.kind not in "iu":
            raise TightreinError(
                f"the observation is an image of {given.dtype}", "give whole numbers from 0 to 255 (uint8)"
            )
        single = given.shape == shape
        return (given[None] if single else given).astype(self.spec.dtype), single


def load_policy(folder: str | Path, seed: int | None = None) -> Policy:
    """The policy of a control run, finished or not, from its newest checkpoint.

    folder: a run, or one of the checkpoints in it (RUN/checkpoints/step-...). seed: which of the run's seeds; None:
    the one with the best return at the last evaluation. Of a grid the best point is taken. The environment's package
    must be installed, and a method of your own registered.

    Raises:
        TightreinError: no such folder, no control run, no checkpoint, no such seed, or a run of another version.
    """
    run, step = _located(Path(folder))
    config = _control_config(run)
    checkpoint = _checkpoint(run, step)
    method, _, grid = composed(config)
    spec = environments.find(config.env, config.backend, config.squash)
    method = with_actions(method, spec.actions)
    learner = learner_of(method.objective, config, method, spec, Plan.of(config, method.training))
    rows = grid.rows(range(config.seed, config.seed + config.seeds))
    row, evaluated = _row(rows.seeds, checkpoint, seed)
    acting = _restored(learner, checkpoint.arrays, row, run)
    point = rows.points[row] if rows.points else {}
    return Policy(run, checkpoint.step, rows.seeds[row], point, evaluated, method, spec, acting)


def drawn_action(acting: Acting, seen: Inputs, key: Array) -> tuple[Array, Array | None]:
    """What the environment is sent where an action is drawn, and the memory afterwards."""
    actions = acting.network.actions
    seen = eqx.tree_at(lambda s: s.observation, seen, observe(seen.observation, acting.observations))
    dist, memory = acting.network.act(seen)
    return actions.bounded(actions.sample(dist, actions.noise(key, (len(seen.observation),)))), memory


def _located(folder: Path) -> tuple[Path, int | None]:
    """The run folder, and the step where one of its checkpoints was named."""
    named = re.fullmatch(r"step-(\d+)", folder.name)
    if named and folder.parent.name == "checkpoints":
        return folder.parent.parent, int(named[1])
    if folder.is_dir() and not (folder / "config.json").exists():
        inside = [str(path.parent) for path in sorted(folder.glob("*/config.json"))]
        if inside:
            raise TightreinError(f"{folder} is not a run, but holds {len(inside)}", f"name one: {', '.join(inside)}")
    if not folder.exists():
        raise TightreinError(f"there is no folder {folder}", NAME_A_RUN)
    return folder, None


def _control_config(run: Path) -> ControlConfig:
    """What the run was told; what its config.json does not know yet has its default."""
    saved = read_config(run)
    if saved.get("engine") != "control":
        where = f"its model is in {run / 'model'}" if (run / "model").exists() else NAME_A_RUN
        raise TightreinError(f"{run} is not a run of the control engine, but of {saved.get('engine')!r}", where)
    known = {f.name for f in dataclasses.fields(ControlConfig)} - {"out", "resume", "quiet"}
    given: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in saved.items() if name in known}
    return ControlConfig(**given)


def _checkpoint(run: Path, step: int | None) -> Checkpoint:
    folder = run / "checkpoints"
    if step is not None and step not in checkpoints.steps(folder):
        there = ", ".join(map(str, checkpoints.steps(folder))) or "none"
        raise TightreinError(f"{run} has no checkpoint of step {step} (there: {there})", "name the run itself")
    newest = checkpoints.newest_intact(folder) if step is None else step
    if newest is None:
        raise TightreinError(
            f"{run} has no checkpoint", "wait for its first, or train with a smaller --checkpoint-every"
        )
    try:
        return checkpoints.load(folder, newest)
    except (OSError, ValueError) as error:  # removed by a run that goes on meanwhile, or cut short
        raise TightreinError(f"checkpoint {newest} of {run} cannot be read: {error}", "name the run itself") from error


def _row(seeds: Sequence[int], checkpoint: Checkpoint, seed: int | None) -> tuple[int, float | None]:
    """Which of the run's rows, and how it did at the last evaluation: of those of the seed the best."""
    past = {int(step): returns for step, returns in checkpoint.extra.get("evaluated", {}).items()}
    past = {step: returns for step, returns in past.items() if step <= checkpoint.step}
    last: list[float | None] = past[max(past)] if past else [None] * len(seeds)
    mine = [row for row, its in enumerate(seeds) if seed in (None, its)]
    if not mine:
        raise TightreinError(f"the run has no seed {seed}", f"it has {', '.join(map(str, dict.fromkeys(seeds)))}")

    def known(row: int) -> float:
        value = last[row]
        return -math.inf if value is None or math.isnan(value) else value

    best = max(mine, key=known)
    return best, last[best]


def _restored(learner: Any, arrays: Mapping[str, Array], row: int, run: Path) -> Acting:
    """What acts, from a row of a checkpoint of a device run ("learner. ...") or of a host run."""
    state = jax.eval_shape(lambda networks: learner.init(*networks), learner.networks(0))
    prefix = "learner." if any(name.startswith("learner.") for name in arrays) else ""

    def read(path: Any, wanted: Any) -> Any:
        name = prefix + jax.tree_util.keystr(path, simple=True, separator=".")
        if name not in arrays or arrays[name].shape[1:] != wanted.shape:
            return wanted  # most of it is of the optimizer, of no use here
        return jnp.asarray(arrays[name][row], wanted.dtype)

    filled = jax.tree_util.tree_map_with_path(read, state)
    acting = Acting(filled.network, filled.observations)
    missing = [x for x in jax.tree.leaves(acting) if isinstance(x, jax.ShapeDtypeStruct)]
    if missing:
        raise TightreinError(
            f"the checkpoint in {run} does not fit: {len(missing)} arrays of the network are missing or have other "
            f"shapes, among them one of {missing[0].shape}",
            f"use the version that wrote it: {_wrote(run)}",
        )
    return acting


def _wrote(run: Path) -> str:
    """The version and commit that made the run, as far as it tells."""
    try:
        made = json.loads((run / "environment.json").read_text("utf-8"))
    except (OSError, ValueError):
        return f"{run / 'environment.json'} cannot be read"
    commit = made.get("commit")
    return f"tightrein {made.get('versions', {}).get('tightrein', '?')}" + (f", commit {commit}" if commit else "")
