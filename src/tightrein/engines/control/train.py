"""A control run from its configuration to its summary."""

from __future__ import annotations

import dataclasses
import time
from typing import Any

import numpy as np

import tightrein as tr
from tightrein.engines.control import environments
from tightrein.engines.control.behaviour import sampler_of
from tightrein.engines.control.compose import compose, with_actions
from tightrein.engines.control.config import ControlConfig, Plan
from tightrein.engines.control.device import DeviceEnv
from tightrein.engines.control.device_trainer import DeviceTrainer
from tightrein.engines.control.environments import EnvSpec
from tightrein.engines.control.host_trainer import HostTrainer
from tightrein.engines.control.learner import Learner
from tightrein.engines.control.networks import Architecture
from tightrein.engines.control.snapshot import from_arrays, to_arrays
from tightrein.engines.control.trainer import Figures, Rows, Trainer
from tightrein.errors import TightreinError
from tightrein.runs import Interrupt, Run

Array = Any


def train(config: ControlConfig) -> dict[str, Any]:
    """Trains every seed of `config`, writing the run folder, and returns its summary.

    Raises:
        TightreinError: for anything the user can put right: names, numbers, a run that is already there, a full
            disk, or training that left the finite numbers.
    """
    method, notes = compose(config)
    spec = environments.find(config.env, config.backend)
    method = with_actions(method, spec.actions)
    plan = Plan.of(config, method.training)
    sampler_of(method, plan)  # raises before there is a folder
    run = Run.create(
        config.folder, describe(config, method, spec, plan, notes), resume=config.resume, quiet=config.quiet
    )
    if not config.quiet:
        print("".join(f"note: {note}\n" for note in notes), end="", flush=True)
    with Interrupt() as stop:  # from here on Ctrl-C ends in a checkpoint
        return _Training(config, plan, run, trainer_of(config, method, spec, plan), spec).go(stop)


def describe(config: ControlConfig, method: Any, spec: EnvSpec, plan: Plan, notes: list[str]) -> dict[str, Any]:
    """What config.json holds: the configuration, and all that it left open."""
    given = {
        name: value for name, value in dataclasses.asdict(config).items() if name not in ("out", "resume", "quiet")
    }
    shape = {"envs": plan.envs, "rollout": plan.rollout, "backend": spec.backend}
    flags = dict(zip(("normalise_obs", "normalise_reward"), normalisation(config, method, spec), strict=True))
    return {"engine": "control", **given, **shape, **flags, "settings": method.settings(), "notes": notes}


def normalisation(config: ControlConfig, method: Any, spec: EnvSpec) -> tuple[bool, bool]:
    """Whether observations and rewards are normalised: as told, else by one rule.

    Both are for continuous actions on a host simulator (MuJoCo and its like). Rewards are scaled too wherever the
    method clips its value loss: that range is meant for values of order 1 and holds back any that are far larger.
    """
    value = method.objective.value if method.critic is None else method.critic.loss
    clipped = value.clip_range is not None
    automatic = spec.normalises, spec.normalises or clipped
    told = config.normalise_obs, config.normalise_reward
    obs, reward = (rule if flag is None else flag for rule, flag in zip(automatic, told, strict=True))
    return obs, reward


def trainer_of(config: ControlConfig, method: Any, spec: EnvSpec, plan: Plan) -> Trainer:
    """The trainer for where the environment runs."""
    architecture = architecture_of(config, method, spec)
    learner = Learner(method, plan, spec, architecture, *normalisation(config, method, spec))
    rows = Rows(range(config.seed, config.seed + config.seeds))
    if spec.on_device:
        env = DeviceEnv(*environments.make_gymnax(spec.name))
        return DeviceTrainer(learner, env, rows, config.eval_episodes)
    return HostTrainer(learner, spec, rows, config.eval_episodes)


def architecture_of(config: ControlConfig, method: Any, spec: EnvSpec) -> Architecture:
    """The network: as told, else by one rule, images through a torso for images and vectors through none.

    Raises:
        TightreinError: no such network, or one that shares what the method moves apart.
    """
    automatic = "nature" if spec.pixels else "mlp"
    architecture = Architecture.of(
        automatic if config.network == "auto" else config.network, config.hidden, config.memory, method.heads
    )
    apart = method.critic is not None or isinstance(method.step, tr.parts.NaturalGradient)
    if architecture.shares and (apart or method.behaviour is not None):
        raise TightreinError(
            f"{method.key} moves the policy apart from the value network, and here they would share layers",
            "use --network mlp --memory 0, or another method",
        )
    return architecture


