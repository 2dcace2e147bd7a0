"""What a phase of learning beside the objective is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ..heads import Heads
from ..settings import Part


@dataclass(frozen=True)
class Auxiliary(Part):
    """Base of the phases that follow the policy's update, on networks of their own or on what it shares.

    `heads` is the kind of heads that what it learns is made for, and `discrete` whether actions must be counted.
    """

    heads: ClassVar[type[Heads]] = Heads
    discrete: ClassVar[bool] = False
