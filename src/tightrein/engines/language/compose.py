"""Making a catalogue method fit for language models: what cannot work here is replaced, and said."""

from __future__ import annotations

from typing import Any

import tightrein as tr
from tightrein.engines.language.config import LanguageConfig
from tightrein.engines.settings import check_supplied, flags

# Of methods that come from control, on a model that was not made here.
STEP = tr.parts.Adam(learning_rate=1e-6, max_grad_norm=1.0)
TRAINING = tr.Training(epochs=1, minibatches=4, group_size=8)
# Of every method on the embedded model: papers set these for models ten thousand times its size.
# The large eps makes Adam's first steps, and those on parameters with little gradient, small.
EMBEDDED_STEP = tr.parts.Adam(learning_rate=2e-3, beta2=0.99, eps=1e-3, max_grad_norm=1.0, anneal=True)
EMBEDDED_TRAINING = tr.Training(epochs=1, minibatches=2, group_size=8)

# Fields of Decisions that this engine fills, before `prepare` and before `loss`.
PREPARED = frozenset({"logp_old", "logp_ref", "mask", "reward", "group", "prompt", "truncated"})
GIVEN = PREPARED | {"logp", "advantage", "entropy"}

# What a user can set so that a field is no longer needed.
REMEDIES = {
    "dist_old": "estimate the divergence from the sampled tokens: --set objective.trust=SampledOldKL",
    "dist": "estimate the divergence from the sampled tokens: --set objective.trust=SampledOldKL",
    "logp_behaviour": "answers here are always sampled from the old policy: choose a method without such a correction",
    "value_old": "no value network is trained here: --set credit=GroupNormalised",
}


def compose(config: LanguageConfig) -> tuple[Any, list[str]]:
    """The method of `config` with its overrides, and notes on what was replaced to run it on language models.

    Raises:
        TightreinError: unknown method, variant or setting; or a method that needs what this engine cannot supply.
    """
    method, notes = _at_home(tr.method(config.method, config.variant))
    if config.embedded:
        method, more = _embedded(method)
        notes = [*notes, *more]
    method = method.override({**config.overrides, **flags(config)})
    check_supplied(method, "language", PREPARED, GIVEN, REMEDIES)
    return method, notes


def with_length(method: Any, max_new_tokens: int) -> tuple[Any, list[str]]:
    """The method with the longest answer where it asks for that constant, and notes on it."""
    lengths = {path: value for path, value in method.settings().items() if path.split(".")[-1] == "length"}
    unset = {path: max_new_tokens for path, value in lengths.items() if value is None}
    notes = [f"{path} = {max_new_tokens}, the longest answer (max_new_tokens)" for path in unset]
    far = {path: value for path, value in lengths.items() if value is not None and value > max_new_tokens}
    notes += [
        f"{path} = {value} is never reached: answers end at {max_new_tokens} tokens" for path, value in far.items()
    ]
    return method.override(unset), notes


def _at_home(method: Any) -> tuple[Any, list[str]]:
    """The method with the credit, step and training of language models where its own are those of control."""
    if method.home == "language":
        return method, []
    note = (
        f"{method.key} comes from control: its objective is kept; credit is GroupNormalised instead of "
        f"{type(method.credit).__name__} (no values are estimated); step and training are the language defaults"
    )
    objective, notes = method.objective.replace(value=tr.parts.ValueLoss(coef=0.0)), [note]
    if objective.standardise:
        objective = objective.replace(standardise=False)
        notes.append("advantages are standardised within groups, and not again within minibatches")
    credit = tr.parts.GroupNormalised()
    return method.replace(credit=credit, objective=objective, step=STEP, training=TRAINING), notes


def _embedded(method: Any) -> tuple[Any, list[str]]:
    ours = method.replace(step=EMBEDDED_STEP, training=EMBEDDED_TRAINING)
    if method.home != "language":
        return ours, []
    before, after = method.settings(), ours.settings()
    changed = [path for path in after if path.startswith(("step.", "training.")) and after[path] != before.get(path)]
    listed = ", ".join(f"{path} {after[path]} (paper {before.get(path)})" for path in changed)
    return ours, [f"preset of the embedded model instead of the paper's values: {listed}"] if changed else []
