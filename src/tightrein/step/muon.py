"""Muon: momentum whose matrix is replaced by its polar factor."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, cast

from ..arrays import Array, namespace
from ..errors import TightreinError
from ..settings import Part, setting
from .norms import Axes
from .optimizers import Adam, Optimizer
from .polar import MatrixScale, NewtonSchulz, Polar, RMSScale, WidthScale, scaled_polar
from .rule import Memory, Rule


@dataclass(frozen=True)
class AuxAdam(Part):
    """Adam for what Muon does not move: embeddings, heads, gains and biases. `rate`: its learning rate."""

    rate: float = setting(3e-4, above=0)
    beta1: float = setting(0.9, at_least=0, below=1)
    beta2: float = setting(0.95, at_least=0, below=1)
    eps: float = setting(1e-10, above=0)

    def optimizer(self, weight_decay: float) -> Adam:
        """As a step of its own."""
        return Adam(self.rate, eps=self.eps, beta1=self.beta1, beta2=self.beta2, weight_decay=weight_decay)


@dataclass(frozen=True)
class Muon(Rule):
    """Muon on hidden matrices, Adam on everything else.

    K. Jordan et al., "Muon: An optimizer for hidden layers in neural networks" (2024); `scale=RMSScale()` is
    Moonlight's (arXiv 2502.16982). `weight_decay` is decoupled, for all parameters.
    """

    equation: ClassVar[str] = "m <- b m + (1-b) g;  u = (1-b) g + b m;  p <- (1 - lr wd) p - lr s polar(u)"

    learning_rate: float = setting(0.02, above=0)
    momentum: float = setting(0.95, at_least=0, below=1)
    nesterov: bool = True
    weight_decay: float = setting(0.0, at_least=0)
    polar: Polar = NewtonSchulz()
    scale: MatrixScale = WidthScale()
    aux: AuxAdam = AuxAdam()

    def memory(self, param: Array) -> Memory:
        """The momentum, of the parameter's shape."""
        return {"momentum": namespace(param).zeros_like(param)}

    def move(
        self, gradients: Sequence[Array], memories: Sequence[Memory], params: Sequence[Array], axes: Axes, rate: Any
    ) -> tuple[list[Array], list[Memory]]:
        """See Rule; all of these are hidden matrices."""
        b, steps, kept = self.momentum, [], []
        for g, memory, p, axis in zip(gradients, memories, params, axes, strict=True):
            m = b * memory["momentum"] + (1 - b) * g
            u = (1 - b) * g + b * m if self.nesterov else m
            direction = scaled_polar(u, axis, self.polar, self.scale)
            steps.append(-rate * (direction + self.weight_decay * p))
            kept.append({"momentum": m})
        return steps, kept

    def hosted(self, preset: Optimizer) -> Optimizer:
        """See Optimizer: with Moonlight's scale, for which learning rates of Adam are the right ones."""
        ours = cast(Muon, super().hosted(preset)).replace(scale=RMSScale(), learning_rate=preset.learning_rate)
        if not isinstance(preset, Adam):
            return ours
        return ours.replace(aux=AuxAdam(preset.learning_rate, preset.beta1, preset.beta2, preset.eps))

    def _optax(self, rate: Any, axes: Axes | None) -> Any:
        from .optax_form import partition

        hidden, others = super()._optax(rate, _hidden(axes)), self.aux.optimizer(self.weight_decay)
        factor = self.aux.rate / self.learning_rate
        other_rate = (lambda n: factor * rate(n)) if callable(rate) else self.aux.rate
        return partition(hidden, others._optax(other_rate, None), axes)

    def _torch(self, params: Sequence[Any], axes: Axes | None) -> list[Any]:
        kept = _hidden(axes)
        each = list(zip(params, axes or (), strict=True))
        others = [p for p, axis in each if axis is None]
        aux = self.aux.optimizer(self.weight_decay)._torch(others, None) if others else []
        return [*super()._torch([p for p, axis in each if axis is not None], kept), *aux]


def _hidden(axes: Axes | None) -> Axes:
    found = [axis for axis in axes or () if axis is not None]
    if not found:
        raise TightreinError(
            "Muon moves hidden matrices, and here is none",
            "give the network two hidden layers or more, or choose another step, for example --set step=Adam",
        )
    return found
