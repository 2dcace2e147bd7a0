"""Optimizers as data, in Optax's form and in PyTorch's."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from ..arrays import Array, at_least_float32, clip, namespace
from ..settings import setting
from .base import Step
from .clipping import Clipping
from .norms import Axes


@dataclass(frozen=True)
class Optimizer(Step):
    """Base of the steps that follow one gradient after another.

    The learning rate rises linearly over the first `warmup` steps; `anneal` lowers it linearly to 0 over the run.
    `max_grad_norm` scales a larger gradient down to that global norm (None: never), and `clipping` one that its
    rule finds too large (None: no rule).
    """

    per_matrix: ClassVar[bool] = False  # whether it must see each parameter in its own shape

    learning_rate: float = setting(3e-4, above=0)
    max_grad_norm: float | None = setting(None, above=0)
    anneal: bool = False
    warmup: int = setting(0, at_least=0)
    clipping: Clipping | None = None

    def optax(self, total_updates: int, axes: Axes | None = None) -> Any:
        """The step as an optax.GradientTransformation, clipping included.

        axes: for each leaf of the parameters the axis of the outputs if it is a hidden matrix, else None.
        """
        from .optax_form import limited

        constant = not (self.anneal or self.warmup)
        rate = self.learning_rate if constant else lambda n: self.learning_rate * self.schedule(n, total_updates)
        inner = self._optax(rate, axes)
        return inner if self.max_grad_norm is None and self.clipping is None else limited(self, inner)

    def torch(self, params: Iterable[Any], total_updates: int, axes: Axes | None = None) -> tuple[Any, Any]:
        """(torch optimizer, learning-rate scheduler to step after each update).

        The optimizer clips by itself, refuses a gradient that is not finite, and its `figures` tell the norms.
        axes: as for `optax`, of each parameter.
        """
        from torch.optim.lr_scheduler import LambdaLR

        from .torch_form import Composed

        optimizer = Composed(self, self._torch(list(params), axes))
        return optimizer, LambdaLR(optimizer, lambda n: float(self.schedule(np.asarray(float(n)), total_updates)))

    def schedule(self, n: Array, total_updates: int) -> Array:
        """The factor on the learning rate of step n = 0, 1, ..., 0-d."""
        n = at_least_float32(n)
        factor = clip(1 - n / total_updates, 0.0, 1.0) if self.anneal else namespace(n).ones_like(n)
        return factor * clip((n + 1) / self.warmup, 0.0, 1.0) if self.warmup else factor

    def clipping_state(self, norm: Array) -> dict[str, Array]:
        """State of `limit` before the first step; norm: any 0-d array of the library to be used."""
        return {} if self.clipping is None else self.clipping.start(norm)

    def limit(self, norm: Array, state: dict[str, Array]) -> tuple[Array, dict[str, Array]]:
        """(the largest norm that a gradient of this norm may keep, inf where it may stay; next state), 0-d."""
        xp = namespace(norm)
        limit = xp.full_like(norm, xp.inf)
        if self.clipping is not None:
            limit, state = self.clipping.limit(norm, state)
        if self.max_grad_norm is not None:
            limit = xp.minimum(limit, xp.full_like(limit, self.max_grad_norm))
        return limit, state

    def figures(self, state: Any) -> dict[str, Array]:
        """What the Optax form's state tells about the last step, where it clips: norms of the gradient, 0-d."""
        if self.max_grad_norm is None and self.clipping is None:
            return {}
        norms = {"grad_norm": state.norm, "grad_norm_applied": state.applied}
        return norms if self.clipping is None else norms | self.clipping.figures(state.clipping)

    def hosted(self, preset: Optimizer) -> Optimizer:
        """The step to take where an engine would otherwise take `preset`: it keeps what makes this one special."""
        return preset if self.clipping is None else preset.replace(clipping=self.clipping)

    def _optax(self, rate: Any, axes: Axes | None) -> Any:
        raise NotImplementedError

    def _torch(self, params: list[Any], axes: Axes | None) -> list[Any]:
        """Optimizers that between them move all of `params`."""
        raise NotImplementedError


@dataclass(frozen=True)
class Adam(Optimizer):
    """Adam; with `weight_decay` AdamW."""

    eps: float = setting(1e-8, above=0)
    beta1: float = setting(0.9, at_least=0, below=1)
    beta2: float = setting(0.999, at_least=0, below=1)
    weight_decay: float = setting(0.0, at_least=0)

    def _optax(self, rate: Any, axes: Axes | None) -> Any:
        import optax

        return optax.adamw(rate, self.beta1, self.beta2, self.eps, weight_decay=self.weight_decay)

    def _torch(self, params: list[Any], axes: Axes | None) -> list[Any]:
        import torch

        betas = self.beta1, self.beta2
        # In one pass over each parameter: the usual ways write arrays of its size in between.
        decay = self.weight_decay
        return [torch.optim.AdamW(params, self.learning_rate, betas, self.eps, weight_decay=decay, fused=True)]


@dataclass(frozen=True)
class RMSprop(Optimizer):
    """RMSprop as A2C uses it: epsilon inside the square root (TensorFlow's form).

    PyTorch's own has epsilon outside; there the square root of ours is used, which is equal where either
    matters least and most (no gradient, large gradient).
    """

    learning_rate: float = setting(7e-4, above=0)
    max_grad_norm: float | None = setting(0.5, above=0)
    decay: float = setting(0.99, at_least=0, below=1)
    eps: float = setting(1e-5, above=0)

    def _optax(self, rate: Any, axes: Axes | None) -> Any:
        import optax

        return optax.rmsprop(rate, self.decay, self.eps, eps_in_sqrt=True)

    def _torch(self, params: list[Any], axes: Axes | None) -> list[Any]:
        import torch

        return [torch.optim.RMSprop(params, self.learning_rate, alpha=self.decay, eps=self.eps**0.5)]
