"""Phases of learning beside the objective: what a method's `auxiliary` part asks for, after each iteration."""

from __future__ import annotations

import functools
from typing import Any, Protocol

from tightrein.auxiliary import Auxiliary
from tightrein.engines.control.batch import Batch
from tightrein.engines.control.config import Plan
from tightrein.engines.control.environments import EnvSpec
from tightrein.engines.control.networks import ActorCritic
from tightrein.method import Method

Array = Any


class Phase(Protocol):
    """A phase for one seed: pure functions, to be mapped over seeds and compiled."""

    def init(self, network: ActorCritic) -> Any:
        """What the phase keeps from iteration to iteration: a pytree of arrays."""

    def after(
        self, network: ActorCritic, kept: Any, whole: Batch, key: Array, iteration: Array
    ) -> tuple[ActorCritic, Any, dict[str, Array]]:
        """The network after the phase, what it keeps, and its figures (0-d, the same names in every iteration).

        whole: the iteration's decisions [E, T], credited, with rewards and ends. iteration: its number, from 0.
        """


def phase_of(method: Method, plan: Plan, spec: EnvSpec) -> Phase | None:
    """The phase that the method asks for; None where it asks for none."""
    return None if method.auxiliary is None else _phase(method.auxiliary, method, plan, spec)


@functools.singledispatch
def _phase(part: Auxiliary, method: Method, plan: Plan, spec: EnvSpec) -> Phase:
    raise TypeError(f"no phase for {type(part).__name__}")
