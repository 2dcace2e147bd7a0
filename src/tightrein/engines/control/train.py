"""A control run from its configuration to its summary."""

from __future__ import annotations

import dataclasses
import functools
import time
from typing import Any

import numpy as np

from tightrein.engines.control import environments
from tightrein.engines.control.behaviour import sampler_of
from tightrein.engines.control.compose import with_actions
from tightrein.engines.control.config import ControlConfig, Plan
from tightrein.engines.control.device import DeviceEnv
from tightrein.engines.control.device_trainer import DeviceTrainer
from tightrein.engines.control.environments import EnvSpec
from tightrein.engines.control.grid import Grid, check_traceable, composed, point_summary, text_of
from tightrein.engines.control.host_trainer import HostTrainer
from tightrein.engines.control.learner import Learner
from tightrein.engines.control.networks import Architecture, automatic
from tightrein.engines.control.parallel import prepare
from tightrein.engines.control.replay import ReplayLearner
from tightrein.engines.control.snapshot import from_arrays, to_arrays
from tightrein.engines.control.trainer import Figures, Trainer
from tightrein.errors import TightreinError
from tightrein.objective.base import Objective
from tightrein.objective.policy import PolicyObjective
from tightrein.objective.replay import ReplayObjective
from tightrein.runs import Interrupt, Run
from tightrein.step import FixUp, SecondOrder

Array = Any


def train(config: ControlConfig) -> dict[str, Any]:
    """Trains every seed of `config` at every point of its grid, writing the run folder, and returns its summary.

    Raises:
        TightreinError: for anything the user can put right: names, numbers, a run that is already there, a full
            disk, or training that left the finite numbers.
    """
    prepare(environments.shows_images(config.env, config.backend), several=config.seeds > 1 or bool(config.grid))
    method, notes, grid = composed(config)
    spec = environments.find(config.env, config.backend, config.squash)
    method = with_actions(method, spec.actions)
    plan = Plan.of(config, method.training)
    sampler_of(method, plan)  # this and the next raise before there is a folder
    learner = learner_of(method.objective, config, method, spec, plan)
    notes += check_traceable(learner, grid, config.seeds)
    described = describe(config, method, spec, plan, notes, grid)
    run = Run.create(config.folder, described, resume=config.resume, quiet=config.quiet)
    if not config.quiet:
        print("".join(f"note: {note}\n" for note in notes), end="", flush=True)
    with Interrupt() as stop:  # from here on Ctrl-C ends in a checkpoint
        trainer = trainer_of(config, method, spec, plan, grid)
        return _Training(config, plan, run, trainer, spec, grid).go(stop)


def describe(
    config: ControlConfig, method: Any, spec: EnvSpec, plan: Plan, notes: list[str], grid: Grid
) -> dict[str, Any]:
    """What config.json holds: the configuration, and all that it left open."""
    given = {
        name: value
        for name, value in dataclasses.asdict(config).items()
        if name not in ("out", "resume", "quiet", "grid")
    }
    found = {"envs": plan.envs, "rollout": plan.rollout, "backend": spec.backend, "network": network_of(config, spec)}
    flags = dict(zip(("normalise_obs", "normalise_reward"), normalisation(config, method, spec), strict=True))
    return {"engine": "control", **given, **found, **flags, **grid.described(method.settings()), "notes": notes}


def normalisation(config: ControlConfig, method: Any, spec: EnvSpec) -> tuple[bool, bool]:
    """Whether observations and rewards are normalised: as told, else by one rule.

    Both are for continuous actions on a host simulator (MuJoCo and its like). Rewards are scaled too wherever the
    method's value loss has a range: that is meant for values of order 1 and holds back any that are far larger.
    Neither is where transitions are kept.
    """
    if method.replay is not None:  # what is kept would be read by statistics of another time
        return bool(config.normalise_obs), bool(config.normalise_reward)
    value = method.objective.value if method.critic is None else method.critic.loss
    automatic = spec.normalises, spec.normalises or value.ranged
    told = config.normalise_obs, config.normalise_reward
    obs, reward = (rule if flag is None else flag for rule, flag in zip(automatic, told, strict=True))
    return obs, reward


def trainer_of(config: ControlConfig, method: Any, spec: EnvSpec, plan: Plan, grid: Grid | None = None) -> Trainer:
    """The trainer for where the environment runs, of every seed at every point of the grid."""
    learner: Any = learner_of(method.objective, config, method, spec, plan)
    rows = (grid or Grid()).rows(_seeds(config))
    if spec.on_device:
        env = DeviceEnv(*environments.make_gymnax(spec.name))
        return DeviceTrainer(learner, env, rows, config.eval_episodes)
    return HostTrainer(learner, spec, rows, config.eval_episodes)


