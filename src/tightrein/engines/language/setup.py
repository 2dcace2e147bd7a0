"""What a run is made of."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tightrein.engines.language.config import LanguageConfig, Plan
from tightrein.engines.language.models.policy import Policy
from tightrein.engines.language.sampling.sampler import Decoding
from tightrein.engines.language.tasks.loading import Task


@dataclass(frozen=True)
class Setup:
    """All that a source of experience, and the loop, may ask for."""

    config: LanguageConfig
    plan: Plan
    task: Task
    policy: Policy
    method: Any
    decoding: Decoding
