"""What is said of a run before it begins, and how long its answers may be."""

from __future__ import annotations

from typing import Any

from tightrein.engines.language.config import LanguageConfig, Plan
from tightrein.engines.language.models import embedded
from tightrein.engines.language.models.policy import Policy
from tightrein.engines.language.rewards.functions import Ensemble
from tightrein.engines.language.tasks.loading import Task
from tightrein.errors import TightreinError

ANSWER = 256  # tokens of the longest answer where nobody says otherwise and no worked example tells
FEW = 20  # updates of the embedded model's preset, below which a run ends too early


def longest_answer(config: LanguageConfig, policy: Policy, task: Task) -> tuple[int, list[str]]:
    """Tokens of the longest answer that is sampled, and a note where the model's context cuts it.

    Raises:
        TightreinError: --max-new-tokens, or a prompt by itself, is more than the context holds.
    """
    if config.embedded:  # made as large as it must be
        return config.max_new_tokens or embedded.longest_answer(policy, task), []
    wanted = config.max_new_tokens or ANSWER
    if policy.room is None or not task.scored:  # nothing is sampled of a task that is not scored
        return wanted, []
    prompt = max(map(len, policy.encode([*task.asked, *task.held])))
    left = policy.room - prompt
    if wanted <= left:
        return wanted, []
    limit = f"the longest prompt has {prompt} tokens, and the model's context {policy.room}"
    if left < 1:
        raise TightreinError(f"{limit}: no room for an answer", "leave such prompts out, or take another model")
    if config.max_new_tokens is not None:
        raise TightreinError(
            f"{limit}: answers of {wanted} tokens do not fit",
            f"give --max-new-tokens {left} or less, or shorter prompts",
        )
    return left, [f"answers end at {left} tokens, not {wanted}: {limit}"]


def remarks(config: LanguageConfig, method: Any, task: Task) -> list[str]:
    """Notes on flags without an effect, and on scores that are too few; they stay the same when a run goes on."""
    notes = []
    if config.group_size is not None and method.experience in ("pairs", "demonstrations"):
        notes.append(f"--group-size has no effect: {method.key} learns from {method.experience}, not from groups")
    members = len(task.reward.members) if isinstance(task.reward, Ensemble) else 1
    if "scores" in method.prepare_needs and members == 1:
        notes.append("there is one score alone, and an ensemble of one is that model: give several --reward")
    return notes


def on_length(config: LanguageConfig, method: Any, plan: Plan) -> list[str]:
    """Notes on how many updates there are, which may be more when a run goes on."""
    notes = []
    if plan.value_pretraining:
        notes.append(
            f"{plan.value_pretraining} updates of the value head first, then {plan.updates} of the policy: "
            "training.value_pretraining"
        )
    told = config.learning_rate is not None or any(path.endswith("learning_rate") for path in config.overrides)
    if config.embedded and method.experience in ("rollouts", "mixed") and plan.updates < FEW and not told:
        notes.append(
            f"{plan.updates} updates may end before accuracy has recovered from the first large steps; give "
            "--updates 100, or a lower --learning-rate"
        )
    return notes
