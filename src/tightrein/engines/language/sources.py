"""Which experience a method learns from, made for a run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tightrein.engines.language.config import LanguageConfig, Plan
from tightrein.engines.language.experience import Experience
from tightrein.engines.language.models import Policy
from tightrein.engines.language.rollout import Collector, Rollouts
from tightrein.engines.language.sampling import Decoding
from tightrein.engines.language.tasks import Task


@dataclass(frozen=True)
class Setup:
    """What a run is made of; all that a source of experience may ask for."""

    config: LanguageConfig
    plan: Plan
    task: Task
    policy: Policy
    method: Any
    decoding: Decoding


def rollouts(setup: Setup) -> Experience:
    """Answers of the policy."""
    collector = Collector(
        setup.policy, setup.task.reward, setup.method, setup.decoding, setup.plan.prompts, setup.plan.group_size
    )
    return Rollouts(collector, setup.task, setup.config.seed)


SOURCES: dict[str, Callable[[Setup], Experience]] = {"rollouts": rollouts}  # by Method.experience


def experience(setup: Setup) -> Experience:
    """The source that the method of `setup` learns from."""
    return SOURCES[setup.method.experience](setup)
