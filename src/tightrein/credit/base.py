"""What a credit rule is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..decisions import Decisions
from ..settings import Part


@dataclass(frozen=True)
class Credit(Part):
    """Base of the credit rules: fills `advantage` (and `returns`, where values are estimated)."""

    provides = frozenset({"advantage"})

    def __call__(self, d: Decisions, state: Any = None) -> Decisions:
        """Decisions with `advantage` [B, T], without gradient, 0 where masked."""
        raise NotImplementedError
