"""What is done to a model for a while, and what is found out about it once."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from weakref import WeakKeyDictionary


@contextmanager
def evaluating(model: Any) -> Iterator[None]:
    """Without dropout; the model's mode is put back."""
    training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(training)


def once(find: Callable[[Any], bool]) -> Callable[[Any], bool]:
    """`find`, asked once of each model object, however its weights change."""
    known: WeakKeyDictionary[Any, bool] = WeakKeyDictionary()

    @functools.wraps(find)
    def found(model: Any) -> bool:
        if model not in known:
            known[model] = find(model)
        return known[model]

    return found