@functools.singledispatch
def learner_of(objective: Objective, config: ControlConfig, method: Any, spec: EnvSpec, plan: Plan) -> Any:
    """What learns, by the kind of the method's objective.

    Raises:
        TightreinError: the method and the environment, or the network, do not go together.
    """
    raise TypeError(f"nothing learns from {type(objective).__name__}")


@learner_of.register
def _(objective: PolicyObjective, config: ControlConfig, method: Any, spec: EnvSpec, plan: Plan) -> Learner:
    architecture = architecture_of(config, method, spec)
    return Learner(method, plan, spec, architecture, *normalisation(config, method, spec))


@learner_of.register
def _(objective: ReplayObjective, config: ControlConfig, method: Any, spec: EnvSpec, plan: Plan) -> ReplayLearner:
    return ReplayLearner.of(config, method, spec, plan, normalisation(config, method, spec))


def network_of(config: ControlConfig, spec: EnvSpec) -> str:
    """The network by its name: as told, else by the shape of observations."""
    return automatic(spec.shape, spec.pixels) if config.network == "auto" else config.network


def architecture_of(config: ControlConfig, method: Any, spec: EnvSpec) -> Architecture:
    """The network: as told, else by one rule, images through a torso for images and vectors through none.

    Raises:
        TightreinError: no such network, one that cannot read the observations, or that shares what the method moves
            apart.
    """
    architecture = Architecture.of(network_of(config, spec), config.hidden, config.memory, method.heads, spec.shape)
    if spec.pixels and config.normalise_obs:
        raise TightreinError(
            "images are scaled to 0 ... 1 by the network, and normalised ones would be kept as floats",
            "leave out --normalise-obs",
        )
    apart = method.critic is not None or isinstance(method.step, (SecondOrder, FixUp))
    if architecture.shares and (apart or method.behaviour is not None):
        raise TightreinError(
            f"{method.key} moves the policy apart from the value network, and here they would share layers",
            "use --network mlp --memory 0, or another method",
        )
    if config.value_hidden is None:
        return architecture
    if architecture.shares or method.heads is not None:
        raise TightreinError(
            "value_hidden is for a value network of its own, and here policy and value belong together",
            "leave out --value-hidden",
        )
    return dataclasses.replace(architecture, value_hidden=config.value_hidden)


