"""Which experience a method learns from, made for a run."""

from __future__ import annotations

from collections.abc import Callable

from tightrein.engines.language import processes
from tightrein.engines.language.experience.batch import Experience
from tightrein.engines.language.experience.rollout import Collector
from tightrein.engines.language.experience.rollouts import Rollouts
from tightrein.engines.language.experience.written import Demonstrations, Mixed, Pairs
from tightrein.engines.language.sampling.vllm import Vllm
from tightrein.engines.language.setup import Setup
from tightrein.engines.language.tasks import steps
from tightrein.engines.language.tasks.stream import Stream


def rollouts(setup: Setup) -> Experience:
    """Answers of the policy.

    With a lag they are sampled beside the training, but for what else it would do at the same time: ask rewards for
    demonstrations, or talk with other processes.
    """
    config, task, plan = setup.config, setup.task, setup.plan
    collector = Collector(
        setup.policy, task.reward, setup.method, setup.decoding, plan.prompts, plan.group_size, task.dialogue,
        config.steps or (steps.EMBEDDED if config.embedded else steps.DEFAULT),
    )  # fmt: skip
    stream = Stream(task, config.seed, setup.method.curriculum)
    beside = config.lag > 0 and setup.method.experience == "rollouts" and processes.count() == 1
    engine = None
    if config.sampler == "vllm":
        engine = Vllm(setup.policy, setup.decoding, config.sampler_dtype, aside=not beside)
    return Rollouts(
        collector, stream, config.seed, lag=config.lag, dtype=config.sampler_dtype, routing=config.routing,
        beside=beside, engine=engine,
    )  # fmt: skip


def mixed(setup: Setup) -> Experience:
    """Answers of the policy, and to each prompt a demonstration."""
    return Mixed(rollouts(setup), Demonstrations(setup), setup)


SOURCES: dict[str, Callable[[Setup], Experience]] = {  # by Method.experience
    "rollouts": rollouts,
    "pairs": Pairs,
    "demonstrations": Demonstrations,
    "mixed": mixed,
}


def experience(setup: Setup) -> Experience:
    """The source that the method of `setup` learns from."""
    return SOURCES[setup.method.experience](setup)
