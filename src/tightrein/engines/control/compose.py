"""Making a catalogue method fit for control: what cannot work here is replaced, and said."""

from __future__ import annotations

from typing import Any

import tightrein as tr
from tightrein.engines.control.config import ControlConfig
from tightrein.engines.settings import check_supplied, flags
from tightrein.errors import TightreinError

TRAINING = tr.Training(epochs=10, minibatches=32)
STEP = tr.parts.Adam(learning_rate=3e-4, eps=1e-5, max_grad_norm=0.5)

# Fields of Decisions that this engine fills, before `prepare` and before `loss`.
PREPARED = frozenset({"logp_old", "mask", "reward", "value_old", "value_next", "terminated", "truncated", "dist_old"})
GIVEN = PREPARED | {"logp", "advantage", "returns", "value", "entropy", "dist"}

# What a user can set so that a field is no longer needed.
REMEDIES = {
    "logp_ref": "there is no reference policy in control: --set objective.reference.coef=0",
    "logp_behaviour": "rollouts here are on-policy: choose a method that does not correct for a behaviour policy",
}


def compose(config: ControlConfig) -> tuple[Any, list[str]]:
    """The method of `config` with its overrides, and notes on what was replaced to run it in control.

    Raises:
        TightreinError: unknown method, variant or setting; or a method that needs what control cannot supply.
    """
    method, notes = _at_home(tr.method(config.method, config.variant))
    method = method.override({**config.overrides, **flags(config)})
    _check(method)
    return method, notes


def _at_home(method: Any) -> tuple[Any, list[str]]:
    """The method with control's own credit, step and training where its own are those of language models."""
    if method.home == "control":
        return method, []
    notes = [
        f"{method.key} comes from language models: its objective is kept; credit is GAE instead of "
        f"{type(method.credit).__name__}; step and training are the control defaults; each time step is a row of its "
        "own, so losses are averaged over steps"
    ]
    dropped = [type(part).__name__ for part in (*method.reward, *method.selection)]
    if dropped:
        notes.append(f"left out, as control has neither answers nor a reference policy: {', '.join(dropped)}")
    if method.objective.reference.coef:
        notes.append("the penalty towards a reference policy is off, as control has none")
    objective = method.objective.replace(
        aggregate=tr.parts.TokenMean(), reference=tr.parts.ReferenceKL(), value=tr.parts.ValueLoss(coef=0.5)
    )
    credit = tr.parts.GAE(standardise=True)
    return method.replace(
        credit=credit, step=STEP, training=TRAINING, reward=(), selection=(), objective=objective
    ), notes


def _check(method: Any) -> None:
    check_supplied(method, "control", PREPARED, GIVEN, REMEDIES)
    if "value_old" not in method.credit.needs:  # a credit that reads values also fills their targets
        raise TightreinError(
            f"{type(method.credit).__name__} estimates no returns for the value network", "use --set credit=GAE"
        )
