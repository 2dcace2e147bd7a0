"""A method: one part for each stage, its paper, and its defaults."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, Self

from .anchor.reference import Anchor, Frozen
from .arrays import Array, at_least_float32, finite
from .auxiliary import Auxiliary
from .behaviour import Behaviour
from .credit.base import Credit
from .decisions import Decisions, Loss, require
from .errors import TightreinError, unknown
from .heads import Heads
from .objective.base import Objective, detached
from .replay import Replay
from .reward import RewardPart
from .selection import Selection
from .selection.curriculum import Curriculum
from .settings import Part, setting
from .step import Critic, Step

State = dict[str, Any]
_ABOUT = ("key", "title", "home", "experience")  # what a method is, not how it is set


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

    @property
    def warning(self) -> str:
        """What a user is told wherever the method is shown or trained; empty where its source was read in full."""
        return "a reconstruction: the source could not be read in full" if self.reconstruction else ""


@dataclass(frozen=True)
class Training(Part):
    """How much of what the paper trains with; engines take these where a method is at home.

    `group_size` is the number of answers per prompt; `value_pretraining` the updates of the critic alone before
    the policy is touched; `envs` and `rollout` (steps per environment and iteration) are for control.
    """

    epochs: int = setting(1, at_least=1)
    minibatches: int = setting(1, at_least=1)
    group_size: int = setting(1, at_least=1)
    value_pretraining: int = setting(0, at_least=0)
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
    objective: Objective
    step: Step
    credit: Credit | None = None
    critic: Critic | None = None
    behaviour: Behaviour | None = None
    heads: Heads | None = None
    auxiliary: Auxiliary | None = None
    replay: Replay | None = None
    training: Training = Training()
    reward: tuple[RewardPart, ...] = ()
    selection: tuple[Selection, ...] = ()
    curriculum: Curriculum | None = None
    anchor: Anchor = Frozen()
    experience: Literal["rollouts", "replay", "demonstrations", "pairs", "mixed"] = "rollouts"
    variants: tuple[tuple[str, tuple[tuple[str, Any], ...]], ...] = ()
    relations: tuple[Any, ...] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        # Kept here because a compiler that traces `loss` should not have to follow a walk over the parts.
        object.__setattr__(self, "_start", self.init())
        object.__setattr__(self, "_needs", frozenset(self.objective.needs))

    @property
    def needs(self) -> frozenset[str]:  # type: ignore[override]
        """Fields of Decisions that `loss` reads."""
        needs: frozenset[str] = self._needs  # type: ignore[attr-defined]
        return needs

    @property
    def update_needs(self) -> frozenset[str]:
        """Fields of Decisions that an update of the parameters reads: the loss, the step, and the critic's own fit."""
        return self.needs | self.step.needs | (frozenset() if self.critic is None else self.critic.needs)

    @property
    def prepare_needs(self) -> frozenset[str]:
        """Fields of Decisions that `prepare` reads and does not make itself."""
        needed: set[str] = set()
        made: set[str] = set()
        for _, part in self._preparation():
            needed |= part.needs - made
            made |= part.provides
        return frozenset(needed)

    @property
    def stateful(self) -> bool:
        """Whether `update` has anything to do."""
        return bool(self.init())

    def settings(self) -> dict[str, Any]:
        """Every hyperparameter as path -> value."""
        return {path: value for path, value in super().settings().items() if path not in _ABOUT}

    def init(self, prompts: int = 0) -> State:
        """State at the start: path of a part -> what it keeps. Save it with every checkpoint.

        prompts: how many different prompts there are, for the parts that remember something of each.
        """
        found = {path: value.init(prompts) for path, value in self.walk() if isinstance(value, Part)}
        return {path: state for path, state in found.items() if state is not None}

    @property
    def restless(self) -> bool:
        """Whether part of the state moves with every gradient step."""
        parts = dict(self.walk())
        return any(parts[path].every_step for path in self._start)  # type: ignore[attr-defined]

    def update(
        self,
        state: Mapping[str, Any] | None,
        decisions: Decisions,
        progress: Any = 0.0,
        *,
        every_step: bool | None = None,
    ) -> State:
        """State of the next iteration, from Decisions evaluated under the policy after its update.

        state: None is that of the start. progress: share of the training that is done by then, in [0, 1]. every_step:
        True moves only what moves with every gradient step, False all else, None both.
        """
        parts = dict(self.walk())
        kept = self._state(state)
        decisions = detached(decisions)
        moves = {path for path in kept if every_step is None or parts[path].every_step == every_step}
        return {
            path: parts[path].update(kept[path], decisions, progress) if path in moves else kept[path] for path in kept
        }

    def worth(self, value: Array, state: Mapping[str, Any] | None = None) -> Array:
        """What an output of the value network says in the units of the rewards, as `prepare` reads values."""
        kept = self._state(state).get("objective.value")
        return value if kept is None else self.objective.value.raw(value, kept)  # type: ignore[attr-defined, no-any-return]

    def prepare(self, decisions: Decisions, state: Mapping[str, Any] | None = None) -> Decisions:
        """Rewards -> advantages: apply the reward, credit and selection parts, in that order.

        Returns Decisions with `advantage` [B, T] (and `returns` [B, T] where values are estimated; neither where the
        objective reads rewards or pairs itself); what the selection drops is masked. Raises TightreinError when a
        field is missing.
        """
        require(decisions, self.prepare_needs, f"{self.key} (rewards to advantages)")
        if decisions.reward is not None:
            decisions = decisions.replace(reward=at_least_float32(_finite(decisions.reward)))
        state = self._state(state)
        for path, part in self._preparation():
            decisions = part(decisions, state.get(path))
        return decisions

    def loss(self, decisions: Decisions, state: Mapping[str, Any] | None = None) -> Loss:
        """Loss of a batch of decisions: `value` to minimise, `per_decision` [B, T], and lazy `stats`.

        Without `state` a stateful method uses that of its start. Raises TightreinError when a field is
        missing.
        """
        require(decisions, self.needs, self.key)
        inside = {
            path.removeprefix("objective."): kept for path, kept in self._state(state, within="objective.").items()
        }
        return self.objective(decisions, inside)

    def _preparation(self) -> list[tuple[str, RewardPart | Credit | Selection]]:
        """The parts that `prepare` applies, in order, each with its path."""
        by_path = dict(self.children())
        credit = [] if self.credit is None else [("credit", self.credit)]
        return [
            *((path, part) for path, part in by_path.items() if path.startswith("reward.")),
            *credit,
            *((path, part) for path, part in by_path.items() if path.startswith("selection.")),
        ]

    def _state(self, state: Mapping[str, Any] | None, within: str = "") -> Mapping[str, Any]:
        """What the parts at these paths keep: as given, or as at the start."""
        known: Mapping[str, Any] = self._start if state is None else state  # type: ignore[attr-defined]
        known = {path: kept for path, kept in known.items() if path.startswith(within)}
        if state is not None:
            return known
        if any(len(array) == 0 for array in _arrays(known)):
            raise TightreinError(
                f"{self.key} remembers something of every prompt, and was given no state",
                "pass state=method.init(prompts=N), and after each update keep method.update(state, decisions)",
            )
        return known

    def variant(self, name: str) -> Self:
        """The method as the "paper" has it (the default), or as the "released" code does where they differ."""
        known = {"paper": (), **dict(self.variants)}
        if name not in known:
            raise unknown(f"variant of {self.key}", name, known)
        return self.override(dict(known[name]))

    def _resolve(self, path: str) -> str:
        if path in _ABOUT:
            raise TightreinError(f"{path!r} says what the method is and is not a setting", "leave it as it is")
        return super()._resolve(path)


def _arrays(state: Any) -> Iterator[Any]:
    """The arrays with an axis in a state."""
    if isinstance(state, Mapping):
        for value in state.values():
            yield from _arrays(value)
    elif getattr(state, "ndim", 0):
        yield state


def _finite(reward: Array) -> Array:
    if not finite(reward):
        raise TightreinError(
            "the rewards hold a NaN or an infinity",
            "give a finite number for every answer, 0 where none can be judged",
        )
    return reward
