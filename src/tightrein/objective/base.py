"""What an objective is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from ..arrays import stop_gradient
from ..decisions import Decisions, Loss
from ..settings import Part

State = Mapping[str, Any]
# fields that carry a gradient
MOVING = ("logp", "value", "entropy", "logp_masked", "q", "q_policy", "parameters", "value_logits")


@dataclass(frozen=True)
class Objective(Part):
    """Base of the objectives: what is minimised at every gradient step.

    `whole_groups`: the rows of a group are compared inside the loss, so a minibatch must hold all of them.
    """

    whole_groups: ClassVar[bool] = False

    def __call__(self, d: Decisions, state: State) -> Loss:
        """Loss of a batch. state: what the parts below keep, by their path from here."""
        raise NotImplementedError


def detached(d: Decisions) -> Decisions:
    """The same Decisions without gradients, for figures about them."""
    moving = {n: getattr(d, n) for n in MOVING}
    constant = {n: stop_gradient(a) for n, a in moving.items() if a is not None}
    dist = d.dist
    if dist is not None:
        dist = type(dist)(**{n: stop_gradient(a) for n, a in vars(dist).items()})
    return d.replace(dist=dist, **constant)