class _Training:
    """The loop over iterations: run to the next stop, log, evaluate, save."""

    def __init__(
        self, config: ControlConfig, plan: Plan, run: Run, trainer: Trainer, spec: EnvSpec, grid: Grid
    ) -> None:
        self._config, self._plan, self._run, self._trainer, self._spec = config, plan, run, trainer, spec
        self._rows = grid.rows(_seeds(config))
        self._iteration = self._saved = 0
        self._evaluated: dict[str, list[float]] = {}
        self._broken: dict[int, int] = {}  # of a grid: row -> iteration after which it was no longer finite

    def go(self, stop: Interrupt) -> dict[str, Any]:
        """From the start or the last checkpoint to the end or an interruption."""
        plan, began = self._plan, time.monotonic()
        self._restore()
        self._trainer.run(self._iteration, 0)  # compiles
        compiled = time.monotonic()
        points = len(self._rows.points) // self._config.seeds
        label = f"{self._config.method} on {self._config.env} ({self._spec.backend})"
        label += f", {points} points" if points else ""
        total = plan.iterations * plan.batch
        if not self._iteration:
            self._log([{}] * len(self._rows.seeds), evaluated=True)
        with self._run.progress(total, label, start=self._step) as progress:
            while self._iteration < plan.iterations and not stop.requested:
                shown = self._advance()
                progress.update(self._step, **shown)
        if stop.requested and self._iteration < plan.iterations:
            self._interrupted()
        return self._summary(compiled - began, time.monotonic() - compiled)

    @property
    def _step(self) -> int:
        return self._iteration * self._plan.batch

    def _advance(self) -> dict[str, float | str]:
        """One chunk; returns what the progress line shows."""
        plan, began, first = self._plan, time.monotonic(), self._iteration
        stop = plan.next_stop(first)
        figures = self._trainer.run(first, stop - first)
        self._check(figures)
        self._iteration = stop
        rate = (stop - first) * plan.batch * len(self._rows.seeds) / (time.monotonic() - began)
        lines = self._log(self._lines(figures, rate), stop % plan.eval_every == 0 or stop == plan.iterations)
        if stop % plan.checkpoint_every == 0 or stop == plan.iterations:
            self._save()
        return {**_shown(lines), **self._best()}

    def _log(self, lines: list[dict[str, float]], evaluated: bool) -> list[dict[str, float]]:
        """Write a line of metrics for each row, evaluated first if it is time to."""
        if evaluated:
            returns = self._trainer.evaluate(self._iteration).tolist()
            self._evaluated[str(self._step)] = returns
            lines = [{**line, "eval_return": value} for line, value in zip(lines, returns, strict=True)]
        for row, line in enumerate(lines):
            self._run.log(self._step, **self._rows.named(row), **line)
        return lines

    def _lines(self, figures: Figures, rate: float) -> list[dict[str, float]]:
        """One line of metrics a row; mean return and length only where an episode finished."""
        lines = []
        for s in range(len(self._rows.seeds)):
            episodes = float(figures.count[s])
            sums = {"return_mean": figures.return_sum[s], "length_mean": figures.length_sum[s]} if episodes else {}
            means = {name: float(value) / episodes for name, value in sums.items()}
            stats = {name: float(values[s]) for name, values in figures.stats.items() if name != "finite"}
            lines.append({**means, "episodes": episodes, **stats, "steps_per_second": rate})
        return lines

    def _check(self, figures: Figures) -> None:
        """Raise TightreinError where a row is no longer finite; of a grid, where no row is."""
        found = {row: iteration for row, iteration in enumerate(figures.broken.tolist()) if iteration >= 0}
        self._broken = {**found, **self._broken}
        if not found or (self._rows.points and len(found) < len(self._rows.seeds)):
            return
        row = min(found)
        intact = f"the checkpoint of step {self._saved} is intact" if self._saved else "there is no checkpoint yet"
        where = f"seed {self._rows.seeds[row]}" + (" and all other rows" if self._rows.points else "")
        raise TightreinError(
            f"{where}: loss or parameters are no longer finite after update {self._broken[row] + 1}; {intact}",
            "lower --learning-rate, --set step.max_grad_norm=0.5, or use --normalise-obs --normalise-reward",
        )

    def _save(self) -> None:
        extra = {"iteration": self._iteration, "evaluated": self._evaluated}
        extra |= {"broken": [*self._broken.items()]} if self._broken else {}
        self._run.checkpoint(self._step, to_arrays(self._trainer.state), extra)
        self._saved = self._step
        self._trainer.cut(self._iteration)

    def _restore(self) -> None:
        checkpoint = self._run.latest() if self._config.resume else None
        if checkpoint is None:
            return
        self._trainer.state = from_arrays(self._trainer.state, checkpoint.arrays)
        self._iteration, self._evaluated = checkpoint.extra["iteration"], checkpoint.extra["evaluated"]
        self._broken = dict(checkpoint.extra.get("broken", ()))
        self._saved = checkpoint.step
        self._trainer.cut(self._iteration)

    def _interrupted(self) -> None:
        """Device states are saved as they are; host simulators cannot be, so their last checkpoint stands."""
        if self._spec.on_device and self._saved != self._step:
            self._save()
        if not self._config.quiet:
            print(f"stopped at step {self._step}; --resume goes on from step {self._saved}", flush=True)

    def _summary(self, compile_seconds: float, seconds: float) -> dict[str, Any]:
        done = self._iteration >= self._plan.iterations
        last = self._evaluated.get(str(self._step))
        summary = {
            "method": self._config.method, "env": self._config.env, "backend": self._spec.backend,
            "seeds": list(_seeds(self._config)), "step": self._step, "interrupted": not done,
            "folder": str(self._config.folder),
            "eval_return": last, "eval_return_mean": None if last is None else float(np.mean(last)),
            "compile_seconds": compile_seconds, "seconds": seconds,
        }  # fmt: skip
        if last is not None and self._rows.points:
            summary = {name: value for name, value in summary.items() if not name.startswith("eval_return")}
            summary["points"] = self._points(last)
        if done:
            self._run.finish(summary)
        return summary

    def _points(self, returns: list[float]) -> list[dict[str, Any]]:
        return point_summary(self._rows, returns, self._broken)

    def _best(self) -> dict[str, str]:
        """Of a grid the point that leads, for the progress line."""
        if not self._rows.points:
            return {}
        best = self._points([*self._evaluated.values()][-1])[0]
        return {"best": f"{best['eval_return_mean']:.4g} ({text_of(best['point'])})"}


def _seeds(config: ControlConfig) -> range:
    return range(config.seed, config.seed + config.seeds)


def _shown(lines: list[dict[str, float]]) -> dict[str, float | str]:
    """Means over rows of what the progress line has room for."""
    names = {"return_mean": "return", "eval_return": "eval", "kl_k3": "kl", "entropy": "entropy"}
    found = {shown: [line[name] for line in lines if name in line] for name, shown in names.items()}
    return {shown: float(np.mean(values)) for shown, values in found.items() if values}
