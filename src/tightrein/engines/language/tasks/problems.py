"""What is asked."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

Prompt = str | list[dict[str, str]]


@dataclasses.dataclass(frozen=True)
class Problem:
    """One problem. `columns` are the other columns of its row, for the reward function.

    worked: a worked example in turns: what the model writes, what it is told, what it writes, ...; where that is
    empty, the answer is one. rejected: an answer that is worse than `answer`, where pairs are given.
    """

    prompt: Prompt
    answer: str | None
    columns: Mapping[str, Any]
    worked: tuple[str, ...] = ()
    rejected: str | None = None

    @property
    def text(self) -> str:
        """What tells problems apart."""
        if isinstance(self.prompt, str):
            return self.prompt
        return "\n".join(f"{message['role']}: {message['content']}" for message in self.prompt)

    @property
    def shown(self) -> tuple[str, ...]:
        """The worked example in turns, the model's own first."""
        return self.worked or (self.answer or "",)
