"""Making a catalogue method fit for language models: what cannot work here is replaced, and said."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import tightrein as tr
from tightrein.engines.language.config import HEAD, LanguageConfig
from tightrein.engines.language.tasks.games import GAMES
from tightrein.engines.settings import check_step, check_supplied, doubts, flags
from tightrein.errors import TightreinError
from tightrein.step import Optimizer

# Of methods that come from control, on a model that was not made here.
STEP = tr.parts.Adam(learning_rate=1e-6, max_grad_norm=1.0)
TRAINING = tr.Training(epochs=1, minibatches=4, group_size=8)
# Of every method on the embedded model: papers set these for models ten thousand times its size.
# The large eps makes Adam's first steps, and those on parameters with little gradient, small.
EMBEDDED_STEP = tr.parts.Adam(learning_rate=2e-3, beta2=0.99, eps=1e-3, max_grad_norm=1.0, anneal=True)
GAME_STEP = EMBEDDED_STEP.replace(learning_rate=5e-4)  # its answers are four times as long, and more is lost by a slip
EMBEDDED_TRAINING = tr.Training(epochs=1, minibatches=2, group_size=8)
# Settings that hang on the size of models and answers. Length-adaptive lambda is 0 for answers of up to 1/alpha tokens:
# the paper's have thousands, the embedded model's six. What a step changes grows with the learning rate, 133 times the
# paper's here; these thresholds mask as many tokens as the paper's do there, one in ten at first and then very few.
EMBEDDED_OWN = {
    "credit.alpha": 5.0, "selection.curvature_mask.max_gain": 0.3, "selection.curvature_mask.max_shift": 0.03
}  # fmt: skip

# Fields of Decisions that this engine fills before `prepare`: of any experience, of answers of the policy, ...
ALWAYS = frozenset(
    {
        "logp_old", "logp_behaviour", "logp_ref", "entropy_old", "mask", "group", "prompt", "random", "bootstrap",
        "token", "signature", "embedding", "hidden", "logp_tempered", "formula",
    }
)  # fmt: skip
ANSWERED = frozenset({"reward", "scores", "truncated", "turn", "staleness", "drift"})
PREPARED = {
    "rollouts": ALWAYS | ANSWERED,
    "mixed": ALWAYS | ANSWERED | {"demonstration"},
    "demonstrations": ALWAYS | {"demonstration"},
    "pairs": ALWAYS | {"chosen"},
}
SEEN = frozenset({"logp", "entropy", "value", "logp_masked"})  # at every gradient step
WHOLE = frozenset(
    {"dist", "dist_old", "action", "alternative"}
)  # where a part says how many tokens to keep, or there are few
PRETRAINING = 10  # updates of the critic alone on the embedded model, at most

# What a user can set so that a field is no longer needed.
REMEDIES = {
    "dist_old": "estimate the divergence from the sampled tokens: --set objective.trust=SampledOldKL",
    "dist": "estimate the divergence from the sampled tokens: --set objective.trust=SampledOldKL",
    "value_old": "the value head is not trained: --set objective.value.coef=0.5, or --set credit=GroupNormalised",
    "reward": "it learns from written answers alone: choose parts without a reward",
}


def compose(config: LanguageConfig) -> tuple[Any, list[str]]:
    """The method of `config` with its overrides, and notes on what was replaced to run it on language models.

    Raises:
        TightreinError: unknown method, variant or setting; or a method that needs what this engine cannot supply.
    """
    method = tr.method(config.method, config.variant)
    check_step(method, "language", (Optimizer,))
    if method.behaviour is not None:
        raise TightreinError(
            f"{method.key} collects by a policy of its own ({type(method.behaviour).__name__}), which the language "
            "engine cannot",
            "train it with `tightrein train control`",
        )
    if method.experience not in PREPARED:
        raise TightreinError(
            f"{method.key} learns from single transitions ({method.experience}), and the language engine keeps none",
            "train it with `tightrein train control`",
        )
    own: Any = method.step
    method, notes = _at_home(method, config.overrides.get("credit"))
    if config.embedded:
        game = config.dataset is None and config.task in GAMES
        method, more = _embedded(method, GAME_STEP if game else EMBEDDED_STEP)
        notes = [*notes, *more]
    if own.hosted(STEP) != STEP and method.step != own:
        rule = type(own.clipping or own).__name__
        notes = [*notes, f"the step keeps its rule, {rule}; its learning rate and schedule are those defaults"]
    if _already_fitted(method, config):
        method = method.replace(training=method.training.replace(value_pretraining=0))
        notes = [*notes, f"the value head of {config.model} goes on, so training.value_pretraining is 0"]
    method = method.override(config.overrides)
    method = method.override(flags(config, method))
    _check(method, config)
    return method, [*doubts(method), *notes]


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


def with_sizes(method: Any, model: Any) -> Any:
    """The method with what only the optimizer and the model's output layer know, where it asks for that."""
    rows, width = model.get_output_embeddings().weight.shape
    known = {"step_size": method.step.learning_rate, "tokens": rows, "width": width}
    unset = {path: path.split(".")[-1] for path, value in method.settings().items() if value is None}
    return method.override({path: known[name] for path, name in unset.items() if name in known})


