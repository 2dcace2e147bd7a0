"""What a method learns beside its objective."""

from __future__ import annotations

from dataclasses import dataclass

from .settings import Part


@dataclass(frozen=True)
class Auxiliary(Part):
    """Base of the phases that follow the policy's update, on networks of their own or on what it shares."""
