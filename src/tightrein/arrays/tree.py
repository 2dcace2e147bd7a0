"""Dataclasses of arrays that JAX can see through."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Any, TypeVar, dataclass_transform

_Class = TypeVar("_Class", bound=type)
_unregistered: list[type] = []


@dataclass_transform(frozen_default=True)
def pytree(cls: _Class) -> _Class:
    """Make `cls` a frozen dataclass of arrays that JAX can see through.

    JAX is not imported for this: a class is registered when its first instance is made while JAX is loaded.
    """
    own_check: Callable[[Any], None] | None = cls.__dict__.get("__post_init__")

    def check(self: Any) -> None:
        if _unregistered and "jax" in sys.modules:
            _register_all()
        if own_check is not None:
            own_check(self)

    cls.__post_init__ = check  # type: ignore[attr-defined]
    _unregistered.append(dataclass(frozen=True)(cls))  # dataclass() changes the class and returns it
    return cls


def _register_all() -> None:
    import jax

    while _unregistered:
        cls = _unregistered.pop()
        names = tuple(f.name for f in fields(cls))
        flatten, flatten_with_keys, unflatten = _flattening(cls, names, jax.tree_util.GetAttrKey)
        jax.tree_util.register_pytree_with_keys(cls, flatten_with_keys, unflatten, flatten)


def _flattening(cls: type, names: Sequence[str], key: Any) -> tuple[Any, Any, Any]:
    def flatten(node: Any) -> tuple[tuple[Any, ...], None]:
        return tuple(_plain(getattr(node, n)) for n in names), None

    def flatten_with_keys(node: Any) -> tuple[tuple[Any, ...], None]:
        return tuple((key(n), _plain(getattr(node, n))) for n in names), None

    def unflatten(_: None, children: Sequence[Any]) -> Any:
        # Not through __init__: JAX also puts placeholders where arrays were, and they would fail the checks.
        node: Any = object.__new__(cls)
        for name, child in zip(names, children, strict=True):
            object.__setattr__(node, name, child)
        return node

    return flatten, flatten_with_keys, unflatten


def _plain(child: Any) -> Any:
    """Lazy mappings become dicts here, because JAX can only carry what it knows."""
    return dict(child) if hasattr(child, "keys") and not isinstance(child, dict) else child