def _at_home(method: Any, credit: str | None) -> tuple[Any, list[str]]:
    """The method with the credit, step and training of language models where its own are those of control.

    credit: the one that is asked for; where it reads values, the method's critic stays.
    """
    if method.home == "language":
        return method, []
    ours = method.replace(step=method.step.hosted(STEP), training=TRAINING, critic=None)
    wanted = method.override({} if credit is None else {"credit": credit}).credit
    if credit is not None and "value_old" in wanted.needs:
        return _with_values(ours.replace(credit=wanted))
    own = type(method.credit).__name__
    values = f" (--set credit={own} estimates values with a head on the model)"
    note = (
        f"{method.key} comes from control: its objective is kept; credit is {credit or 'GroupNormalised'} instead of "
        f"{own}{values if 'value_old' in method.credit.needs and credit is None else ''}; step and training are the "
        "language defaults"
    )
    objective, notes = method.objective.replace(value=tr.parts.ValueLoss(coef=0.0)), [note]
    if objective.standardise:
        objective = objective.replace(standardise=False)
        notes.append("advantages are standardised within groups, and not again within minibatches")
    return ours.replace(credit=tr.parts.GroupNormalised(), objective=objective), notes


def _with_values(method: Any) -> tuple[Any, list[str]]:
    """A method from control that keeps its critic: a reward at the end of an answer is not discounted."""
    undiscounted = {path: 1.0 for path in method.settings() if path == "credit.gamma"}
    note = (
        f"{method.key} comes from control: its objective is kept, values are estimated with a head on the model"
        f"{''.join(f', {path} = 1' for path in undiscounted)}; step and training are the language defaults"
    )
    return method.override(undiscounted), [note]


def _embedded(method: Any, step: Optimizer) -> tuple[Any, list[str]]:
    own = method.training
    fixed = own.group_size == 1 or method.objective.whole_groups  # as many answers as the method is made for
    training = EMBEDDED_TRAINING.replace(
        group_size=min(own.group_size, EMBEDDED_TRAINING.group_size) if fixed else EMBEDDED_TRAINING.group_size,
        value_pretraining=min(own.value_pretraining, PRETRAINING),
    )
    ours = method.replace(step=method.step.hosted(step), training=training)
    ours = ours.override({path: value for path, value in EMBEDDED_OWN.items() if path in ours.settings()})
    if method.home != "language":
        return ours, []
    before, after = method.settings(), ours.settings()
    preset = ("step.", "training.", *EMBEDDED_OWN)
    changed = [path for path in after if path.startswith(preset) and after[path] != before.get(path)]
    listed = ", ".join(f"{path} {after[path]} (paper {before.get(path)})" for path in changed)
    return ours, [f"preset of the embedded model instead of the paper's values: {listed}"] if changed else []


def _already_fitted(method: Any, config: LanguageConfig) -> bool:
    """Whether a head start of the critic is left out: the model comes with its value head, and nobody asks for one."""
    asked = any(path.split(".")[-1] == "value_pretraining" for path in config.overrides)
    return bool(method.training.value_pretraining) and not asked and (Path(config.model) / HEAD).is_file()


def _check(method: Any, config: LanguageConfig) -> None:
    """Raise TightreinError, before training, for what cannot work."""
    prepared = PREPARED[method.experience]
    if "value" in method.needs or getattr(method.credit, "values", None) is not None:
        prepared |= {"value_old"}
    whole = WHOLE if config.embedded or any(getattr(p, "top_k", 0) for _, p in method.walk()) else frozenset()
    parts = (*method.reward, method.credit, *method.selection)
    made = frozenset[str]().union(*(part.provides for part in parts if part is not None))
    check_supplied(method, "language", prepared | whole, prepared | whole | SEEN | made, REMEDIES)
    size = getattr(method.credit, "size", 1)
    if 1 < size >= method.training.group_size:
        raise TightreinError(
            f"sets of {size} answers out of {method.training.group_size} to a prompt are all the same",
            f"give --group-size {2 * size}, or lower credit.size",
        )
    if method.training.value_pretraining and "value" not in method.needs:
        raise TightreinError(
            f"{method.key} has no value estimate to train first",
            "set training.value_pretraining=0, or give it a value loss with objective.value.coef",
        )
    few = [type(p).__name__ for _, p in method.walk() if getattr(p, "least", 1) > method.training.group_size]
    if few and method.experience == "rollouts":
        raise TightreinError(
            f"{few[0]} compares the answers to a prompt, and training.group_size is {method.training.group_size}",
            "give --group-size 2 or more",
        )
