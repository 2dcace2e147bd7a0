"""A method: one part for each stage, its paper, and its defaults."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Self

from .arrays import Array, at_least_float32, finite
from .credit.base import Credit
from .decisions import Decisions, Loss, require
from .errors import TightreinError, unknown
from .objective.policy import PolicyObjective
from .reward import RewardPart
from .selection import Selection
from .settings import Part, setting
from .step import Optimizer

State = dict[str, Any]


@dataclass(frozen=True)
class Source:
    """Where a method comes from, and how sure we are of it.

    `read` says what was seen: "code", "paper", "excerpt" or "memory". `differences` tells where paper and
    released code disagree; `reconstruction` marks a formula that could not be read and was filled in.
    """

    paper: str
    year: int
    arxiv: str = ""
    code: str = ""
    read: str = "code"
    confidence: Literal["high", "medium", "low"] = "high"
    differences: str = ""
    reconstruction: bool = False


@dataclass(frozen=True)
class Training(Part):
    """How much of what the paper trains with; engines take these where a method is at home.

    `group_size` is the number of answers per prompt; `envs` and `rollout` (steps per environment and
    iteration) are for control.
    """

    epochs: int = setting(1, at_least=1)
    minibatches: int = setting(1, at_least=1)
    group_size: int = setting(1, at_least=1)
    envs: int | None = setting(None, at_least=1)
    rollout: int | None = setting(None, at_least=1)


@dataclass(frozen=True)
class Method(Part):
    """A published method as a composition of parts.

    `prepare` goes from rewards to advantages, once per batch of experience; `loss` is what is minimised, at
    every step. Both run on NumPy, PyTorch and JAX arrays, and under jax.jit and torch.compile.
    """

    key: str
    title: str
    home: Literal["control", "language"]
    source: Source
    credit: Credit
    objective: PolicyObjective
    step: Optimizer
    training: Training = Training()
    reward: tuple[RewardPart, ...] = ()
    selection: tuple[Selection, ...] = ()
    variants: tuple[tuple[str, tuple[tuple[str, Any], ...]], ...] = ()
    relations: tuple[str, ...] = ()

    @property
    def needs(self) -> frozenset[str]:  # type: ignore[override]
        """Fields of Decisions that `loss` reads."""
        return self.objective.needs

    @property
    def prepare_needs(self) -> frozenset[str]:
        """Fields of Decisions that `prepare` reads."""
        return frozenset().union(*(part.needs for part in (*self.reward, self.credit, *self.selection)))

    @property
    def stateful(self) -> bool:
        """Whether `update` has anything to do."""
        return bool(self.init())

    def settings(self) -> dict[str, Any]:
        """Every hyperparameter as path -> value."""
        about = ("key", "title", "home")
        return {path: value for path, value in super().settings().items() if path not in about}

    def init(self) -> State:
        """State at the start: path of a coefficient -> its value. Save it with every checkpoint."""
        return {f"objective.{name}": value for name, value in self.objective.init().items()}

    def update(self, state: Mapping[str, Array], decisions: Decisions) -> State:
        """State of the next iteration, from Decisions evaluated under the policy after its update."""
        new = self.objective.update(_inside(state), decisions)
        return {f"objective.{name}": value for name, value in new.items()}

    def prepare(self, decisions: Decisions, state: Mapping[str, Array] | None = None) -> Decisions:
        """Rewards -> advantages: apply the reward, credit and selection parts, in that order.

        Returns Decisions with `advantage` [B, T] (and `returns` [B, T] where values are estimated); what the
        selection drops is masked. Raises TightreinError when a field is missing.
        """
        require(decisions, self.prepare_needs, f"{self.key} (rewards to advantages)")
        if not finite(decisions.reward):
            raise TightreinError(
                "the rewards hold a NaN or an infinity",
                "give a finite number for every answer, 0 where none can be judged",
            )
        decisions = decisions.replace(reward=at_least_float32(decisions.reward))
        stages: tuple[RewardPart | Credit | Selection, ...] = (*self.reward, self.credit, *self.selection)
        for part in stages:
            decisions = part(decisions)
        return decisions

    def loss(self, decisions: Decisions, state: Mapping[str, Array] | None = None) -> Loss:
        """Loss of a batch of decisions: `value` to minimise, `per_decision` [B, T], and lazy `stats`.

        Without `state` a stateful method uses that of its start. Raises TightreinError when a field is
        missing.
        """
        require(decisions, self.needs, self.key)
        return self.objective(decisions, _inside(self.init() if state is None else state))

    def variant(self, name: str) -> Self:
        """The method as the "paper" has it (the default), or as the "released" code does where they differ."""
        known = {"paper": (), **dict(self.variants)}
        if name not in known:
            raise unknown(f"variant of {self.key}", name, known)
        return self.override(dict(known[name]))

    def _resolve(self, path: str) -> str:
        if path in ("key", "title", "home"):
            raise TightreinError(f"{path!r} names the method and is not a setting", "leave it as it is")
        return super()._resolve(path)


def _inside(state: Mapping[str, Array]) -> dict[str, Array]:
    return {path.removeprefix("objective."): value for path, value in state.items()}
