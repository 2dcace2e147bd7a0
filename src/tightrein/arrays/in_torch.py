"""A linear recurrence that PyTorch differentiates by solving it once more, the other way round."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class _Recurrence(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, decay: Tensor, forwards: bool) -> Tensor:
        y, reach = x.clone(), 1
        product = decay[:, 1:] if forwards else decay[:, :-1]
        while reach < x.shape[1]:  # y holds the terms of `reach` steps, product their decay: each round doubles both
            near, far = (slice(reach, None), slice(None, -reach))[:: 1 if forwards else -1]
            y[:, near] += product * y[:, far]
            product = product[:, reach:] * product[:, :-reach]
            reach *= 2
        ctx.save_for_backward(y, decay)
        ctx.forwards = forwards
        return y

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor | None, None]:  # type: ignore[override]
        y, decay = ctx.saved_tensors
        back = not ctx.forwards
        of_x = recurrence(gradient, _shifted(decay, back), back)
        of_decay = of_x * _shifted(y, not back) if ctx.needs_input_grad[1] else None
        return of_x, of_decay, None


def recurrence(x: Tensor, decay: Tensor, forwards: bool) -> Tensor:
    """Solve y_t = x_t + decay_t * y_{t+1} with y_T = 0, or y_t = x_t + decay_t * y_{t-1} `forwards`; all [B, T]."""
    return _Recurrence.apply(x, decay, forwards)  # type: ignore[no-any-return, no-untyped-call]


def _shifted(x: Tensor, later: bool) -> Tensor:
    """The column before each, or the one behind it, and 0 at the end."""
    pad = torch.nn.functional.pad
    return pad(x[:, :-1], (1, 0)) if later else pad(x[:, 1:], (0, 1))