class _Training:
    """The loop over iterations: run to the next stop, log, evaluate, save."""

    def __init__(self, config: ControlConfig, plan: Plan, run: Run, trainer: Trainer, spec: EnvSpec) -> None:
        self._config, self._plan, self._run, self._trainer, self._spec = config, plan, run, trainer, spec
        self._seeds = range(config.seed, config.seed + config.seeds)
        self._iteration = self._saved = 0
        self._evaluated: dict[str, list[float]] = {}

    def go(self, stop: Interrupt) -> dict[str, Any]:
        """From the start or the last checkpoint to the end or an interruption."""
        plan, began = self._plan, time.monotonic()
        self._restore()
        self._trainer.run(self._iteration, 0)  # compiles
        compiled = time.monotonic()
        label = f"{self._config.method} on {self._config.env} ({self._spec.backend})"
        total = plan.iterations * plan.batch
        if not self._iteration:
            self._log([{}] * len(self._seeds), evaluated=True)
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

    def _advance(self) -> dict[str, float]:
        """One chunk; returns what the progress line shows."""
        plan, began, first = self._plan, time.monotonic(), self._iteration
        stop = plan.next_stop(first)
        figures = self._trainer.run(first, stop - first)
        self._check(figures)
        self._iteration = stop
        rate = (stop - first) * plan.batch * len(self._seeds) / (time.monotonic() - began)
        lines = self._log(self._lines(figures, rate), stop % plan.eval_every == 0 or stop == plan.iterations)
        if stop % plan.checkpoint_every == 0 or stop == plan.iterations:
            self._save()
        return _shown(lines)

    def _log(self, lines: list[dict[str, float]], evaluated: bool) -> list[dict[str, float]]:
        """Write a line of metrics for each seed, evaluated first if it is time to."""
        if evaluated:
            returns = self._trainer.evaluate(self._iteration).tolist()
            self._evaluated[str(self._step)] = returns
            lines = [{**line, "eval_return": value} for line, value in zip(lines, returns, strict=True)]
        for seed, line in zip(self._seeds, lines, strict=True):
            self._run.log(self._step, seed=seed, **line)
        return lines

    def _lines(self, figures: Figures, rate: float) -> list[dict[str, float]]:
        """One line of metrics a seed; mean return and length only where an episode finished."""
        lines = []
        for s in range(len(self._seeds)):
            episodes = float(figures.count[s])
            sums = {"return_mean": figures.return_sum[s], "length_mean": figures.length_sum[s]} if episodes else {}
            means = {name: float(value) / episodes for name, value in sums.items()}
            stats = {name: float(values[s]) for name, values in figures.stats.items() if name != "finite"}
            lines.append({**means, "episodes": episodes, **stats, "steps_per_second": rate})
        return lines

    def _check(self, figures: Figures) -> None:
        for seed, iteration in zip(self._seeds, figures.broken.tolist(), strict=True):
            if iteration >= 0:
                intact = (
                    f"the checkpoint of step {self._saved} is intact" if self._saved else "there is no checkpoint yet"
                )
                raise TightreinError(
                    f"seed {seed}: loss or parameters are no longer finite after update {iteration + 1}; {intact}",
                    "lower --learning-rate, --set step.max_grad_norm=0.5, or use --normalise-obs --normalise-reward",
                )

    def _save(self) -> None:
        extra = {"iteration": self._iteration, "evaluated": self._evaluated}
        self._run.checkpoint(self._step, to_arrays(self._trainer.state), extra)
        self._saved = self._step
        self._trainer.cut(self._iteration)

    def _restore(self) -> None:
        checkpoint = self._run.latest() if self._config.resume else None
        if checkpoint is None:
            return
        self._trainer.state = from_arrays(self._trainer.state, checkpoint.arrays)
        self._iteration, self._evaluated = checkpoint.extra["iteration"], checkpoint.extra["evaluated"]
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
            "seeds": list(self._seeds), "step": self._step, "interrupted": not done, "folder": str(self._config.folder),
            "eval_return": last, "eval_return_mean": None if last is None else float(np.mean(last)),
            "compile_seconds": compile_seconds, "seconds": seconds,
        }  # fmt: skip
        if done:
            self._run.finish(summary)
        return summary


def _shown(lines: list[dict[str, float]]) -> dict[str, float]:
    """Means over seeds of what the progress line has room for."""
    names = {"return_mean": "return", "eval_return": "eval", "kl_k3": "kl", "entropy": "entropy"}
    found = {shown: [line[name] for line in lines if name in line] for name, shown in names.items()}
    return {shown: float(np.mean(values)) for shown, values in found.items() if values}
