"""What a step is."""

from __future__ import annotations

from dataclasses import dataclass

from ..settings import Part


@dataclass(frozen=True)
class Step(Part):
    """Base of the steps: how the loss moves the parameters, by one gradient after another or as a problem solved.

    `needs` names fields of Decisions that the step reads besides those of the loss.
    """
