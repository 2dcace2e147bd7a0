"""Steps as Optax gradient transformations."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from ..arrays import Array
from .norms import Axes

if TYPE_CHECKING:
    from .optimizers import Optimizer
    from .rule import Rule


class RuleState(NamedTuple):
    """Steps made, and what a rule keeps for each parameter, in the order of the tree's leaves."""

    count: Array
    memories: list[dict[str, Array]]


class LimitState(NamedTuple):
    """What a clipping rule keeps, the last norm of the gradient, what was left of it, and the step behind."""

    clipping: dict[str, Array]
    norm: Array
    applied: Array
    inner: Any


def transformation(rule: Rule, rate: Any, axes: Axes | None) -> Any:
    """`rule` on a tree of parameters; rate: a number or a function of the steps made; axes: in the leaves' order."""
    import jax
    import optax

    def of(count: int) -> Axes:
        return [None] * count if axes is None else axes

    def init(params: Any) -> RuleState:
        return RuleState(jax.numpy.zeros((), jax.numpy.int32), [rule.memory(p) for p in jax.tree.leaves(params)])

    def update(gradients: Any, state: RuleState, params: Any = None) -> tuple[Any, RuleState]:
        leaves, tree = jax.tree.flatten(gradients)
        now = rate(state.count) if callable(rate) else rate
        steps, memories = rule.move(leaves, state.memories, jax.tree.leaves(params), of(len(leaves)), now)
        return jax.tree.unflatten(tree, steps), RuleState(state.count + 1, memories)

    return optax.GradientTransformation(init, update)


def partition(hidden: Any, others: Any, axes: Axes | None) -> Any:
    """One transformation for hidden matrices, another for the rest; axes: in the order of the tree's leaves."""
    import jax
    import optax

    names = ["others" if axis is None else "hidden" for axis in axes or ()]
    return optax.partition(
        {"hidden": hidden, "others": others}, lambda params: jax.tree.unflatten(jax.tree.structure(params), names)
    )


def limited(step: Optimizer, inner: Any) -> Any:
    """`inner` behind the clipping of `step`."""
    import jax
    import optax
    from jax import numpy as jnp

    def init(params: Any) -> LimitState:
        zero = jnp.zeros((), jnp.result_type(*jax.tree.leaves(params)))
        return LimitState(step.clipping_state(zero), zero, zero, inner.init(params))

    def update(gradients: Any, state: LimitState, params: Any = None) -> tuple[Any, LimitState]:
        norm = jnp.sqrt(sum(jnp.sum(g * g) for g in jax.tree.leaves(gradients)))
        limit, clipping = step.limit(norm, state.clipping)
        factor = jnp.minimum(1.0, limit / (norm + 1e-6))
        steps, behind = inner.update(jax.tree.map(lambda g: g * factor, gradients), state.inner, params)
        return steps, LimitState(clipping, norm, factor * norm, behind)

    return optax.GradientTransformation(init, update)
