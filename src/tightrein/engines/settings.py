"""What both engines do with the settings they are given and with a method that asks for more than they have."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tightrein.errors import TightreinError
from tightrein.method import Method
from tightrein.step import Step


def pairs(flag: str, items: tuple[str, ...], example: str) -> dict[str, str]:
    """name=value items as a dict.

    Raises TightreinError for an item that is not of this form.
    """
    split = [item.partition("=") for item in items]
    for name, equals, value in split:
        if not (name and equals and value):
            raise TightreinError(f"{flag} {name}{equals}{value} is not name=value", f"for example {flag} {example}")
    return {name.strip(): value.strip() for name, _, value in split}


def flags(config: Any, method: Method) -> dict[str, Any]:
    """The flags of `config` that are settings of the method under a short name, where they were given."""
    rates = ("step.learning_rate", "step.optimizer.learning_rate", "critic.step.learning_rate")
    named = {
        "training.group_size": getattr(config, "group_size", None),
        "training.epochs": config.epochs,
        "training.minibatches": config.minibatches,
        next((path for path in rates if path in method.settings()), rates[0]): config.learning_rate,
    }
    return {path: value for path, value in named.items() if value is not None}


def doubts(method: Method) -> list[str]:
    """Notes on a method whose formulas are not all its authors'."""
    if not method.source.warning:
        return []
    return [f"{method.key} is {method.source.warning}; `tightrein show {method.key}` says what was filled in"]


def check_supplied(
    method: Method, engine: str, prepared: frozenset[str], given: frozenset[str], remedies: Mapping[str, str]
) -> None:
    """Raise TightreinError, before training, if the method reads fields that the engine cannot fill.

    prepared, given: fields of Decisions that it fills before `prepare` and before `loss`. remedies: by field, what
    to set so that it is no longer needed.
    """
    missing = sorted((method.update_needs - given) | (method.prepare_needs - prepared))
    if missing:
        otherwise = "choose a method or a part that does not read it"
        raise TightreinError(
            f"{method.key} needs {', '.join(missing)}, which the {engine} engine cannot supply",
            next((remedies[name] for name in missing if name in remedies), otherwise),
        )


def check_step(method: Method, engine: str, kinds: tuple[type[Step], ...]) -> None:
    """Raise TightreinError, before training, if the method's step is none of those that the engine can take."""
    if not isinstance(method.step, kinds):
        raise TightreinError(
            f"{method.key} moves its parameters by {type(method.step).__name__}, which the {engine} engine cannot do",
            "train it with `tightrein train control`",
        )
