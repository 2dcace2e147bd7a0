"""Phases of learning beside the objective: what a method's `auxiliary` part asks for, after each iteration."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple, Protocol

import numpy as np

from tightrein.auxiliary import Auxiliary
from tightrein.engines.control.batch import Batch
from tightrein.engines.control.config import Plan
from tightrein.engines.control.environments import EnvSpec
from tightrein.engines.control.networks import ActorCritic, Architecture, Inputs
from tightrein.method import Method

Array = Any


class Experience(NamedTuple):
    """An iteration's experience [E, T]: the decisions, credited and with rewards and ends, and what they led to."""

    whole: Batch
    following: Inputs  # what the networks read in the states that were reached
    reward: Array  # as the environment gave it


class After(NamedTuple):
    """What a phase ends with: network, method state, what it keeps, and figures (0-d, the same in every iteration)."""

    network: ActorCritic
    method: Any
    kept: Any
    figures: dict[str, Array]


class Phase(Protocol):
    """A phase for one seed: pure functions, to be mapped over seeds and compiled, but for `build`."""

    def build(self, rng: np.random.Generator) -> Any:
        """Networks of its own, that the objective neither reads parameters of nor moves."""

    def init(self, network: ActorCritic, own: Any) -> Any:
        """What the phase keeps from iteration to iteration, a pytree of arrays; own: what `build` made."""

    def told(self, kept: Any, inputs: Inputs) -> Inputs:
        """The inputs with what the phase lets the network know, which is constant for the objective."""

    def after(
        self, network: ActorCritic, method: Any, kept: Any, experience: Experience, key: Array, iteration: Array
    ) -> After:
        """What follows the policy's update. method: the method's state. iteration: its number, from 0."""


def phase_of(method: Method, plan: Plan, spec: EnvSpec, architecture: Architecture) -> Phase | None:
    """The phase that the method asks for; None where it asks for none."""
    return None if method.auxiliary is None else phase(method.auxiliary, method, plan, spec, architecture)


@functools.singledispatch
def phase(part: Auxiliary, method: Method, plan: Plan, spec: EnvSpec, architecture: Architecture) -> Phase:
    """The phase of a part."""
    raise TypeError(f"no phase for {type(part).__name__}")
