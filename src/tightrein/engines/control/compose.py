"""Making a catalogue method fit for control: what cannot work here is replaced, and said."""

from __future__ import annotations

import functools
from typing import Any

import tightrein as tr
from tightrein.auxiliary import AchievementMemory, QuantileCritic
from tightrein.engines.control.actions import DiscreteActions
from tightrein.engines.control.config import ControlConfig
from tightrein.engines.settings import check_step, check_supplied, doubts, flags
from tightrein.errors import TightreinError
from tightrein.objective.base import Objective
from tightrein.objective.policy import PolicyObjective
from tightrein.objective.replay import ReplayObjective
from tightrein.step import FixUp, Optimizer, SecondOrder

TRAINING = tr.Training(epochs=10, minibatches=32)
ONCE = tr.Training(epochs=1, minibatches=4, rollout=32)  # of objectives that do not know which policy sampled
STEP = tr.parts.Adam(learning_rate=3e-4, eps=1e-5, max_grad_norm=0.5)

# Fields of Decisions that this engine fills, before `prepare` and before `loss`.
PREPARED = frozenset(
    {
        "logp_old", "logp_behaviour", "dist_old", "entropy_old", "action", "mask", "reward", "value_old", "value_next",
        "terminated", "truncated", "staleness", "random", "token",
    }
)  # fmt: skip
GIVEN = (PREPARED - {"reward", "value_next", "terminated", "truncated"}) | {
    "logp", "advantage", "returns", "value", "entropy", "dist",
}  # fmt: skip

OBJECTIVES = {"rollouts": PolicyObjective, "replay": ReplayObjective}  # by what a method learns from

# What a selection may read to stay in a method from language models: the rest is about answers.
SELECTED_BY = frozenset({"advantage", "entropy_old"})

# What a user can set so that a field is no longer needed.
REMEDIES = {
    "logp_ref": "there is no reference policy in control: --set objective.reference.coef=0",
    "group": "no step here has others to be compared with: switch off what reads groups, as ElasticBounds by "
    "--set objective.surrogate.bounds.macro=0",
    "value_logits": "the network's value must be a distribution too: --set heads=HyperbolicHeads",
}


def compose(config: ControlConfig) -> tuple[Any, list[str]]:
    """The method of `config` with its overrides, and notes on what was replaced to run it in control.

    Raises:
        TightreinError: unknown method, variant or setting; or a method that needs what control cannot supply.
    """
    method = tr.method(config.method, config.variant)
    _check_kind(method)
    method, notes = _at_home(method)
    method = method.override(config.overrides)
    method = method.override(flags(config, method))
    _check(method.objective, method, len(config.hidden))
    _check_phase(method, config)
    if isinstance(method.step, SecondOrder) and (config.epochs or config.minibatches):
        notes = [*notes, "epochs and minibatches change nothing: the policy takes one step on the whole experience"]
    if method.replay is not None and (config.epochs or config.minibatches):
        method = method.override({"training.epochs": 1, "training.minibatches": 1})
        notes = [*notes, "epochs and minibatches change nothing: replay.batch and replay.updates say what is drawn"]
    return method, [*doubts(method), *notes]


def with_actions(method: Any, actions: Any) -> Any:
    """The method with the number of actions where it asks for the number of alternatives.

    Raises:
        TightreinError: the actions are not to be counted.
    """
    if method.auxiliary is not None and method.auxiliary.discrete and not isinstance(actions, DiscreteActions):
        raise TightreinError(
            f"{type(method.auxiliary).__name__} tells actions by their number, and here they have none",
            "choose an environment with discrete actions, or another method",
        )
    unset = [path for path, value in method.settings().items() if value is None and path.endswith(".bounds.tokens")]
    if not unset:
        return method
    if not hasattr(actions, "n"):
        raise TightreinError(
            f"{method.key} measures entropies against the number of actions, and here actions are continuous",
            "choose an environment with discrete actions, or --set objective.surrogate.bounds=Widths",
        )
    return method.override(dict.fromkeys(unset, actions.n))


