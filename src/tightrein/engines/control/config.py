"""What a control run is told, and the checks on it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tightrein.engines.settings import pairs
from tightrein.errors import TightreinError

ENVS, ROLLOUT = 8, 256  # where neither the user nor the method says otherwise


@dataclass(frozen=True)
class ControlConfig:
    """Train a policy on a control task. None means: as the method has it, or automatic."""

    method: str = "ppo_clip"
    """Method by its key (`tightrein methods` lists them)."""
    variant: str = "paper"
    """The method as the "paper" has it, or as the "released" code does where they differ."""
    env: str = "CartPole-v1"
    """Environment by its name in gymnax, EnvPool or Gymnasium."""
    backend: str = "auto"
    """gymnax, envpool, gymnasium, or auto: the first of these that has the environment."""
    seeds: int = 1
    """How many seeds train side by side in this run."""
    seed: int = 0
    """The first seed; the others follow it."""
    total_steps: int = 200_000
    """Environment steps of each seed, rounded down to whole rollouts."""
    envs: int | None = None
    """Environments of each seed (the method's own, else 8)."""
    rollout: int | None = None
    """Steps per environment between two policy updates (the method's own, else 256)."""
    epochs: int | None = None
    """Passes over each rollout."""
    minibatches: int | None = None
    """Gradient steps in each pass."""
    learning_rate: float | None = None
    """Step size of the optimizer."""
    network: str = "auto"
    """Layers for observations: mlp, or for images nature, impala or minatar; auto: by the shape of observations."""
    hidden: tuple[int, ...] = (64, 64)
    """Widths of the hidden layers of an mlp, as many as there are to be, of the policy and of the value network."""
    value_hidden: tuple[int, ...] | None = None
    """Widths of the value network's own, where it shares no layer with the policy (automatic: as hidden)."""
    memory: int = 0
    """Units of a recurrent layer (GRU) that remembers the episode; 0: no memory."""
    squash: bool = False
    """Keep continuous actions within their bounds by tanh, in the place of clipping what the environment is sent."""
    normalise_obs: bool | None = None
    """Normalise observations by running mean and deviation (automatic: continuous actions on host simulators)."""
    normalise_reward: bool | None = None
    """Scale rewards by the running deviation of the return (automatic: as normalise_obs)."""
    eval_every: int | None = None
    """Iterations between evaluations (automatic: about ten in a run). The end is always evaluated."""
    eval_episodes: int = 20
    """Evaluation episodes of each seed, with the most probable action."""
    log_every: int | None = None
    """Iterations between two lines of metrics (automatic: about a hundred in a run)."""
    checkpoint_every: int | None = None
    """Iterations between checkpoints (automatic: about ten in a run)."""
    set: tuple[str, ...] = ()
    """Hyperparameters as path=value, for example objective.surrogate.bounds.low=0.1."""
    grid: tuple[str, ...] = ()
    """Settings with several values each, for example learning_rate=1e-4,3e-4,1e-3: every combination is trained with
    every seed, side by side (in Python also a dict: {"learning_rate": [1e-4, 3e-4]})."""
    out: Path | None = None
    """Folder of the run (automatic: runs/METHOD-ENV-SEED)."""
    resume: bool = False
    """Go on with the run in this folder from its last checkpoint."""
    quiet: bool = False
    """Show neither progress nor notes (config.json holds the notes)."""

    def __post_init__(self) -> None:
        if self.out is not None:  # a str will do
            object.__setattr__(self, "out", Path(self.out))
        object.__setattr__(self, "grid", _items(self.grid))
        positive = ("seeds", "total_steps", "envs", "rollout", "epochs", "minibatches", "learning_rate")
        cadences = ("eval_every", "eval_episodes", "log_every", "checkpoint_every")
        for name in (*positive, *cadences):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise TightreinError(
                    f"{name} is {value}, but must be above 0", f"give --{_flag(name)} a positive number"
                )
        if self.seed < 0 or self.seed + self.seeds > 2**31:
            raise TightreinError(f"seed is {self.seed}", "seeds are whole numbers from 0 to 2147483647")
        if self.memory < 0:
            raise TightreinError(f"memory is {self.memory}", "give --memory the units of a GRU, or 0 for none")
        if any(width < 1 for width in (*self.hidden, *(self.value_hidden or ()))):
            raise TightreinError(
                f"hidden is {self.hidden}, value_hidden {self.value_hidden}", "give each hidden layer at least one unit"
            )

    @property
    def overrides(self) -> dict[str, str]:
        """`set` as path -> value."""
        return pairs("--set", self.set, "objective.surrogate.bounds.low=0.1")

    @property
    def named(self) -> str:
        """The method, and its variant where that is not the paper's."""
        return self.method if self.variant == "paper" else f"{self.method}-{self.variant}"

    @property
    def folder(self) -> Path:
        """Where the run goes."""
        return self.out or Path("runs") / f"{self.named}-{self.env.replace('/', '_')}-{self.seed}"


@dataclass(frozen=True)
class Plan:
    """The numbers of a run, all known: batch shape and iterations.

    Raises:
        TightreinError: the budget holds no rollout, or minibatches do not divide it.
    """

    envs: int
    rollout: int
    epochs: int
    minibatches: int
    iterations: int
    log_every: int
    eval_every: int
    checkpoint_every: int

    @classmethod
    def of(cls, config: ControlConfig, training: Any) -> Plan:
        """The plan for `config` with a method whose `training` is this. The budget is never exceeded."""
        envs = config.envs or training.envs or ENVS
        rollout = config.rollout or training.rollout or ROLLOUT
        batch = envs * rollout
        if batch % training.minibatches:
            raise TightreinError(
                f"{training.minibatches} minibatches do not divide a rollout of {envs} envs x {rollout} steps",
                "choose --envs, --rollout and --minibatches so that they do",
            )
        iterations = config.total_steps // batch
        if not iterations:
            raise TightreinError(
                f"total_steps is {config.total_steps}, less than one rollout of {envs} envs x {rollout} steps",
                "raise --total-steps, or lower --envs or --rollout",
            )
        tenth = max(1, iterations // 10)
        return cls(
            envs, rollout, training.epochs, training.minibatches, iterations,
            config.log_every or max(1, iterations // 100),
            config.eval_every or tenth,
            config.checkpoint_every or tenth,
        )  # fmt: skip

    @property
    def batch(self) -> int:
        """Environment steps of one seed in an iteration."""
        return self.envs * self.rollout

    @property
    def updates(self) -> int:
        """Gradient steps in the whole run."""
        return self.iterations * self.epochs * self.minibatches

    def next_stop(self, iteration: int) -> int:
        """The next iteration after which something is logged, evaluated or saved.

        It depends on nothing but the plan, so an interrupted run stops where an uninterrupted one does.
        """
        nexts = ((iteration // every + 1) * every for every in (self.log_every, self.eval_every, self.checkpoint_every))
        return min(*nexts, self.iterations)


def _items(grid: Any) -> tuple[str, ...]:
    """A grid as name=value,value items, from such items or from a mapping of names to values."""
    if isinstance(grid, Mapping):
        return tuple(f"{name}={_joined(values)}" for name, values in grid.items())
    return (grid,) if isinstance(grid, str) else tuple(grid)


def _joined(values: Any) -> str:
    several = isinstance(values, Iterable) and not isinstance(values, str)
    return ",".join(str(value) for value in values) if several else str(values)


def _flag(name: str) -> str:
    return name.replace("_", "-")
