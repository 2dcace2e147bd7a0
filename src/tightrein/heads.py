"""What stands on the features of a network, where a method has its own idea of it."""

from __future__ import annotations

from dataclasses import dataclass

from .settings import Part


@dataclass(frozen=True)
class Heads(Part):
    """Base of the pairs of a policy's and a value's last layers; without one they are dense layers."""
