"""Leaving out the decisions whose next step is predicted to move the policy too far. arXiv 2510.00819 (CAPO)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ..arrays import Array, at_least_float32, atleast, like, namespace, scatter_sum, stop_gradient, zero_where_masked
from ..decisions import Decisions
from ..distributions import Categorical
from ..errors import TightreinError
from ..settings import Part, setting
from .answers import Selection


@dataclass(frozen=True)
class Gradient:
    """What each decision's advantage does to the output layer: A v h^T, v = (its own alternative) - pi.

    probability, difference (v): [B, T, K]. hidden (h): [B, T, H]. advantage, mask: [B, T]. row: [B, T, K], the row of
    the layer that an alternative has.
    """

    probability: Array
    difference: Array
    hidden: Array
    advantage: Array
    mask: Array
    row: Array

    @classmethod
    def of(cls, d: Decisions) -> Gradient:
        """That of decisions with the old policy's distributions and hidden states.

        Raises TightreinError for distributions that are not categorical.
        """
        if not isinstance(d.dist_old, Categorical):
            raise TightreinError(
                f"curvature is that of a softmax, not of {type(d.dist_old).__name__}",
                "use it where actions are discrete",
            )
        mask = d.weights()
        xp, there = namespace(mask), mask[..., None]
        logits = zero_where_masked(at_least_float32(stop_gradient(d.dist_old.logits)), there)
        probability = xp.exp(Categorical(logits).log_probs())
        place = xp.cumulative_sum(xp.ones_like(probability), axis=-1) - 1
        action = zero_where_masked(d.action, mask)[..., None]
        own = xp.astype(place == action, probability.dtype)
        row = xp.astype(place, action.dtype) if d.alternative is None else zero_where_masked(d.alternative, there)
        advantage = zero_where_masked(stop_gradient(at_least_float32(d.advantage)) + xp.zeros_like(mask), mask)
        hidden = zero_where_masked(stop_gradient(at_least_float32(d.hidden)), there)
        return cls(probability, own - probability, hidden, advantage, mask, row)

    def of_row(self, k: int) -> Array:
        """The gradient of the row of alternative k: [B, T, H]."""
        return (self.advantage * self.difference[..., k])[..., None] * self.hidden


@dataclass(frozen=True)
class StepModel(Part):
    """Base of the models of an optimizer: what its next step on the gradient of one decision does to the logits."""

    def logits(self, g: Gradient, state: Any) -> Array:
        """Change of the logits for a step of size 1: [B, T, K]."""
        raise NotImplementedError

    def start(self) -> Any:
        """What it keeps at first; None: nothing."""
        return None

    def next(self, state: Any, g: Gradient) -> Any:
        """What it keeps after a step on these decisions."""
        return state


@dataclass(frozen=True)
class GradientStep(StepModel):
    """Plain gradient ascent: a decision moves its logits by A |h|^2 v."""

    equation = "u = A |h|^2 v"

    def logits(self, g: Gradient, state: Any) -> Array:
        """See StepModel."""
        xp = namespace(g.hidden)
        return (g.advantage * xp.sum(g.hidden**2, axis=-1))[..., None] * g.difference


@dataclass(frozen=True)
class AdamStep(StepModel):
    """Adam, with moments of every row of the output layer; plain gradient ascent before there are any.

    The moments are those of the mean over the decisions in whose distribution a row is; other rows keep theirs. They
    are two arrays of `tokens` rows of `width` numbers: the size of the output layer, which an engine knows.
    """

    equation = "u = (m' / (sqrt(s') + eps)) h,   m', s': Adam's moments with A v h^T"
    beta1: float = setting(0.9, at_least=0, below=1)
    beta2: float = setting(0.999, at_least=0, below=1)
    eps: float = setting(1e-8, at_least=0)
    tokens: int | None = setting(None, at_least=1)
    width: int | None = setting(None, at_least=1)

    def start(self) -> Any:
        """See StepModel: nothing while the sizes are unknown."""
        if self.tokens is None or self.width is None:
            return None
        size = (self.tokens, self.width)
        return {"mean": np.zeros(size, np.float32), "square": np.zeros(size, np.float32), "steps": 0.0}

    def logits(self, g: Gradient, state: Any) -> Array:
        """See StepModel. One row of the layer at a time: nothing of the size [B, T, K, H] is made.

        Raises TightreinError while the sizes are unknown.
        """
        if state is None:
            raise TightreinError(
                "AdamStep keeps moments of the output layer and was not told its size",
                "set them in the method: tr.method('capo_curvature', tokens=..., width=...), the vocabulary's size and "
                "that of the hidden states; or model='GradientStep'",
            )
        state = {name: like(x, g.hidden) for name, x in state.items()}
        xp, plain = namespace(g.hidden), GradientStep().logits(g, None)
        first, second = (1 - beta ** (state["steps"] + 1) for beta in (self.beta1, self.beta2))
        columns = []
        for k in range(g.row.shape[-1]):
            here, mean, square = g.of_row(k), _rows(state["mean"], g, k), _rows(state["square"], g, k)
            mean = (self.beta1 * mean + (1 - self.beta1) * here) / first
            square = (self.beta2 * square + (1 - self.beta2) * here**2) / second
            size = xp.sqrt(square) + self.eps
            columns.append(xp.sum(mean / xp.where(size > 0, size, xp.ones_like(size)) * g.hidden, axis=-1))
        begun = xp.zeros_like(plain) + state["steps"] > 0
        return xp.where(begun, xp.stack(columns, axis=-1), plain)

    def next(self, state: Any, g: Gradient) -> Any:
        """See StepModel."""
        state = {name: like(x, g.hidden) for name, x in state.items()}
        xp, size = namespace(g.hidden), state["mean"].shape[0]
        present = xp.reshape(xp.astype(g.mask != 0, g.hidden.dtype), (-1,))
        rows = [xp.reshape(g.row[..., k], (-1,)) for k in range(g.row.shape[-1])]
        each = [xp.reshape(g.of_row(k), (-1, g.hidden.shape[-1])) * present[:, None] for k in range(len(rows))]
        total = sum(scatter_sum(x, row, size) for x, row in zip(each, rows, strict=True))
        count: Array = sum(scatter_sum(present, row, size) for row in rows)
        seen = (count > 0)[:, None]
        mean = total / atleast(count, 1)[:, None]
        return {
            "mean": xp.where(seen, self.beta1 * state["mean"] + (1 - self.beta1) * mean, state["mean"]),
            "square": xp.where(seen, self.beta2 * state["square"] + (1 - self.beta2) * mean**2, state["square"]),
            "steps": state["steps"] + 1,
        }


def _rows(table: Array, g: Gradient, k: int) -> Array:
    """The rows of a table [V, H] that belong to alternative k of each decision: [B, T, H]."""
    xp = namespace(g.hidden)
    return xp.reshape(xp.take(table, xp.reshape(g.row[..., k], (-1,)), axis=0), g.hidden.shape)


@dataclass(frozen=True)
class CurvatureMask(Selection):
    """Masks the decisions whose own step would change the objective or the policy by too much.

    Both changes are predicted to second order, in the output layer alone, with what the optimizer would make of the
    gradient: `model`. `step_size` is the optimizer's learning rate, `top_k` the number of alternatives that a
    distribution over a vocabulary keeps. `one_sided` also masks what would make the objective smaller.
    """

    equation = (
        "keep |m_H| < max_gain and m_F < max_shift,   m_H = s A v.u + s^2/2 A ((v.u)^2 - Var_pi u),   "
        "m_F = s^2/2 (v.u)^2"
    )
    model: StepModel = AdamStep()
    max_gain: float = setting(0.01, above=0)
    max_shift: float = setting(1e-4, above=0)
    step_size: float | None = setting(None, above=0)
    one_sided: bool = False
    top_k: int = setting(50, at_least=1)
    mass: float = setting(1.0, above=0, at_most=1)

    needs = frozenset({"dist_old", "action", "hidden", "advantage", "alternative"})

    def __call__(self, d: Decisions, state: Any = None) -> Decisions:
        """See Selection."""
        gain, shift = self.predicted(d, state)
        worse = gain < 0 if self.one_sided else gain <= -self.max_gain
        mask = d.weights()
        kept = (gain < self.max_gain) & ~worse & (shift < self.max_shift)
        return d.replace(mask=mask * namespace(mask).astype(kept, mask.dtype))

    def predicted(self, d: Decisions, state: Any = None) -> tuple[Array, Array]:
        """The change of the objective m_H and of the policy m_F by the step of each decision alone: [B, T] each.

        Raises TightreinError without a step size.
        """
        if self.step_size is None:
            raise TightreinError(
                "CurvatureMask predicts what a step does and was not told its size", "give step_size, the learning rate"
            )
        g = Gradient.of(d)
        xp, u = namespace(g.hidden), self.model.logits(g, state)
        along = xp.sum(g.difference * u, axis=-1)
        mean = xp.sum(g.probability * u, axis=-1, keepdims=True)
        variance = xp.sum(g.probability * (u - mean) ** 2, axis=-1)
        shift = 0.5 * (self.step_size * along) ** 2
        curvature = 0.5 * self.step_size**2 * g.advantage * (along**2 - variance)
        return self.step_size * g.advantage * along + curvature, shift

    def init(self, prompts: int) -> Any:
        """What the model of the optimizer keeps."""
        return self.model.start()

    def update(self, state: Any, decisions: Decisions, progress: Any) -> Any:
        """The optimizer has taken a step on the decisions that were kept."""
        return self.model.next(state, Gradient.of(decisions))
