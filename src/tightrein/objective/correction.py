"""Factors on the surrogate's loss: corrections for who sampled, and tokens that are left out."""

from __future__ import annotations

from dataclasses import dataclass

from ..arrays import Array
from ..decisions import Decisions
from ..settings import Part


@dataclass(frozen=True)
class Correction(Part):
    """Base of the factors. They carry no gradient, and change no denominator."""

    def __call__(self, d: Decisions) -> Array:
        """The factor of each decision: [B, T]."""
        raise NotImplementedError
