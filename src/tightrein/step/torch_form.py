"""Steps as PyTorch optimizers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch

from ..errors import TightreinError
from .norms import Axes

if TYPE_CHECKING:
    from .optimizers import Optimizer
    from .rule import Rule

CLIPPING = "clipping"  # where the clipping rule's state lies in state_dict()["state"], beside the parameters'


class RuleOptimizer(torch.optim.Optimizer):
    """A rule of the library's own on a list of parameters; axes: of each, see `Rule`."""

    def __init__(self, rule: Rule, params: Sequence[torch.Tensor], axes: Axes | None) -> None:
        super().__init__(params, {"lr": rule.learning_rate})
        self._rule = rule
        self._axes = dict(zip(params, axes or [None] * len(params), strict=True))

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Move every parameter that has a gradient."""
        loss = None if closure is None else torch.enable_grad()(closure)()
        for group in self.param_groups:
            params = [p for p in group["params"] if p.grad is not None]
            if params:
                self._move(params, group["lr"])
        return loss

    def _move(self, params: list[torch.Tensor], rate: float) -> None:
        for p in params:
            if not self.state[p]:
                self.state[p].update(self._rule.memory(p))
        memories = [self.state[p] for p in params]
        axes = [self._axes[p] for p in params]
        steps, kept = self._rule.move([p.grad for p in params], memories, params, axes, rate)
        torch._foreach_add_(params, steps)
        for memory, new in zip(memories, kept, strict=True):
            memory.update(new)


class Composed(torch.optim.Optimizer):
    """Clips the gradient as `rule` says, then lets the inner optimizers step.

    To schedulers and checkpoints it is one optimizer: the inner ones read its groups and its state. `figures` tells
    about the last step.
    """

    def __init__(self, rule: Optimizer, inner: Sequence[torch.optim.Optimizer]) -> None:
        self._rule, self._inner = rule, inner
        self.figures: dict[str, float] = {}
        super().__init__([group for each in inner for group in each.param_groups], {})
        self._share()

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One step; raises TightreinError, with nothing moved, if the gradient is not finite."""
        loss = None if closure is None else torch.enable_grad()(closure)()
        self._clip([p for group in self.param_groups for p in group["params"] if p.grad is not None])
        for each in self._inner:
            each.step()
        return loss

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Put back what `state_dict` gave."""
        super().load_state_dict(state_dict)
        device = self.param_groups[0]["params"][0].device
        state: dict[Any, Any] = self.state
        if CLIPPING in state:
            state[CLIPPING] = {name: value.to(device) for name, value in state[CLIPPING].items()}
        self._share()

    def _clip(self, params: list[torch.Tensor]) -> None:
        norm: Any = torch.nn.utils.get_total_norm([p.grad for p in params if p.grad is not None])
        norm = norm.full_tensor() if hasattr(norm, "full_tensor") else norm  # of parameters divided among processes
        before = float(norm)
        if not torch.isfinite(norm):
            raise TightreinError(
                f"the norm of the gradient is {before}; no parameter was moved",
                "lower --learning-rate or set step.max_grad_norm, then go on with --resume or start again",
            )
        state: dict[Any, Any] = self.state
        limit, kept = self._rule.limit(norm, state.get(CLIPPING) or self._rule.clipping_state(norm))
        torch.nn.utils.clip_grads_with_norm_(params, limit, norm)
        self.figures = {"grad_norm": before, "grad_norm_applied": min(before, float(limit))}
        if self._rule.clipping is not None:
            state[CLIPPING] = kept
            self.figures |= {name: float(value) for name, value in self._rule.clipping.figures(kept).items()}

    def _share(self) -> None:
        """Give the inner optimizers this one's groups and state, which loading replaces."""
        start = 0
        for each in self._inner:
            end = start + len(each.param_groups)
            each.param_groups, each.state, start = self.param_groups[start:end], self.state, end
