"""Optimizers as data, in Optax's form and in PyTorch's."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..settings import Part, setting


@dataclass(frozen=True)
class Optimizer(Part):
    """Base of the steps. `anneal` lowers the learning rate linearly to 0 over the run.

    `max_grad_norm` scales a larger gradient down to that global norm (None: never).
    """

    learning_rate: float = setting(3e-4, above=0)
    max_grad_norm: float | None = setting(None, above=0)
    anneal: bool = False

    def optax(self, total_updates: int) -> Any:
        """The step as an optax.GradientTransformation, clipping included."""
        import optax

        rate = optax.linear_schedule(self.learning_rate, 0.0, total_updates) if self.anneal else self.learning_rate
        clip = [] if self.max_grad_norm is None else [optax.clip_by_global_norm(self.max_grad_norm)]
        return optax.chain(*clip, self._optax(rate))

    def torch(self, params: Any, total_updates: int) -> tuple[Any, Any]:
        """(torch optimizer, learning-rate scheduler to step after each update); the caller clips."""
        from torch.optim.lr_scheduler import LambdaLR

        optimizer = self._torch(params)
        scale = (lambda n: max(0.0, 1 - n / total_updates)) if self.anneal else (lambda n: 1.0)
        return optimizer, LambdaLR(optimizer, scale)

    def _optax(self, rate: Any) -> Any:
        raise NotImplementedError

    def _torch(self, params: Any) -> Any:
        raise NotImplementedError


@dataclass(frozen=True)
class Adam(Optimizer):
    """Adam; with `weight_decay` AdamW."""

    eps: float = setting(1e-8, above=0)
    beta1: float = setting(0.9, at_least=0, below=1)
    beta2: float = setting(0.999, at_least=0, below=1)
    weight_decay: float = setting(0.0, at_least=0)

    def _optax(self, rate: Any) -> Any:
        import optax

        return optax.adamw(rate, self.beta1, self.beta2, self.eps, weight_decay=self.weight_decay)

    def _torch(self, params: Any) -> Any:
        import torch

        return torch.optim.AdamW(
            params, self.learning_rate, (self.beta1, self.beta2), self.eps, weight_decay=self.weight_decay
        )


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

    def _optax(self, rate: Any) -> Any:
        import optax

        return optax.rmsprop(rate, self.decay, self.eps, eps_in_sqrt=True)

    def _torch(self, params: Any) -> Any:
        import torch

        return torch.optim.RMSprop(params, self.learning_rate, alpha=self.decay, eps=self.eps**0.5)
