"""A penalty in two phases: it keeps the policy near, and then makes sure."""

from __future__ import annotations

from dataclasses import dataclass

from ..settings import setting
from .base import Step
from .optimizers import Adam, Optimizer


@dataclass(frozen=True)
class FixUp(Step):
    """Minibatch steps on the penalised loss, then on the penalty alone until no decision violates the bound.

    Source: FixPO, arXiv 2312.05405, algorithm 1. Needs objective.trust with a controller that has a `bound`, which
    moves after every gradient step of either phase. The second phase goes through the whole experience, `batch`
    decisions at a time, and takes a step wherever one of them is beyond the bound, until a whole pass finds none; it
    follows every epoch, or only the last (`every_epoch` false). After `passes` passes it gives up and the old policy,
    at which the divergence is 0, is put back: the bound holds in any case.
    """

    equation = "repeat theta <- theta - grad( beta mean KL ), beta <- AdamDual(max KL)  until max KL <= bound"
    optimizer: Optimizer = Adam()
    batch: int = setting(1024, at_least=1)
    every_epoch: bool = True
    passes: int = setting(100, at_least=1)