def _at_home(method: Any) -> tuple[Any, list[str]]:
    """The method with control's own credit, step and training where its own are those of language models."""
    if method.home == "control":
        return method, []
    notes = [
        f"{method.key} comes from language models: its objective is kept; credit is GAE instead of "
        f"{type(method.credit).__name__}; step and training are the control defaults; each time step is a row of its "
        "own, so losses are averaged over steps"
    ]
    kept = tuple(part for part in method.selection if part.needs <= SELECTED_BY)
    terms = tuple(term for term in method.objective.terms if not term.needs <= GIVEN)
    parts = (*method.reward, *method.selection, *terms)
    dropped = [type(part).__name__ for part in parts if part not in kept]
    if dropped:
        notes.append(
            f"left out, as control has no answers, no reference policy and no second look: {', '.join(dropped)}; "
            "what is left of the method may be another one's objective"
        )
    if method.objective.reference.coef:
        notes.append("the penalty towards a reference policy is off, as control has none")
    if {"logp_behaviour", "staleness"} & method.objective.needs:
        notes.append("rollouts here are on-policy: what corrects for older policies has nothing to correct")
    objective = method.objective.replace(
        aggregate=tr.parts.TokenMean(),
        reference=tr.parts.ReferenceKL(),
        value=tr.parts.ValueLoss(coef=0.5),
        terms=tuple(term for term in method.objective.terms if term not in terms),
    )
    training = TRAINING
    if not {"logp_old", "logp_behaviour", "dist_old"} & objective.needs:
        training = ONCE
        notes.append("each short rollout is learned from once: the objective does not know which policy it came from")
    credit = tr.parts.GAE(standardise=True)
    return method.replace(
        credit=credit, step=method.step.hosted(STEP), training=training, reward=(), selection=kept, objective=objective
    ), notes


def _check_kind(method: Any) -> None:
    if not isinstance(method.objective, OBJECTIVES.get(method.experience, ())):
        raise TightreinError(
            f"{method.key} compares or imitates whole answers ({type(method.objective).__name__}, learning from "
            f"{method.experience}), and control has none",
            f"train it with `tightrein train language --method {method.key}`",
        )


def _check_phase(method: Any, config: ControlConfig) -> None:
    """A phase beside the objective, and the heads that know what it learns."""
    part, heads = method.auxiliary, method.heads
    if part is not None and not isinstance(heads, part.heads):
        raise TightreinError(
            f"what {type(part).__name__} learns is for {part.heads.__name__}, and here heads are "
            f"{type(heads).__name__ if heads else 'plain'}",
            f"use --set heads={part.heads.__name__}, or --set auxiliary=none",
        )
    if part is None and isinstance(heads, QuantileCritic):
        raise TightreinError(
            "QuantileCritic reads quantiles, and nothing learns them", "use --set auxiliary=QuantileDistillation"
        )
    if config.memory and isinstance(heads, AchievementMemory):
        raise TightreinError(
            "AchievementMemory is what this network remembers, and --memory would be another", "leave out --memory"
        )


@functools.singledispatch
def _check(objective: Objective, method: Any, layers: int) -> None:
    raise TypeError(f"nothing learns from {type(objective).__name__}")


@_check.register
def _(objective: ReplayObjective, method: Any, layers: int) -> None:
    check_step(method, "control", (Optimizer,))
    method.step.optax(1, [1] * (layers - 1))  # raises where it finds no hidden matrix
    if method.replay is None:
        raise TightreinError(f"{method.key} learns from a replay buffer and has none", "set replay=Replay")


@_check.register
def _(objective: PolicyObjective, method: Any, layers: int) -> None:
    check_step(method, "control", (Optimizer, SecondOrder, FixUp))
    if isinstance(method.step, Optimizer):
        method.step.optax(1, [1] * (layers - 1))  # raises where it finds no hidden matrix
    made = frozenset[str]().union(*(part.provides for part in method.selection))
    check_supplied(method, "control", PREPARED, GIVEN | made | _binned(method), REMEDIES)
    learned = method.objective.value.coef or method.critic is not None
    if learned and "value_old" not in method.credit.needs:  # a credit that reads values also fills their targets
        raise TightreinError(
            f"{type(method.credit).__name__} estimates no returns for the value network", "use --set credit=GAE"
        )
    if isinstance(method.step, SecondOrder) and method.critic is None:
        raise TightreinError(
            f"{type(method.step).__name__} moves the policy alone, and nothing trains the value network",
            "use --method trpo, which fits it apart, and change its settings",
        )
    trust = method.objective.trust
    if isinstance(method.step, FixUp) and not isinstance(getattr(trust, "controller", None), tr.parts.AdamDual):
        raise TightreinError(
            "FixUp needs a penalty whose controller has a bound",
            "--set objective.trust=ExactOldMaxKL --set objective.trust.controller=AdamDual",
        )


def _binned(method: Any) -> frozenset[str]:
    """What the network tells of a value that is a distribution over bins; checks that its loss means the same bins."""
    bins = getattr(method.heads, "bins", None)
    value = method.objective.value if method.critic is None else method.critic.loss
    meant = getattr(value, "bins", None)
    if bins is not None and meant is not None and bins != meant:
        raise TightreinError(
            f"the value is told in {bins.label()} and learned in {meant.label()}",
            "set heads.bins and those of the value loss alike, as --set heads.bins.high=20 "
            "--set objective.value.bins.high=20",
        )
    return frozenset() if bins is None else frozenset({"value_logits"})
