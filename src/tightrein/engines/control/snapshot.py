"""Training state as named arrays and back."""

from __future__ import annotations

from typing import Any

import equinox as eqx
import jax
import numpy as np

from tightrein.errors import TightreinError


class Stored(eqx.Module):
    """A part of a state, stacked over the rows [S, ...], that a checkpoint holds in another form than memory does."""

    def saved(self) -> dict[str, np.ndarray[Any, Any]]:
        """What is written."""
        raise NotImplementedError

    def restored(self, arrays: dict[str, np.ndarray[Any, Any]]) -> Any:
        """The part that `saved` gave `arrays` of; raises TightreinError where it does not fit into this one."""
        raise NotImplementedError


def to_arrays(tree: Any) -> dict[str, np.ndarray[Any, Any]]:
    """Every array of a pytree under the path that leads to it, for example "learner.network.log_std"."""
    given = jax.tree.map(lambda node: node.saved() if _stored(node) else node, tree, is_leaf=_stored)
    leaves = jax.tree_util.tree_flatten_with_path(given)[0]
    return {_name(path): np.asarray(_plain(leaf)) for path, leaf in leaves}


def from_arrays(template: Any, arrays: dict[str, np.ndarray[Any, Any]]) -> Any:
    """The pytree of the kind of `template` that `to_arrays` made `arrays` of.

    Raises:
        TightreinError: an array is missing or has another shape: the checkpoint is of another kind of run.
    """
    leaves, treedef = jax.tree_util.tree_flatten_with_path(template, is_leaf=_stored)
    return jax.tree.unflatten(treedef, [_restored(_name(path), leaf, arrays) for path, leaf in leaves])


def misfit(what: str) -> TightreinError:
    """The error of a checkpoint that is of another kind of run."""
    return TightreinError(
        f"the checkpoint does not fit this run: {what}", "resume with the version and the configuration that wrote it"
    )


def _stored(node: Any) -> bool:
    return isinstance(node, Stored)


def _restored(name: str, like: Any, arrays: dict[str, np.ndarray[Any, Any]]) -> Any:
    if _stored(like):
        inside = {key.removeprefix(f"{name}."): x for key, x in arrays.items() if key.startswith(f"{name}.")}
        if not inside:
            raise misfit(f"{name} is missing")
        return like.restored(inside)
    wanted = _plain(like)
    if name not in arrays or arrays[name].shape != wanted.shape:
        found = f"has shape {arrays[name].shape}" if name in arrays else "is missing"
        raise misfit(f"{name} {found}, expected {wanted.shape}")
    array = jax.numpy.asarray(arrays[name], wanted.dtype)
    return jax.random.wrap_key_data(array) if _is_key(like) else array


def _is_key(leaf: Any) -> bool:
    return hasattr(leaf, "dtype") and jax.numpy.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _plain(leaf: Any) -> Any:
    return jax.random.key_data(leaf) if _is_key(leaf) else leaf


def _name(path: Any) -> str:
    return jax.tree_util.keystr(path, simple=True, separator=".")
