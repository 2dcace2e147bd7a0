"""Which prompts are asked next."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..arrays import Array
from ..settings import Part


@dataclass(frozen=True)
class Curriculum(Part):
    """Base of the rules that draw prompts by what is known of them."""

    def weights(self, state: Any) -> Array:
        """Unnormalised probability of drawing each prompt, [P]. state: that of the method's credit."""
        raise NotImplementedError
